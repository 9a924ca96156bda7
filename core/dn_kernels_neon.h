/* What the NEON kernels share: the words of dn_kernels_lookup.h, and convolution by products of bytes for stages that tables do
 * not cover or not as well: the photo, maps of many bits, weights of many bits, duplicated maps.
 *
 * What is summed. With the words of dn_kernels_portable.c, U[t] the sum of the codes q of a filter's copies of channel t and
 * zero = 2^weight_bits - 1:
 *
 *     W[t] = times * (2 * U[t] - zero * copies)
 *     sum of W[t] * X[t] = 2 * times * sum of U[t] * X[t] - times * zero * copies * sum of X[t]
 *
 * so both factors are bytes without sign, and the last sum is the same for all filters. All of it is exact mod 2^32, and the
 * stage's sums lie within 31 bits.
 *
 * A row of X lies pixel by pixel, so a kernel's row is one run of kernel * g bytes, whatever the channels; runs are cut into
 * groups of 4 bytes, as the dot product takes them, the last one filled up with weights 0.
 *
 * The including file defines: COLUMNS and EACH_OF(do), how many columns' sums are in registers together; the type `dot`, the sums of
 * 4 filters, and
 *     d_zero()
 *     d_add(sums, w, x)    w: 4 bytes of each of 4 filters, x: 4 bytes of X four times
 *     d_add_lane(sums, w, x, lane)   x: 16 bytes, of which group `lane` is taken
 *     d_result(sums)       as uint32x4_t
 *     DOT_INSTRUCTIONS     of d_add */
#include <arm_neon.h>
#include <string.h>

enum { LANES = 16, HALF = 8, GROUP = 4, TABLE = 16, FILTERS = 8 };
#define V_KEEP(a) __asm__("" : "+w"(a))
typedef uint8x16_t vec;

static inline uint16x8_t as16(vec a) { return vreinterpretq_u16_u8(a); }
static inline int16x8_t signed16(vec a) { return vreinterpretq_s16_u8(a); }
static inline vec from16(uint16x8_t a) { return vreinterpretq_u8_u16(a); }

static inline vec v_zero(void) { return vdupq_n_u8(0); }
static inline vec v_load(const void *p) { return vld1q_u8((const uint8_t *)p); }
static inline void v_store(void *p, vec a) { vst1q_u8((uint8_t *)p, a); }
static inline vec v_load_table(const void *p) { return vld1q_u8((const uint8_t *)p); }
static inline vec v_lookup(vec table, vec index) { return vqtbl1q_u8(table, index); }
static inline vec v_add8(vec a, vec b) { return vaddq_u8(a, b); }
static inline vec v_add16(vec a, vec b) { return from16(vaddq_u16(as16(a), as16(b))); }
static inline vec v_sub16(vec a, vec b) { return from16(vsubq_u16(as16(a), as16(b))); }
static inline vec v_mul16(vec a, vec b) { return from16(vmulq_u16(as16(a), as16(b))); }
static inline vec v_max16(vec a, vec b) { return vreinterpretq_u8_s16(vmaxq_s16(signed16(a), signed16(b))); }
static inline vec v_high(vec a) { return from16(vshrq_n_u16(as16(a), 8)); }
static inline vec v_low(vec a) { return from16(vshlq_n_u16(as16(a), 8)); }
static inline vec v_all16(uint16_t x) { return from16(vdupq_n_u16(x)); }
static inline vec v_count(vec n, vec a, vec t) { return from16(vsubq_u16(as16(n), vcgtq_s16(signed16(a), signed16(t)))); }

static inline void v_store_levels(uint8_t *p, vec a, size_t n) {
    uint8_t bytes[HALF];
    vst1_u8(n == HALF ? p : bytes, vmovn_u16(as16(a)));
    if (n != HALF) memcpy(p, bytes, n);
}

/* Byte e of a table is the sum of those of 4 channels whose bit is set in e. */
static inline void fill_tables(const uint8_t *x, size_t stride, size_t columns, size_t groups, uint8_t *tables, size_t pitch) {
    uint8_t from[GROUP][LANES];
    for (size_t i = 0; i < LANES; i++)
        for (size_t channel = 0; channel < GROUP; channel++) from[channel][i] = (uint8_t)(i >> channel & 1 ? channel : 0x80);
    const vec from0 = v_load(from[0]), from1 = v_load(from[1]), from2 = v_load(from[2]), from3 = v_load(from[3]);
    for (size_t group = 0; group < groups; group++)
        for (size_t u = 0; u < columns; u++) {
            uint32_t four;
            memcpy(&four, x + u * stride + group * GROUP, sizeof four);
            const vec levels = vreinterpretq_u8_u32(vdupq_n_u32(four));
            const vec low = v_add8(v_lookup(levels, from0), v_lookup(levels, from1));
            v_store(tables + (group * pitch + u) * TABLE, v_add8(low, v_add8(v_lookup(levels, from2), v_lookup(levels, from3))));
        }
}

#include "dn_kernels_lookup.h"

/* What a stage needs, and where it is in scratch and prepared memory. */
typedef struct products {
    size_t channels, copies;   /* g, c' / g */
    size_t groups;             /* of 4 bytes in a kernel's row */
    size_t octets;             /* of FILTERS filters */
    size_t count;              /* thresholds of a filter */
    size_t ring;               /* rows of X that are kept */
    size_t pitch, width;       /* bytes of a row of X; columns, rounded up to COLUMNS, and the border */
    uint32_t times2, zeros;    /* 2 * times; times * zero * copies */
    uint8_t *x;                /* [ring][pitch] */
    uint32_t *totals;          /* [ring][width], sum of X over the channels of each pixel */
    uint32_t *window;          /* [pool][width], times * zero * copies * sum of X under the kernel */
    uint32_t *sums;            /* [pool][COLUMNS][FILTERS] */
    const uint8_t *weights;    /* U, [octets][kernel][groups][FILTERS][4] */
    const int32_t *thresholds; /* [octets][count][FILTERS] */
} products;

static void products_shape(const dn_stage *stage, products *w) {
    uint32_t zero = (1u << stage->weight_bits) - 1, times;
    w->channels = dn_gcd(stage->in_channels, stage->stored_channels);
    w->copies = stage->stored_channels / w->channels;
    w->groups = (stage->kernel * w->channels + 3) / 4;
    w->octets = ((size_t)stage->filters + FILTERS - 1) / FILTERS;
    w->count = ((size_t)1 << stage->output_bits) - 1;
    w->ring = (size_t)stage->kernel + stage->pool - 1;
    times = (uint32_t)(stage->map_copies * w->channels / stage->stored_channels);
    w->times2 = 2 * times;
    w->zeros = times * zero * (uint32_t)w->copies;
}

static int products_cover(const dn_stage *stage) {
    products w;
    products_shape(stage, &w);
    return w.copies * ((1u << stage->weight_bits) - 1) <= 255 && stage->in_channels / w.channels * ((1u << stage->input_bits) - 1) <= 255;
}

static uint64_t products_prepared(const dn_stage *stage, const void *prepared, products *w) {
    uint64_t used = 0;
    uint8_t *base = (uint8_t *)(uintptr_t)prepared;
    w->weights = (const uint8_t *)dn_block(base, &used, (uint64_t)w->octets * stage->kernel * w->groups * FILTERS * 4);
    w->thresholds = (const int32_t *)dn_block(base, &used, (uint64_t)w->octets * w->count * FILTERS * sizeof(int32_t));
    return used;
}

static uint64_t products_scratch(const dn_stage *stage, size_t columns, uint8_t *scratch, products *w) {
    uint64_t used = 0;
    w->width = (columns + COLUMNS - 1) / COLUMNS * COLUMNS + stage->kernel - 1;
    w->pitch = w->width * w->channels + LANES;
    w->x = (uint8_t *)dn_block(scratch, &used, (uint64_t)w->ring * w->pitch);
    w->totals = (uint32_t *)dn_block(scratch, &used, (uint64_t)w->ring * w->width * sizeof(uint32_t));
    w->window = (uint32_t *)dn_block(scratch, &used, (uint64_t)stage->pool * w->width * sizeof(uint32_t));
    w->sums = (uint32_t *)dn_block(scratch, &used, (uint64_t)stage->pool * COLUMNS * FILTERS * sizeof(uint32_t));
    return used;
}

/* U of a filter's channel t at one place of its kernel. */
static uint8_t products_weight(const dn_stage *stage, const products *w, size_t filter, size_t place, size_t t) {
    const uint8_t *planes = stage->weights + filter * stage->weight_bits * stage->plane_bytes;
    unsigned sum = 0;
    for (size_t c = t; c < stage->stored_channels; c += w->channels) {
        size_t i = place * stage->stored_channels + c;
        for (size_t b = 0; b < stage->weight_bits; b++) sum += (unsigned)(planes[b * stage->plane_bytes + i / 8] >> i % 8 & 1) << b;
    }
    return (uint8_t)sum;
}

static void products_prepare(const dn_stage *stage, void *prepared) {
    products w;
    products_shape(stage, &w);
    memset(prepared, 0, (size_t)products_prepared(stage, prepared, &w));
    uint8_t *weights = (uint8_t *)(uintptr_t)w.weights;
    int32_t *thresholds = (int32_t *)(uintptr_t)w.thresholds;
    for (size_t f = 0; f < stage->filters; f++) {
        for (size_t row = 0; row < stage->kernel; row++)
            for (size_t i = 0; i < stage->kernel * w.channels; i++) {
                size_t place = row * stage->kernel + i / w.channels, group = (f / FILTERS * stage->kernel + row) * w.groups + i / 4;
                weights[(group * FILTERS + f % FILTERS) * 4 + i % 4] = products_weight(stage, &w, f, place, i % w.channels);
            }
        for (size_t i = 0; i < w.count; i++) thresholds[(f / FILTERS * w.count + i) * FILTERS + f % FILTERS] = dn_threshold(stage, f, i);
    }
}

/* X and totals of one row of the map, into a slot of the ring; `row` is NULL above and below the map, where zeros stand. */
static void products_fill_row(const dn_conv *conv, const products *w, const uint8_t *row, size_t slot) {
    size_t c = conv->stage->in_channels, g = w->channels, border = conv->stage->kernel / 2;
    uint8_t *x = w->x + slot * w->pitch;
    uint32_t *totals = w->totals + slot * w->width;
    memset(x, 0, w->pitch);
    memset(totals, 0, w->width * sizeof *totals);
    if (!row) return;
    x += border * g;
    if (c == g) {
        memcpy(x, row, conv->columns * g);
    } else {
        for (size_t u = 0; u < conv->columns; u++, row += c)
            for (size_t i = 0; i < c; i += g)
                for (size_t t = 0; t < g; t++) x[u * g + t] = (uint8_t)(x[u * g + t] + row[i + t]);
    }
    totals += border;
    for (size_t u = 0; u < conv->columns; u++, x += g) {
        size_t t = 0;
        for (; t + HALF <= g; t += HALF) totals[u] += vaddlv_u8(vld1_u8(x + t));
        for (; t < g; t++) totals[u] += x[t];
    }
}

/* What the weights' zero point adds to each sum of one row. `first` is the slot of the kernel's first row. */
static void products_fill_window(const dn_stage *stage, const products *w, size_t columns, size_t first, uint32_t *DN_RESTRICT window) {
    memset(window, 0, w->width * sizeof *window);
    for (size_t i = 0; i < stage->kernel; i++)
        for (size_t j = 0; j < stage->kernel; j++) {
            const uint32_t *totals = w->totals + (first + i) % w->ring * w->width + j;
            for (size_t x = 0; x < columns; x++) window[x] += totals[x];
        }
    for (size_t x = 0; x < columns; x++) window[x] *= w->zeros;
}

/* Sums of U * X of FILTERS filters at COLUMNS columns, into out [COLUMNS][FILTERS]. `slots` are the rows of X at the first column's left
 * end of the kernel. */
static void products_sums(const products *w, const uint8_t *const *slots, const uint8_t *weights, size_t kernel, uint32_t *out) {
    const size_t g = w->channels;
    dot low[COLUMNS], high[COLUMNS]; /* filters 0 .. 3, 4 .. 7 */
#define CLEAR(p) low[p] = high[p] = d_zero();
    EACH_OF(CLEAR)
#undef CLEAR
    for (size_t i = 0; i < kernel; i++) {
        const uint8_t *x = slots[i];
        size_t group = 0;
        for (; group + 4 <= w->groups; group += 4, x += LANES) {
#define LOAD(p) const vec x##p = v_load(x + (p) * g);
            EACH_OF(LOAD)
#undef LOAD
#define ADD(p) low[p] = d_add_lane(low[p], w0, x##p, LANE); high[p] = d_add_lane(high[p], w1, x##p, LANE);
#define GROUP_OF_4 { const vec w0 = v_load(weights), w1 = v_load(weights + LANES); weights += 2 * LANES; EACH_OF(ADD) }
#define LANE 0
            GROUP_OF_4
#undef LANE
#define LANE 1
            GROUP_OF_4
#undef LANE
#define LANE 2
            GROUP_OF_4
#undef LANE
#define LANE 3
            GROUP_OF_4
#undef LANE
#undef GROUP_OF_4
#undef ADD
        }
        for (; group < w->groups; group++, x += 4, weights += 2 * LANES) {
            const vec w0 = v_load(weights), w1 = v_load(weights + LANES);
#define ADD(p)                                                         \
    {                                                                  \
        uint32_t four;                                                 \
        memcpy(&four, x + (p) * g, sizeof four);                       \
        const vec all = vreinterpretq_u8_u32(vdupq_n_u32(four));       \
        low[p] = d_add(low[p], w0, all), high[p] = d_add(high[p], w1, all); \
    }
            EACH_OF(ADD)
#undef ADD
        }
    }
#define STORE(p) vst1q_u32(out + (p) * FILTERS, d_result(low[p])), vst1q_u32(out + (p) * FILTERS + 4, d_result(high[p]));
    EACH_OF(STORE)
#undef STORE
}

/* The stage's sums of 4 filters at one column. */
static inline int32x4_t products_result(const products *w, const uint32_t *sums, uint32_t window) {
    return vreinterpretq_s32_u32(vsubq_u32(vmulq_n_u32(vld1q_u32(sums), w->times2), vdupq_n_u32(window)));
}

/* Of 4 filters from `half` on (0 or 4): the sums at column p of the block, after the pool. */
static inline int32x4_t products_pooled(const dn_stage *stage, const products *w, const uint32_t *window, size_t p, size_t half) {
    const uint32_t *sums = w->sums + p * FILTERS + half, *below = sums + COLUMNS * FILTERS;
    int32x4_t sum = products_result(w, sums, window[p]);
    if (stage->pool == 1) return sum;
    sum = vmaxq_s32(sum, products_result(w, sums + FILTERS, window[p + 1]));
    int32x4_t down = products_result(w, below, window[w->width + p]);
    return vmaxq_s32(sum, vmaxq_s32(down, products_result(w, below + FILTERS, window[w->width + p + 1])));
}

/* Pool, thresholds and store of one octet: `valid` columns of the sums, output row y from column x of the map on. */
static void products_finish(const dn_conv *conv, const products *w, size_t octet, size_t valid, size_t y, size_t x) {
    const dn_stage *stage = conv->stage;
    size_t pool = stage->pool, rows = conv->rows / pool, columns = conv->columns / pool, filters = stage->filters;
    size_t f = octet * FILTERS, some = dn_min(FILTERS, filters - f);
    const uint32_t *window = w->window + x;
    for (size_t p = 0; p < valid; p += pool) {
        const int32x4_t low = products_pooled(stage, w, window, p, 0), high = products_pooled(stage, w, window, p, 4);
        if (stage->output_bits) {
            const int32_t *t = w->thresholds + octet * w->count * FILTERS;
            uint32x4_t level = vdupq_n_u32(0), level_high = level;
            for (size_t i = 0; i < w->count; i++, t += FILTERS) {
                level = vsubq_u32(level, vcgeq_s32(low, vld1q_s32(t)));
                level_high = vsubq_u32(level_high, vcgeq_s32(high, vld1q_s32(t + 4)));
            }
            const uint16x8_t both = vcombine_u16(vmovn_u32(level), vmovn_u32(level_high));
            v_store_levels((uint8_t *)conv->out + (y * columns + (x + p) / pool) * filters + f, from16(both), some);
        } else {
            int32_t values[FILTERS], *out = (int32_t *)conv->out + (f * rows + y) * columns + x + p;
            vst1q_s32(values, low);
            vst1q_s32(values + 4, high);
            for (size_t i = 0; i < some; i++) out[i * rows * columns] = values[i];
        }
    }
}

static void products_conv_rows(const dn_conv *conv, size_t first, size_t last, void *scratch) {
    const dn_stage *stage = conv->stage;
    size_t kernel = stage->kernel, border = kernel / 2, pool = stage->pool, columns = conv->columns;
    products w;
    products_shape(stage, &w);
    products_prepared(stage, conv->prepared, &w);
    products_scratch(stage, columns, (uint8_t *)scratch, &w);
    const uint8_t *slots[2 * DN_MAX_KERNEL];
    size_t made = first * pool; /* rows, counted from the border above the map */
    for (size_t y = first; y < last; y++) {
        for (; made < y * pool + w.ring; made++) {
            const uint8_t *row = made >= border && made - border < conv->rows ? conv->in + (made - border) * columns * stage->in_channels : NULL;
            products_fill_row(conv, &w, row, made % w.ring);
        }
        for (size_t i = 0; i < pool; i++) products_fill_window(stage, &w, columns, y * pool + i, w.window + i * w.width);
        for (size_t x = 0; x < columns; x += COLUMNS) {
            for (size_t i = 0; i < w.ring; i++) slots[i] = w.x + (y * pool + i) % w.ring * w.pitch + x * w.channels;
            for (size_t octet = 0; octet < w.octets; octet++) {
                const uint8_t *weights = w.weights + octet * kernel * w.groups * 2 * LANES;
                for (size_t i = 0; i < pool; i++) products_sums(&w, slots + i, weights, kernel, w.sums + i * COLUMNS * FILTERS);
                products_finish(conv, &w, octet, dn_min(COLUMNS, columns - x), y, x);
            }
        }
    }
}

/* The functions of the kernel table. */

typedef enum way { LOOKUP, PRODUCTS, PORTABLE } way;

/* By the instructions of the innermost loops: a look-up and its addition are two. */
static way way_of(const dn_stage *stage) {
    products w;
    if (stage->is_general) return PORTABLE;
    products_shape(stage, &w);
    size_t cost = stage->kernel * w.groups * w.octets * 2 * DOT_INSTRUCTIONS;
    if (products_cover(stage) && !(lookup_covers(stage) && 2 * lookup_cost(stage) < cost)) return PRODUCTS;
    return lookup_covers(stage) ? LOOKUP : PORTABLE;
}

static dn_layout layout(const dn_stage *stage) {
    (void)stage;
    return DN_BYTES;
}

static uint64_t prepared_bytes(const dn_stage *stage) {
    products w;
    switch (way_of(stage)) {
        case LOOKUP: return lookup_prepared_bytes(stage);
        case PRODUCTS: products_shape(stage, &w); return products_prepared(stage, NULL, &w);
        case PORTABLE: break;
    }
    return dn_kernels_portable.prepared_bytes(stage);
}

static void prepare(const dn_stage *stage, void *prepared) {
    switch (way_of(stage)) {
        case LOOKUP: lookup_prepare(stage, prepared); return;
        case PRODUCTS: products_prepare(stage, prepared); return;
        case PORTABLE: dn_kernels_portable.prepare(stage, prepared); return;
    }
}

static uint64_t scratch_bytes(const dn_stage *stage, size_t columns) {
    products w;
    switch (way_of(stage)) {
        case LOOKUP: return lookup_scratch_bytes(stage, columns);
        case PRODUCTS: products_shape(stage, &w); return products_scratch(stage, columns, NULL, &w);
        case PORTABLE: break;
    }
    return dn_kernels_portable.scratch_bytes(stage, columns);
}

static void conv_rows(const dn_conv *conv, size_t first, size_t last, void *scratch) {
    switch (way_of(conv->stage)) {
        case LOOKUP: lookup_conv_rows(conv, first, last, scratch); return;
        case PRODUCTS: products_conv_rows(conv, first, last, scratch); return;
        case PORTABLE: dn_kernels_portable.conv_rows(conv, first, last, scratch); return;
    }
}

static const char *describe(const dn_stage *stage, uint64_t *vectors) {
    products w;
    uint64_t taps = (uint64_t)stage->kernel * stage->kernel;
    products_shape(stage, &w);
    switch (way_of(stage)) {
        case LOOKUP: *vectors = 1024 * taps * w.channels * stage->weight_bits * w.copies * stage->filters / (LANES * GROUP); return "lookup";
        case PRODUCTS: *vectors = 1024 * taps * w.channels * stage->filters / LANES; return "products";
        case PORTABLE: break;
    }
    return dn_kernels_portable.describe(stage, vectors);
}

#define SPIN(p)                                                         \
    V_KEEP(table);                                                      \
    V_KEEP(index);                                                      \
    sum[p] = v_add8(sum[p], v_lookup(table, index));
#define SPIN_PRODUCTS(p)                                                \
    V_KEEP(table);                                                      \
    V_KEEP(index);                                                      \
    dots[p] = d_add(dots[p], table, index);
#define SPUN(p) table = v_add8(table, v_add8(sum[p], vreinterpretq_u8_u32(d_result(dots[p]))));

static DN_NOINLINE void spin(const char *name, uint64_t vectors, void *result) {
    vec sum[COLUMNS], table = v_zero(), index = v_zero();
    dot dots[COLUMNS];
#define START(p) sum[p] = v_zero(), dots[p] = d_zero();
    EACH_OF(START)
#undef START
    if (name[0] == 'l') /* lookup */
        for (uint64_t i = 0; i < vectors; i += COLUMNS) { EACH_OF(SPIN) }
    else
        for (uint64_t i = 0; i < vectors; i += COLUMNS) { EACH_OF(SPIN_PRODUCTS) }
    EACH_OF(SPUN)
    v_store(result, table);
}
