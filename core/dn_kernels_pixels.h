/* Stages with few filters: the lanes of a vector are pixels, the levels are the index, the weights are the table.
 *
 * Codes of a few channels (dn_layout) have 16 or 64 values. For one filter and place of the kernel, the products of all its
 * weights with all levels of a code's channels are a table of that many signed bytes, made once; one look-up gives LANES pixels'
 * sums over these channels. The weights may be anything, so those of duplicated maps are added up before (docs/arithmetic.md).
 *
 * Widths. With w the sum of all copies' weights, w / unit is an integer of at most w_max; a table's bytes are within
 * plus and minus channels * w_max * x_max <= 127. Bytes start at 128 and are flushed to 16 bits before they could leave 0 .. 255, as in
 * dn_kernels_lookup.h; the 128s are taken off in advance. Even columns come out in one vector of 16 bits, odd ones in another:
 * with the two rows, the 2x2 pool is three maxima of such vectors. A threshold t on the sum is ceil(t / unit) here.
 *
 * The including file defines, beside the names of dn_kernels_lookup.h: TOGETHER (filters at a time), EACH_FILTER(do) (do(0) do(1) ...),
 * V_KEEP(a) (keep `a` in a register, rather than load it again) and v_store_half(p, a) (values of 16 bits as bytes). */

enum { HALF = LANES / 2, CODE_BITS = GROUP /* bits that choose one of TABLE bytes */ };

/* levels of HALF sums; thresholds are less 1. */
static inline vec pixel_levels(const int16_t *thresholds, size_t count, vec sum) {
    vec level = v_zero();
    for (size_t i = 0; i < count; i++) level = v_count(level, sum, v_all16((uint16_t)thresholds[i]));
    return level;
}

/* Room for HALF levels of all filters, rounded up. */
static uint64_t pixel_levels_bytes(const dn_stage *stage) { return ((uint64_t)stage->filters + 8) * HALF; }

/* Eight filters' levels of sixteen pixels: bytes [8][HALF] to pixels of eight bytes, by doubling what lies together. */
static inline void pixel_transpose(const uint8_t *levels, uint64_t *pixels) {
    __m128i a[8], b[8];
    for (size_t i = 0; i < 8; i++) a[i] = _mm_loadu_si128((const __m128i *)(const void *)(levels + i * HALF));
    for (size_t i = 0; i < 4; i++) {
        b[i] = _mm_unpacklo_epi8(a[2 * i], a[2 * i + 1]);
        b[4 + i] = _mm_unpackhi_epi8(a[2 * i], a[2 * i + 1]);
    }
    for (size_t i = 0; i < 8; i += 4) {
        a[i] = _mm_unpacklo_epi16(b[i], b[i + 1]);
        a[i + 1] = _mm_unpackhi_epi16(b[i], b[i + 1]);
        a[i + 2] = _mm_unpacklo_epi16(b[i + 2], b[i + 3]);
        a[i + 3] = _mm_unpackhi_epi16(b[i + 2], b[i + 3]);
    }
    for (size_t i = 0; i < 8; i += 4)
        for (size_t j = 0; j < 2; j++, pixels += 4) {
            _mm_storeu_si128((__m128i *)(void *)pixels, _mm_unpacklo_epi32(a[i + j], a[i + j + 2]));
            _mm_storeu_si128((__m128i *)(void *)(pixels + 2), _mm_unpackhi_epi32(a[i + j], a[i + j + 2]));
        }
}

/* Levels [filters][HALF] of `valid` pixels into row y of the map, from column x on. */
static void pixel_store(const dn_conv *conv, const uint8_t *levels, size_t valid, size_t y, size_t x) {
    size_t filters = conv->stage->filters, columns = conv->columns / conv->stage->pool, bits = conv->stage->output_bits;
    if (conv->out_layout == DN_BYTES) {
        uint8_t *out = (uint8_t *)conv->out + (y * columns + x) * filters;
        for (size_t f = 0; f < filters; f += 8)
            for (size_t p = 0; p < valid; p += 16) {
                uint64_t pixels[16];
                pixel_transpose(levels + f * HALF + p, pixels);
                size_t some = dn_min(8, filters - f), end = dn_min(16, valid - p);
                if (some == 8)
                    for (size_t i = 0; i < end; i++) memcpy(out + (p + i) * filters + f, pixels + i, 8);
                else
                    for (size_t i = 0; i < end; i++) memcpy(out + (p + i) * filters + f, pixels + i, some);
            }
    } else {
        size_t together = dn_code_channels(bits, conv->out_layout), codes = (filters + together - 1) / together;
        uint8_t *out = (uint8_t *)conv->out + y * codes * columns + x;
        for (size_t f = 0; f < filters; f += together, out += columns) {
            uint8_t sum[HALF];
            memcpy(sum, levels + f * HALF, HALF);
            for (size_t i = 1; i < together && f + i < filters; i++)
                for (size_t p = 0; p < HALF; p++) sum[p] = (uint8_t)(sum[p] | levels[(f + i) * HALF + p] << i * bits);
            if (valid == HALF)
                memcpy(out, sum, HALF);
            else
                memcpy(out, sum, valid);
        }
    }
}

typedef struct pixels {
    size_t together, codes;    /* channels of a code, codes of a pixel */
    size_t steps;              /* look-ups between two flushes */
    size_t blocks;             /* of TOGETHER filters */
    size_t count;              /* thresholds of a filter */
    size_t pitch;              /* of a row of codes, with a zero before it */
    int unit;
    uint16_t offset;           /* 128 for each flush */
    uint8_t *rows;             /* [4][codes][3][pitch]: pixel x at x + 1, x and x - 1, so that all addresses are aligned */
    uint8_t *levels;           /* [filters][HALF] */
    const uint8_t **places;    /* [3][codes][3][2], where the kernel's places lie at column 0, for both rows of a pool */
    const uint8_t *tables;     /* [blocks][3][codes][3][TOGETHER][TABLE] */
    const int16_t *thresholds; /* [blocks * TOGETHER][count], less 1 */
} pixels;

/* Stored copies of each channel, times for equal terms: the weights of a map's channel are times * sum over copies of odd numbers. */
static void pixels_shape(const dn_stage *stage, pixels *w) {
    size_t copies = stage->stored_channels / stage->in_channels, zero = ((size_t)1 << stage->weight_bits) - 1;
    size_t times = stage->map_copies * (size_t)stage->in_channels / stage->stored_channels, even = copies % 2 ? 1 : 2;
    w->together = dn_min(CODE_BITS / stage->input_bits, stage->in_channels);
    w->codes = w->together ? (stage->in_channels + w->together - 1) / w->together : 0;
    w->unit = (int)(times * even);
    w->steps = w->together ? 127 / (w->together * (copies * zero / even) * (((size_t)1 << stage->input_bits) - 1)) : 0;
    w->blocks = ((size_t)stage->filters + TOGETHER - 1) / TOGETHER;
    w->count = ((size_t)1 << stage->output_bits) - 1;
    w->offset = (uint16_t)(w->steps ? 128 * ((9 * w->codes + w->steps - 1) / w->steps) : 0);
}

static int pixels_cover(const dn_stage *stage) {
    if (stage->kernel != 3 || stage->pool != 2 || stage->accumulator_max >= INT16_MAX || stage->stored_channels % stage->in_channels) return 0;
    pixels w;
    pixels_shape(stage, &w);
    return w.steps >= 1;
}

/* Look-ups of vectors a pixel. */
static size_t pixels_cost(const dn_stage *stage) {
    pixels w;
    pixels_shape(stage, &w);
    return 9 * w.codes * stage->filters / LANES;
}

static uint64_t pixels_prepared(const void *prepared, pixels *w) {
    uint64_t used = 0;
    uint8_t *base = (uint8_t *)(uintptr_t)prepared;
    w->tables = (const uint8_t *)dn_block(base, &used, (uint64_t)w->blocks * 9 * w->codes * TOGETHER * TABLE);
    w->thresholds = (const int16_t *)dn_block(base, &used, w->blocks * TOGETHER * w->count * sizeof(int16_t));
    return used;
}

static uint64_t pixels_scratch(const dn_stage *stage, size_t columns, uint8_t *scratch, pixels *w) {
    uint64_t used = 0;
    w->pitch = (columns + LANES - 1) / LANES * LANES + LANES;
    w->rows = (uint8_t *)dn_block(scratch, &used, 4 * 3 * (uint64_t)w->codes * w->pitch);
    w->levels = (uint8_t *)dn_block(scratch, &used, pixel_levels_bytes(stage));
    w->places = (const uint8_t **)dn_block(scratch, &used, 9 * (uint64_t)w->codes * 2 * sizeof(uint8_t *));
    return used;
}

static uint64_t pixels_prepared_bytes(const dn_stage *stage) {
    pixels w;
    pixels_shape(stage, &w);
    return pixels_prepared(NULL, &w);
}

static uint64_t pixels_scratch_bytes(const dn_stage *stage, size_t columns) {
    pixels w;
    pixels_shape(stage, &w);
    return pixels_scratch(stage, columns, NULL, &w);
}

/* Sum over copies of the weights of channel c at one place of the kernel, divided by unit. */
static int pixels_weight(const dn_stage *stage, const pixels *w, size_t filter, size_t place, size_t c) {
    const uint8_t *planes = stage->weights + filter * stage->weight_bits * stage->plane_bytes;
    int sum = 0, zero = (1 << stage->weight_bits) - 1, times = (int)(stage->map_copies * (uint32_t)stage->in_channels / stage->stored_channels);
    for (; c < stage->stored_channels; c += stage->in_channels) {
        size_t i = place * stage->stored_channels + c;
        int code = 0;
        for (size_t b = 0; b < stage->weight_bits; b++) code |= (planes[b * stage->plane_bytes + i / 8] >> i % 8 & 1) << b;
        sum += 2 * code - zero;
    }
    return times * sum / w->unit;
}

static void pixels_prepare(const dn_stage *stage, void *prepared) {
    pixels w;
    pixels_shape(stage, &w);
    memset(prepared, 0, (size_t)pixels_prepared(prepared, &w));
    size_t bits = stage->input_bits, mask = ((size_t)1 << bits) - 1;
    int16_t *thresholds = (int16_t *)(uintptr_t)w.thresholds;
    for (size_t f = 0; f < stage->filters; f++) {
        uint8_t *table = (uint8_t *)(uintptr_t)w.tables + (f / TOGETHER * 9 * w.codes * TOGETHER + f % TOGETHER) * TABLE;
        for (size_t i = 0; i < 3; i++)
            for (size_t code = 0; code < w.codes; code++)
                for (size_t j = 0; j < 3; j++, table += TOGETHER * TABLE) {
                    size_t c = code * w.together, some = dn_min(w.together, stage->in_channels - c);
                    int weights[CODE_BITS];
                    for (size_t k = 0; k < some; k++) weights[k] = pixels_weight(stage, &w, f, 3 * i + j, c + k);
                    for (size_t e = 0; e < TABLE; e++) {
                        int sum = 0;
                        for (size_t k = 0; k < some; k++) sum += weights[k] * (int)(e >> k * bits & mask);
                        table[e] = (uint8_t)sum;
                    }
                }
        for (size_t i = 0; i < w.count; i++) { /* t - 1 rounded down after division: ceil(t / unit) - 1 */
            int t = dn_threshold(stage, f, i) - 1, rest = t % w.unit;
            *thresholds++ = (int16_t)(t / w.unit - (rest < 0));
        }
    }
}

/* Row y - 1 of the map into slot y mod 4. */
static void pixels_fill_row(const dn_conv *conv, const pixels *w, size_t y) {
    uint8_t *row = w->rows + y % 4 * w->codes * 3 * w->pitch;
    memset(row, 0, w->codes * 3 * w->pitch);
    if (y < 1 || y > conv->rows) return;
    const uint8_t *from = conv->in + (y - 1) * w->codes * conv->columns;
    for (size_t code = 0; code < w->codes; code++, from += conv->columns, row += 3 * w->pitch) {
        memcpy(row + 1, from, conv->columns);
        memcpy(row + w->pitch, from, conv->columns);
        memcpy(row + 2 * w->pitch, from + 1, conv->columns - 1);
    }
}

static void pixels_fill_places(const pixels *w, size_t y) {
    const uint8_t **place = w->places;
    for (size_t i = 0; i < 3; i++)
        for (size_t code = 0; code < w->codes; code++)
            for (size_t j = 0; j < 3; j++) {
                *place++ = w->rows + (((y + i) % 4 * w->codes + code) * 3 + j) * w->pitch;
                *place++ = w->rows + (((y + i + 1) % 4 * w->codes + code) * 3 + j) * w->pitch;
            }
}

#define START(f)                                  \
    above[f] = below[f] = start;                  \
    above_mixed[f] = below_mixed[f] = mixed_start; \
    above_high[f] = below_high[f] = high_start;
#define ADD(f)                                                \
    {                                                         \
        vec table = v_load_table(tables + (f) * TABLE);       \
        V_KEEP(table);                                        \
        above[f] = v_add8(above[f], v_lookup(table, index));  \
        below[f] = v_add8(below[f], v_lookup(table, index_below)); \
        V_KEEP(above[f]);                                     \
        V_KEEP(below[f]);                                     \
    }
#define FLUSH(f)                                                  \
    above_mixed[f] = v_add16(above_mixed[f], above[f]);           \
    above_high[f] = v_add16(above_high[f], v_high(above[f]));     \
    below_mixed[f] = v_add16(below_mixed[f], below[f]);           \
    below_high[f] = v_add16(below_high[f], v_high(below[f]));     \
    above[f] = below[f] = start;
#define FINISH(f)                                                                                     \
    {                                                                                                 \
        vec up = v_max16(v_sub16(above_mixed[f], v_low(above_high[f])), above_high[f]);               \
        vec down = v_max16(v_sub16(below_mixed[f], v_low(below_high[f])), below_high[f]);             \
        v_store_half(levels + (f) * HALF, pixel_levels(thresholds + (f) * w->count, w->count, v_max16(up, down))); \
    }

/* Levels of TOGETHER filters at HALF pixels, from column x of the map on. The loop between two flushes is the hot one. */
static DN_NOINLINE void pixels_block(const pixels *w, const uint8_t *tables, const int16_t *thresholds, size_t x, uint8_t *levels) {
    vec above[TOGETHER], above_mixed[TOGETHER], above_high[TOGETHER], below[TOGETHER], below_mixed[TOGETHER], below_high[TOGETHER];
    const vec start = v_all16(0x8080), high_start = v_all16((uint16_t)-w->offset), mixed_start = v_all16((uint16_t)(-257 * w->offset));
    const uint8_t *const *place = w->places, *const *last = place + 2 * 9 * w->codes;
    EACH_FILTER(START)
    while (place < last) {
        const uint8_t *const *flush = place + 2 * dn_min(w->steps, (size_t)(last - place) / 2);
        for (; place < flush; place += 2, tables += TOGETHER * TABLE) {
            const vec index = v_load(place[0] + x), index_below = v_load(place[1] + x);
            EACH_FILTER(ADD)
        }
        EACH_FILTER(FLUSH)
    }
    EACH_FILTER(FINISH)
}
#undef START
#undef ADD
#undef FLUSH
#undef FINISH

static void pixels_conv_rows(const dn_conv *conv, size_t first, size_t last, void *scratch) {
    const dn_stage *stage = conv->stage;
    size_t columns = conv->columns / 2;
    pixels w;
    pixels_shape(stage, &w);
    pixels_prepared(conv->prepared, &w);
    pixels_scratch(stage, conv->columns, (uint8_t *)scratch, &w);
    size_t made = 2 * first;
    for (size_t y = first; y < last; y++) {
        for (; made < 2 * y + 4; made++) pixels_fill_row(conv, &w, made);
        pixels_fill_places(&w, 2 * y);
        for (size_t x = 0; x < columns; x += HALF) {
            for (size_t block = 0; block < w.blocks; block++)
                pixels_block(&w, w.tables + block * 9 * w.codes * TOGETHER * TABLE, w.thresholds + block * TOGETHER * w.count, 2 * x,
                             w.levels + block * TOGETHER * HALF);
            pixel_store(conv, w.levels, dn_min(HALF, columns - x), y, x);
        }
    }
}
