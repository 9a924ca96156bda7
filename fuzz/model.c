/* libFuzzer on the reader of packed files: any bytes are safe to open, and what opens runs with every kernels of this build to the
 * same integers.
 *
 * Almost every random change of a file breaks its checksum, so the mutator sets length and checksum right again, mostly; the
 * rules behind them are reached in this way. `make fuzz` builds and runs it. */
#include "dupnet.h"

#include <stdlib.h>
#include <string.h>

enum { CRC_OFFSET = 16, LARGEST_ARENA = 1 << 22, LARGEST_MEMORY = 1 << 22, LARGEST_FILE = 1 << 18, LARGEST_SIDE = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static void store_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> 8 * i);
}

static uint32_t crc32(const uint8_t *bytes, size_t length) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320u ^ crc >> 1 : crc >> 1;
    }
    return ~crc;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    size = LLVMFuzzerMutate(data, size, max_size);
    if (size < CRC_OFFSET || seed % 16 == 0) return size;
    store_u32(data + 8, (uint32_t)size);
    store_u32(data + 12, crc32(data + CRC_OFFSET, size - CRC_OFFSET));
    return size;
}

/* FNV-1a over all values of all maps. */
static void hash_map(void *context, const dn_map *map) {
    uint64_t *hash = (uint64_t *)context;
    for (size_t c = 0; c < map->channels; c++)
        for (size_t y = 0; y < map->rows; y++)
            for (size_t x = 0; x < map->columns; x++) *hash = (*hash ^ (uint32_t)dn_map_value(map, c, y, x)) * 0x100000001b3u;
}

/* The hash of all maps of an input map of 1 x 2 cells of the grid, or of a classifier's default size, in memory of exactly the bytes
 * needed; 0 if they, or the pixels, are too many. */
static uint64_t run(const dn_model *model) {
    uint64_t hash = 0xcbf29ce484222325u;
    size_t rows = (size_t)(model->anchor_count ? model->stride : model->default_size), columns = 2 * rows, bytes, grid_rows, grid_columns;
    if (rows > LARGEST_SIDE) return 0;
    if (dn_grid_size(model, rows, columns, &grid_rows, &grid_columns) != DN_OK) abort();
    if (dn_run_arena_bytes(model, rows, columns, NULL, &bytes) != DN_OK) abort();
    if (bytes > LARGEST_ARENA) return 0;
    uint8_t *arena = (uint8_t *)malloc(bytes), *input = (uint8_t *)malloc(3 * rows * columns);
    size_t classes = model->stages[model->stage_count - 1].filters, cells = grid_rows * grid_columns;
    int32_t *grid = (int32_t *)malloc(classes * cells * sizeof *grid);
    float *scores = (float *)malloc(classes * sizeof *scores);
    if (!arena || !input || !grid || !scores) abort();
    for (size_t i = 0; i < 3 * rows * columns; i++) input[i] = (uint8_t)(i * i * 7 + i / 5);
    if (dn_run(model, input, rows, columns, NULL, hash_map, &hash, arena, bytes, grid) != DN_OK) abort();
    if (dn_class_scores(model, grid, cells, scores) != (model->anchor_count ? DN_NOT_CLASSES : DN_OK)) abort();
    free(scores);
    free(arena);
    free(input);
    free(grid);
    return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    dn_model model;
    size_t needed;
    dn_status status = dn_model_memory_bytes(data, size, &model, &needed);
    uint8_t *memory = status == DN_OK && needed <= LARGEST_MEMORY ? (uint8_t *)malloc(needed ? needed : 1) : NULL;
    if (memory) status = dn_model_open(data, size, memory, needed, &model);
    if (status != DN_OK && status < DN_FILE_TRUNCATED) abort();
    if (!memory || status != DN_OK) {
        free(memory);
        return 0;
    }
    uint64_t expected = 0;
    const char *kernels;
    for (size_t i = 0; (kernels = dn_kernels_name(i)) != NULL; i++) {
        if (dn_model_use_kernels(&model, kernels) != DN_OK) continue;
        uint64_t found = run(&model);
        if (i == 0) expected = found; /* portable */
        if (found && expected && found != expected) abort();
    }
    free(memory);
    return 0;
}
