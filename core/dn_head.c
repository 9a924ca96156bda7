/* Grid -> boxes, of which those of one face become one (docs/arithmetic.md, "Grid to boxes"). The only floats of the core.
 *
 * `dupnet.head` and `dupnet.detections.merge` are the same in Python. Candidates, from a whole grid or cell by cell, are a
 * heap with the worst on top, which goes when there is no room; at the end the heap is sorted and merged in place. A box only
 * depends on those that overlap it and are at least VOTER as sure, and MOST_VOTES are all that can lift it, so candidates that are
 * less sure than any box can use are left out. */
#include "dn_impl.h"

#include <math.h>
#include <string.h>

enum { X, Y, W, H, OBJECTNESS };

/* A box votes for a surer one, and on where it lies, if it is this much as sure; more votes than these make none surer. */
static const float VOTER = 0.5f, MOST_VOTES = 4;

/* One cell of a grid: its channels' sums, `step` apart. */
typedef struct cell {
    const int32_t *sums;
    size_t step, row, column;
} cell;

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
static dn_box decode(const dn_model *model, const cell *at, size_t anchor, float score, size_t place) {
    float k = model->centre_scale, stride = (float)model->stride;
    float x = stride * ((float)at->column + k * sigmoid(value(model, at, anchor, X)) - (k - 1) / 2);
    float y = stride * ((float)at->row + k * sigmoid(value(model, at, anchor, Y)) - (k - 1) / 2);
    float w = value(model, at, anchor, W), h = value(model, at, anchor, H);
    w = model->anchors[anchor][0] * expf(w < 8 ? w : 8) / 2;
    h = model->anchors[anchor][1] * expf(h < 8 ? h : 8) / 2;
    dn_box box = {x - w, y - h, x + w, y + h, score, (uint32_t)place};
    return box;
}

static float area(float x1, float y1, float x2, float y2) { return x2 > x1 && y2 > y1 ? (x2 - x1) * (y2 - y1) : 0; }

static float intersection_over_union(const dn_box *a, const dn_box *b) {
    float shared = area(a->x1 > b->x1 ? a->x1 : b->x1, a->y1 > b->y1 ? a->y1 : b->y1, a->x2 < b->x2 ? a->x2 : b->x2,
                        a->y2 < b->y2 ? a->y2 : b->y2);
    float both = area(a->x1, a->y1, a->x2, a->y2) + area(b->x1, b->y1, b->x2, b->y2) - shared;
    return both > 0 ? shared / both : 0;
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

/* Whether `a` is less sure than `b`, or as sure and farther down the grid. */
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

/* The least score of a box that votes can lift to that of the list. */
static float surest_least(const dn_list *list) { return list->score / (MOST_VOTES - (MOST_VOTES - 1) * list->score); }

void dn_head_add(const dn_model *model, const int32_t *sums, size_t step, size_t row, size_t column, size_t grid_columns, dn_list *list) {
    const cell at = {sums, step, row, column};
    size_t anchors = (size_t)model->anchor_count, first = (row * grid_columns + column) * anchors;
    float least = VOTER * surest_least(list);
    for (size_t anchor = 0; anchor < anchors; anchor++) {
        float score = score_of(model, &at, anchor);
        if (!(score >= least)) continue;
        dn_box box = decode(model, &at, anchor, score, first + anchor);
        add_box(list, &box);
    }
}

/* Move the first box, the surest, to the mean of all that overlap it and may vote, weighted by their scores, and multiply its odds by
 * the votes; close the gaps that the others of its face leave. Returns how many boxes there are now. */
static size_t merge_first(dn_box *boxes, size_t count, float iou) {
    const dn_box best = boxes[0];
    float x1 = 0, y1 = 0, x2 = 0, y2 = 0, votes = 0;
    size_t left = 1;
    for (size_t i = 0; i < count; i++) {
        const dn_box box = boxes[i];
        if (i && !(intersection_over_union(&best, &box) > iou)) {
            boxes[left++] = box;
        } else if (box.score >= VOTER * best.score) {
            float vote = box.score / best.score;
            x1 += vote * box.x1, y1 += vote * box.y1, x2 += vote * box.x2, y2 += vote * box.y2, votes += vote;
        }
    }
    boxes[0].x1 = x1 / votes, boxes[0].y1 = y1 / votes, boxes[0].x2 = x2 / votes, boxes[0].y2 = y2 / votes;
    float odds = best.score * (votes < MOST_VOTES ? votes : MOST_VOTES);
    boxes[0].score = odds / (odds + (1 - best.score));
    return left;
}

dn_status dn_head_finish(size_t width, size_t height, const dn_view *view, dn_list *list) {
    dn_box *boxes = list->boxes;
    for (size_t i = list->length; i-- > 1;) { /* the worst goes to the end */
        dn_box worst = boxes[0];
        boxes[0] = boxes[i];
        boxes[i] = worst;
        sink_box(boxes, i, 0);
    }
    size_t kept = 0, end = list->length;
    for (size_t first = 0; first < end && boxes[first].score >= surest_least(list); first++) {
        end = first + merge_first(boxes + first, end - first, list->iou);
        const dn_box face = boxes[first];
        if (!(face.score >= list->score)) continue;
        size_t i = kept++; /* votes change the order a little */
        for (; i && boxes[i - 1].score < face.score; i--) boxes[i] = boxes[i - 1];
        boxes[i] = face;
    }
    list->length = kept;
    move_to_photo(boxes, kept, width, height, view);
    return list->full ? DN_BOXES_FULL : DN_OK;
}

dn_status dn_head_boxes(const dn_model *model, const int32_t *grid, size_t grid_rows, size_t grid_columns, const dn_photo *photo,
                        const dn_view *view, const dn_options *options, dn_box *candidates, dn_box *boxes, size_t capacity, size_t *count) {
    size_t cells = grid_rows * grid_columns;
    dn_list list = {candidates, cells * (size_t)model->anchor_count, 0, 0, options->score, options->iou};
    for (size_t i = 0; i < cells; i++) dn_head_add(model, grid + i, cells, i / grid_columns, i % grid_columns, grid_columns, &list);
    dn_head_finish(photo->width, photo->height, view, &list);
    *count = dn_min(list.length, capacity);
    if (*count) memcpy(boxes, candidates, *count * sizeof *boxes);
    return list.length > capacity ? DN_BOXES_FULL : DN_OK;
}
