/* Compare the core with vectors of tests/vectors.py: every value of every map of every stage, every pixel of resized photos
 * and every box, with every kernels of this build, alone and with workers, and by row streaming. A program rather than a Python
 * test, so that it can be compiled for other processors.
 *
 * The file of vectors is a sequence of records of little-endian u32, and bytes where it says so:
 *
 *     1  length, packed file                      the model of the records that follow
 *     2  rows, columns, input map, then for each stage: bits, channels, rows, columns, values (u8, or i32 if bits is 0)
 *     3  width, height, size, f32 score, f32 iou, pixels, count, f32 [count][x1, y1, x2, y2, score]
 *     4  width, height, rows, columns, pixels, resized pixels
 *     0  the end
 *
 * Usage: agreement VECTORS */
#include "dupnet.h"
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { END, MODEL, MAPS, BOXES, RESIZE };
enum { BOX_FLOATS = 5 };

static const float PIXELS_TOLERANCE = 1e-3f, SCORE_TOLERANCE = 1e-6f;

typedef struct reader {
    const uint8_t *at, *end;
} reader;

static const uint8_t *take(reader *r, size_t bytes) {
    const uint8_t *at = r->at;
    CHECK(bytes <= (size_t)(r->end - at));
    r->at += bytes;
    return at;
}

static uint32_t take_u32(reader *r) {
    const uint8_t *p = take(r, 4);
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int32_t take_i32(reader *r) {
    uint32_t value = take_u32(r);
    return value < 0x80000000u ? (int32_t)value : -(int32_t)(0xffffffffu - value) - 1;
}

static float take_f32(reader *r) {
    uint32_t bits = take_u32(r);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#define UNKNOWN_STAYS_UNKNOWN
#endif
#endif

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    CHECK(memory);
#ifndef UNKNOWN_STAYS_UNKNOWN
    static unsigned char fill = 0x5a;
    fill = (unsigned char)~fill;
    memset(memory, fill, bytes); /* what is computed must not depend on what was in memory */
#endif
    return memory;
}

static void run_backwards(void *pool, int count, dn_task task, void *context) {
    (void)pool;
    while (count-- > 0) task(context, count);
}

/* How the work is done, and what has been compared. */
typedef struct tally {
    const char *way; /* kernels, or "streaming" */
    int workers;     /* 0: row streaming */
    reader *expected;
    const uint8_t *values_of[DN_MAX_STAGES]; /* in row streaming: of each map */
    size_t rows[DN_MAX_STAGES], columns[DN_MAX_STAGES];
    unsigned long long values, maps, boxes, same_bits;
    float pixels, score; /* the largest differences of boxes */
} tally;

static void compare_value(const tally *t, const dn_map *map, size_t channel, size_t row, size_t column, int32_t expected, int32_t found) {
    if (expected == found) return;
    fprintf(stderr, "%s: map %llu, stage %d, channel %lu, row %lu, column %lu: %ld instead of %ld\n", t->way, t->maps, map->stage + 1,
            (unsigned long)channel, (unsigned long)row, (unsigned long)column, (long)found, (long)expected);
    exit(1);
}

static void compare_map(void *context, const dn_map *map) {
    tally *t = (tally *)context;
    CHECK(take_u32(t->expected) == (uint32_t)map->bits && take_u32(t->expected) == map->channels);
    CHECK(take_u32(t->expected) == map->rows && take_u32(t->expected) == map->columns);
    for (size_t c = 0; c < map->channels; c++)
        for (size_t y = 0; y < map->rows; y++)
            for (size_t x = 0; x < map->columns; x++, t->values++)
                compare_value(t, map, c, y, x, map->bits ? *take(t->expected, 1) : take_i32(t->expected), dn_map_value(map, c, y, x));
    t->maps++;
}

static void compare_piece(void *context, const dn_map *piece, size_t row, size_t column) {
    tally *t = (tally *)context;
    size_t rows = t->rows[piece->stage], columns = t->columns[piece->stage];
    CHECK(piece->rows == 1 && row < rows && column + piece->columns <= columns);
    for (size_t c = 0; c < piece->channels; c++)
        for (size_t x = 0; x < piece->columns; x++, t->values++) {
            size_t bytes = piece->bits ? 1 : 4;
            const uint8_t *at = t->values_of[piece->stage] + ((c * rows + row) * columns + column + x) * bytes;
            reader r = {at, at + bytes};
            compare_value(t, piece, c, row, column + x, piece->bits ? *at : take_i32(&r), dn_map_value(piece, c, 0, x));
        }
}

/* Feed all rows of a photo, in portions of 1, 2, 3, ... */
static size_t feed(const dn_model *model, const dn_photo *photo, const dn_options *options, dn_piece_tap tap, tally *t, dn_box *boxes,
                   size_t most) {
    size_t bytes, count;
    dn_stream *stream;
    CHECK(dn_stream_bytes(model, photo->width, photo->height, options, &bytes) == DN_OK);
    void *arena = allocate(bytes);
    CHECK(dn_stream_begin(model, photo->width, photo->height, options, arena, bytes, boxes, most, &stream) == DN_OK);
    if (tap) CHECK(dn_stream_tap(stream, tap, t) == DN_OK);
    for (size_t y = 0, portion = 1; y < photo->height; y += portion++) {
        if (portion > photo->height - y) portion = photo->height - y;
        CHECK(dn_feed_rows(stream, photo->pixels + y * photo->row_bytes, portion, photo->row_bytes) == DN_OK);
    }
    dn_status status = dn_stream_end(stream, &count);
    CHECK(status == DN_OK || (!most && status == DN_BOXES_FULL)); /* a score can round to 1 */
    free(arena);
    return count;
}

/* An input map is a photo that is not resized if its long side is options.size. */
static void stream_maps(const dn_model *model, const uint8_t *input, size_t rows, size_t columns, reader *r, tally *t) {
    unsigned long long before = t->values, all = 0;
    for (int i = 0; i < model->stage_count; i++) {
        size_t value_bytes = take_u32(r) ? 1 : 4, channels = take_u32(r);
        t->rows[i] = take_u32(r);
        t->columns[i] = take_u32(r);
        t->values_of[i] = take(r, channels * t->rows[i] * t->columns[i] * value_bytes);
        all += channels * t->rows[i] * t->columns[i];
    }
    dn_photo photo = {input, columns, rows, 3 * columns};
    dn_options options = dn_model_options(model);
    options.size = (int)(rows > columns ? rows : columns);
    size_t bytes;
    dn_status streams = dn_stream_bytes(model, columns, rows, &options, &bytes);
    if (streams == DN_BAD_SIZE || streams == DN_NOT_BY_ROWS || streams == DN_NOT_BOXES) return;
    options.score = 1;
    dn_box none;
    (void)feed(model, &photo, &options, compare_piece, t, &none, 0);
    CHECK(t->values - before == all);
    t->maps += (unsigned long long)model->stage_count;
}

static void compare_maps(const dn_model *model, reader *r, tally *t) {
    dn_workers lent = {t->workers, run_backwards, NULL};
    size_t rows = take_u32(r), columns = take_u32(r), bytes, grid_rows, grid_columns;
    const uint8_t *input = take(r, 3 * rows * columns);
    if (!t->workers) {
        stream_maps(model, input, rows, columns, r, t);
        return;
    }
    CHECK(dn_run_arena_bytes(model, rows, columns, &lent, &bytes) == DN_OK);
    void *arena = allocate(bytes);
    CHECK(dn_grid_size(model, rows, columns, &grid_rows, &grid_columns) == DN_OK);
    size_t channels = model->stages[model->stage_count - 1].filters;
    int32_t *grid = (int32_t *)allocate(channels * grid_rows * grid_columns * sizeof *grid);
    float *scores = (float *)allocate(channels * sizeof *scores);
    t->expected = r;
    CHECK(dn_run(model, input, rows, columns, &lent, compare_map, t, arena, bytes, grid) == DN_OK);
    CHECK(dn_class_scores(model, grid, grid_rows * grid_columns, scores) == (model->anchor_count ? DN_NOT_CLASSES : DN_OK));
    free(arena);
    free(scores);
    free(grid);
}

static void compare_boxes(const dn_model *model, reader *r, tally *t) {
    size_t width = take_u32(r), height = take_u32(r), bytes, most, count;
    dn_options options = dn_model_options(model);
    options.size = take_i32(r);
    options.score = take_f32(r);
    options.iou = take_f32(r);
    options.workers.count = t->workers;
    options.workers.run = run_backwards;
    dn_photo photo = {take(r, 3 * width * height), width, height, 3 * width};
    CHECK(dn_model_boxes_max(model, width, height, &options, &most) == DN_OK);
    dn_box *boxes = (dn_box *)allocate(most * sizeof *boxes);
    if (t->workers) {
        CHECK(dn_model_arena_bytes(model, width, height, &options, &bytes) == DN_OK);
        void *arena = allocate(bytes);
        CHECK(dn_detect(model, &photo, &options, arena, bytes, boxes, most, &count) == DN_OK);
        free(arena);
    } else {
        count = feed(model, &photo, &options, NULL, NULL, boxes, most);
    }
    CHECK(count == take_u32(r));
    for (size_t i = 0; i < count; i++) {
        float found[BOX_FLOATS] = {boxes[i].x1, boxes[i].y1, boxes[i].x2, boxes[i].y2, boxes[i].score};
        for (int j = 0; j < BOX_FLOATS; j++) {
            float expected = take_f32(r), difference = fabsf(found[j] - expected);
            float *largest = j < 4 ? &t->pixels : &t->score;
            CHECK(difference <= (j < 4 ? PIXELS_TOLERANCE : SCORE_TOLERANCE));
            if (difference > *largest) *largest = difference;
            t->same_bits += !memcmp(&found[j], &expected, sizeof expected);
        }
        t->boxes++;
    }
    free(boxes);
}

static void compare_resize(reader *r, tally *t) {
    size_t width = take_u32(r), height = take_u32(r), rows = take_u32(r), columns = take_u32(r), bytes;
    dn_photo photo = {take(r, 3 * width * height), width, height, 3 * width};
    CHECK(dn_resize_arena_bytes(width, height, rows, columns, &bytes) == DN_OK);
    void *arena = allocate(bytes);
    uint8_t *out = (uint8_t *)allocate(3 * rows * columns);
    CHECK(dn_resize(&photo, rows, columns, arena, bytes, out) == DN_OK);
    CHECK(!memcmp(out, take(r, 3 * rows * columns), 3 * rows * columns));
    t->values += 3 * rows * columns;
    free(arena);
    free(out);
}

/* All records in one way. Weights are prepared once when there are several workers, else in each call. */
static void compare(reader r, const char *kernels, tally *t) {
    dn_model model;
    void *memory = NULL, *prepared = NULL;
    for (;;) {
        uint32_t kind = take_u32(&r), length;
        size_t bytes;
        const uint8_t *file;
        switch (kind) {
            case END: free(memory), free(prepared); return;
            case MODEL:
                length = take_u32(&r);
                file = take(&r, length);
                free(memory);
                CHECK(dn_model_memory_bytes(file, length, &model, &bytes) == DN_OK);
                memory = allocate(bytes);
                CHECK(dn_model_open(file, length, memory, bytes, &model) == DN_OK);
                CHECK(dn_model_use_kernels(&model, kernels) == DN_OK);
                if (t->workers <= 1) break;
                free(prepared);
                CHECK(dn_model_prepared_bytes(&model, &bytes) == DN_OK);
                prepared = allocate(bytes);
                CHECK(dn_model_prepare(&model, prepared, bytes) == DN_OK);
                break;
            case MAPS: compare_maps(&model, &r, t); break;
            case BOXES: compare_boxes(&model, &r, t); break;
            case RESIZE: compare_resize(&r, t); break;
            default: CHECK(kind == END); /* no such kind */
        }
    }
}

static void tell(const tally *t) {
    printf("%s: %llu values of %llu maps equal; %llu boxes within %g px and %g, %llu of %llu floats equal\n", t->way, t->values, t->maps,
           t->boxes, (double)t->pixels, (double)t->score, t->same_bits, BOX_FLOATS * t->boxes);
}

int main(int argc, char **argv) {
    FILE *stream = argc > 1 ? fopen(argv[1], "rb") : NULL;
    CHECK(stream && !fseek(stream, 0, SEEK_END));
    long length = ftell(stream);
    CHECK(length > 0 && !fseek(stream, 0, SEEK_SET));
    uint8_t *vectors = (uint8_t *)allocate((size_t)length);
    CHECK(fread(vectors, 1, (size_t)length, stream) == (size_t)length);
    fclose(stream);
    reader r = {vectors, vectors + length};
    static tally t;
    static const tally fresh;
    for (size_t i = 0; dn_kernels_name(i); i++) {
        t = fresh;
        t.way = dn_kernels_name(i);
        if (!dn_kernels_run_here(i)) {
            printf("%s: not on this processor\n", t.way);
            continue;
        }
        for (t.workers = 1; t.workers <= 3; t.workers += 2) compare(r, t.way, &t);
        tell(&t);
    }
    t = fresh;
    t.way = "streaming";
    compare(r, "portable", &t);
    tell(&t);
    free(vectors);
    return 0;
}
