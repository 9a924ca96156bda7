/* Grid -> boxes -> non-maximum suppression (docs/arithmetic.md, "Grid to boxes"). The only floats of the core.
 *
 * `dupnet.head` and `dupnet.detections.nms` are the same in Python. Candidates are kept in a heap, so the boxes come out the
 * best first, and suppression stops when the caller's array is full. */
#include "dn_impl.h"

#include <math.h>

enum { X, Y, W, H, OBJECTNESS, CHANNELS = 6 };

typedef struct candidate {
    float score;
    uint32_t index; /* (row * columns + column) * anchors + anchor, below 2^30 */
} candidate;

/* A grid and what its numbers mean. */
typedef struct grid_view {
    const dn_model *model;
    const uint8_t *scales, *biases;
    const int32_t *grid; /* [6 * anchors][rows][columns] */
    size_t columns, cells;
} grid_view;

uint64_t dn_head_scratch_bytes(const dn_model *model, size_t grid_rows, size_t grid_columns) {
    return (uint64_t)grid_rows * grid_columns * (size_t)model->anchor_count * sizeof(candidate);
}

static float value(const grid_view *g, size_t anchor, size_t channel, size_t cell) {
    size_t c = CHANNELS * anchor + channel;
    return dn_load_f32(g->scales + 4 * c) * (float)g->grid[c * g->cells + cell] + dn_load_f32(g->biases + 4 * c);
}

static float sigmoid(float v) {
    v = v < -80 ? -80 : v > 80 ? 80 : v;
    return 1 / (1 + expf(-v));
}

/* The candidate's box in pixels of the input map, not clipped. */
static dn_box decode(const grid_view *g, candidate c) {
    size_t anchors = (size_t)g->model->anchor_count, anchor = c.index % anchors, cell = c.index / anchors;
    float k = g->model->centre_scale, stride = (float)g->model->stride;
    float x = stride * ((float)(cell % g->columns) + k * sigmoid(value(g, anchor, X, cell)) - (k - 1) / 2);
    float y = stride * ((float)(cell / g->columns) + k * sigmoid(value(g, anchor, Y, cell)) - (k - 1) / 2);
    float w = value(g, anchor, W, cell), h = value(g, anchor, H, cell);
    w = g->model->anchors[anchor][0] * expf(w < 8 ? w : 8) / 2;
    h = g->model->anchors[anchor][1] * expf(h < 8 ? h : 8) / 2;
    dn_box box = {x - w, y - h, x + w, y + h, c.score};
    return box;
}

static float area(float x1, float y1, float x2, float y2) { return x2 > x1 && y2 > y1 ? (x2 - x1) * (y2 - y1) : 0; }

static float intersection_over_union(const dn_box *a, const dn_box *b) {
    float shared = area(a->x1 > b->x1 ? a->x1 : b->x1, a->y1 > b->y1 ? a->y1 : b->y1, a->x2 < b->x2 ? a->x2 : b->x2,
                        a->y2 < b->y2 ? a->y2 : b->y2);
    float both = area(a->x1, a->y1, a->x2, a->y2) + area(b->x1, b->y1, b->x2, b->y2) - shared;
    return both > 0 ? shared / both : 0;
}

static int is_before(candidate a, candidate b) { return a.score > b.score || (!(a.score < b.score) && a.index < b.index); }

/* Let heap[i] sink until no child is before its parent. */
static void sink(candidate *heap, size_t length, size_t i) {
    candidate moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < length; i = child) {
        if (child + 1 < length && is_before(heap[child + 1], heap[child])) child++;
        if (!is_before(heap[child], moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

static float clip(float v, float most) { return v < 0 ? 0 : v > most ? most : v; }

dn_status dn_head_boxes(const dn_model *model, const int32_t *grid, size_t grid_rows, size_t grid_columns, const dn_photo *photo,
                        const dn_view *view, const dn_options *options, uint8_t *scratch, dn_box *boxes, size_t capacity, size_t *count) {
    const dn_stage *last = &model->stages[model->stage_count - 1];
    const grid_view g = {model, last->scales, last->scales + 4 * (size_t)last->filters, grid, grid_columns, grid_rows * grid_columns};
    candidate *heap = (candidate *)(void *)scratch;
    size_t length = 0, anchors = (size_t)model->anchor_count;
    for (size_t i = 0; i < g.cells * anchors; i++) {
        candidate c = {sigmoid(value(&g, i % anchors, OBJECTNESS, i / anchors)), (uint32_t)i};
        if (c.score >= options->score) heap[length++] = c;
    }
    for (size_t i = length / 2; i-- > 0;) sink(heap, length, i);

    dn_status status = DN_OK;
    size_t kept = 0;
    while (length) {
        dn_box box = decode(&g, heap[0]);
        heap[0] = heap[--length];
        if (length) sink(heap, length, 0);
        size_t i = 0;
        while (i < kept && !(intersection_over_union(&boxes[i], &box) > options->iou)) i++;
        if (i < kept) continue;
        if (kept == capacity) {
            status = DN_BOXES_FULL;
            break;
        }
        boxes[kept++] = box;
    }

    float width = (float)photo->width, height = (float)photo->height;
    float right = width / (float)view->scaled_width, down = height / (float)view->scaled_height;
    for (size_t i = 0; i < kept; i++) {
        boxes[i].x1 = clip(boxes[i].x1 * right, width);
        boxes[i].y1 = clip(boxes[i].y1 * down, height);
        boxes[i].x2 = clip(boxes[i].x2 * right, width);
        boxes[i].y2 = clip(boxes[i].y2 * down, height);
    }
    *count = kept;
    return status;
}
