/* The truth for kernels: plain loops that every C compiler understands, and that good ones turn into vectors.
 *
 * Duplicated channels are never built. Let c be the map's channels, c' the stored ones, m and r the map and weight copies
 * (c * m = c' * r) and g = gcd(c, c'). Channel j of the duplicated sum is w[j mod c'] * x[j mod c]; by the Chinese remainder
 * theorem j meets each pair (a, b) with a = b mod g equally often, c * m / lcm(c, c') = m * g / c' times. So
 *
 *     sum over j = sum over t < g of W[t] * X[t],   X[t] = sum of x[a], a = t mod g,   W[t] = m * g / c' * sum of w[b], b = t mod g.
 *
 * Because c / g divides r and c' / g divides m, there are at most 64 terms in X[t], and |W[t]| is at most m * 255:
 * both stay within 64 * 255 = 16320 and fit in 16 bits. */
#include "dn_impl.h"

#include <string.h>

enum {
    BAND_ROWS = 8, /* rows of sums between two looks at the weights */
    GROUP = 8,     /* filters whose levels make one byte of a plane */
    STEP = 8       /* taps in one pass over a row; a tap is one weight of one filter, W[t] at one place of the kernel */
};

/* The scratch memory of one call. */
typedef struct work {
    size_t channels;  /* g */
    size_t taps;      /* kernel * kernel * g, rounded up to STEP by taps of weight 0 */
    size_t sums_columns, out_columns;
    size_t phase;     /* columns of X that the kernel's first column, or another one, meets: every step-th of them */
    size_t pitch;     /* [step][phase]: the map's columns and the zeros at both ends, column u at (u mod step, u div step) */
    int16_t *in;      /* X, [(BAND_ROWS - 1) * step + kernel][channels][pitch], 0 .. 16320 */
    uint32_t *offset; /* [taps], of a tap's first factor, from the band's row where the kernel starts */
    int16_t *weights; /* W, [GROUP][taps], -16320 .. 16320 */
    uint16_t *narrow; /* [sums_columns], sums mod 2^16 */
    int32_t *sums;    /* [pool][sums_columns] */
    uint8_t *levels;  /* [GROUP][out_columns] */
} work;

/* Lay `w` out over `scratch`, which may be NULL; returns the bytes used. */
static uint64_t lay_out(const dn_stage *stage, size_t columns, uint8_t *scratch, work *w) {
    uint64_t used = 0, kernel = stage->kernel;
    w->channels = dn_gcd(stage->in_channels, stage->stored_channels);
    w->taps = (stage->kernel * (size_t)stage->kernel * w->channels + STEP - 1) / STEP * STEP;
    w->sums_columns = dn_sums_side(stage, columns);
    w->out_columns = dn_out_side(stage, columns);
    w->phase = (columns + 2 * (size_t)stage->border + stage->step - 1) / stage->step;
    w->pitch = w->phase * stage->step;
    w->in = (int16_t *)dn_block(scratch, &used, ((BAND_ROWS - 1) * (uint64_t)stage->step + kernel) * w->channels * w->pitch * sizeof(int16_t));
    w->offset = (uint32_t *)dn_block(scratch, &used, w->taps * (uint64_t)sizeof(uint32_t));
    w->weights = (int16_t *)dn_block(scratch, &used, GROUP * w->taps * (uint64_t)sizeof(int16_t));
    w->narrow = (uint16_t *)dn_block(scratch, &used, w->sums_columns * (uint64_t)sizeof(uint16_t));
    w->sums = (int32_t *)dn_block(scratch, &used, stage->pool * w->sums_columns * (uint64_t)sizeof(int32_t));
    w->levels = (uint8_t *)dn_block(scratch, &used, GROUP * (uint64_t)w->out_columns);
    return used;
}

static uint64_t scratch_bytes(const dn_stage *stage, size_t columns) {
    work w;
    return lay_out(stage, columns, NULL, &w);
}

/* Where each tap finds its factors: tap (i, j, t) reads row i, channel t, shifted by j. The zeros at the left end of a row
 * are the padding, so that shift 0 is the kernel's first column. Sum x needs column x * step + j, which is x + j div step of
 * phase j mod step: neighbouring sums read neighbouring places, whatever the step. */
static void fill_offsets(const dn_stage *stage, work *w) {
    size_t tap = 0;
    for (size_t i = 0; i < stage->kernel; i++)
        for (size_t j = 0; j < stage->kernel; j++)
            for (size_t t = 0; t < w->channels; t++) w->offset[tap++] = (uint32_t)((i * w->channels + t) * w->pitch + j % stage->step * w->phase + j / stage->step);
    while (tap < w->taps) w->offset[tap++] = 0;
}

/* X of one row of the map; `row` is NULL above and below it, where zeros stand. */
static void unpack_row(const dn_stage *stage, const work *w, const uint8_t *row, dn_layout lies, size_t columns, int16_t *out) {
    size_t plane = dn_bytes(stage->in_channels), planes = stage->input_bits, step = stage->step;
    memset(out, 0, w->channels * w->pitch * sizeof *out);
    if (!row) return;
    for (size_t c = 0; c < stage->in_channels; c++)
        for (size_t first = 0; first < step; first++) { /* columns first, first + step, ... are neighbours in a phase */
            size_t at = first + stage->border;
            int16_t *to = out + c % w->channels * w->pitch + at % step * w->phase + at / step;
            if (lies == DN_BYTES) {
                for (size_t x = first; x < columns; x += step, to++) *to = (int16_t)(*to + row[x * stage->in_channels + c]);
            } else if (lies != DN_PLANES) {
                size_t together = dn_code_channels(planes, lies), shift = c % together * planes;
                const uint8_t *from = row + c / together * columns;
                for (size_t x = first; x < columns; x += step, to++) *to = (int16_t)(*to + (from[x] >> shift & ((1 << planes) - 1)));
            } else {
                unsigned bit = c % 8;
                for (size_t x = first; x < columns; x += step, to++) {
                    const uint8_t *from = row + x * planes * plane + c / 8;
                    for (size_t p = 0; p < planes; p++, from += plane) *to = (int16_t)(*to + ((*from >> bit & 1) << p));
                }
            }
        }
}

/* W of one filter. */
static void unpack_weights(const dn_stage *stage, const work *w, size_t filter, int16_t *out) {
    const uint8_t *planes = stage->weights + filter * stage->weight_bits * stage->plane_bytes;
    int times = (int)(stage->map_copies * w->channels / stage->stored_channels), zero = (1 << stage->weight_bits) - 1;
    size_t places = (size_t)stage->kernel * stage->kernel, i = 0;
    memset(out, 0, w->taps * sizeof *out);
    for (size_t place = 0; place < places; place++, out += w->channels)
        for (size_t c = 0, t = 0; c < stage->stored_channels; c++, i++) {
            int code = 0;
            for (size_t b = 0; b < stage->weight_bits; b++) code |= (planes[b * stage->plane_bytes + i / 8] >> i % 8 & 1) << b;
            out[t] = (int16_t)(out[t] + times * (2 * code - zero));
            if (++t == w->channels) t = 0;
        }
}

/* narrow[x] += W * X of STEP taps, mod 2^16: enough when every possible sum of the stage lies within 16 bits, because then
 * the sum is known from its remainder, whatever happened on the way. */
static void add_taps_narrow(const int16_t *in, const uint32_t *offset, const int16_t *weights, size_t columns, uint16_t *DN_RESTRICT sums) {
    const uint16_t *levels = (const uint16_t *)in;
    const uint16_t *a = levels + offset[0], *b = levels + offset[1], *c = levels + offset[2], *d = levels + offset[3];
    const uint16_t *e = levels + offset[4], *f = levels + offset[5], *g = levels + offset[6], *h = levels + offset[7];
    uint32_t wa = (uint32_t)weights[0], wb = (uint32_t)weights[1], wc = (uint32_t)weights[2], wd = (uint32_t)weights[3];
    uint32_t we = (uint32_t)weights[4], wf = (uint32_t)weights[5], wg = (uint32_t)weights[6], wh = (uint32_t)weights[7];
    for (size_t x = 0; x < columns; x++)
        sums[x] = (uint16_t)(sums[x] + wa * a[x] + wb * b[x] + wc * c[x] + wd * d[x] + we * e[x] + wf * f[x] + wg * g[x] + wh * h[x]);
}

/* The same in 32 bits: every partial sum lies within plus and minus accumulator_max, below 2^31. */
static void add_taps_wide(const int16_t *in, const uint32_t *offset, const int16_t *weights, size_t columns, int32_t *DN_RESTRICT sums) {
    for (size_t tap = 0; tap < STEP; tap++) {
        const int16_t *a = in + offset[tap];
        int16_t weight = weights[tap];
        for (size_t x = 0; x < columns; x++) sums[x] += weight * a[x];
    }
}

/* One row of convolution sums for one filter; `in` is the row of X where the kernel starts. */
static void sum_row(const dn_stage *stage, const work *w, const int16_t *in, const int16_t *weights, size_t columns, int32_t *sums) {
    if (stage->accumulator_max <= INT16_MAX) {
        const int16_t *narrow = (const int16_t *)w->narrow;
        memset(w->narrow, 0, columns * sizeof *w->narrow);
        for (size_t tap = 0; tap < w->taps; tap += STEP) add_taps_narrow(in, w->offset + tap, weights + tap, columns, w->narrow);
        for (size_t x = 0; x < columns; x++) sums[x] = narrow[x];
    } else {
        memset(sums, 0, columns * sizeof *sums);
        for (size_t tap = 0; tap < w->taps; tap += STEP) add_taps_wide(in, w->offset + tap, weights + tap, columns, sums);
    }
}

static int32_t max_of(int32_t a, int32_t b) { return a > b ? a : b; }

/* Max of pool x pool sums, into the front of the first row: down, then to the left. */
static void pool_rows(const dn_stage *stage, const work *w) {
    int32_t *sums = w->sums;
    size_t columns = w->sums_columns, pool = stage->pool, step = stage->pool_step;
    for (size_t i = 1; i < pool; i++)
        for (size_t x = 0; x < columns; x++) sums[x] = max_of(sums[x], sums[i * columns + x]);
    for (size_t x = 0; x < w->out_columns; x++) {
        int32_t most = sums[x * step];
        for (size_t j = 1; j < pool; j++) most = max_of(most, sums[x * step + j]);
        sums[x] = most;
    }
}

/* level = number of thresholds that the sum reaches. */
static void count_thresholds(const dn_stage *stage, size_t filter, const int32_t *sums, size_t columns, uint8_t *DN_RESTRICT levels) {
    size_t count = ((size_t)1 << stage->output_bits) - 1;
    memset(levels, 0, columns);
    for (size_t i = 0; i < count; i++) {
        int32_t t = dn_threshold(stage, filter, i);
        for (size_t x = 0; x < columns; x++) levels[x] = (uint8_t)(levels[x] + (sums[x] >= t));
    }
}

/* Write a group's levels of one row. `out` is the first pixel. */
static void write_group(const dn_conv *conv, const uint8_t *levels, size_t first, size_t group, size_t columns, uint8_t *out) {
    const dn_stage *stage = conv->stage;
    if (conv->out_layout == DN_BYTES) {
        out += first;
        for (size_t x = 0; x < columns; x++, out += stage->filters)
            for (size_t f = 0; f < group; f++) out[f] = levels[f * columns + x];
        return;
    }
    if (conv->out_layout != DN_PLANES) {
        size_t bits = stage->output_bits, together = dn_code_channels(bits, conv->out_layout);
        for (size_t f = 0; f < group; f++, levels += columns) {
            uint8_t *code = out + (first + f) / together * columns;
            size_t place = (first + f) % together;
            for (size_t x = 0; x < columns; x++) code[x] = (uint8_t)((place ? code[x] : 0) | levels[x] << place * bits);
        }
        return;
    }
    size_t plane = dn_bytes(stage->filters);
    out += first / 8;
    for (size_t x = 0; x < columns; x++)
        for (size_t p = 0; p < stage->output_bits; p++, out += plane) {
            unsigned byte = 0;
            for (size_t f = 0; f < group; f++) byte |= (levels[f * columns + x] >> p & 1u) << f;
            *out = (uint8_t)byte;
        }
}

/* Output rows first .. last - 1, for which X is unpacked; the filters in groups. */
static void conv_band(const dn_conv *conv, const work *w, size_t first, size_t last) {
    const dn_stage *stage = conv->stage;
    size_t columns = w->sums_columns, out_rows = dn_out_side(stage, conv->rows), out_columns = w->out_columns;
    size_t in_row = w->channels * w->pitch;
    size_t pixel = (size_t)dn_pixel_bytes(stage->output_bits, stage->filters, conv->out_layout);
    for (size_t f0 = 0; f0 < stage->filters; f0 += GROUP) {
        size_t group = dn_min(GROUP, stage->filters - f0);
        for (size_t f = 0; f < group; f++) unpack_weights(stage, w, f0 + f, w->weights + f * w->taps);
        for (size_t y = first; y < last; y++) {
            const int16_t *in = w->in + (y - first) * stage->pool_step * stage->step * in_row;
            for (size_t f = 0; f < group; f++) {
                const int16_t *weights = w->weights + f * w->taps;
                for (size_t i = 0; i < stage->pool; i++)
                    sum_row(stage, w, in + i * stage->step * in_row, weights, columns, w->sums + i * columns);
                if (stage->pool > 1) pool_rows(stage, w);
                if (stage->output_bits)
                    count_thresholds(stage, f0 + f, w->sums, out_columns, w->levels + f * out_columns);
                else
                    memcpy((int32_t *)conv->out + ((f0 + f) * out_rows + y) * out_columns, w->sums, out_columns * sizeof(int32_t));
            }
            if (stage->output_bits) write_group(conv, w->levels, f0, group, out_columns, (uint8_t *)conv->out + y * out_columns * pixel);
        }
    }
}

static void conv_rows(const dn_conv *conv, size_t first, size_t last, void *scratch) {
    const dn_stage *stage = conv->stage;
    size_t columns = conv->columns;
    work w;
    lay_out(stage, columns, (uint8_t *)scratch, &w);
    fill_offsets(stage, &w);
    size_t pixel = (size_t)dn_pixel_bytes(stage->input_bits, stage->in_channels, conv->in_layout), border = stage->border;
    size_t band = BAND_ROWS / stage->pool; /* rows of the output map; even if pools do not overlap, BAND_ROWS of sums are enough */
    for (; first < last; first += band) {
        size_t end = dn_min(first + band, last), sums_rows = (end - first - 1) * stage->pool_step + stage->pool;
        size_t needed = (sums_rows - 1) * stage->step + stage->kernel;
        for (size_t i = 0; i < needed; i++) {
            size_t y = first * stage->pool_step * stage->step + i; /* row y - border of the map */
            const uint8_t *row = y >= border && y - border < conv->rows ? conv->in + (y - border) * columns * pixel : NULL;
            unpack_row(stage, &w, row, conv->in_layout, columns, w.in + i * w.channels * w.pitch);
        }
        conv_band(conv, &w, first, end);
    }
}

static uint64_t prepared_bytes(const dn_stage *stage) {
    (void)stage;
    return 0;
}

static void prepare(const dn_stage *stage, void *prepared) {
    (void)stage;
    (void)prepared;
}

static int runs_here(void) { return 1; }

static dn_layout layout(const dn_stage *stage) {
    (void)stage;
    return DN_PLANES;
}

static const char *describe(const dn_stage *stage, uint64_t *vectors) {
    (void)stage;
    *vectors = 0;
    return "portable";
}

const dn_kernels dn_kernels_portable = {"portable", runs_here, layout, prepared_bytes, prepare, scratch_bytes, conv_rows, describe, NULL};
