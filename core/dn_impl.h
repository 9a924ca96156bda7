/* Private to the core: what its files share.
 *
 * The bit convention, stated once: whatever is packed is packed bytewise; element i is bit i mod 8 of byte i div 8. So
 * AND and popcount give the same sums for every byte order and word width. How a map of levels lies in memory is for the
 * kernels to choose (dn_layout).
 *
 * Sizes are computed in uint64_t: the limits of dupnet.h and docs/format.md keep each of them below 2^50. */
#ifndef DN_IMPL_H
#define DN_IMPL_H

#include "dupnet.h"

#ifdef __cplusplus
extern "C" {
#define DN_RESTRICT __restrict
#else
#define DN_RESTRICT restrict
#endif

enum {
    DN_ALIGN = 64, /* bytes: of each block in the arena */
    DN_SLACK = 64, /* bytes that can be read after each map but the input map */
    DN_PIXEL_BYTES = 3, /* of a photo and of the input map */
    DN_MAX_KERNEL = 11
};

/* How a map of levels lies in memory, row by row. */
typedef enum dn_layout {
    DN_PLANES, /* pixel by pixel: bits planes of dn_bytes(channels) bytes; bits past the last channel are 0 */
    DN_BYTES,  /* pixel by pixel: one byte a channel; the input map always lies so */
    DN_CODES4, /* for each row, planes of one byte a pixel with as many channels as fit in 4 bits, the first lowest */
    DN_CODES6  /* the same, in 6 bits */
} dn_layout;

/* A stage on its way from one map to the next. */
typedef struct dn_conv {
    const dn_stage *stage;
    const uint8_t *in;    /* the whole input map; DN_SLACK bytes after it can be read if `stage` is not the first */
    void *out;            /* the whole output map: levels, or int32_t [filters][rows][columns] in the last stage */
    const void *prepared; /* what `prepare` wrote */
    size_t rows, columns; /* of the input map */
    dn_layout in_layout, out_layout;
} dn_conv;

/* One instruction set's way to compute a stage. Where the shape of a stage is not covered, its functions call those of
 * dn_kernels_portable, which can do everything. */
typedef struct dn_kernels {
    const char *name;
    int (*runs_here)(void);

    /* Of the map of levels that this stage writes and the next, stage + 1, reads. */
    dn_layout (*layout)(const dn_stage *stage);

    /* The weights and thresholds in the order in which the kernels want them: bytes, and the work. Both are done once, when
     * the model is opened or when a call begins. `prepared` is aligned to DN_ALIGN. */
    uint64_t (*prepared_bytes)(const dn_stage *stage);
    void (*prepare)(const dn_stage *stage, void *prepared);

    /* Bytes of scratch memory for one call of `conv_rows` on a map of so many columns. */
    uint64_t (*scratch_bytes)(const dn_stage *stage, size_t columns);

    /* Compute rows first .. last - 1 of the output map: convolution, max-pool, thresholds. Calls for other rows of the same
     * map may run at the same time. `scratch` is aligned to DN_ALIGN; nothing in it is kept between calls. */
    void (*conv_rows)(const dn_conv *conv, size_t first, size_t last, void *scratch);

    /* For benchmarks. The way a stage is computed, and the vector instructions (with an addition each) that 1024 pixels of its
     * convolution need when every lane is used; "portable" and 0 where no vector instruction is chosen by hand. */
    const char *(*describe)(const dn_stage *stage, uint64_t *vectors);

    /* Run so many instructions of that way, and their additions, on registers alone; `result` are 64 bytes. NULL if there are none. */
    void (*spin)(const char *way, uint64_t vectors, void *result);
} dn_kernels;

extern const dn_kernels dn_kernels_portable;

/* Instruction sets of other kernels. DN_PORTABLE_ONLY leaves them out. */
#if !defined(DN_PORTABLE_ONLY) && defined(__x86_64__) && defined(__GNUC__)
#define DN_X86
extern const dn_kernels dn_kernels_avx2, dn_kernels_avx512, dn_kernels_avx512vbmi;
enum { DN_AVX2 = 1, DN_AVX512 = 2 /* F, BW, DQ, VL */, DN_AVX512_VBMI = 4 };
int dn_x86_has(int features); /* all of them, and the system keeps their registers */
#endif

#ifdef __GNUC__
#define DN_NOINLINE __attribute__((noinline)) /* of hot loops: alone they get the registers */
#endif

/* 64-bit ARM. Dot products need a compiler that knows them without options: GCC 8, Clang 16, or Apple's for a Mac. */
#if !defined(DN_PORTABLE_ONLY) && defined(__aarch64__) && !defined(__AARCH64EB__) && defined(__GNUC__)
#define DN_NEON
extern const dn_kernels dn_kernels_neon;
#if defined(__ARM_FEATURE_DOTPROD) || !defined(__clang__) || (__clang_major__ >= 16 && defined(__linux__))
#define DN_NEON_DOT
extern const dn_kernels dn_kernels_neondot;
#endif
#endif

/* The fastest kernels that run here, or those of that name; NULL if there are none. */
const dn_kernels *dn_kernels_best(void);
const dn_kernels *dn_kernels_find(const char *name);

/* The checks of every call on a photo. */
dn_status dn_check_call(const dn_model *model, size_t width, size_t height, const dn_options *options);

/* The decoder of a packed file's code (dn_coder.c): where contexts begin, and the decoder's state, about 300 bytes. */
enum { DN_CODER_AFTER_0 = 36, DN_CODER_FIRST = 37, DN_CODER_STEP = 71, DN_CODER_BEND = 105, DN_CODER_CONTEXTS = 139 };

typedef struct dn_coder {
    const uint8_t *at, *end;
    uint32_t code, range;  /* code < range, 2^24 <= range */
    int missing;           /* bytes were read past the end */
    uint16_t contexts[DN_CODER_CONTEXTS];
} dn_coder;

void dn_coder_open(dn_coder *c, const uint8_t *bytes, size_t length);
int dn_coder_is_complete(const dn_coder *c);  /* every byte was read, and the last four are the right ones */

/* The next weights into [filters][plane_bytes] (1-bit weights), the next thresholds into [filters][2^output_bits - 1]. */
void dn_coder_weights(dn_coder *c, const dn_stage *stage, uint8_t *planes);
dn_status dn_coder_thresholds(dn_coder *c, const dn_stage *stage, uint8_t *out);

/* A scaled photo and its input map. */
typedef struct dn_view {
    size_t scaled_width, scaled_height;
    size_t columns, rows;  /* of the input map: the above, rounded up to multiples of the stride */
} dn_view;

dn_view dn_view_of(size_t width, size_t height, size_t size, size_t stride);

/* Scratch bytes and work of the resize, for rows first .. last - 1 of the result, whose rows are `out_row_bytes` apart.
 * No checks. */
uint64_t dn_resize_scratch_bytes(size_t width, size_t height, size_t rows, size_t columns);
void dn_resize_rows(const dn_photo *photo, size_t rows, size_t columns, size_t first, size_t last, uint8_t *scratch, uint8_t *out,
                    size_t out_row_bytes);

/* The resize's arithmetic: the most input positions that one output position reads; the first of them and the weights
 * q [taps] of output position o, which sum to DN_ONE. */
enum { DN_ONE = 16384 };
size_t dn_resize_taps(size_t n, size_t out);
size_t dn_resize_fill_taps(size_t n, size_t out, size_t o, size_t taps, uint16_t *q);

/* One row of a photo to one of `columns` pixels; of each, the first position it reads and its `taps` weights. */
void dn_resize_row(const uint8_t *row, const uint16_t *first, const uint16_t *q, size_t taps, size_t columns, uint8_t *out);

/* Candidates: a heap, the worst on top, from which a better one takes its place when it is full. */
typedef struct dn_list {
    dn_box *boxes;
    size_t capacity, length;
    int full;          /* something did not fit */
    float score, iou;  /* as in dn_options */
} dn_list;

/* Work of the head cell by cell: add what one cell holds, its sums `step` apart, cells in any order; then sort, merge and move to
 * the photo. */
void dn_head_add(const dn_model *model, const int32_t *sums, size_t step, size_t row, size_t column, size_t grid_columns, dn_list *list);
dn_status dn_head_finish(size_t width, size_t height, const dn_view *view, dn_list *list);

/* The same with a whole grid; `candidates` has room for a box of each cell and anchor. */
dn_status dn_head_boxes(const dn_model *model, const int32_t *grid, size_t grid_rows, size_t grid_columns, const dn_photo *photo,
                        const dn_view *view, const dn_options *options, dn_box *candidates, dn_box *boxes, size_t capacity, size_t *count);

/* The last rows of a map: as many as the kernel of the stage that reads it. */
typedef struct dn_ring {
    uint8_t *slots;        /* [kernel][row_bytes], row y in slot y mod kernel */
    size_t row_bytes;
    size_t rows, columns;  /* of the map */
} dn_ring;

/* Scratch bytes and work of row streaming, on sums before the pool: what one place of the map gives, x counting up from 0 in
 * each row; or a whole row of levels, pooled to the right, and downwards too if it is merged with the row before in `out`. */
uint64_t dn_row_scratch_bytes(const dn_stage *stage);
void dn_row_sums(const dn_stage *stage, const dn_ring *ring, int plain, size_t y, size_t x, uint8_t *scratch, int32_t *sums);
void dn_row_levels(const dn_stage *stage, const dn_ring *ring, int plain, size_t y, int merge, uint8_t *scratch, uint8_t *out);

/* The first address in the arena that is a multiple of DN_ALIGN; sizes that are told to the caller include the way there. */
static inline uint8_t *dn_arena_start(void *arena) {
    return (uint8_t *)arena + (DN_ALIGN - (uintptr_t)arena % DN_ALIGN) % DN_ALIGN;
}

/* Tell the caller a size, or that it is too large for this machine. */
static inline dn_status dn_arena_size(uint64_t used, size_t *bytes) {
    if (used > SIZE_MAX / 2) return DN_TOO_LARGE;
    *bytes = (size_t)used + DN_ALIGN - 1;
    return DN_OK;
}

/* Take the next block of an arena: advance `used`, return where the block is, or NULL if there is no base and only sizes
 * are wanted. */
static inline void *dn_block(uint8_t *base, uint64_t *used, uint64_t bytes) {
    void *at = base ? base + *used : NULL;
    *used += (bytes + DN_ALIGN - 1) / DN_ALIGN * DN_ALIGN;
    return at;
}

static inline size_t dn_bytes(size_t bits) { return (bits + 7) / 8; }

/* Channels in one byte of a map of codes. */
static inline size_t dn_code_channels(size_t bits, dn_layout layout) { return (layout == DN_CODES4 ? 4 : 6) / bits; }

/* Bytes of a map of levels, divided by its pixels. */
static inline uint64_t dn_pixel_bytes(size_t bits, size_t channels, dn_layout layout) {
    if (layout == DN_PLANES) return (uint64_t)bits * dn_bytes(channels);
    if (layout == DN_BYTES) return channels;
    size_t together = dn_code_channels(bits, layout);
    return (channels + together - 1) / together;
}

/* How many places a window has that moves by `step` over `side` pixels. */
static inline size_t dn_places(size_t side, size_t window, size_t step) { return side < window ? 0 : (side - window) / step + 1; }

/* Rows (or columns) of a stage's sums, and of its output map, over an input map of `side` of them. */
static inline size_t dn_sums_side(const dn_stage *stage, size_t side) {
    return dn_places(side + 2 * (size_t)stage->border, stage->kernel, stage->step);
}
static inline size_t dn_out_side(const dn_stage *stage, size_t side) {
    return dn_places(dn_sums_side(stage, side), stage->pool, stage->pool_step);
}

static inline size_t dn_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t dn_max(size_t a, size_t b) { return a > b ? a : b; }

static inline size_t dn_gcd(size_t a, size_t b) {
    while (b) {
        size_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Little-endian loads from any address. */
static inline uint32_t dn_load_u16(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }
static inline uint32_t dn_load_u32(const uint8_t *p) { return dn_load_u16(p) | dn_load_u16(p + 2) << 16; }
float dn_load_f32(const uint8_t *p);

/* Threshold i of filter f. */
static inline int32_t dn_threshold(const dn_stage *stage, size_t f, size_t i) {
    size_t index = f * (((size_t)1 << stage->output_bits) - 1) + i;
    if (stage->threshold_bytes == 2) {
        int32_t value = (int32_t)dn_load_u16(stage->thresholds + 2 * index);
        return value < 0x8000 ? value : value - 0x10000;
    }
    uint32_t value = dn_load_u32(stage->thresholds + 4 * index);
    return value < 0x80000000u ? (int32_t)value : -(int32_t)(0xffffffffu - value) - 1;
}

#ifdef __cplusplus
}
#endif
#endif
