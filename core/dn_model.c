/* Bytes -> validated model: the only reader of the format in C (docs/format.md).
 *
 * Every rule is checked here, once, in the order of the document; what follows trusts the model. Before it: whoever
 * loaded the bytes. After it: dn_run.c. */
#include "dn_impl.h"

#include <math.h>
#include <string.h>

enum { HEADER_BYTES = 32, STAGE_BYTES = 16, CRC_OFFSET = 16, MAX_CHANNELS = 4096, MAX_COPIES = 64, MAX_STRIDE = 64 };
enum { MAX_STEP = 8, MAX_POOL = 8, CODED = 1, UNPADDED = 2 };
enum { MAX_CODED_PER_BYTE = 2048 }; /* no byte of the code holds more weights and thresholds; the least that one takes is 1/183 bit */

static const float MAX_ANCHOR = 8192; /* pixels */

/* The part of the file that is not read yet. */
typedef struct cursor {
    const uint8_t *at;
    size_t left;
} cursor;

/* The next `bytes` bytes, or NULL if there are fewer. */
static const uint8_t *take(cursor *c, uint64_t bytes) {
    const uint8_t *at = c->at;
    if (bytes > c->left) return NULL;
    c->at += bytes;
    c->left -= (size_t)bytes;
    return at;
}

/* A section of `bytes` bytes and its zeros up to the next multiple of 4. */
static dn_status take_padded(cursor *c, uint64_t bytes, const uint8_t **section) {
    static const uint8_t zeros[3] = {0, 0, 0};
    uint64_t padding = (4 - bytes % 4) % 4;
    *section = take(c, bytes + padding);
    if (!*section) return DN_FILE_TRUNCATED;
    return memcmp(*section + bytes, zeros, (size_t)padding) ? DN_FILE_PADDING : DN_OK;
}

/* CRC-32 of zlib and PNG: polynomial 0x04c11db7, bits reversed; four bits a step. */
static uint32_t crc32(const uint8_t *bytes, size_t length) {
    static const uint32_t table[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                                       0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < length; i++) {
        crc ^= bytes[i];
        crc = table[crc & 15] ^ crc >> 4;
        crc = table[crc & 15] ^ crc >> 4;
    }
    return ~crc;
}

/* UTF-8 (shortest forms, no surrogates, up to U+10FFFF) without the control characters U+0000-1F and U+007F-9F. */
static int is_name(const uint8_t *s, size_t length) {
    static const uint32_t smallest[4] = {0, 0x80, 0x800, 0x10000};
    size_t i = 0;
    while (i < length) {
        uint32_t first = s[i++], code;
        size_t more = first < 0x80 ? 0 : first < 0xc0 ? 4 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf8 ? 3 : 4;
        if (more == 4 || more > length - i) return 0;
        code = more ? first & (0x3fu >> more) : first;
        for (size_t j = 0; j < more; j++, i++) {
            if ((s[i] & 0xc0u) != 0x80) return 0;
            code = code << 6 | (s[i] & 0x3fu);
        }
        if (code < smallest[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return 0;
        if (code < 0x20 || (code >= 0x7f && code < 0xa0)) return 0;
    }
    return 1;
}

float dn_load_f32(const uint8_t *p) {
    uint32_t bits = dn_load_u32(p);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The record of a stage; `before` is the stage whose map is read, NULL for the first; a classifier has no anchors. */
static dn_status open_record(cursor *file, const dn_stage *before, int is_last, int anchors, dn_stage *stage) {
    const uint8_t *record = take(file, STAGE_BYTES);
    if (!record) return DN_FILE_TRUNCATED;
    uint32_t in_channels = dn_load_u16(record), filters = dn_load_u16(record + 2);
    if (in_channels < 1 || in_channels > MAX_CHANNELS || in_channels != (before ? before->filters : 3u)) return DN_FILE_IN_CHANNELS;
    if (filters < 1 || filters > MAX_CHANNELS || (is_last && anchors && filters != DN_GRID_CHANNELS * (uint32_t)anchors)) return DN_FILE_FILTERS;
    stage->in_channels = (uint16_t)in_channels;
    stage->filters = (uint16_t)filters;
    stage->kernel = record[4];
    stage->step = record[5];
    stage->pool = record[6];
    stage->pool_step = record[7];
    stage->input_bits = record[8];
    stage->weight_bits = record[9];
    stage->weight_copies = record[10];
    stage->map_copies = record[11];
    stage->output_bits = record[12];
    stage->is_coded = record[14] & CODED;
    stage->border = record[14] & UNPADDED ? 0 : stage->kernel / 2;
    stage->slope = record[15];
    if (stage->kernel < 1 || stage->kernel > DN_MAX_KERNEL || (stage->border && stage->kernel % 2 == 0)) return DN_FILE_KERNEL;
    if (stage->step < 1 || stage->step > MAX_STEP) return DN_FILE_STEP;
    if (stage->pool < 1 || stage->pool > (is_last ? 1 : MAX_POOL)) return DN_FILE_POOL;
    if (stage->pool_step < 1 || stage->pool_step > stage->pool || (anchors && stage->pool_step != stage->pool)) return DN_FILE_POOL_STEP;
    if (stage->input_bits < 1 || stage->input_bits > 8 || stage->input_bits != (before ? before->output_bits : 8)) return DN_FILE_INPUT_BITS;
    if (stage->weight_bits < 1 || stage->weight_bits > 8) return DN_FILE_WEIGHT_BITS;
    if (stage->weight_copies < 1 || stage->weight_copies > MAX_COPIES) return DN_FILE_WEIGHT_COPIES;
    if (stage->map_copies < 1 || stage->map_copies > MAX_COPIES) return DN_FILE_MAP_COPIES;
    if (in_channels * stage->map_copies % stage->weight_copies) return DN_FILE_WEIGHT_COPIES;
    if (is_last ? stage->output_bits != 0 : (stage->output_bits < 1 || stage->output_bits > 8)) return DN_FILE_OUTPUT_BITS;
    if (record[13] != 1) return DN_FILE_DISTANCE;
    if (record[14] & ~((stage->weight_bits == 1 ? CODED : 0) | (anchors ? 0 : UNPADDED))) return DN_FILE_FLAGS;
    if (is_last && stage->slope) return DN_FILE_SLOPE;
    stage->stored_channels = in_channels * stage->map_copies / stage->weight_copies;
    uint64_t sums = (uint64_t)stage->kernel * stage->kernel * in_channels * stage->map_copies; /* at most 121 * 2^18 */
    sums *= ((1u << stage->weight_bits) - 1) * ((1u << stage->input_bits) - 1);
    if (sums > INT32_MAX) return DN_FILE_ACCUMULATOR;
    /* INT32_MAX is prime, so no product of these factors: accumulator_max + 1 fits as well. */
    stage->accumulator_max = (int32_t)sums;
    stage->threshold_bytes = is_last ? 0 : stage->accumulator_max < 32767 ? 2 : 4;
    stage->plane_bytes = dn_bytes((size_t)stage->kernel * stage->kernel * stage->stored_channels); /* at most 121 * 2^15 */
    /* A classifier's maps can have odd sides, of which a pool leaves the last row: only the portable kernels know that. */
    stage->is_general = stage->kernel > 7 || stage->step > 1 || stage->pool > 2 || record[14] & UNPADDED || (!anchors && stage->pool > 1);
    return DN_OK;
}

static uint64_t threshold_count(const dn_stage *stage) { return stage->filters * (((uint64_t)1 << stage->output_bits) - 1); }

static uint64_t weights_bytes(const dn_stage *stage) { return (uint64_t)stage->filters * stage->weight_bits * stage->plane_bytes; }

/* All records, which follow each other. */
static dn_status open_records(cursor *file, size_t length, dn_model *model) {
    uint64_t coded = 0;
    size_t side = (size_t)model->default_size;
    model->stride = 1;
    for (int i = 0; i < model->stage_count; i++) {
        dn_stage *stage = &model->stages[i];
        dn_status status = open_record(file, i ? stage - 1 : NULL, i == model->stage_count - 1, model->anchor_count, stage);
        if (status != DN_OK) return status;
        if (model->anchor_count) {
            model->stride *= stage->step * stage->pool;
            if (model->stride > MAX_STRIDE) return DN_FILE_STRIDE;
        } else {
            side = dn_out_side(stage, side);
            if (!side) return DN_FILE_EMPTY_MAP;
        }
        coded += threshold_count(stage) + (stage->is_coded ? stage->filters * (uint64_t)stage->kernel * stage->kernel * stage->stored_channels : 0);
    }
    return coded > MAX_CODED_PER_BYTE * (uint64_t)length ? DN_FILE_CODE : DN_OK;
}

static dn_status open_head_scales(cursor *file, dn_stage *last) {
    last->scales = take(file, 8 * (uint64_t)last->filters);
    if (!last->scales) return DN_FILE_TRUNCATED;
    for (size_t i = 0; i < 2 * (size_t)last->filters; i++)
        if (!isfinite(dn_load_f32(last->scales + 4 * i))) return DN_FILE_HEAD_SCALE;
    return DN_OK;
}

static dn_status open_weights(cursor *file, dn_stage *stage) {
    size_t weights = (size_t)stage->kernel * stage->kernel * stage->stored_channels;
    uint32_t unused = weights % 8 ? 0xffu << weights % 8 & 0xffu : 0;
    dn_status status = take_padded(file, weights_bytes(stage), &stage->weights);
    if (status != DN_OK) return status;
    for (size_t i = 1; i <= (size_t)stage->filters * stage->weight_bits; i++)
        if (stage->weights[i * stage->plane_bytes - 1] & unused) return DN_FILE_PADDING;
    return DN_OK;
}

/* The memory of a model: of each stage the weights, if they are coded, then the thresholds; each rounded up to a multiple of 4. */
static uint64_t place(dn_model *model, uint8_t *memory) {
    uint64_t used = 0;
    for (int i = 0; i < model->stage_count; i++) {
        dn_stage *stage = &model->stages[i];
        if (stage->is_coded) {
            if (memory) stage->weights = memory + used;
            used += (weights_bytes(stage) + 3) / 4 * 4;
        }
        if (stage->output_bits) {
            if (memory) stage->thresholds = memory + used;
            used += (threshold_count(stage) * stage->threshold_bytes + 3) / 4 * 4;
        }
    }
    return used;
}

/* What is coded, into `memory`, which `place` laid out. */
static dn_status decode(cursor *file, dn_model *model, uint8_t *memory) {
    dn_coder coder;
    dn_coder_open(&coder, file->at, file->left);
    for (int i = 0; i < model->stage_count; i++) {
        dn_stage *stage = &model->stages[i];
        dn_status status = DN_OK;
        if (stage->is_coded) dn_coder_weights(&coder, stage, memory + (stage->weights - memory));
        if (coder.missing) return DN_FILE_CODE;
        if (stage->output_bits) status = dn_coder_thresholds(&coder, stage, memory + (stage->thresholds - memory));
        if (status != DN_OK) return status;
    }
    return dn_coder_is_complete(&coder) ? DN_OK : DN_FILE_CODE;
}

static dn_status open_header(cursor *file, dn_model *model) {
    const uint8_t *start = file->at, *header = take(file, HEADER_BYTES);
    if (!header) return DN_FILE_TRUNCATED;
    size_t length = file->left + HEADER_BYTES;
    if (memcmp(header, "DNET", 4)) return DN_FILE_MAGIC;
    if (dn_load_u16(header + 4) != 2) return DN_FILE_VERSION;
    if (dn_load_u32(header + 8) != length) return DN_FILE_LENGTH;
    if (dn_load_u32(header + 12) != crc32(start + CRC_OFFSET, length - CRC_OFFSET)) return DN_FILE_CHECKSUM;
    model->stage_count = (int)dn_load_u16(header + 6);
    if (model->stage_count < 1 || model->stage_count > DN_MAX_STAGES) return DN_FILE_STAGE_COUNT;
    if (header[16] != 3) return DN_FILE_IMAGE_CHANNELS;
    model->anchor_count = header[17];
    if (model->anchor_count > DN_MAX_ANCHORS) return DN_FILE_ANCHOR_COUNT;
    int is_detector = model->anchor_count > 0;
    model->default_size = (int)dn_load_u16(header + 18);
    if (model->default_size < (is_detector ? DN_MIN_SIZE : 1) || model->default_size > DN_MAX_SIZE) return DN_FILE_DEFAULT_SIZE;
    model->default_score = dn_load_f32(header + 20);
    if (!(model->default_score >= 0 && model->default_score <= 1)) return DN_FILE_DEFAULT_SCORE;
    model->centre_scale = dn_load_f32(header + 24);
    if (!(model->centre_scale >= 1 && model->centre_scale <= (is_detector ? 4 : 1))) return DN_FILE_CENTRE_SCALE;
    size_t name_bytes = header[28];
    if (name_bytes < 1 || name_bytes > DN_MAX_NAME) return DN_FILE_NAME_LENGTH;
    if (header[29] != (is_detector ? DN_GRID_CHANNELS : 0)) return DN_FILE_GRID_CHANNELS;
    if (header[30] | header[31]) return DN_FILE_PADDING;

    const uint8_t *section;
    dn_status status = take_padded(file, name_bytes, &section);
    if (status != DN_OK) return status;
    if (!is_name(section, name_bytes)) return DN_FILE_NAME;
    memcpy(model->name, section, name_bytes);

    section = take(file, 8 * (uint64_t)model->anchor_count);
    if (!section) return DN_FILE_TRUNCATED;
    for (int i = 0; i < 2 * model->anchor_count; i++) {
        float side = dn_load_f32(section + 4 * i);
        if (!(side > 0 && side <= MAX_ANCHOR)) return DN_FILE_ANCHOR;
        model->anchors[i / 2][i % 2] = side;
    }
    return DN_OK;
}

static dn_status open_description(cursor *file, dn_model *model) {
    size_t length = file->left;
    memset(model, 0, sizeof *model);
    dn_status status = open_header(file, model);
    return status == DN_OK ? open_records(file, length, model) : status;
}

dn_status dn_model_memory_bytes(const void *bytes, size_t length, dn_model *model, size_t *memory_bytes) {
    if (!bytes || !model || !memory_bytes) return DN_NULL_ARGUMENT;
    cursor file = {(const uint8_t *)bytes, length};
    dn_status status = open_description(&file, model);
    if (status != DN_OK) return status;
    uint64_t needed = place(model, NULL);
    *memory_bytes = (size_t)needed;
    return needed > SIZE_MAX / 2 ? DN_TOO_LARGE : DN_OK;
}

dn_status dn_model_open(const void *bytes, size_t length, void *memory, size_t memory_bytes, dn_model *model) {
    if (!bytes || !model) return DN_NULL_ARGUMENT;
    cursor file = {(const uint8_t *)bytes, length};
    dn_status status = open_description(&file, model);
    if (status != DN_OK) return status;
    uint64_t needed = place(model, NULL);
    if (needed && !memory) return DN_NULL_ARGUMENT;
    if (memory_bytes < needed) return DN_MEMORY_TOO_SMALL;
    status = open_head_scales(&file, &model->stages[model->stage_count - 1]);
    for (int i = 0; status == DN_OK && i < model->stage_count; i++)
        if (!model->stages[i].is_coded) status = open_weights(&file, &model->stages[i]);
    if (status != DN_OK) return status;
    place(model, (uint8_t *)memory);
    status = decode(&file, model, (uint8_t *)memory);
    if (status != DN_OK) return status;
    model->kernels = dn_kernels_best();
    return DN_OK;
}

dn_options dn_model_options(const dn_model *model) {
    dn_options options = {model->default_size, model->default_score, 0.45f, {0, NULL, NULL}};
    return options;
}

const char *dn_status_text(dn_status status) {
    switch (status) {
        case DN_OK: return "no error";
        case DN_NULL_ARGUMENT: return "an argument is NULL";
        case DN_BAD_PHOTO_SIZE: return "a photo needs sides of 1 to 16384 pixels and rows of at least 3 * width bytes";
        case DN_BAD_MAP_SIZE: return "the sides of an input map must be multiples of the stride, at most 8192 pixels, and leave something of every map";
        case DN_BAD_SIZE: return "size must be 32 to 8192 pixels";
        case DN_BAD_SCORE: return "score must be 0 to 1";
        case DN_BAD_IOU: return "iou must be 0 to 1";
        case DN_BAD_WORKERS: return "0 to 256 workers are possible, and several need a function that runs them";
        case DN_UNKNOWN_KERNELS: return "there are no kernels of that name, or this processor cannot run them";
        case DN_ARENA_TOO_SMALL: return "the arena is too small";
        case DN_MEMORY_TOO_SMALL: return "the model's memory is too small";
        case DN_TOO_LARGE: return "more memory would be needed than this machine can address";
        case DN_BOXES_FULL: return "there are more boxes than places for them; the best were kept";
        case DN_TOO_MANY_ROWS: return "more rows were fed than the photo has";
        case DN_TOO_FEW_ROWS: return "the photo has more rows than were fed";
        case DN_STREAM_ENDED: return "the photo has ended; begin another one";
        case DN_NOT_BOXES: return "the model gives class scores, not boxes";
        case DN_NOT_CLASSES: return "the model gives boxes, not class scores";
        case DN_NOT_BY_ROWS: return "row streaming knows kernels up to 7 that move by 1 and pools of 2, not all stages of this model";
        case DN_FILE_TRUNCATED: return "the file ends too early";
        case DN_FILE_MAGIC: return "not a packed model: the file does not start with DNET";
        case DN_FILE_VERSION: return "the format's version is not 2; a model of version 1 must be converted again from its network";
        case DN_FILE_LENGTH: return "the file is shorter or longer than its header says";
        case DN_FILE_CHECKSUM: return "the checksum is wrong: the file is damaged";
        case DN_FILE_STAGE_COUNT: return "the number of stages is not 1 to 64";
        case DN_FILE_IMAGE_CHANNELS: return "the image does not have 3 channels";
        case DN_FILE_ANCHOR_COUNT: return "the number of anchors is not 0 to 16";
        case DN_FILE_DEFAULT_SIZE: return "the default size is not 32 (without anchors, 1) to 8192 pixels";
        case DN_FILE_DEFAULT_SCORE: return "the default score is not 0 to 1";
        case DN_FILE_CENTRE_SCALE: return "the centre scale is not 1 to 4 or, without anchors, 1";
        case DN_FILE_NAME_LENGTH: return "the name's length is not 1 to 64 bytes";
        case DN_FILE_NAME: return "the name is not UTF-8 or has control characters";
        case DN_FILE_PADDING: return "unused bytes or bits are not 0";
        case DN_FILE_ANCHOR: return "a side of an anchor is not above 0 and at most 8192 pixels";
        case DN_FILE_GRID_CHANNELS: return "an anchor does not have 5 channels of the grid or, without anchors, there are channels";
        case DN_FILE_IN_CHANNELS: return "a stage's input channels are not 1 to 4096 or not those of the map before";
        case DN_FILE_FILTERS: return "a stage's filters are not 1 to 4096 or, in the last stage, not 5 for each anchor";
        case DN_FILE_KERNEL: return "a stage's kernel is not 1 to 11, or even though there is padding";
        case DN_FILE_STEP: return "a stage's kernel does not move by 1 to 8";
        case DN_FILE_POOL: return "a stage's pool is not 1 to 8 or, in the last stage, not 1";
        case DN_FILE_POOL_STEP: return "a stage's pool does not move by 1 to its size or, with anchors, not by its size";
        case DN_FILE_INPUT_BITS: return "a stage's input bits are not 1 to 8 or not those of the map before";
        case DN_FILE_WEIGHT_BITS: return "a stage's weight bits are not 1 to 8";
        case DN_FILE_WEIGHT_COPIES: return "a stage's weight copies are not 1 to 64 or do not divide its channels";
        case DN_FILE_MAP_COPIES: return "a stage's map copies are not 1 to 64";
        case DN_FILE_OUTPUT_BITS: return "a stage's output bits are not 1 to 8 or, in the last stage, not 0";
        case DN_FILE_DISTANCE: return "a stage does not read the map of the stage before";
        case DN_FILE_FLAGS: return "a stage has unknown flags, coded weights of several bits, or no padding though there are anchors";
        case DN_FILE_SLOPE: return "the last stage has a slope";
        case DN_FILE_ACCUMULATOR: return "a stage's sums do not fit in 31 bits";
        case DN_FILE_THRESHOLD: return "a stage's thresholds do not ascend or are out of range";
        case DN_FILE_HEAD_SCALE: return "a scale or bias of the head is not finite";
        case DN_FILE_STRIDE: return "the product of all steps and pools is above 64";
        case DN_FILE_EMPTY_MAP: return "nothing is left of a map at the default size";
        case DN_FILE_CODE: return "the code ends too early, too late, or not as it must";
        case DN_STATUS_COUNT: break;
    }
    return "unknown status";
}
