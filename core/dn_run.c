/* Walks the stages over the caller's arena.
 *
 * The arena holds three things. First the maps: map 0 (the input map), 2, 4, ... start at the low end, maps 1, 3, 5, ... end at the
 * high end, so a stage's input and output never meet and the largest pair of neighbours is all the room that is needed.
 * Then scratch memory, used in turn by the resize, the kernels and the head. Then the prepared weights, unless the caller has them
 * elsewhere. Before this file: dn_model.c; beside it: dn_image.c, the kernels, dn_head.c. */
#include "dn_impl.h"

#include <string.h>

/* Where things are in an arena, in bytes from its start. */
typedef struct plan {
    uint64_t maps, scratch, prepared, total;
    uint64_t scratch_step; /* scratch memory of one worker */
    size_t workers;
    int whole; /* the input map and the grid are in the arena; else the caller has them */
} plan;

static size_t worker_count(const dn_workers *workers) { return workers && workers->count > 1 ? (size_t)workers->count : 1; }

/* From the size of map 0, the input map, to that of map i, the output of stage i - 1. */
static void map_size(const dn_model *model, int i, size_t *rows, size_t *columns) {
    for (int s = 0; s < i; s++) {
        *rows = dn_out_side(&model->stages[s], *rows);
        *columns = dn_out_side(&model->stages[s], *columns);
    }
}

/* Bytes of map i; rows and columns are those of map 0. */
static uint64_t map_bytes(const dn_model *model, int i, size_t rows, size_t columns, int whole) {
    if (i == 0) return whole ? (uint64_t)DN_PIXEL_BYTES * rows * columns : 0;
    const dn_stage *stage = &model->stages[i - 1];
    map_size(model, i, &rows, &columns);
    uint64_t cells = (uint64_t)rows * columns;
    if (!stage->output_bits) return whole ? cells * stage->filters * sizeof(int32_t) : 0;
    return cells * dn_pixel_bytes(stage->output_bits, stage->filters, model->kernels->layout(stage)) + DN_SLACK;
}

/* Bytes of all stages' prepared weights, each in a block of its own; do the work if there is memory. */
static uint64_t prepare(const dn_model *model, uint8_t *memory) {
    uint64_t used = 0;
    for (int i = 0; i < model->stage_count; i++) {
        void *block = dn_block(memory, &used, model->kernels->prepared_bytes(&model->stages[i]));
        if (block) model->kernels->prepare(&model->stages[i], block);
    }
    return used;
}

/* The larger of `most` and a block of `bytes`. */
static uint64_t widest(uint64_t most, uint64_t bytes) {
    uint64_t used = 0;
    dn_block(NULL, &used, bytes);
    return used > most ? used : most;
}

static plan make_plan(const dn_model *model, size_t rows, size_t columns, const dn_workers *workers, int whole) {
    plan p = {0, 0, model->prepared ? 0 : prepare(model, NULL), 0, 0, worker_count(workers), whole};
    size_t wide = columns;
    for (int i = 0; i < model->stage_count; i++) {
        uint64_t pair = 0;
        dn_block(NULL, &pair, map_bytes(model, i, rows, columns, whole));
        dn_block(NULL, &pair, map_bytes(model, i + 1, rows, columns, whole));
        p.maps = widest(p.maps, pair);
        p.scratch_step = widest(p.scratch_step, model->kernels->scratch_bytes(&model->stages[i], wide));
        wide = dn_out_side(&model->stages[i], wide);
    }
    p.scratch = p.scratch_step * p.workers;
    p.total = p.maps + p.scratch + p.prepared;
    return p;
}

/* Blocks for the grid, and for a box of each of its cells and anchors. They share the place of the maps. */
static uint64_t grid_bytes(const dn_model *model, const dn_view *view) {
    return widest(0, map_bytes(model, model->stage_count, view->rows, view->columns, 1));
}

static uint64_t candidate_bytes(const dn_model *model, const dn_view *view) {
    size_t stride = (size_t)model->stride;
    return widest(0, (uint64_t)(view->rows / stride) * (view->columns / stride) * (size_t)model->anchor_count * sizeof(dn_box));
}

static plan plan_detection(const dn_model *model, size_t width, size_t height, const dn_view *view, const dn_workers *workers) {
    plan p = make_plan(model, view->rows, view->columns, workers, 1);
    p.maps = widest(p.maps, grid_bytes(model, view) + candidate_bytes(model, view));
    p.scratch_step = widest(p.scratch_step, dn_resize_scratch_bytes(width, height, view->scaled_height, view->scaled_width));
    p.scratch = p.scratch_step * p.workers;
    p.total = p.maps + p.scratch + p.prepared;
    return p;
}

static dn_status check_workers(const dn_workers *workers) {
    if (workers && (workers->count < 0 || workers->count > DN_MAX_WORKERS || (workers->count > 1 && !workers->run))) return DN_BAD_WORKERS;
    return DN_OK;
}

/* Call task(context, i) for i in 0 .. count - 1. */
static void share(const dn_workers *workers, size_t count, dn_task task, void *context) {
    if (count == 1)
        task(context, 0);
    else
        workers->run(workers->pool, (int)count, task, context);
}

/* One stage, cut into `parts` bands of rows. */
typedef struct stage_job {
    const dn_kernels *kernels;
    dn_conv conv;
    uint8_t *scratch;
    size_t scratch_step, parts;
} stage_job;

static void stage_task(void *context, int index) {
    const stage_job *job = (const stage_job *)context;
    size_t part = (size_t)index, rows = dn_out_side(job->conv.stage, job->conv.rows);
    job->kernels->conv_rows(&job->conv, rows * part / job->parts, rows * (part + 1) / job->parts, job->scratch + part * job->scratch_step);
}

/* All stages. `input` and `grid` are in the arena if the plan is whole. */
static void run_stages(const dn_model *model, const plan *p, const uint8_t *input, size_t rows, size_t columns, const dn_workers *workers,
                       dn_tap tap, void *tap_context, uint8_t *arena, int32_t *grid) {
    const uint8_t *in = input, *prepared = model->prepared;
    size_t map_rows = rows, map_columns = columns;
    uint64_t at = 0; /* of the stage's prepared weights */
    dn_layout before = DN_BYTES;
    if (!prepared) {
        prepare(model, arena + p->maps + p->scratch);
        prepared = arena + p->maps + p->scratch;
    }
    for (int i = 0; i < model->stage_count; i++) {
        const dn_stage *stage = &model->stages[i];
        uint64_t used = 0;
        dn_block(NULL, &used, map_bytes(model, i + 1, rows, columns, p->whole));
        void *out = !stage->output_bits ? (void *)grid : (i + 1) % 2 ? arena + (p->maps - used) : arena;
        dn_layout layout = stage->output_bits ? model->kernels->layout(stage) : DN_PLANES;
        stage_job job = {model->kernels, {stage, in, out, prepared + at, map_rows, map_columns, before, layout},
                         arena + p->maps, (size_t)p->scratch_step, dn_min(p->workers, dn_out_side(stage, map_rows))};
        dn_block(NULL, &at, model->kernels->prepared_bytes(stage));
        share(workers, job.parts, stage_task, &job);
        map_rows = dn_out_side(stage, map_rows);
        map_columns = dn_out_side(stage, map_columns);
        dn_map map = {out, i, stage->output_bits, (int)layout, stage->filters, map_rows, map_columns};
        if (tap) tap(tap_context, &map);
        in = (const uint8_t *)out;
        before = layout;
    }
}

/* A photo's way into its input map, cut into `parts` bands of rows. */
typedef struct resize_job {
    const dn_photo *photo;
    const dn_view *view;
    uint8_t *out, *scratch;
    size_t scratch_step, parts;
} resize_job;

static void resize_task(void *context, int index) {
    const resize_job *job = (const resize_job *)context;
    const dn_view *view = job->view;
    size_t part = (size_t)index, first = view->scaled_height * part / job->parts, last = view->scaled_height * (part + 1) / job->parts;
    size_t row_bytes = DN_PIXEL_BYTES * view->columns, used = DN_PIXEL_BYTES * view->scaled_width;
    dn_resize_rows(job->photo, view->scaled_height, view->scaled_width, first, last, job->scratch + part * job->scratch_step, job->out,
                   row_bytes);
    for (size_t y = first; y < last; y++) memset(job->out + y * row_bytes + used, 0, row_bytes - used);
}

dn_status dn_check_call(const dn_model *model, size_t width, size_t height, const dn_options *options) {
    if (!model || !options) return DN_NULL_ARGUMENT;
    if (!model->anchor_count) return DN_NOT_BOXES;
    if (width < 1 || width > DN_MAX_PHOTO_SIDE || height < 1 || height > DN_MAX_PHOTO_SIDE) return DN_BAD_PHOTO_SIZE;
    if (options->size < DN_MIN_SIZE || options->size > DN_MAX_SIZE) return DN_BAD_SIZE;
    if (!(options->score >= 0 && options->score <= 1)) return DN_BAD_SCORE;
    if (!(options->iou >= 0 && options->iou <= 1)) return DN_BAD_IOU;
    return check_workers(&options->workers);
}

static dn_view view_of(const dn_model *model, size_t width, size_t height, const dn_options *options) {
    return dn_view_of(width, height, (size_t)options->size, (size_t)model->stride);
}

dn_status dn_model_arena_bytes(const dn_model *model, size_t width, size_t height, const dn_options *options, size_t *bytes) {
    dn_status status = bytes ? dn_check_call(model, width, height, options) : DN_NULL_ARGUMENT;
    if (status != DN_OK) return status;
    dn_view view = view_of(model, width, height, options);
    return dn_arena_size(plan_detection(model, width, height, &view, &options->workers).total, bytes);
}

dn_status dn_model_boxes_max(const dn_model *model, size_t width, size_t height, const dn_options *options, size_t *boxes) {
    dn_status status = boxes ? dn_check_call(model, width, height, options) : DN_NULL_ARGUMENT;
    if (status != DN_OK) return status;
    dn_view view = view_of(model, width, height, options);
    size_t stride = (size_t)model->stride;
    *boxes = view.rows / stride * (view.columns / stride) * (size_t)model->anchor_count; /* at most 2^26 * 16 */
    return DN_OK;
}

dn_status dn_detect(const dn_model *model, const dn_photo *photo, const dn_options *options, void *arena, size_t arena_bytes,
                    dn_box *boxes, size_t capacity, size_t *count) {
    if (!photo || !photo->pixels || !arena || (!boxes && capacity) || !count) return DN_NULL_ARGUMENT;
    size_t needed;
    dn_status status = dn_model_arena_bytes(model, photo->width, photo->height, options, &needed);
    if (status != DN_OK) return status;
    if (photo->row_bytes < DN_PIXEL_BYTES * photo->width) return DN_BAD_PHOTO_SIZE;
    if (arena_bytes < needed) return DN_ARENA_TOO_SMALL;

    dn_view view = view_of(model, photo->width, photo->height, options);
    plan p = plan_detection(model, photo->width, photo->height, &view, &options->workers);
    size_t stride = (size_t)model->stride, rows = view.rows / stride, columns = view.columns / stride;
    uint8_t *start = dn_arena_start(arena), *scratch = start + p.maps;

    resize_job job = {photo, &view, start, scratch, (size_t)p.scratch_step, dn_min(p.workers, view.scaled_height)};
    share(&options->workers, job.parts, resize_task, &job);
    size_t filled = DN_PIXEL_BYTES * view.columns * view.scaled_height;
    memset(start + filled, 0, DN_PIXEL_BYTES * view.columns * view.rows - filled);

    int at_end = model->stage_count % 2; /* the grid; the candidates are at the other end */
    int32_t *grid = (int32_t *)(void *)(at_end ? start + (p.maps - grid_bytes(model, &view)) : start);
    dn_box *candidates = (dn_box *)(void *)(at_end ? start : start + (p.maps - candidate_bytes(model, &view)));
    run_stages(model, &p, start, view.rows, view.columns, &options->workers, NULL, NULL, start, grid);
    return dn_head_boxes(model, grid, rows, columns, photo, &view, options, candidates, boxes, capacity, count);
}

/* Who needs the `step` bytes of one worker: a stage, or none (-1): the resize. */
static int widest_stage(const dn_model *model, const dn_view *view, uint64_t bytes) {
    size_t wide = view->columns;
    for (int i = 0; i < model->stage_count; i++) {
        if (widest(0, model->kernels->scratch_bytes(&model->stages[i], wide)) == bytes) return i;
        wide = dn_out_side(&model->stages[i], wide);
    }
    return -1;
}

static int widest_pair(const dn_model *model, const dn_view *view, uint64_t bytes) {
    for (int i = 0; i < model->stage_count; i++) {
        uint64_t pair = 0;
        dn_block(NULL, &pair, map_bytes(model, i, view->rows, view->columns, 1));
        dn_block(NULL, &pair, map_bytes(model, i + 1, view->rows, view->columns, 1));
        if (pair == bytes) return i;
    }
    return -1;
}

dn_status dn_model_parts(const dn_model *model, size_t width, size_t height, const dn_options *options, dn_part *parts, size_t capacity,
                         size_t *count) {
    dn_status status = parts && count ? dn_check_call(model, width, height, options) : DN_NULL_ARGUMENT;
    if (status != DN_OK) return status;
    dn_view view = view_of(model, width, height, options);
    plan p = plan_detection(model, width, height, &view, &options->workers);
    int stage = widest_stage(model, &view, p.scratch_step), pair = widest_pair(model, &view, p.maps);
    int is_head = pair < 0;
    uint64_t read = is_head ? grid_bytes(model, &view) : widest(0, map_bytes(model, pair, view.rows, view.columns, 1));
    const dn_part all[] = {
        {is_head ? "grid" : "map read", pair, read},
        {is_head ? "boxes" : "map written", pair, p.maps - read},
        {stage < 0 ? "scratch: resize" : "scratch: kernels", stage, p.scratch},
        {"prepared weights", -1, p.prepared},
    };
    *count = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0] && *count < capacity; i++)
        if (all[i].bytes) parts[(*count)++] = all[i];
    return DN_OK;
}

dn_status dn_grid_size(const dn_model *model, size_t rows, size_t columns, size_t *grid_rows, size_t *grid_columns) {
    if (!model || !grid_rows || !grid_columns) return DN_NULL_ARGUMENT;
    size_t stride = (size_t)model->stride;
    if (rows < 1 || rows > DN_MAX_SIZE || rows % stride || columns < 1 || columns > DN_MAX_SIZE || columns % stride) return DN_BAD_MAP_SIZE;
    map_size(model, model->stage_count, &rows, &columns);
    *grid_rows = rows;
    *grid_columns = columns;
    return rows && columns ? DN_OK : DN_BAD_MAP_SIZE;
}

dn_status dn_run_arena_bytes(const dn_model *model, size_t rows, size_t columns, const dn_workers *workers, size_t *bytes) {
    if (!model || !bytes) return DN_NULL_ARGUMENT;
    size_t grid_rows, grid_columns;
    dn_status status = dn_grid_size(model, rows, columns, &grid_rows, &grid_columns);
    if (status == DN_OK) status = check_workers(workers);
    return status != DN_OK ? status : dn_arena_size(make_plan(model, rows, columns, workers, 0).total, bytes);
}

dn_status dn_run(const dn_model *model, const uint8_t *input_map, size_t rows, size_t columns, const dn_workers *workers, dn_tap tap,
                 void *tap_context, void *arena, size_t arena_bytes, int32_t *grid) {
    size_t needed;
    if (!input_map || !arena || !grid) return DN_NULL_ARGUMENT;
    dn_status status = dn_run_arena_bytes(model, rows, columns, workers, &needed);
    if (status != DN_OK) return status;
    if (arena_bytes < needed) return DN_ARENA_TOO_SMALL;
    plan p = make_plan(model, rows, columns, workers, 0);
    run_stages(model, &p, input_map, rows, columns, workers, tap, tap_context, dn_arena_start(arena), grid);
    return DN_OK;
}

dn_status dn_model_prepared_bytes(const dn_model *model, size_t *bytes) {
    if (!model || !bytes) return DN_NULL_ARGUMENT;
    return dn_arena_size(prepare(model, NULL), bytes);
}

dn_status dn_model_prepare(dn_model *model, void *memory, size_t bytes) {
    size_t needed;
    if (!memory) return DN_NULL_ARGUMENT;
    dn_status status = dn_model_prepared_bytes(model, &needed);
    if (status != DN_OK) return status;
    if (bytes < needed) return DN_ARENA_TOO_SMALL;
    uint8_t *start = dn_arena_start(memory);
    prepare(model, start);
    model->prepared = start;
    return DN_OK;
}

int32_t dn_map_value(const dn_map *map, size_t channel, size_t row, size_t column) {
    size_t pixel = row * map->columns + column, plane = dn_bytes(map->channels);
    if (!map->bits) return ((const int32_t *)map->data)[channel * map->rows * map->columns + pixel];
    if (map->layout == DN_CODES4 || map->layout == DN_CODES6) {
        size_t together = dn_code_channels((size_t)map->bits, (dn_layout)map->layout), codes = (map->channels + together - 1) / together;
        const uint8_t *code = (const uint8_t *)map->data + (row * codes + channel / together) * map->columns + column;
        return *code >> channel % together * (size_t)map->bits & ((1 << map->bits) - 1);
    }
    if (map->layout == DN_BYTES) return ((const uint8_t *)map->data)[pixel * map->channels + channel];
    const uint8_t *byte = (const uint8_t *)map->data + pixel * (size_t)map->bits * plane + channel / 8;
    int32_t level = 0;
    for (int p = 0; p < map->bits; p++, byte += plane) level |= (*byte >> channel % 8 & 1) << p;
    return level;
}
