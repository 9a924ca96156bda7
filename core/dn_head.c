/* Grid -> boxes -> non-maximum suppression (docs/arithmetic.md, "Grid to boxes"). The only floats of the core.
 *
 * `dupnet.head` and `dupnet.detections.nms` are the same in Python. Of a whole grid, the candidates are kept in a heap, so the
 * boxes come out the best first, and suppression stops when the caller's array is full. Of a grid that arrives cell by cell, the
 * boxes themselves are a heap in the caller's array, the worst on top; suppression never looks at a worse box, so with the
 * worst left out it gives the first of all boxes. */
#include "dn_impl.h"

#include <math.h>

enum { X, Y, W, H, OBJECTNESS };

typedef struct candidate {
    float score;
    uint32_t index; /* (row * columns + column) * anchors + anchor, below 2^30 */
} candidate;

/* One cell of a grid: its channels' sums, `step` apart. */
typedef struct cell {
    const int32_t *sums;
    size_t step, row, column;
} cell;

uint64_t dn_head_scratch_bytes(const dn_model *model, size_t grid_rows, size_t grid_columns) {
    return (uint64_t)grid_rows * grid_columns * (size_t)model->anchor_count * sizeof(candidate);
}

static float value(const dn_model *model, const cell *at, size_t anchor, size_t channel) {
    const dn_stage *last = &model->stages[model->stage_count - 1];
    size_t c = DN_GRID_CHANNELS * anchor + channel;
    return dn_load_f32(last->scales + 4 * c) * (float)at->sums[c * at->step] + dn_load_f32(last->scales + 4 * (last->filters + c));
}

dn_status dn_class_scores(const dn_model *model, const int32_t *grid, size_t cells, float *scores) {
    if (!model || !grid || !scores) return DN_NULL_ARGUMENT;
    if (model->anchor_count) return DN_NOT_CLASSES;
    if (!cells) return DN_BAD_MAP_SIZE;
    const dn_stage *last = &model->stages[model->stage_count - 1];
    for (size_t c = 0; c < last->filters; c++, grid += cells) {
        int64_t sum = 0;
        for (size_t i = 0; i < cells; i++) sum += grid[i];
        float mean = (float)((double)sum / (double)cells);
        scores[c] = dn_load_f32(last->scales + 4 * c) * mean + dn_load_f32(last->scales + 4 * (last->filters + c));
    }
    return DN_OK;
}

static float sigmoid(float v) {
    v = v < -80 ? -80 : v > 80 ? 80 : v;
    return 1 / (1 + expf(-v));
}

static float score_of(const dn_model *model, const cell *at, size_t anchor) { return sigmoid(value(model, at, anchor, OBJECTNESS)); }

/* The box of one anchor in pixels of the input map, not clipped. */
static dn_box decode(const dn_model *model, const cell *at, size_t anchor, candidate c) {
    float k = model->centre_scale, stride = (float)model->stride;
    float x = stride * ((float)at->column + k * sigmoid(value(model, at, anchor, X)) - (k - 1) / 2);
    float y = stride * ((float)at->row + k * sigmoid(value(model, at, anchor, Y)) - (k - 1) / 2);
    float w = value(model, at, anchor, W), h = value(model, at, anchor, H);
    w = model->anchors[anchor][0] * expf(w < 8 ? w : 8) / 2;
    h = model->anchors[anchor][1] * expf(h < 8 ? h : 8) / 2;
    dn_box box = {x - w, y - h, x + w, y + h, c.score, c.index};
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

/* Whether `box` overlaps none of the kept ones. */
static int is_free(const dn_box *kept, size_t count, const dn_box *box, float iou) {
    size_t i = 0;
    while (i < count && !(intersection_over_union(&kept[i], box) > iou)) i++;
    return i == count;
}

static float clip(float v, float most) { return v < 0 ? 0 : v > most ? most : v; }

static void move_to_photo(dn_box *boxes, size_t count, size_t photo_width, size_t photo_height, const dn_view *view) {
    float width = (float)photo_width, height = (float)photo_height;
    float right = width / (float)view->scaled_width, down = height / (float)view->scaled_height;
    for (size_t i = 0; i < count; i++) {
        boxes[i].x1 = clip(boxes[i].x1 * right, width);
        boxes[i].y1 = clip(boxes[i].y1 * down, height);
        boxes[i].x2 = clip(boxes[i].x2 * right, width);
        boxes[i].y2 = clip(boxes[i].y2 * down, height);
    }
}

dn_status dn_head_boxes(const dn_model *model, const int32_t *grid, size_t grid_rows, size_t grid_columns, const dn_photo *photo,
                        const dn_view *view, const dn_options *options, uint8_t *scratch, dn_box *boxes, size_t capacity, size_t *count) {
    candidate *heap = (candidate *)(void *)scratch;
    size_t length = 0, anchors = (size_t)model->anchor_count, cells = grid_rows * grid_columns;
    for (size_t i = 0; i < cells * anchors; i++) {
        cell at = {grid + i / anchors, cells, 0, 0};
        candidate c = {score_of(model, &at, i % anchors), (uint32_t)i};
        if (c.score >= options->score) heap[length++] = c;
    }
    for (size_t i = length / 2; i-- > 0;) sink(heap, length, i);

    dn_status status = DN_OK;
    size_t kept = 0;
    while (length && status == DN_OK) {
        size_t i = heap[0].index / anchors;
        cell at = {grid + i, cells, i / grid_columns, i % grid_columns};
        dn_box box = decode(model, &at, heap[0].index % anchors, heap[0]);
        heap[0] = heap[--length];
        if (length) sink(heap, length, 0);
        if (!is_free(boxes, kept, &box, options->iou)) continue;
        if (kept < capacity)
            boxes[kept++] = box;
        else
            status = DN_BOXES_FULL;
    }
    move_to_photo(boxes, kept, photo->width, photo->height, view);
    *count = kept;
    return status;
}

/* The same order as is_before, from the back. */
static int is_after(const dn_box *a, const dn_box *b) { return a->score < b->score || (!(a->score > b->score) && a->place > b->place); }

/* Let heap[i] sink until no child is after its parent. */
static void sink_box(dn_box *heap, size_t length, size_t i) {
    dn_box moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < length; i = child) {
        if (child + 1 < length && is_after(&heap[child + 1], &heap[child])) child++;
        if (!is_after(&heap[child], &moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

/* Put `box` into the heap; if it is full, in the place of the worst or, being the worst itself, not at all. */
static void add_box(dn_list *list, const dn_box *box) {
    dn_box *heap = list->boxes;
    if (list->length == list->capacity) {
        list->full = 1;
        if (!list->capacity || is_after(box, &heap[0])) return;
        heap[0] = *box;
        sink_box(heap, list->length, 0);
        return;
    }
    size_t i = list->length++;
    for (size_t parent; i && is_after(box, &heap[parent = (i - 1) / 2]); i = parent) heap[i] = heap[parent];
    heap[i] = *box;
}

void dn_head_add(const dn_model *model, const int32_t *sums, size_t row, size_t column, size_t grid_columns, float score, dn_list *list) {
    const cell at = {sums, 1, row, column};
    size_t anchors = (size_t)model->anchor_count, first = (row * grid_columns + column) * anchors;
    for (size_t anchor = 0; anchor < anchors; anchor++) {
        candidate c = {score_of(model, &at, anchor), (uint32_t)(first + anchor)};
        if (!(c.score >= score)) continue;
        dn_box box = decode(model, &at, anchor, c);
        add_box(list, &box);
    }
}

dn_status dn_head_finish(size_t width, size_t height, const dn_view *view, float iou, dn_list *list) {
    dn_box *boxes = list->boxes;
    for (size_t i = list->length; i-- > 1;) { /* the worst goes to the end */
        dn_box worst = boxes[0];
        boxes[0] = boxes[i];
        boxes[i] = worst;
        sink_box(boxes, i, 0);
    }
    size_t kept = 0;
    for (size_t i = 0; i < list->length; i++)
        if (is_free(boxes, kept, &boxes[i], iou)) boxes[kept++] = boxes[i];
    list->length = kept;
    move_to_photo(boxes, kept, width, height, view);
    return list->full ? DN_BOXES_FULL : DN_OK;
}
