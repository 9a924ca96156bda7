/* What only C can check: arenas and files of exactly the bytes that were asked for, so that a sanitizer sees one byte too
 * many; statuses of wrong calls; and every damage to a file that one changed byte or an early end can do.
 *
 * Usage: checks SMALL.dnet WIDE.dnet; the second has maps of 4096 channels, 4 bits each. */
#include "dupnet.h"
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CAPACITY = 40000 };

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    CHECK(memory);
    return memory;
}

static uint32_t crc32(const uint8_t *bytes, size_t length) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320u ^ crc >> 1 : crc >> 1;
    }
    return ~crc;
}

static void store_u32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(value >> 8 * i);
}

/* Workers that do the work backwards: the order must not matter. */
static void run_backwards(void *pool, int count, dn_task task, void *context) {
    ++*(int *)pool;
    while (count-- > 0) task(context, count);
}

typedef struct tally {
    int maps;
    int64_t sum;
} tally;

static void tap(void *context, const dn_map *map) {
    tally *t = (tally *)context;
    CHECK(map->stage == t->maps);
    t->maps++;
    for (size_t c = 0; c < map->channels; c++)
        for (size_t y = 0; y < map->rows; y++)
            for (size_t x = 0; x < map->columns; x++) {
                int32_t value = dn_map_value(map, c, y, x);
                CHECK(!map->bits || (value >= 0 && value < 1 << map->bits));
                t->sum += value;
            }
}

/* All maps of a small input map, in an arena of exactly the bytes needed, at an odd address. */
static int64_t run(const dn_model *model, size_t rows, size_t columns, int workers) {
    int calls = 0;
    dn_workers lent = {workers, run_backwards, &calls};
    tally t = {0, 0};
    size_t bytes, stride = (size_t)model->stride, anchors = (size_t)model->anchor_count;
    CHECK(dn_run_arena_bytes(model, rows, columns, &lent, &bytes) == DN_OK);
    uint8_t *arena = (uint8_t *)allocate(bytes + 1), *map = (uint8_t *)allocate(3 * rows * columns);
    int32_t *grid = (int32_t *)allocate(DN_GRID_CHANNELS * anchors * (rows / stride) * (columns / stride) * sizeof *grid);
    for (size_t i = 0; i < 3 * rows * columns; i++) map[i] = (uint8_t)(i * i * 7);
    CHECK(dn_run(model, map, rows, columns, &lent, tap, &t, arena + 1, bytes - 1, grid) == DN_ARENA_TOO_SMALL);
    CHECK(dn_run(model, map, rows, columns, &lent, tap, &t, arena + 1, bytes, grid) == DN_OK);
    CHECK(t.maps == model->stage_count);
    free(arena);
    free(map);
    free(grid);
    return t.sum;
}

static void check_photo(const dn_model *model, size_t width, size_t height, int size, dn_box *all, dn_box *some) {
    int calls = 0;
    size_t row_bytes = 3 * width + 5, bytes, more, most, count, few;
    uint8_t *pixels = (uint8_t *)allocate(row_bytes * height - 5);
    for (size_t i = 0; i < row_bytes * height - 5; i++) pixels[i] = (uint8_t)(i * i * 13 + i / 7);
    dn_photo photo = {pixels, width, height, row_bytes};
    dn_options options = dn_model_options(model);
    options.size = size;
    options.score = 0.25f;
    CHECK(dn_model_arena_bytes(model, width, height, &options, &bytes) == DN_OK);
    CHECK(dn_model_boxes_max(model, width, height, &options, &most) == DN_OK && most <= CAPACITY);
    uint8_t *arena = (uint8_t *)allocate(bytes);
    CHECK(dn_detect(model, &photo, &options, arena, bytes - 1, all, most, &count) == DN_ARENA_TOO_SMALL);
    CHECK(dn_detect(model, &photo, &options, arena, bytes, all, most, &count) == DN_OK);
    CHECK(count <= most);
    for (size_t i = 0; i < count; i++) {
        CHECK(all[i].x1 >= 0 && all[i].x2 >= all[i].x1 && all[i].x2 <= (float)width && (i == 0 || all[i].score <= all[i - 1].score));
        CHECK(all[i].y1 >= 0 && all[i].y2 >= all[i].y1 && all[i].y2 <= (float)height && all[i].score >= options.score);
    }
    /* A full array keeps the best. */
    for (size_t capacity = 0; capacity < count; capacity += 1 + count / 3) {
        CHECK(dn_detect(model, &photo, &options, arena, bytes, some, capacity, &few) == DN_BOXES_FULL);
        CHECK(few == capacity && !memcmp(some, all, few * sizeof *all));
    }
    /* Workers change nothing. */
    options.workers.count = 3;
    options.workers.run = run_backwards;
    options.workers.pool = &calls;
    CHECK(dn_model_arena_bytes(model, width, height, &options, &more) == DN_OK && more >= bytes);
    free(arena);
    arena = (uint8_t *)allocate(more);
    CHECK(dn_detect(model, &photo, &options, arena, more, some, most, &few) == DN_OK && (calls > 0 || height < 4));
    CHECK(few == count && !memcmp(some, all, count * sizeof *all));
    free(arena);
    free(pixels);
}

static void check_resize(size_t width, size_t height, size_t rows, size_t columns) {
    size_t bytes;
    uint8_t *pixels = (uint8_t *)allocate(3 * width * height), *out = (uint8_t *)allocate(3 * rows * columns);
    memset(pixels, 77, 3 * width * height);
    dn_photo photo = {pixels, width, height, 3 * width};
    CHECK(dn_resize_arena_bytes(width, height, rows, columns, &bytes) == DN_OK);
    uint8_t *arena = (uint8_t *)allocate(bytes);
    CHECK(dn_resize(&photo, rows, columns, arena, bytes - 1, out) == DN_ARENA_TOO_SMALL);
    CHECK(dn_resize(&photo, rows, columns, arena, bytes, out) == DN_OK);
    for (size_t i = 0; i < 3 * rows * columns; i++) CHECK(out[i] == 77);
    free(pixels);
    free(out);
    free(arena);
}

/* Open a copy of exactly `length` bytes, with memory of exactly the bytes needed, at an odd address; whatever is accepted must run. */
static int opens(const uint8_t *bytes, size_t length) {
    uint8_t *copy = (uint8_t *)allocate(length), *memory = NULL;
    dn_model model;
    size_t needed = 0;
    memcpy(copy, bytes, length);
    dn_status status = dn_model_memory_bytes(copy, length, &model, &needed);
    if (status == DN_OK) {
        CHECK(needed <= 4 * 2048 * length);
        memory = (uint8_t *)allocate(needed + 1);
        CHECK(!needed || dn_model_open(copy, length, memory + 1, needed - 1, &model) == DN_MEMORY_TOO_SMALL);
        status = dn_model_open(copy, length, memory + 1, needed, &model);
    } else {
        CHECK(dn_model_open(copy, length, NULL, 0, &model) == status);
    }
    CHECK(status == DN_OK || status >= DN_FILE_TRUNCATED);
    CHECK(strcmp(dn_status_text(status), "unknown status"));
    if (status == DN_OK) run(&model, (size_t)model.stride, 2 * (size_t)model.stride, 1);
    free(memory);
    free(copy);
    return status == DN_OK;
}

static void check_damage(const uint8_t *file, size_t length) {
    static const uint8_t values[] = {0, 1, 2, 3, 64, 65, 127, 128, 254, 255};
    uint8_t *damaged = (uint8_t *)allocate(length);
    int accepted = 0;
    for (size_t end = 0; end < length; end++) {
        memcpy(damaged, file, length);
        CHECK(!opens(damaged, end));
        if (end < 16) continue;
        store_u32(damaged + 8, (uint32_t)end);
        store_u32(damaged + 12, crc32(damaged + 16, end - 16));
        CHECK(!opens(damaged, end));
    }
    for (size_t at = 0; at < length; at++)
        for (size_t i = 0; i < sizeof values; i++) {
            memcpy(damaged, file, length);
            damaged[at] = values[i];
            CHECK(opens(damaged, length) == (values[i] == file[at]));
            if (at < 16) continue;
            store_u32(damaged + 12, crc32(damaged + 16, length - 16));
            accepted += opens(damaged, length);
        }
    CHECK(accepted > 100);
    free(damaged);
}

static void check_calls(const dn_model *model, dn_box *boxes) {
    uint8_t pixels[3] = {1, 2, 3}, arena[1];
    int32_t grid[1];
    size_t bytes, count, stride = (size_t)model->stride;
    dn_photo photo = {pixels, 1, 1, 3};
    dn_options good = dn_model_options(model), bad = good;
    dn_model copy = *model;

    CHECK(dn_model_open(NULL, 9, arena, 1, &copy) == DN_NULL_ARGUMENT && dn_model_open(pixels, 3, arena, 1, NULL) == DN_NULL_ARGUMENT);
    CHECK(dn_model_memory_bytes(NULL, 9, &copy, &bytes) == DN_NULL_ARGUMENT && dn_model_memory_bytes(pixels, 3, NULL, &bytes) == DN_NULL_ARGUMENT);
    CHECK(dn_model_memory_bytes(pixels, 3, &copy, NULL) == DN_NULL_ARGUMENT);
    copy = *model;
    CHECK(dn_model_arena_bytes(model, 0, 1, &good, &bytes) == DN_BAD_PHOTO_SIZE);
    CHECK(dn_model_arena_bytes(model, 1, 16385, &good, &bytes) == DN_BAD_PHOTO_SIZE);
    CHECK(dn_model_arena_bytes(model, SIZE_MAX, SIZE_MAX, &good, &bytes) == DN_BAD_PHOTO_SIZE);
    CHECK(dn_model_arena_bytes(model, 16384, 16384, &good, &bytes) == DN_OK);
    CHECK(dn_model_arena_bytes(NULL, 1, 1, &good, &bytes) == DN_NULL_ARGUMENT);
    CHECK(dn_model_arena_bytes(model, 1, 1, NULL, &bytes) == DN_NULL_ARGUMENT);
    CHECK(dn_model_arena_bytes(model, 1, 1, &good, NULL) == DN_NULL_ARGUMENT);
    bad.size = 31;
    CHECK(dn_model_arena_bytes(model, 1, 1, &bad, &bytes) == DN_BAD_SIZE);
    bad.size = 8193;
    CHECK(dn_model_boxes_max(model, 1, 1, &bad, &bytes) == DN_BAD_SIZE);
    bad = good;
    bad.score = 1.5f;
    CHECK(dn_model_arena_bytes(model, 1, 1, &bad, &bytes) == DN_BAD_SCORE);
    bad = good;
    bad.iou = -0.5f;
    CHECK(dn_model_arena_bytes(model, 1, 1, &bad, &bytes) == DN_BAD_IOU);
    bad = good;
    bad.workers.count = 2;
    CHECK(dn_model_arena_bytes(model, 1, 1, &bad, &bytes) == DN_BAD_WORKERS);
    bad.workers.count = -1;
    CHECK(dn_model_arena_bytes(model, 1, 1, &bad, &bytes) == DN_BAD_WORKERS);
    bad.workers.count = 257;
    bad.workers.run = run_backwards;
    CHECK(dn_model_arena_bytes(model, 1, 1, &bad, &bytes) == DN_BAD_WORKERS);

    CHECK(dn_detect(model, &photo, &good, NULL, 0, boxes, 1, &count) == DN_NULL_ARGUMENT);
    CHECK(dn_detect(model, &photo, &good, arena, 1, NULL, 1, &count) == DN_NULL_ARGUMENT);
    CHECK(dn_detect(model, &photo, &good, arena, 1, boxes, 1, NULL) == DN_NULL_ARGUMENT);
    CHECK(dn_detect(model, &photo, &good, arena, 1, boxes, 1, &count) == DN_ARENA_TOO_SMALL);
    photo.row_bytes = 2;
    CHECK(dn_detect(model, &photo, &good, arena, 1, boxes, 1, &count) == DN_BAD_PHOTO_SIZE);
    photo.row_bytes = 3;
    CHECK(dn_run(model, pixels, stride + 1, stride, NULL, NULL, NULL, arena, 1, grid) == DN_BAD_MAP_SIZE);
    CHECK(dn_run(model, pixels, stride, 0, NULL, NULL, NULL, arena, 1, grid) == DN_BAD_MAP_SIZE);
    CHECK(dn_run(model, pixels, stride, 16384, NULL, NULL, NULL, arena, 1, grid) == DN_BAD_MAP_SIZE);
    CHECK(dn_run(model, NULL, stride, stride, NULL, NULL, NULL, arena, 1, grid) == DN_NULL_ARGUMENT);
    CHECK(dn_resize_arena_bytes(1, 1, 0, 1, &bytes) == DN_BAD_PHOTO_SIZE);
    CHECK(dn_resize(&photo, 1, 1, arena, 1, NULL) == DN_NULL_ARGUMENT);

    CHECK(!strcmp(dn_kernels_name(0), "portable") && !dn_kernels_name(99));
    CHECK(dn_model_use_kernels(&copy, "portable") == DN_OK);
    CHECK(dn_model_prepared_bytes(&copy, NULL) == DN_NULL_ARGUMENT && dn_model_prepare(&copy, NULL, 99) == DN_NULL_ARGUMENT);
    CHECK(!strcmp(dn_model_kernels(&copy), "portable"));
    CHECK(dn_model_use_kernels(&copy, "unheard-of") == DN_UNKNOWN_KERNELS && copy.kernels);
    for (int status = DN_OK; status < DN_STATUS_COUNT; status++) CHECK(strcmp(dn_status_text((dn_status)status), "unknown status"));
    CHECK(!strcmp(dn_status_text(DN_STATUS_COUNT), "unknown status"));
}

/* Prepared once, at an odd address in exactly the bytes needed: the same sums with every kernel set, in a smaller arena. */
static void check_prepared(const dn_model *model) {
    size_t side = 3 * (size_t)model->stride, plain, less, bytes;
    int64_t expected = run(model, side, side, 1);
    for (size_t i = 0; dn_kernels_name(i); i++) {
        dn_model copy = *model;
        if (dn_model_use_kernels(&copy, dn_kernels_name(i)) != DN_OK) continue;
        CHECK(run(&copy, side, side, 2) == expected);
        CHECK(dn_run_arena_bytes(&copy, side, side, NULL, &plain) == DN_OK && dn_model_prepared_bytes(&copy, &bytes) == DN_OK);
        uint8_t *memory = (uint8_t *)allocate(bytes + 1);
        CHECK(dn_model_prepare(&copy, memory + 1, bytes - 1) == DN_ARENA_TOO_SMALL);
        CHECK(dn_model_prepare(&copy, memory + 1, bytes) == DN_OK && run(&copy, side, side, 2) == expected);
        CHECK(dn_run_arena_bytes(&copy, side, side, NULL, &less) == DN_OK && plain - less <= bytes && (bytes < 64 || plain > less));
        free(memory);
    }
}

/* A size is told in full, whatever the width of size_t, or refused. */
static void check_large_sizes(dn_model model) {
    dn_options options = dn_model_options(&model);
    for (size_t i = 0; dn_kernels_name(i); i++) {
        if (dn_model_use_kernels(&model, dn_kernels_name(i)) != DN_OK) continue;
        int refused = 0;
        for (options.size = DN_MIN_SIZE; options.size <= DN_MAX_SIZE; options.size += options.size < 1000 ? 3 : 64) {
            uint64_t cells = (uint64_t)options.size * (uint64_t)options.size, map = cells * 4096 * 4 / 8;
            size_t bytes = 0, side = (size_t)options.size;
            dn_status detect = dn_model_arena_bytes(&model, 9000, 9000, &options, &bytes);
            CHECK(detect == DN_OK || detect == DN_TOO_LARGE);
            /* 2 * map: as bytes instead of planes. The rest: scratch memory, and weights in another order. */
            CHECK(detect == DN_OK ? bytes >= map && bytes < 2 * map + map / 8 + (1 << 24) && !refused : map > SIZE_MAX / 5);
            refused |= detect == DN_TOO_LARGE;
            dn_status run = dn_run_arena_bytes(&model, side, side, NULL, &bytes);
            CHECK(run == DN_OK ? bytes >= map && bytes < 2 * map + map / 8 + (1 << 24) : run == detect);
        }
        CHECK(refused == (SIZE_MAX == UINT32_MAX));
    }
    size_t bytes;
    CHECK(dn_resize_arena_bytes(DN_MAX_PHOTO_SIDE, DN_MAX_PHOTO_SIDE, 1, DN_MAX_PHOTO_SIDE, &bytes) == DN_OK && bytes > 3 << 28);
}

/* Read and open a file of at most 1 MB; returns the model's memory. */
static uint8_t *read_model(const char *path, uint8_t *file, size_t *length, dn_model *model) {
    size_t needed;
    FILE *stream = fopen(path, "rb");
    CHECK(stream);
    *length = fread(file, 1, 1 << 20, stream);
    fclose(stream);
    CHECK(dn_model_memory_bytes(file, *length, model, &needed) == DN_OK && needed > 0);
    CHECK(dn_model_open(file, *length, NULL, needed, model) == DN_NULL_ARGUMENT);
    uint8_t *memory = (uint8_t *)allocate(needed);
    CHECK(dn_model_open(file, *length, memory, needed, model) == DN_OK);
    return memory;
}

int main(int argc, char **argv) {
    static const size_t photos[][2] = {{1, 1}, {2, 1}, {1, 300}, {500, 3}, {33, 47}, {64, 64}, {97, 160}};
    CHECK(argc == 3);
    uint8_t *file = (uint8_t *)allocate(1 << 20);
    dn_box *all = (dn_box *)allocate(CAPACITY * sizeof *all), *some = (dn_box *)allocate(CAPACITY * sizeof *some);
    dn_model model;
    size_t length;
    uint8_t *memory = read_model(argv[2], file, &length, &model);
    check_large_sizes(model);
    free(memory);
    memory = read_model(argv[1], file, &length, &model);
    check_calls(&model, all);
    for (size_t i = 0; i < sizeof photos / sizeof photos[0]; i++) {
        check_photo(&model, photos[i][0], photos[i][1], 32, all, some);
        check_photo(&model, photos[i][0], photos[i][1], 75, all, some);
        check_resize(photos[i][0], photos[i][1], 20, 31);
    }
    for (size_t cells = 1; cells < 6; cells++) {
        size_t side = cells * (size_t)model.stride;
        CHECK(run(&model, side, (size_t)model.stride, 1) == run(&model, side, (size_t)model.stride, 4));
    }
    check_prepared(&model);
    check_damage(file, length);
    free(memory);
    free(file);
    free(all);
    free(some);
    puts("ok");
    return 0;
}
