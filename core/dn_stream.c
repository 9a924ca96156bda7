/* Row streaming: detection in a photo that arrives row by row, without a whole map anywhere.
 *
 * The network is a chain. A stage with a kernel of k rows can compute row y of its sums once rows up to y + k/2 of its input map
 * are complete, and needs none above y - k/2 any more: a ring of k rows is all that has to stay of a map. Thresholds rise with the
 * sum, so the maximum of levels is the level of the maximum, and a pool needs no second row of sums: levels of the even row wait
 * in the place of the pooled row until the odd row is merged with them. Nothing else depends on the photo's size but the tables
 * and the ring of the resize, and they depend on its width.
 *
 * A row is pushed through as deep as it gets before the next one: always the deepest stage that can compute a row does. So when
 * a row of a map arrives, its reader has done all that it could without, and the row that is k above has served.
 *
 * Before this file: dn_model.c; beside it: dn_stream_row.c computes the rows, dn_head.c takes the grid's cells, dn_image.c knows
 * the resize's weights. */
#include "dn_impl.h"

#include <string.h>

enum { BLOCK = 64 };

/* A stage, and the rows of its input map. */
typedef struct step {
    dn_ring in;
    size_t arrived; /* rows of the input map that are complete, from the top */
    size_t done;    /* rows of sums, before the pool */
} step;

/* The resize, by docs/arithmetic.md: each row is squeezed when it comes, and a ring holds what the vertical pass may still need. */
typedef struct squeeze {
    size_t across, down; /* taps of both passes */
    uint16_t *first;     /* [columns] first tap of the horizontal pass */
    uint16_t *q;         /* [columns][across] */
    uint16_t *q_down;    /* [down], of row `made` */
    uint8_t *ring;       /* [down][3 * columns], row y of the horizontal pass in slot y mod down */
    size_t made, top;    /* the next row of the result, and the first tap of its vertical pass */
} squeeze;

struct dn_stream {
    const dn_model *model;
    dn_view view;
    size_t width, height; /* of the photo */
    size_t fed;           /* rows of the photo */
    int resized, ended;
    squeeze resize;
    step *steps;      /* [stage_count] */
    uint8_t *scratch; /* of dn_stream_row.c */
    int32_t *cell;    /* [DN_GRID_CHANNELS * anchors], one cell of the grid */
    dn_list list;
    dn_piece_tap tap;
    void *tap_context;
};

/* Hands out an arena's blocks, or only counts them; notes for whom. */
typedef struct layout {
    uint8_t *base; /* NULL: only sizes are wanted */
    uint64_t used;
    dn_part *parts; /* [capacity] */
    size_t capacity, count;
} layout;

static void *take(layout *l, const char *what, int stage, uint64_t bytes) {
    uint64_t before = l->used;
    void *block = dn_block(l->base, &l->used, bytes);
    dn_part part = {what, stage, l->used - before}, *last = l->count ? &l->parts[l->count - 1] : NULL;
    if (last && last->stage == stage && !strcmp(last->what, what))
        last->bytes += part.bytes;
    else if (l->count < l->capacity)
        l->parts[l->count++] = part;
    return block;
}

static size_t row_bytes(const dn_stage *stage, int plain, size_t columns) {
    return plain ? DN_PIXEL_BYTES * columns : columns * stage->input_bits * dn_bytes(stage->in_channels);
}

/* The one plan of the arena: for its size, for its parts and, where there is a base, for the stream itself. */
static void lay_out(const dn_model *model, size_t width, size_t height, const dn_view *view, layout *l) {
    dn_stream counted, *s = (dn_stream *)take(l, "state", -1, sizeof counted);
    step *steps = (step *)take(l, "state", -1, (size_t)model->stage_count * sizeof *steps);
    step next = {{NULL, 0, view->rows, view->columns}, 0, 0};
    uint64_t scratch = 0;
    if (!s) s = &counted;
    memset(s, 0, sizeof *s);
    for (int i = 0; i < model->stage_count; i++) {
        const dn_stage *stage = &model->stages[i];
        next.in.row_bytes = row_bytes(stage, i == 0, next.in.columns);
        next.in.slots = (uint8_t *)take(l, "rows", i, (uint64_t)stage->kernel * next.in.row_bytes);
        if (steps) steps[i] = next;
        next.in.rows /= stage->pool;
        next.in.columns /= stage->pool;
        if (dn_row_scratch_bytes(stage) > scratch) scratch = dn_row_scratch_bytes(stage);
    }
    s->steps = steps;
    s->scratch = (uint8_t *)take(l, "scratch", -1, scratch);
    s->cell = (int32_t *)take(l, "head", -1, model->stages[model->stage_count - 1].filters * sizeof(int32_t));
    s->resized = view->scaled_width != width || view->scaled_height != height;
    if (!s->resized) return;
    squeeze *z = &s->resize;
    uint64_t columns = view->scaled_width;
    z->across = dn_resize_taps(width, view->scaled_width);
    z->down = dn_resize_taps(height, view->scaled_height);
    z->first = (uint16_t *)take(l, "resize: weights", -1, columns * sizeof(uint16_t));
    z->q = (uint16_t *)take(l, "resize: weights", -1, columns * sizeof(uint16_t) * z->across);
    z->q_down = (uint16_t *)take(l, "resize: weights", -1, sizeof(uint16_t) * (uint64_t)z->down);
    z->ring = (uint8_t *)take(l, "resize: rows", -1, DN_PIXEL_BYTES * columns * z->down);
}

static dn_status plan(const dn_model *model, size_t width, size_t height, const dn_options *options, dn_view *view, layout *l) {
    dn_status status = dn_check_call(model, width, height, options);
    if (status != DN_OK) return status;
    for (int i = 0; i < model->stage_count; i++)
        if (model->stages[i].is_general) return DN_NOT_BY_ROWS;
    *view = dn_view_of(width, height, (size_t)options->size, (size_t)model->stride);
    lay_out(model, width, height, view, l);
    return DN_OK;
}

dn_status dn_stream_bytes(const dn_model *model, size_t width, size_t height, const dn_options *options, size_t *bytes) {
    layout sizes = {NULL, 0, NULL, 0, 0};
    dn_view view;
    dn_status status = bytes ? plan(model, width, height, options, &view, &sizes) : DN_NULL_ARGUMENT;
    return status != DN_OK ? status : dn_arena_size(sizes.used, bytes);
}

dn_status dn_stream_parts(const dn_model *model, size_t width, size_t height, const dn_options *options, dn_part *parts, size_t capacity,
                          size_t *count) {
    layout sizes = {NULL, 0, parts, capacity, 0};
    dn_view view;
    dn_status status = parts && count ? plan(model, width, height, options, &view, &sizes) : DN_NULL_ARGUMENT;
    if (status == DN_OK) *count = sizes.count;
    return status;
}

dn_status dn_stream_begin(const dn_model *model, size_t width, size_t height, const dn_options *options, void *arena, size_t arena_bytes,
                          dn_box *boxes, size_t capacity, dn_stream **stream) {
    size_t needed;
    if (!arena || (!boxes && capacity) || !stream) return DN_NULL_ARGUMENT;
    dn_status status = dn_stream_bytes(model, width, height, options, &needed);
    if (status != DN_OK) return status;
    if (arena_bytes < needed) return DN_ARENA_TOO_SMALL;

    layout blocks = {dn_arena_start(arena), 0, NULL, 0, 0};
    dn_view view;
    plan(model, width, height, options, &view, &blocks);
    dn_stream *s = (dn_stream *)(void *)blocks.base;
    dn_list list = {boxes, capacity, 0, 0, options->score, options->iou};
    s->model = model;
    s->view = view;
    s->width = width;
    s->height = height;
    s->list = list;
    memset(s->steps[0].in.slots, 0, model->stages[0].kernel * s->steps[0].in.row_bytes); /* the padding on the right */
    if (s->resized) {
        squeeze *z = &s->resize;
        for (size_t x = 0; x < view.scaled_width; x++)
            z->first[x] = (uint16_t)dn_resize_fill_taps(width, view.scaled_width, x, z->across, z->q + x * z->across);
        z->top = dn_resize_fill_taps(height, view.scaled_height, 0, z->down, z->q_down);
    }
    *stream = s;
    return DN_OK;
}

static void show(const dn_stream *s, int stage, const void *data, size_t columns, size_t row, size_t column) {
    const dn_stage *of = &s->model->stages[stage];
    dn_map piece = {data, stage, of->output_bits, DN_PLANES, of->filters, 1, columns};
    if (s->tap) s->tap(s->tap_context, &piece, row, column);
}

/* The next place of the ring. */
static uint8_t *next_slot(const dn_stream *s, int stage) {
    const step *reader = &s->steps[stage];
    return reader->in.slots + reader->arrived % s->model->stages[stage].kernel * reader->in.row_bytes;
}

static int can_run(const dn_stream *s, int stage) {
    const step *at = &s->steps[stage];
    return at->done < at->in.rows && at->arrived >= dn_min(at->done + s->model->stages[stage].kernel / 2u + 1, at->in.rows);
}

/* The next row of sums of a stage, and what comes of it. */
static void run_row(dn_stream *s, int i) {
    const dn_stage *stage = &s->model->stages[i];
    step *at = &s->steps[i];
    if (!stage->output_bits) {
        for (size_t x = 0; x < at->in.columns; x++) {
            dn_row_sums(stage, &at->in, i == 0, at->done, x, s->scratch, s->cell);
            show(s, i, s->cell, 1, at->done, x);
            dn_head_add(s->model, s->cell, 1, at->done, x, at->in.columns, &s->list);
        }
        at->done++;
        return;
    }
    uint8_t *out = next_slot(s, i + 1);
    dn_row_levels(stage, &at->in, i == 0, at->done, stage->pool == 2 && at->done % 2, s->scratch, out);
    if (++at->done % stage->pool) return;
    step *reader = &s->steps[i + 1];
    show(s, i, out, reader->in.columns, reader->arrived, 0);
    reader->arrived++;
}

/* The next row of the input map is in its slot: push it through. */
static void push_row(dn_stream *s) {
    s->steps[0].arrived++;
    for (int i = s->model->stage_count - 1; i >= 0;)
        if (can_run(s, i)) {
            run_row(s, i);
            i = s->model->stage_count - 1;
        } else {
            i--;
        }
}

/* Row `made` of the result, from the whole ring. */
static void blend_rows(const squeeze *z, size_t columns, uint8_t *out) {
    size_t wide = DN_PIXEL_BYTES * columns, turn = z->down - z->top % z->down;
    for (size_t first = 0; first < wide; first += BLOCK) {
        uint32_t sums[BLOCK];
        size_t length = dn_min(BLOCK, wide - first);
        for (size_t x = 0; x < length; x++) sums[x] = DN_ONE / 2;
        for (size_t slot = 0; slot < z->down; slot++) {
            const uint8_t *row = z->ring + slot * wide + first;
            uint32_t q = z->q_down[(slot + turn) % z->down];
            for (size_t x = 0; x < length; x++) sums[x] += q * row[x];
        }
        for (size_t x = 0; x < length; x++) out[first + x] = (uint8_t)(sums[x] / DN_ONE);
    }
}

/* One row of the photo through the resize. Row `made` is due when its last tap has come, which is this row or a later one, because
 * the first taps ascend and no tap is below the photo. */
static void resize_row(dn_stream *s, const uint8_t *row) {
    squeeze *z = &s->resize;
    size_t columns = s->view.scaled_width, rows = s->view.scaled_height;
    dn_resize_row(row, z->first, z->q, z->across, columns, z->ring + s->fed % z->down * DN_PIXEL_BYTES * columns);
    while (z->made < rows && z->top + z->down == s->fed + 1) {
        blend_rows(z, columns, next_slot(s, 0));
        push_row(s);
        if (++z->made < rows) z->top = dn_resize_fill_taps(s->height, rows, z->made, z->down, z->q_down);
    }
}

dn_status dn_feed_rows(dn_stream *s, const uint8_t *pixels, size_t count, size_t row_bytes) {
    if (!s || (!pixels && count)) return DN_NULL_ARGUMENT;
    if (s->ended) return DN_STREAM_ENDED;
    if (row_bytes < DN_PIXEL_BYTES * s->width) return DN_BAD_PHOTO_SIZE;
    if (count > s->height - s->fed) return DN_TOO_MANY_ROWS;
    for (size_t end = s->fed + count; s->fed < end; s->fed++, pixels += row_bytes) {
        if (s->resized) {
            resize_row(s, pixels);
        } else {
            memcpy(next_slot(s, 0), pixels, DN_PIXEL_BYTES * s->width);
            push_row(s);
        }
    }
    return DN_OK;
}

dn_status dn_stream_end(dn_stream *s, size_t *count) {
    if (!s || !count) return DN_NULL_ARGUMENT;
    if (s->ended) return DN_STREAM_ENDED;
    if (s->fed < s->height) return DN_TOO_FEW_ROWS;
    for (step *first = &s->steps[0]; first->arrived < first->in.rows;) { /* the padding at the bottom */
        memset(next_slot(s, 0), 0, first->in.row_bytes);
        push_row(s);
    }
    s->ended = 1;
    dn_status status = dn_head_finish(s->width, s->height, &s->view, &s->list);
    *count = s->list.length;
    return status;
}

dn_status dn_stream_tap(dn_stream *s, dn_piece_tap tap, void *context) {
    if (!s) return DN_NULL_ARGUMENT;
    s->tap = tap;
    s->tap_context = context;
    return DN_OK;
}
