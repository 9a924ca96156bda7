/* Opens a packed file again and again; see decode_cost.py. Usage: decode FILE TIMES */
#define _POSIX_C_SOURCE 199309L
#include "dupnet.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint8_t file[1 << 20], memory[1 << 20];
static dn_model model;

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    FILE *stream = argc == 3 ? fopen(argv[1], "rb") : NULL;
    if (!stream) return 2;
    size_t length = fread(file, 1, sizeof file, stream), needed = 0;
    double least = 1e9;
    fclose(stream);
    dn_status status = dn_model_memory_bytes(file, length, &model, &needed);
    for (int i = atoi(argv[2]); status == DN_OK && i > 0; i--) {
        double start = now_ms();
        status = dn_model_open(file, length, memory, sizeof memory, &model);
        double took = now_ms() - start;
        if (took < least) least = took;
    }
    if (status != DN_OK) return fprintf(stderr, "%s\n", dn_status_text(status)), 1;
    printf("%zu bytes of file, %zu of memory, opened in %.3f ms\n", length, needed, least);
    return 0;
}
