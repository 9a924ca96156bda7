/* Row streaming in C: arenas of exactly the bytes that were asked for, rows that are gone after each call, statuses of wrong calls.
 *
 * Usage: stream MODEL.dnet... */
#include "dupnet.h"
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes ? bytes : 1);
    CHECK(memory);
    return memory;
}

static int same(const dn_box *a, const dn_box *b, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (memcmp(&a[i], &b[i], sizeof *a)) return 0;
    return 1;
}

/* Feed a photo in blocks of `block` rows, each in a buffer of its own that is freed at once. */
static dn_status feed(dn_stream *stream, const dn_photo *photo, size_t block) {
    for (size_t y = 0; y < photo->height; y += block) {
        size_t rows = photo->height - y < block ? photo->height - y : block, gap = 3 * photo->width + 7;
        uint8_t *copy = (uint8_t *)allocate(gap * rows - 7);
        for (size_t i = 0; i < rows; i++) memcpy(copy + i * gap, photo->pixels + (y + i) * photo->row_bytes, 3 * photo->width);
        dn_status status = dn_feed_rows(stream, copy, rows, gap);
        free(copy);
        if (status != DN_OK) return status;
    }
    return DN_OK;
}

static void check_photo(const dn_model *model, size_t width, size_t height, int size) {
    size_t bytes, whole, most, expected, count, parts;
    uint8_t *pixels = (uint8_t *)allocate(3 * width * height);
    for (size_t i = 0; i < 3 * width * height; i++) pixels[i] = (uint8_t)(i * i * 13 + i / 7);
    dn_photo photo = {pixels, width, height, 3 * width};
    dn_options options = dn_model_options(model);
    options.size = size;
    options.score = 0.25f;
    CHECK(dn_model_arena_bytes(model, width, height, &options, &whole) == DN_OK);
    CHECK(dn_model_boxes_max(model, width, height, &options, &most) == DN_OK);
    dn_box *boxes = (dn_box *)allocate(most * sizeof *boxes), *streamed = (dn_box *)allocate(most * sizeof *boxes);
    uint8_t *arena = (uint8_t *)allocate(whole);
    CHECK(dn_detect(model, &photo, &options, arena, whole, boxes, most, &expected) == DN_OK);
    free(arena);

    dn_stream *stream;
    CHECK(dn_stream_bytes(model, width, height, &options, &bytes) == DN_OK);
    dn_part list[DN_MAX_PARTS];
    uint64_t sum = 63;
    CHECK(dn_model_parts(model, width, height, &options, list, DN_MAX_PARTS, &parts) == DN_OK && parts >= 3);
    for (size_t i = 0; i < parts; i++) sum += list[i].bytes;
    CHECK(sum == whole);
    sum = 63;
    CHECK(dn_stream_parts(model, width, height, &options, list, DN_MAX_PARTS, &parts) == DN_OK && parts < DN_MAX_PARTS);
    for (size_t i = 0; i < parts; i++) sum += list[i].bytes;
    CHECK(sum == bytes);
    arena = (uint8_t *)allocate(bytes + 1);
    memset(arena, 0xa5, bytes + 1);
    CHECK(dn_stream_begin(model, width, height, &options, arena + 1, bytes - 1, streamed, most, &stream) == DN_ARENA_TOO_SMALL);
    for (size_t block = 1; block <= height; block = block * 3 + 1) {
        CHECK(dn_stream_begin(model, width, height, &options, arena + 1, bytes, streamed, most, &stream) == DN_OK);
        CHECK(feed(stream, &photo, block) == DN_OK && dn_stream_end(stream, &count) == DN_OK);
        CHECK(count == expected && same(streamed, boxes, count));
    }
    /* A list that is too short gives some of the boxes, with fewer votes: no surer, and the surest of them first. */
    for (size_t capacity = 0; capacity < expected; capacity += 1 + expected / 4) {
        CHECK(dn_stream_begin(model, width, height, &options, arena + 1, bytes, streamed, capacity, &stream) == DN_OK);
        CHECK(feed(stream, &photo, height) == DN_OK && dn_stream_end(stream, &count) == DN_BOXES_FULL);
        CHECK(count <= capacity && (count || !capacity));
        for (size_t i = 0, at; i < count; i++) {
            for (at = 0; at < expected && boxes[at].place != streamed[i].place;) at++;
            CHECK(at < expected && streamed[i].score <= boxes[at].score && (!i || streamed[i].score <= streamed[i - 1].score));
        }
    }
    free(arena);
    free(boxes);
    free(streamed);
    free(pixels);
}

static void tap(void *context, const dn_map *piece, size_t row, size_t column) {
    size_t *pieces = (size_t *)context;
    CHECK(piece->rows == 1 && (piece->bits ? column == 0 : piece->columns == 1));
    CHECK(dn_map_value(piece, piece->channels - 1, 0, piece->columns - 1) < (piece->bits ? 1 << piece->bits : INT32_MAX) && row < 8192);
    ++*pieces;
}

static void check_calls(const dn_model *model) {
    enum { WIDTH = 40, HEIGHT = 30 };
    static uint8_t pixels[3 * WIDTH * HEIGHT];
    dn_photo photo = {pixels, WIDTH, HEIGHT, 3 * WIDTH};
    dn_options options = dn_model_options(model), bad = options;
    options.score = 1;
    dn_box boxes[4];
    dn_part part;
    dn_stream *stream = NULL;
    size_t bytes, count, pieces = 0;
    CHECK(dn_stream_bytes(model, WIDTH, HEIGHT, &options, NULL) == DN_NULL_ARGUMENT);
    CHECK(dn_stream_bytes(NULL, WIDTH, HEIGHT, &options, &bytes) == DN_NULL_ARGUMENT);
    CHECK(dn_stream_bytes(model, 0, HEIGHT, &options, &bytes) == DN_BAD_PHOTO_SIZE);
    CHECK(dn_stream_bytes(model, 16384, 16384, &options, &bytes) == DN_OK);
    bad.size = 31;
    CHECK(dn_stream_bytes(model, WIDTH, HEIGHT, &bad, &bytes) == DN_BAD_SIZE);
    CHECK(dn_stream_bytes(model, WIDTH, HEIGHT, &options, &bytes) == DN_OK);
    CHECK(dn_stream_parts(model, WIDTH, HEIGHT, &options, NULL, 0, &count) == DN_NULL_ARGUMENT);
    CHECK(dn_model_parts(model, WIDTH, HEIGHT, &options, &part, 1, NULL) == DN_NULL_ARGUMENT);
    CHECK(dn_model_parts(model, WIDTH, HEIGHT, &options, &part, 1, &count) == DN_OK && count == 1);
    CHECK(dn_stream_parts(model, WIDTH, HEIGHT, &options, &part, 1, &count) == DN_OK && count == 1);
    uint8_t *arena = (uint8_t *)allocate(bytes);
    CHECK(dn_stream_begin(model, WIDTH, HEIGHT, &options, NULL, bytes, boxes, 4, &stream) == DN_NULL_ARGUMENT);
    CHECK(dn_stream_begin(model, WIDTH, HEIGHT, &options, arena, bytes, NULL, 4, &stream) == DN_NULL_ARGUMENT);
    CHECK(dn_stream_begin(model, WIDTH, HEIGHT, &options, arena, bytes, boxes, 4, NULL) == DN_NULL_ARGUMENT);
    CHECK(dn_stream_begin(model, WIDTH, HEIGHT, &options, arena, bytes, NULL, 0, &stream) == DN_OK);

    CHECK(dn_stream_tap(NULL, tap, &pieces) == DN_NULL_ARGUMENT && dn_stream_tap(stream, tap, &pieces) == DN_OK);
    CHECK(dn_feed_rows(NULL, pixels, 1, 3 * WIDTH) == DN_NULL_ARGUMENT && dn_feed_rows(stream, NULL, 1, 3 * WIDTH) == DN_NULL_ARGUMENT);
    CHECK(dn_feed_rows(stream, pixels, 1, 3 * WIDTH - 1) == DN_BAD_PHOTO_SIZE);
    CHECK(dn_stream_end(stream, &count) == DN_TOO_FEW_ROWS && dn_stream_end(stream, NULL) == DN_NULL_ARGUMENT);
    CHECK(dn_feed_rows(stream, pixels, HEIGHT + 1, 3 * WIDTH) == DN_TOO_MANY_ROWS);
    CHECK(dn_feed_rows(stream, pixels, SIZE_MAX, 3 * WIDTH) == DN_TOO_MANY_ROWS);
    CHECK(dn_feed_rows(stream, NULL, 0, 3 * WIDTH) == DN_OK && pieces == 0);
    CHECK(feed(stream, &photo, 4) == DN_OK && pieces > 0);
    CHECK(dn_feed_rows(stream, pixels, 1, 3 * WIDTH) == DN_TOO_MANY_ROWS);
    CHECK(dn_stream_end(stream, &count) == DN_BOXES_FULL && count == 0); /* no room for what could have voted */
    CHECK(dn_stream_end(stream, &count) == DN_STREAM_ENDED);
    CHECK(dn_feed_rows(stream, pixels, 0, 3 * WIDTH) == DN_STREAM_ENDED);
    free(arena);
}

int main(int argc, char **argv) {
    static const size_t photos[][2] = {{1, 1}, {2, 1}, {1, 300}, {500, 3}, {33, 47}, {64, 64}, {75, 50}, {97, 160}};
    static uint8_t file[1 << 20], memory[1 << 20];
    static dn_model model;
    for (int i = 1; i < argc; i++) {
        FILE *stored = fopen(argv[i], "rb");
        CHECK(stored);
        size_t length = fread(file, 1, sizeof file, stored);
        fclose(stored);
        CHECK(dn_model_open(file, length, memory, sizeof memory, &model) == DN_OK);
        check_calls(&model);
        for (size_t j = 0; j < sizeof photos / sizeof photos[0]; j++) {
            check_photo(&model, photos[j][0], photos[j][1], 32);
            check_photo(&model, photos[j][0], photos[j][1], 75);
        }
    }
    puts(argc > 1 ? "ok" : "no model");
    return 0;
}
