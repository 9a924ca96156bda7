/* libFuzzer on the way of a photo: sizes, rows, options and capacities of every kind, through resize and detection with a small model.
 * Whatever is accepted gives boxes in order and inside the photo, in memory of exactly the bytes asked for, and the same boxes
 * with any number of workers and by row streaming.
 *
 * Usage as of any libFuzzer program; the environment variable MODEL names a packed file. `make fuzz` builds and runs it. */
#include "dupnet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(true)                                                    \
    do {                                                               \
        if (!(true)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #true); \
            abort();                                                   \
        }                                                              \
    } while (0)

/* Work per execution is bounded, so that there are many; shapes are not. */
enum { MOST_PIXELS = 1000, LARGEST_ARENA = 1 << 15, MOST_BOXES = 128 };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t file[1 << 16], memory[1 << 16];
static dn_model model;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    const char *path = getenv("MODEL");
    FILE *stream = path ? fopen(path, "rb") : NULL;
    (void)argc, (void)argv;
    CHECK(stream);
    size_t length = fread(file, 1, sizeof file, stream);
    fclose(stream);
    CHECK(dn_model_open(file, length, memory, sizeof memory, &model) == DN_OK);
    return 0;
}

static size_t lesser(size_t a, size_t b) { return a < b ? a : b; }

typedef struct input {
    const uint8_t *at;
    size_t left;
} input;

static size_t number(input *in, int bytes) {
    size_t value = 0;
    for (; bytes && in->left; bytes--, in->left--) value = value << 8 | *in->at++;
    return value;
}

static void run_backwards(void *pool, int count, dn_task task, void *context) {
    (void)pool;
    while (count-- > 0) task(context, count);
}

/* Photos of 1 to DN_MAX_PHOTO_SIDE pixels a side, and a little outside. The bytes that are left are its pixels, again and again. */
static uint8_t *make_photo(input *in, dn_photo *photo) {
    photo->width = number(in, 2) % (DN_MAX_PHOTO_SIDE + 2);
    photo->height = number(in, 2) % (DN_MAX_PHOTO_SIDE + 2);
    if (photo->width * photo->height > MOST_PIXELS) photo->height = MOST_PIXELS / photo->width + 1;
    size_t gap = number(in, 1) % 16;
    photo->row_bytes = gap == 15 ? 3 * photo->width / 2 : 3 * photo->width + gap; /* rows that overlap must be refused */
    size_t bytes = photo->height ? photo->row_bytes * (photo->height - 1) + 3 * photo->width : 0;
    uint8_t *pixels = (uint8_t *)malloc(bytes ? bytes : 1);
    CHECK(pixels);
    for (size_t i = 0; i < bytes; i++) pixels[i] = in->left ? in->at[i % in->left] : (uint8_t)(i * i);
    photo->pixels = pixels;
    return pixels;
}

static void resize(const dn_photo *photo, size_t rows, size_t columns) {
    size_t bytes;
    if (columns && rows * columns > MOST_PIXELS) rows = MOST_PIXELS / columns + 1;
    dn_status status = dn_resize_arena_bytes(photo->width, photo->height, rows, columns, &bytes);
    if (status != DN_OK || bytes > LARGEST_ARENA) return;
    uint8_t *arena = (uint8_t *)malloc(bytes), *out = (uint8_t *)malloc(3 * rows * columns);
    CHECK(arena && out);
    CHECK(dn_resize(photo, rows, columns, arena, bytes - 1, out) != DN_OK);
    status = dn_resize(photo, rows, columns, arena, bytes, out);
    CHECK(status == (photo->row_bytes < 3 * photo->width ? DN_BAD_PHOTO_SIZE : DN_OK));
    free(arena);
    free(out);
}

/* Detect into boxes [capacity]; 0 if the call was refused or would work too long. */
static int detect(const dn_photo *photo, const dn_options *options, size_t capacity, dn_box *boxes, size_t *count) {
    size_t bytes, most;
    *count = 0;
    dn_status status = dn_model_arena_bytes(&model, photo->width, photo->height, options, &bytes);
    CHECK(dn_model_boxes_max(&model, photo->width, photo->height, options, &most) == status);
    if (status != DN_OK || bytes > LARGEST_ARENA) return 0;
    uint8_t *arena = (uint8_t *)malloc(bytes);
    CHECK(arena);
    CHECK(dn_detect(&model, photo, options, arena, bytes - 1, boxes, capacity, count) != DN_OK);
    status = dn_detect(&model, photo, options, arena, bytes, boxes, capacity, count);
    free(arena);
    if (photo->row_bytes < 3 * photo->width) {
        CHECK(status == DN_BAD_PHOTO_SIZE);
        return 0;
    }
    CHECK(status == DN_OK || status == DN_BOXES_FULL);
    CHECK(*count <= capacity && *count <= most && (status == DN_OK || *count == capacity));
    for (size_t i = 0; i < *count; i++) {
        CHECK(boxes[i].score >= options->score && boxes[i].score <= 1 && (i == 0 || boxes[i].score <= boxes[i - 1].score));
        CHECK(boxes[i].x1 >= 0 && boxes[i].x1 <= boxes[i].x2 && boxes[i].x2 <= (float)photo->width);
        CHECK(boxes[i].y1 >= 0 && boxes[i].y1 <= boxes[i].y2 && boxes[i].y2 <= (float)photo->height);
    }
    return 1;
}

/* What was detected at once in boxes [count] must be the first of what is found row by row with place for all candidates. With place for
 * `capacity` of them these are some of the same faces, with fewer votes: no surer, the surest first. */
static void stream_again(const dn_photo *photo, const dn_options *options, size_t capacity, const dn_box *boxes, size_t count) {
    size_t bytes, most, found, faces = 0;
    dn_stream *stream;
    dn_box *whole = NULL;
    CHECK(dn_model_boxes_max(&model, photo->width, photo->height, options, &most) == DN_OK);
    CHECK(dn_stream_bytes(&model, photo->width, photo->height, options, &bytes) == DN_OK);
    for (int pass = 0; pass < 2; pass++) {
        size_t places = pass ? lesser(capacity, most) : most;
        uint8_t *arena = (uint8_t *)malloc(bytes);
        dn_box *all = (dn_box *)malloc(places ? places * sizeof *all : 1);
        CHECK(arena && all);
        CHECK(dn_stream_begin(&model, photo->width, photo->height, options, arena, bytes - 1, all, places, &stream) == DN_ARENA_TOO_SMALL);
        CHECK(dn_stream_begin(&model, photo->width, photo->height, options, arena, bytes, all, places, &stream) == DN_OK);
        for (size_t y = 0, rows = 1; y < photo->height; y += rows++) {
            rows = lesser(rows, photo->height - y);
            CHECK(dn_feed_rows(stream, photo->pixels + y * photo->row_bytes, rows, photo->row_bytes) == DN_OK);
        }
        dn_status status = dn_stream_end(stream, &found);
        CHECK(pass ? status == DN_OK || status == DN_BOXES_FULL : status == DN_OK && found >= count);
        if (status == DN_OK) {
            CHECK((count == capacity || found == count) && found >= count && !memcmp(all, boxes, count * sizeof *all));
        } else {
            for (size_t i = 0, same; i < found; i++) {
                for (same = 0; same < faces && whole[same].place != all[i].place;) same++;
                CHECK(same < faces && all[i].score <= whole[same].score && (!i || all[i].score <= all[i - 1].score));
            }
        }
        free(arena);
        free(whole);
        whole = all;
        faces = found;
    }
    free(whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static dn_box one[MOST_BOXES], many[MOST_BOXES];
    input in = {data, size};
    dn_options options = dn_model_options(&model);
    options.size = (int)(number(&in, 2) % (DN_MAX_SIZE + 2));
    options.score = (float)number(&in, 1) / 250; /* up to 1.02 */
    options.iou = (float)number(&in, 1) / 250;
    int workers = (int)number(&in, 1);
    workers = workers < 252 ? workers % 5 : workers + DN_MAX_WORKERS - 254; /* 0 to 4, or 254 to 257 */
    size_t capacity = number(&in, 2) % (MOST_BOXES + 1), rows = number(&in, 2), columns = number(&in, 2), count, again;
    dn_photo photo;
    uint8_t *pixels = make_photo(&in, &photo);
    resize(&photo, rows, columns);
    if (detect(&photo, &options, capacity, one, &count)) {
        if (rows % 4 == 0) stream_again(&photo, &options, capacity, one, count); /* the slowest: not every time */
        options.workers.count = workers;
        options.workers.run = run_backwards;
        if (detect(&photo, &options, capacity, many, &again)) CHECK(count == again && !memcmp(one, many, count * sizeof *one));
    }
    free(pixels);
    return 0;
}
