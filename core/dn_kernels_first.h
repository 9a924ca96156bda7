/* The first stage, which reads the photo's bytes: products of pairs of bytes, summed in 16 bits.
 *
 * Rows are split into three planes with a zero to the left, so two neighbours in a row are a pair of bytes, as one multiplication
 * (vpmaddubsw) takes them: lane i has the columns 2 i, from an odd address those 2 i + 1. Both parities and both rows of a 2x2 pool
 * then lie in the same lane, and the pool is three maxima. Two of a kernel row's three places are such a pair; the
 * third places of two rows, or of two channels, are paired once for all filters. That makes 14 pairs of 27 weights.
 *
 * Widths. A pair's sum is at most 2 * 255 * 64 < 2^15, so nothing saturates; the stage's sums lie within 16 bits, so adding mod 2^16
 * is exact. Weights above 64, other kernels than 3 and maps that are not pooled are left to the portable kernels.
 *
 * The including file defines, beside the names of dn_kernels_lookup.h: v_pairs(x, w) (bytes times signed bytes, pairs added), v_or,
 * v_low_byte(a) and v_high_byte(a) (16-bit a & 0xff, a & 0xff00). */

enum { PAIRS = 14, THIRDS = 5 };

/* Three shuffles of each 16 bytes put 16 pixels' reds (greens, blues) in order: byte 3 p + channel to place p. */
static void split_pixels(const uint8_t *row, size_t columns, uint8_t *planes, size_t pitch) {
    uint8_t from[3][3][16];
    for (size_t channel = 0; channel < 3; channel++)
        for (size_t part = 0; part < 3; part++)
            for (size_t p = 0; p < 16; p++) {
                size_t at = 3 * p + channel;
                from[channel][part][p] = (uint8_t)(at / 16 == part ? at % 16 : 0x80);
            }
    size_t x = 0;
    for (; x + 16 <= columns; x += 16) {
        __m128i part[3];
        for (size_t i = 0; i < 3; i++) part[i] = _mm_loadu_si128((const __m128i *)(const void *)(row + 3 * x + 16 * i));
        for (size_t channel = 0; channel < 3; channel++) {
            __m128i sum = _mm_setzero_si128();
            for (size_t i = 0; i < 3; i++)
                sum = _mm_or_si128(sum, _mm_shuffle_epi8(part[i], _mm_loadu_si128((const __m128i *)(const void *)from[channel][i])));
            _mm_storeu_si128((__m128i *)(void *)(planes + channel * pitch + x), sum);
        }
    }
    for (; x < columns; x++)
        for (size_t channel = 0; channel < 3; channel++) planes[channel * pitch + x] = row[3 * x + channel];
}

typedef struct first_stage {
    size_t pitch;              /* of a plane's row */
    uint8_t *rows;             /* [4][2][3][pitch]: with a zero before, and shifted by one, so that all addresses are aligned */
    uint8_t *thirds;           /* [2 rows][2 parities][THIRDS][pitch] */
    const int8_t *weights;     /* [filters][PAIRS][LANES], two repeated */
    const int16_t *thresholds; /* [filters][count], less 1 */
    size_t count;
    uint8_t *levels;           /* [filters][HALF], and room for the odd one */
} first_stage;

static int first_covers(const dn_stage *stage) {
    return stage->in_channels == 3 && stage->stored_channels % 3 == 0 && stage->kernel == 3 && stage->pool == 2 &&
           stage->accumulator_max < INT16_MAX && stage->map_copies * ((1 << stage->weight_bits) - 1) <= 64;
}

static uint64_t first_prepared(const dn_stage *stage, const void *prepared, first_stage *w) {
    uint64_t used = 0;
    uint8_t *base = (uint8_t *)(uintptr_t)prepared;
    size_t filters = (stage->filters + (size_t)1) / 2 * 2; /* they are computed in twos */
    w->count = ((size_t)1 << stage->output_bits) - 1;
    w->weights = (const int8_t *)dn_block(base, &used, filters * PAIRS * LANES);
    w->thresholds = (const int16_t *)dn_block(base, &used, filters * w->count * sizeof(int16_t));
    return used;
}

static uint64_t first_scratch(const dn_stage *stage, size_t columns, uint8_t *scratch, first_stage *w) {
    uint64_t used = 0;
    w->pitch = (columns + LANES - 1) / LANES * LANES + LANES;
    w->rows = (uint8_t *)dn_block(scratch, &used, 4 * 2 * 3 * (uint64_t)w->pitch);
    w->thirds = (uint8_t *)dn_block(scratch, &used, 2 * 2 * THIRDS * (uint64_t)w->pitch);
    w->levels = (uint8_t *)dn_block(scratch, &used, pixel_levels_bytes(stage));
    return used;
}

static uint64_t first_prepared_bytes(const dn_stage *stage) {
    first_stage w;
    return first_prepared(stage, NULL, &w);
}

static uint64_t first_scratch_bytes(const dn_stage *stage, size_t columns) {
    first_stage w;
    return first_scratch(stage, columns, NULL, &w);
}

/* W of all copies of channel t at one place of the kernel. */
static int first_weight(const dn_stage *stage, size_t filter, size_t place, size_t t) {
    const uint8_t *planes = stage->weights + filter * stage->weight_bits * stage->plane_bytes;
    int sum = 0, zero = (1 << stage->weight_bits) - 1, times = (int)(stage->map_copies * 3u / stage->stored_channels);
    for (size_t c = t; c < stage->stored_channels; c += 3) {
        size_t i = place * stage->stored_channels + c;
        int code = 0;
        for (size_t b = 0; b < stage->weight_bits; b++) code |= (planes[b * stage->plane_bytes + i / 8] >> i % 8 & 1) << b;
        sum += 2 * code - zero;
    }
    return times * sum;
}

static void first_prepare(const dn_stage *stage, void *prepared) {
    /* row, channel and column of the weights of each pair; 3 is none */
    static const uint8_t places[PAIRS][2][3] = {
        {{0, 0, 0}, {0, 0, 1}}, {{0, 1, 0}, {0, 1, 1}}, {{0, 2, 0}, {0, 2, 1}}, {{1, 0, 0}, {1, 0, 1}}, {{1, 1, 0}, {1, 1, 1}},
        {{1, 2, 0}, {1, 2, 1}}, {{2, 0, 0}, {2, 0, 1}}, {{2, 1, 0}, {2, 1, 1}}, {{2, 2, 0}, {2, 2, 1}}, {{0, 0, 2}, {1, 0, 2}},
        {{0, 1, 2}, {1, 1, 2}}, {{0, 2, 2}, {1, 2, 2}}, {{2, 0, 2}, {2, 1, 2}}, {{2, 2, 2}, {3, 3, 3}},
    };
    first_stage w;
    memset(prepared, 0, (size_t)first_prepared(stage, prepared, &w));
    int8_t *weights = (int8_t *)(uintptr_t)w.weights;
    int16_t *thresholds = (int16_t *)(uintptr_t)w.thresholds;
    for (size_t f = 0; f < stage->filters; f++) {
        for (size_t pair = 0; pair < PAIRS; pair++, weights += LANES)
            for (size_t i = 0; i < LANES; i++) {
                const uint8_t *at = places[pair][i % 2];
                if (i >= 2)
                    weights[i] = weights[i - 2];
                else if (at[0] < 3)
                    weights[i] = (int8_t)first_weight(stage, f, at[0] * (size_t)3 + at[2], at[1]);
            }
        for (size_t i = 0; i < w.count; i++) *thresholds++ = (int16_t)(dn_threshold(stage, f, i) - 1);
    }
}

/* Plane c of row y - 1 of the map: pixel x at x + 1, or at x if shifted. */
static inline uint8_t *first_plane(const first_stage *w, size_t y, size_t shifted, size_t c) {
    return w->rows + ((y % 4 * 2 + shifted) * 3 + c) * w->pitch;
}

static void first_fill_row(const dn_conv *conv, const first_stage *w, size_t y) {
    uint8_t *plain = first_plane(w, y, 0, 0), *shifted = first_plane(w, y, 1, 0);
    memset(plain, 0, 2 * 3 * w->pitch);
    if (y < 1 || y > conv->rows) return;
    split_pixels(conv->in + (y - 1) * 3 * conv->columns, conv->columns, shifted, w->pitch);
    for (size_t c = 0; c < 3; c++) memcpy(plain + c * w->pitch + 1, shifted + c * w->pitch, conv->columns);
}

/* Pair the third places for conv row y of a pool's two: those at x + 1 of even columns x, in turn, and of odd ones. */
static void first_fill_thirds(const first_stage *w, size_t columns, size_t y) {
    for (size_t i = 0; i < THIRDS; i++) {
        const uint8_t *a = i < 3 ? first_plane(w, y, 1, i) : first_plane(w, y + 2, 1, 2 * i - 6);
        const uint8_t *b = i < 3 ? first_plane(w, y + 1, 1, i) : first_plane(w, y + 2, 1, 1); /* of no weight in the last pair */
        uint8_t *even = w->thirds + (y % 2 * 2 * THIRDS + i) * w->pitch, *odd = even + THIRDS * w->pitch;
        for (size_t x = 0; x < columns; x += LANES) {
            vec p = v_load(a + x), q = v_load(b + x), p_next = v_load(a + x + 2), q_next = v_load(b + x + 2);
            v_store(even + x, v_or(v_high(p), v_high_byte(q)));
            v_store(odd + x, v_or(v_low_byte(p_next), v_low(q_next)));
        }
    }
}

/* Where the pairs lie at column 0, for even and odd columns of the first conv row and of the second; y is the first of four rows. */
static void first_fill_places(const first_stage *w, size_t y, const uint8_t *places[PAIRS][4]) {
    for (size_t i = 0; i < 9; i++) {
        for (size_t j = 0; j < 4; j++) places[i][j] = first_plane(w, y + i / 3 + j / 2, j % 2, i % 3);
    }
    for (size_t i = 9; i < PAIRS; i++)
        for (size_t j = 0; j < 4; j++) places[i][j] = w->thirds + (j * THIRDS + i - 9) * w->pitch;
}

/* Pooled sums of filters f and f + 1 at columns x .. x + LANES - 1. */
static inline void first_sums(const first_stage *w, const uint8_t *const places[PAIRS][4], size_t f, size_t x, vec *even, vec *odd) {
    vec s[8];
    const int8_t *weights = w->weights + f * PAIRS * LANES;
    for (size_t i = 0; i < 8; i++) s[i] = v_zero();
    for (size_t pair = 0; pair < PAIRS; pair++, weights += LANES) {
        const vec w0 = v_load(weights), w1 = v_load(weights + PAIRS * LANES);
        for (size_t i = 0; i < 4; i++) {
            const vec values = v_load(places[pair][i] + x);
            s[i] = v_add16(s[i], v_pairs(values, w0));
            s[4 + i] = v_add16(s[4 + i], v_pairs(values, w1));
        }
    }
    *even = v_max16(v_max16(s[0], s[1]), v_max16(s[2], s[3]));
    *odd = v_max16(v_max16(s[4], s[5]), v_max16(s[6], s[7]));
}

static void first_conv_rows(const dn_conv *conv, size_t begin, size_t end, void *scratch) {
    const dn_stage *stage = conv->stage;
    size_t filters = stage->filters, columns = conv->columns / 2;
    first_stage w;
    first_prepared(stage, conv->prepared, &w);
    first_scratch(stage, conv->columns, (uint8_t *)scratch, &w);
    size_t made = 2 * begin;
    for (size_t y = begin; y < end; y++) {
        for (; made < 2 * y + 4; made++) first_fill_row(conv, &w, made);
        const uint8_t *places[PAIRS][4];
        first_fill_thirds(&w, conv->columns, 2 * y);
        first_fill_thirds(&w, conv->columns, 2 * y + 1);
        first_fill_places(&w, 2 * y, places);
        for (size_t x = 0; x < columns; x += HALF) {
            for (size_t f = 0; f < filters; f += 2) {
                vec even, odd;
                first_sums(&w, (const uint8_t *const(*)[4])places, f, 2 * x, &even, &odd);
                v_store_half(w.levels + f * HALF, pixel_levels(w.thresholds + f * w.count, w.count, even));
                v_store_half(w.levels + (f + 1) * HALF, pixel_levels(w.thresholds + (f + 1) * w.count, w.count, odd));
            }
            pixel_store(conv, w.levels, dn_min(HALF, columns - x), y, x);
        }
    }
}
