/* dupnet: a face detector in C99, from RGB pixels to boxes.
 *
 * A detector is a packed file (.dnet, docs/format.md) and this folder: compile its .c files with your program. There is
 * no heap, no file access and no state; the arithmetic is integers (docs/arithmetic.md), the same on every machine,
 * until the last step turns the grid into boxes with a few floats.
 *
 *     #include <stdio.h>
 *     #include <stdlib.h>
 *     #include "dupnet.h"
 *
 *     int find_faces(const void *file, size_t length, const uint8_t *rgb, size_t width, size_t height) {
 *         static dn_model model;
 *         size_t bytes, count;
 *         dn_status status = dn_model_memory_bytes(file, length, &model, &bytes);
 *         void *memory = NULL, *arena = NULL;
 *         if (status == DN_OK && !(memory = malloc(bytes))) status = DN_MEMORY_TOO_SMALL;
 *         if (status == DN_OK) status = dn_model_open(file, length, memory, bytes, &model);
 *
 *         dn_photo photo = {rgb, width, height, 3 * width};
 *         dn_options options = dn_model_options(&model);
 *         dn_box faces[100];
 *         if (status == DN_OK) status = dn_model_arena_bytes(&model, width, height, &options, &bytes);
 *         if (status == DN_OK && !(arena = malloc(bytes))) status = DN_ARENA_TOO_SMALL;
 *         if (status == DN_OK) status = dn_detect(&model, &photo, &options, arena, bytes, faces, 100, &count);
 *         if (status == DN_OK || status == DN_BOXES_FULL) // full: the 100 best are there
 *             for (size_t i = 0; i < count; i++)
 *                 printf("%.0f %.0f %.0f %.0f  %.2f\n", faces[i].x1, faces[i].y1, faces[i].x2, faces[i].y2, faces[i].score);
 *         else
 *             puts(dn_status_text(status));
 *         free(arena), free(memory);
 *         return status != DN_OK && status != DN_BOXES_FULL;
 *     }
 *
 * Memory. The caller owns all of it. `dn_model` has a fixed size. It points into the bytes it was opened from, which may lie in
 * read-only memory, and into the model's memory, which holds what is decoded while the model is opened (7 and 22 KB for
 * the models that ship; its size is asked for first). Both must stay where they are, unchanged, as long as the model is used, and
 * a model that is moved keeps pointing there. Everything else happens in an arena, plain memory of any
 * alignment whose size is asked for first; nothing in it outlives a call. The stack holds about 1 KB for row streaming, 1.5 KB with
 * the portable kernels, 3 KB with vector kernels.
 *
 * Threads. A model is read-only after `dn_model_open`, so any number of threads may share it, each with its own arena.
 * One call uses several threads if the caller lends them (`dn_workers`); the results are the same bit for bit.
 *
 * Failures. Every function that can fail returns a `dn_status`. `dn_model_open` checks every byte of the file, so later
 * calls do not fail because of its contents, whoever wrote it, but for what a valid model is not made for: DN_NOT_BOXES,
 * DN_NOT_CLASSES, DN_NOT_BY_ROWS, DN_TOO_LARGE. When a call fails, its outputs are unspecified.
 *
 * Not promised: that boxes agree to the last float bit between C libraries (`expf` differs) or between compilers that may fuse
 * multiplications and additions (`-ffp-contract=off` forbids it); integers do. */
#ifndef DUPNET_H
#define DUPNET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    DN_MAX_STAGES = 64,
    DN_MAX_ANCHORS = 16,
    DN_MAX_NAME = 64,           /* bytes */
    DN_GRID_CHANNELS = 5,       /* of each anchor: x, y, w, h, objectness */
    DN_MIN_SIZE = 32,           /* of dn_options.size, pixels */
    DN_MAX_SIZE = 8192,
    DN_MAX_PHOTO_SIDE = 16384,  /* pixels; below it, the sums of the resize fit in 64 bits */
    DN_MAX_WORKERS = 256
};

typedef enum dn_status {
    DN_OK = 0,

    /* The call. */
    DN_NULL_ARGUMENT,
    DN_BAD_PHOTO_SIZE,    /* a side outside 1 .. DN_MAX_PHOTO_SIDE, or rows that overlap */
    DN_BAD_MAP_SIZE,      /* a side that is 0, above DN_MAX_SIZE, no multiple of the stride or so small that nothing is left */
    DN_BAD_SIZE,          /* options.size outside DN_MIN_SIZE .. DN_MAX_SIZE */
    DN_BAD_SCORE,         /* options.score outside 0 .. 1 */
    DN_BAD_IOU,           /* options.iou outside 0 .. 1 */
    DN_BAD_WORKERS,       /* more than DN_MAX_WORKERS, or several without `run` */
    DN_UNKNOWN_KERNELS,   /* no kernels of that name, or this processor cannot run them */
    DN_ARENA_TOO_SMALL,
    DN_MEMORY_TOO_SMALL,  /* the model's memory, dn_model_memory_bytes */
    DN_TOO_LARGE,         /* the arena or the model's memory would be larger than this machine's address space */
    DN_BOXES_FULL,        /* more boxes than `capacity`: the best are there, the rest is missing (of a stream: dn_stream) */
    DN_TOO_MANY_ROWS,     /* fed more rows than the photo has */
    DN_TOO_FEW_ROWS,      /* ended before the photo's last row */
    DN_STREAM_ENDED,      /* fed or ended after the end */
    DN_NOT_BOXES,         /* the model gives class scores */
    DN_NOT_CLASSES,       /* the model gives boxes */
    DN_NOT_BY_ROWS,       /* row streaming does not know one of the stages: a kernel above 7 or a step, a pool above 2 */

    /* The packed file, in the order in which docs/format.md states the rules. */
    DN_FILE_TRUNCATED,
    DN_FILE_MAGIC,
    DN_FILE_VERSION,
    DN_FILE_LENGTH,
    DN_FILE_CHECKSUM,
    DN_FILE_STAGE_COUNT,
    DN_FILE_IMAGE_CHANNELS,
    DN_FILE_ANCHOR_COUNT,
    DN_FILE_DEFAULT_SIZE,
    DN_FILE_DEFAULT_SCORE,
    DN_FILE_CENTRE_SCALE,
    DN_FILE_NAME_LENGTH,
    DN_FILE_NAME,         /* not UTF-8, or control characters */
    DN_FILE_PADDING,      /* bytes or bits that must be 0 */
    DN_FILE_ANCHOR,
    DN_FILE_GRID_CHANNELS,
    DN_FILE_IN_CHANNELS,
    DN_FILE_FILTERS,
    DN_FILE_KERNEL,
    DN_FILE_STEP,
    DN_FILE_POOL,
    DN_FILE_POOL_STEP,
    DN_FILE_INPUT_BITS,
    DN_FILE_WEIGHT_BITS,
    DN_FILE_WEIGHT_COPIES,
    DN_FILE_MAP_COPIES,
    DN_FILE_OUTPUT_BITS,
    DN_FILE_DISTANCE,
    DN_FILE_FLAGS,
    DN_FILE_SLOPE,
    DN_FILE_ACCUMULATOR,  /* sums of this stage would not fit in 31 bits */
    DN_FILE_STRIDE,
    DN_FILE_EMPTY_MAP,    /* nothing is left of a classifier's map at the default size */
    DN_FILE_HEAD_SCALE,   /* not finite */
    DN_FILE_THRESHOLD,    /* not ascending, or out of range */
    DN_FILE_CODE,         /* ends too early or too late */

    DN_STATUS_COUNT
} dn_status;

/* One English sentence, never NULL. */
const char *dn_status_text(dn_status status);

/* Convolution, max-pool, thresholds (docs/arithmetic.md). Read-only; `scales` and weights that are not coded
 * lie in the file, `thresholds` and coded weights in the model's memory. */
typedef struct dn_stage {
    const uint8_t *weights;     /* [filters][weight_bits][plane_bytes], bit planes of the codes */
    const uint8_t *thresholds;  /* [filters][2^output_bits - 1], little-endian, threshold_bytes each; NULL in the last stage */
    const uint8_t *scales;      /* [filters] scale, [filters] bias, little-endian f32; NULL in all other stages */
    size_t plane_bytes;         /* ceil(kernel * kernel * stored_channels / 8) */
    int32_t accumulator_max;    /* sums lie within plus and minus this */
    uint32_t stored_channels;   /* of the weights, before duplication */
    uint16_t in_channels;       /* of the map that is read, before duplication */
    uint16_t filters;
    uint8_t kernel, step;       /* the kernel moves by `step` */
    uint8_t border;             /* zeros around the map: kernel / 2, or 0 */
    uint8_t pool, pool_step;
    uint8_t is_general;         /* of a shape that only the portable kernels know */
    uint8_t input_bits, weight_bits, output_bits;  /* output_bits is 0 in the last stage */
    uint8_t weight_copies, map_copies;
    uint8_t threshold_bytes;    /* 2 or 4 */
    uint8_t is_coded;           /* the weights, in the file */
    uint8_t slope;              /* of the thresholds that are expected from the weights, while the file is decoded */
} dn_stage;

/* A packed file after all checks. Caller-owned, about 4.3 KB, trivially copyable; read-only. */
typedef struct dn_model {
    const struct dn_kernels *kernels;  /* private */
    const uint8_t *prepared;           /* private: memory given to dn_model_prepare, or NULL */
    char name[DN_MAX_NAME + 1];        /* UTF-8, zero-terminated */
    int stage_count;
    int anchor_count;                  /* 0: a classifier; the last stage's filters are its classes */
    int stride;                        /* pixels of the input map per cell of the grid, 1 .. 64; 1 for a classifier */
    int default_size;                  /* pixels */
    float default_score;
    float centre_scale;
    float anchors[DN_MAX_ANCHORS][2];  /* width, height in pixels of the input map */
    dn_stage stages[DN_MAX_STAGES];
} dn_model;

/* RGB pixels, 3 bytes each; row y starts at pixels + y * row_bytes, row_bytes >= 3 * width. */
typedef struct dn_photo {
    const uint8_t *pixels;
    size_t width, height;  /* 1 .. DN_MAX_PHOTO_SIDE */
    size_t row_bytes;
} dn_photo;

/* Coordinates in pixels of the photo, from its top left corner, clipped to it. */
typedef struct dn_box {
    float x1, y1, x2, y2;
    float score;     /* 0 .. 1 */
    uint32_t place;  /* (row * columns + column) * anchors + anchor of its surest box; of equally sure ones the smaller comes first */
} dn_box;

/* Threads lent by the caller. `run` must call task(context, i) once for each i in 0 .. count - 1, in any order, on any
 * threads, and return when all are done. count = 0 or 1: the calling thread does everything and `run` may be NULL. */
typedef void (*dn_task)(void *context, int index);
typedef struct dn_workers {
    int count;
    void (*run)(void *pool, int count, dn_task task, void *context);
    void *pool;  /* handed to `run` */
} dn_workers;

typedef struct dn_options {
    int size;     /* long side of the scaled photo in pixels */
    float score;  /* boxes below it are dropped, 0 .. 1; near 0 all the grid's boxes are compared with each other, which takes long */
    float iou;    /* boxes that overlap a better one by more than this are of its face, and it moves to their mean, 0 .. 1 */
    dn_workers workers;
} dn_options;

/* The output map of a stage. How levels lie in memory depends on the kernels: read them with dn_map_value.
 * The grid (bits = 0) is int32_t [channels][rows][columns]. */
typedef struct dn_map {
    const void *data;
    int stage;  /* 0 is the first */
    int bits;
    int layout; /* private */
    size_t channels, rows, columns;
} dn_map;

/* Called after each stage, on the calling thread; the map is valid during the call. */
typedef void (*dn_tap)(void *context, const dn_map *map);

/* Bytes of memory that `dn_model_open` needs for this file: for coded weights and all thresholds. Any bytes are safe to pass, and
 * no more is asked for than what a file of this length can hold. `model` is only worked in: it is not open afterwards.
 * Fails with DN_FILE_* as `dn_model_open` does. */
dn_status dn_model_memory_bytes(const void *bytes, size_t length, dn_model *model, size_t *memory_bytes);

/* Check a packed file, decode what is coded in it into `memory`, of any alignment, and describe it in `model`, using the fastest
 * kernels that this processor runs. Any bytes are safe to pass. Fails with DN_FILE_*: the first rule that is broken. */
dn_status dn_model_open(const void *bytes, size_t length, void *memory, size_t memory_bytes, dn_model *model);

/* The file's defaults, iou 0.45, one thread. */
dn_options dn_model_options(const dn_model *model);

/* Names of the kernels in this build, the slowest ("portable") first; NULL past the end. */
const char *dn_kernels_name(size_t index);

/* Whether this processor can run them; 0 past the end. */
int dn_kernels_run_here(size_t index);

/* Name of the kernels that the model uses. */
const char *dn_model_kernels(const dn_model *model);

/* For tests: use these kernels instead. Fails with DN_UNKNOWN_KERNELS, and changes nothing then. */
dn_status dn_model_use_kernels(dn_model *model, const char *name);

/* Optional: put weights and thresholds in the order in which the kernels want them once, instead of in each call's arena, which
 * becomes smaller. `memory` (of any alignment) must stay as long as the model is used. Another choice of kernels
 * undoes it. */
dn_status dn_model_prepared_bytes(const dn_model *model, size_t *bytes);
dn_status dn_model_prepare(dn_model *model, void *memory, size_t bytes);

/* Bytes that `dn_detect` needs for a photo of this size with these options. */
dn_status dn_model_arena_bytes(const dn_model *model, size_t width, size_t height, const dn_options *options, size_t *bytes);

/* Find the boxes in a photo, one for each face, the best first. At most `capacity` are written; if there are more, the best `capacity`
 * of them are, and the status is DN_BOXES_FULL. */
dn_status dn_detect(const dn_model *model, const dn_photo *photo, const dn_options *options, void *arena, size_t arena_bytes,
                    dn_box *boxes, size_t capacity, size_t *count);

/* What a part of an arena is for, for inspection. */
typedef struct dn_part {
    const char *what; /* a word or two */
    int stage;        /* 0 is the first; -1: of none */
    uint64_t bytes;
} dn_part;

enum { DN_MAX_PARTS = 2 * DN_MAX_STAGES + 16 };

/* What `dn_detect` needs its arena for: the largest pair of maps (or the grid and the boxes in it, if they are larger), the
 * largest scratch memory, and weights that are not prepared yet. At most `capacity` parts are written, DN_MAX_PARTS is enough; with 63 bytes for the alignment they are the whole arena. */
dn_status dn_model_parts(const dn_model *model, size_t width, size_t height, const dn_options *options, dn_part *parts, size_t capacity,
                         size_t *count);

/* Detection in a photo that arrives in rows, as a camera delivers them: nothing of the photo but its last rows is ever in
 * memory, and no map. The boxes are those of `dn_detect`; the arena grows with the width of the photo, not with its height
 * (docs/core.md, "Row streaming"). One thread; options.workers are checked and not used.
 *
 *     dn_stream *stream;
 *     size_t bytes, count;
 *     dn_stream_bytes(&model, width, height, &options, &bytes);
 *     dn_stream_begin(&model, width, height, &options, arena, bytes, faces, 100, &stream);
 *     while (read_row(camera, row)) dn_feed_rows(stream, row, 1, 3 * width);
 *     dn_status status = dn_stream_end(stream, &count);
 *
 * A stream lives in its arena: nothing has to be freed, and it may be left before its end. `faces` is where boxes are collected
 * before those of a face become one, so it needs place for more than will be left, ten or so for each face: with DN_BOXES_FULL the
 * boxes are the surest of those that `dn_detect` finds, perhaps all of them, but the least sure candidates had no vote.
 * The fastest feed is a photo whose long side is options.size: then nothing is resized. */
typedef struct dn_stream dn_stream;

/* Bytes of the arena for photos of this size with these options. */
dn_status dn_stream_bytes(const dn_model *model, size_t width, size_t height, const dn_options *options, size_t *bytes);

/* Begin a photo. `model`, `arena` and `boxes` must stay until the end; nothing else is read later. */
dn_status dn_stream_begin(const dn_model *model, size_t width, size_t height, const dn_options *options, void *arena, size_t arena_bytes,
                          dn_box *boxes, size_t capacity, dn_stream **stream);

/* Feed the next `count` rows of RGB pixels, 3 * width bytes each, `row_bytes` apart; they are not read again later.
 * With DN_TOO_MANY_ROWS none of them was taken. */
dn_status dn_feed_rows(dn_stream *stream, const uint8_t *pixels, size_t count, size_t row_bytes);

/* The boxes, the best first, are in the array of `dn_stream_begin`. With DN_TOO_FEW_ROWS nothing has ended. */
dn_status dn_stream_end(dn_stream *stream, size_t *count);

/* For tests: called with each piece of a map that is complete, a row of levels or a cell of the grid (one row, one column), and
 * its place. The piece is valid during the call. */
typedef void (*dn_piece_tap)(void *context, const dn_map *piece, size_t row, size_t column);
dn_status dn_stream_tap(dn_stream *stream, dn_piece_tap tap, void *context);

/* What a stream needs its arena for, as `dn_model_parts`. "rows" are those that a stage reads. */
dn_status dn_stream_parts(const dn_model *model, size_t width, size_t height, const dn_options *options, dn_part *parts, size_t capacity,
                          size_t *count);

/* The most boxes that `dn_detect` can find in a photo of this size: cells of the grid times anchors. */
dn_status dn_model_boxes_max(const dn_model *model, size_t width, size_t height, const dn_options *options, size_t *boxes);

/* Rows and columns of the grid of an input map. */
dn_status dn_grid_size(const dn_model *model, size_t rows, size_t columns, size_t *grid_rows, size_t *grid_columns);

/* Run all stages on an input map, uint8_t [rows][columns][3], sides multiples of the stride up to DN_MAX_SIZE.
 * `grid` receives int32_t [filters of the last stage][grid rows][grid columns]; `tap` (may be NULL) sees each map. */
dn_status dn_run(const dn_model *model, const uint8_t *input_map, size_t rows, size_t columns, const dn_workers *workers, dn_tap tap,
                 void *tap_context, void *arena, size_t arena_bytes, int32_t *grid);

/* Bytes that `dn_run` needs. */
dn_status dn_run_arena_bytes(const dn_model *model, size_t rows, size_t columns, const dn_workers *workers, size_t *bytes);

/* A classifier's scores (logits), float [classes], from the grid of dn_run and the number of its cells: the means of all cells. The
 * classes are the filters of the last stage. Fails with DN_NOT_CLASSES. */
dn_status dn_class_scores(const dn_model *model, const int32_t *grid, size_t cells, float *scores);

/* The value of one element of a map; for inspection, slow. */
int32_t dn_map_value(const dn_map *map, size_t channel, size_t row, size_t column);

/* Resize a photo to `rows` x `columns` pixels, each at most DN_MAX_PHOTO_SIDE; out is uint8_t [rows][columns][3]. */
dn_status dn_resize(const dn_photo *photo, size_t rows, size_t columns, void *arena, size_t arena_bytes, uint8_t *out);

/* Bytes that `dn_resize` needs for a photo of this size. */
dn_status dn_resize_arena_bytes(size_t width, size_t height, size_t rows, size_t columns, size_t *bytes);

#ifdef __cplusplus
}
#endif
#endif
