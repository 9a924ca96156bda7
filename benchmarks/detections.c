/* So many detections in a drawn photo with the kernels of a name, for counting instructions (arm_instructions.py).
 *
 * Usage: detections MODEL.dnet KERNELS WIDTH HEIGHT TIMES */
#include "dupnet.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    static uint8_t file[1 << 20];
    static dn_box boxes[1000];
    static dn_model model;
    FILE *stream = argc == 6 ? fopen(argv[1], "rb") : NULL;
    size_t length = stream ? fread(file, 1, sizeof file, stream) : 0, opened;
    if (dn_model_memory_bytes(file, length, &model, &opened) != DN_OK) return 2;
    void *coded = malloc(opened ? opened : 1);
    if (!coded || dn_model_open(file, length, coded, opened, &model) != DN_OK) return 2;
    if (dn_model_use_kernels(&model, argv[2]) != DN_OK) return 3;
    size_t width = (size_t)atoi(argv[3]), height = (size_t)atoi(argv[4]), bytes, prepared, count = 0;
    dn_options options = dn_model_options(&model);
    options.size = (int)(width > height ? width : height);
    if (dn_model_prepared_bytes(&model, &prepared) != DN_OK) return 4;
    void *memory = malloc(prepared ? prepared : 1);
    if (!memory || dn_model_prepare(&model, memory, prepared) != DN_OK) return 4;
    if (dn_model_arena_bytes(&model, width, height, &options, &bytes) != DN_OK) return 4;
    void *arena = malloc(bytes);
    uint8_t *pixels = (uint8_t *)malloc(3 * width * height);
    if (!arena || !pixels) return 4;
    for (size_t i = 0; i < 3 * width * height; i++) pixels[i] = (uint8_t)(i * i * 7 + i / 5);
    dn_photo photo = {pixels, width, height, 3 * width};
    for (int times = atoi(argv[5]); times > 0; times--)
        if (dn_detect(&model, &photo, &options, arena, bytes, boxes, 1000, &count) != DN_OK) return 5;
    printf("%lu boxes\n", (unsigned long)count);
    free(coded);
    free(memory);
    free(arena);
    free(pixels);
    return 0;
}
