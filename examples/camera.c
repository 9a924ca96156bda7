/* Faces in a photo that is never in memory: its rows arrive one by one, as a camera delivers them.
 *
 *     cc -std=c99 -O2 -ffp-contract=off -Icore core/[a-z]*.c examples/camera.c -lm -o camera
 *     ./camera face.dnet < photo.ppm
 *
 * All memory is what stands here: the model's file, its description and what is decoded of it, one row, the boxes, and 48 KB to
 * work in, which are enough for 640 pixels of width when nothing is resized. So the network sees the photo at its own size, 32 to
 * 8192 pixels. */
#include <stdio.h>
#include "dupnet.h"

enum { MAX_WIDTH = 640, MAX_FACES = 200 };

static uint8_t file[64 * 1024], memory[24 * 1024];
static uint8_t arena[48 * 1024];
static uint8_t row[3 * MAX_WIDTH];
static dn_model model;
static dn_box faces[MAX_FACES];

static int fail(const char *what) {
    fprintf(stderr, "camera: %s\n", what);
    return 1;
}

int main(int argc, char **argv) {
    unsigned width, height, white;
    FILE *stored = argc == 2 ? fopen(argv[1], "rb") : NULL;
    if (!stored) return fail("usage: camera model.dnet < photo.ppm");
    dn_status status = dn_model_open(file, fread(file, 1, sizeof file, stored), memory, sizeof memory, &model);
    fclose(stored);
    if (status != DN_OK) return fail(dn_status_text(status));
    if (scanf("P6 %u %u %u", &width, &height, &white) != 3 || white != 255 || getchar() == EOF)
        return fail("the photo is not a PPM file (P6, 8 bits, no comments)");
    if (width > MAX_WIDTH) return fail("the photo is wider than a row's buffer");

    dn_options options = dn_model_options(&model);
    options.size = (int)(width > height ? width : height);
    dn_stream *stream;
    status = dn_stream_begin(&model, width, height, &options, arena, sizeof arena, faces, MAX_FACES, &stream);
    for (unsigned y = 0; status == DN_OK && y < height; y++) {
        if (fread(row, 3, width, stdin) != width) return fail("the photo ends too early");
        status = dn_feed_rows(stream, row, 1, 3 * (size_t)width);
    }
    size_t count = 0;
    if (status == DN_OK) status = dn_stream_end(stream, &count);
    if (status != DN_OK && status != DN_BOXES_FULL) return fail(dn_status_text(status));
    for (size_t i = 0; i < count; i++)
        printf("%.1f %.1f %.1f %.1f  %.3f\n", faces[i].x1, faces[i].y1, faces[i].x2, faces[i].y2, faces[i].score);
    return 0;
}
