/* Convolution by tables of partial sums: the algorithm, for every instruction set that can look up bytes in a register.
 *
 * A 1-bit weight adds a level or does not. So GROUP channels of one pixel can add at most 2^GROUP different sums, whatever the
 * filter: a table of bytes, made once for a pixel and read by all filters and places of the kernel. One instruction
 * looks LANES filters up in it, with GROUP bits of each filter as the index: GROUP * LANES multiply-adds.
 *
 * What is summed. With the words of dn_kernels_portable.c (g channels X after adding up copies, `times` the number of equal terms):
 *
 *     W[t] = times * sum over copies of (2 * code - zero),   zero = 2^weight_bits - 1,   code = sum over b of 2^b * bit_b
 *     sum over t of W[t] * X[t] = 2 * times * sum over b, copies of 2^b * S - times * zero * copies * sum over t of X[t]
 *
 * where S = sum over t of bit_b[t] * X[t] is what the tables give. Each pair (b, copy) is a filter of its own for the look-ups,
 * a "virtual filter"; lane v * filters + f is filter f of pair v.
 *
 * Widths. A table's bytes are at most GROUP * x_max <= 255. They are added up in bytes while no sum can pass 255, then flushed to
 * 16 bits: with bytes lo, hi side by side, mixed = sum of (lo + 256 * hi) and high = sum of hi give lo = mixed - 256 * high,
 * all mod 2^16. That is enough because the stage's sums lie within 16 bits: they are known from their remainder.
 * So lanes 2 i and 2 i + 1 of a vector of bytes become lane i of two vectors of 16 bits; the weights are laid out such
 * that these hold filters in their order.
 *
 * Few filters do not fill a vector. Then the places of the kernel become lanes as well ("spread"): each pixel's table is looked up for
 * all places at once, as a 1x1 convolution with kernel^2 times the filters would, and the sums of a place are added where they belong.
 *
 * The including file defines: LANES (bytes of a vector), GROUP, TABLE (bytes of a table), the type `vec` and
 *     v_zero() v_load(p) v_store(p, a) v_load_table(p) v_lookup(table, index) v_add8(a, b) v_add16 v_sub16 v_mul16 v_max16
 *     v_high(a)            16-bit a >> 8
 *     v_low(a)             16-bit a << 8
 *     v_all16(x)           a vector of one value
 *     v_count(n, a, t)     16-bit n + (a > t)
 *     v_store_levels(p, a, n)  the first n of LANES / 2 values of 16 bits as bytes, and no byte more
 *     fill_tables(x, stride, columns, groups, tables, pitch)   see lookup_fill_row; x may be read up to
 *                          64 bytes too far, and a table written at an even number of columns where `columns` is odd */

enum { BLOCK = 8 /* columns whose sums are in registers together */ };

/* What a stage needs, and where it is in scratch and prepared memory. */
typedef struct lookup {
    size_t channels, groups;   /* g, and tables of a pixel */
    size_t copies;             /* c' / g */
    int spread;                /* the places of the kernel are lanes as well */
    size_t vectors, lanes;     /* of weight_bits * copies * filters (* kernel^2 if spread), rounded up */
    size_t cost;               /* look-ups of vectors a pixel */
    size_t x_max;
    size_t count;              /* thresholds of a filter */
    size_t chunks;             /* of HALF filters */
    int fold;                  /* both halves of a vector are copies of the same filters */
    size_t sums_pitch;         /* 16-bit sums of one column */
    size_t pairs;              /* of a bit and a copy whose sums make a filter's */
    size_t ring;               /* rows of tables that are kept */
    size_t pitch;              /* tables of one group in a row: columns rounded up to BLOCK, and the border */
    uint16_t times2, zeros;    /* 2 * times; times * zero * copies */
    uint8_t *tables;           /* [ring][groups][pitch][TABLE] */
    uint8_t *x;                /* [columns][channels] of one row, only where copies are added up */
    const uint8_t **places;    /* where the look-ups of a row find their tables */
    uint16_t *spread_sums;     /* [ring][pitch][lanes], of each pixel with zeros around, if spread */
    uint16_t *totals;          /* [ring][pitch], sum of X over the channels of each pixel */
    uint16_t *window;          /* [pool][pitch], times * zero * copies * sum of X under the kernel */
    uint16_t *sums;            /* [pool][BLOCK][sums_pitch] */
    uint8_t *line;             /* [columns / pool][filters], the output row as bytes: in the map, or made codes of later */
    const uint8_t *weights;    /* [vectors][kernel][groups][kernel][LANES], GROUP bits each; [vectors][groups][LANES] if spread */
    const int16_t *thresholds; /* [chunks][count][HALF], less 1 */
} lookup;

/* Whether these kernels can compute the stage: 16-bit sums, tables of bytes. */
static int lookup_covers(const dn_stage *stage) {
    size_t g = dn_gcd(stage->in_channels, stage->stored_channels);
    return stage->accumulator_max < INT16_MAX && GROUP * (stage->in_channels / g) * (((size_t)1 << stage->input_bits) - 1) <= 255;
}

static void lookup_shape(const dn_stage *stage, lookup *w) {
    w->channels = dn_gcd(stage->in_channels, stage->stored_channels);
    w->groups = (w->channels + GROUP - 1) / GROUP;
    w->copies = stage->stored_channels / w->channels;
    size_t lanes = stage->weight_bits * w->copies * stage->filters, places = (size_t)stage->kernel * stage->kernel;
    size_t vectors = (lanes + LANES - 1) / LANES, spread = (places * lanes + LANES - 1) / LANES;
    w->spread = stage->pool == 1 && 5 * spread < 4 * places * vectors;
    w->vectors = w->spread ? spread : vectors;
    w->cost = w->groups * (w->spread ? spread : places * vectors);
    w->lanes = w->vectors * LANES;
    w->x_max = stage->in_channels / w->channels * (((size_t)1 << stage->input_bits) - 1);
    w->count = ((size_t)1 << stage->output_bits) - 1;
    w->chunks = ((size_t)stage->filters + HALF - 1) / HALF;
    w->fold = !w->spread && stage->weight_bits == 1 && HALF % stage->filters == 0;
    w->sums_pitch = w->fold ? w->lanes / 2 : w->lanes;
    w->pairs = w->fold ? w->sums_pitch / stage->filters : stage->weight_bits * w->copies;
    w->ring = (size_t)stage->kernel + stage->pool - 1;
    size_t times = stage->map_copies * w->channels / stage->stored_channels, zero = ((size_t)1 << stage->weight_bits) - 1;
    w->times2 = (uint16_t)(2 * times);
    w->zeros = (uint16_t)(times * zero * w->copies);
}

static size_t lookup_cost(const dn_stage *stage) {
    lookup w;
    lookup_shape(stage, &w);
    return w.cost;
}

/* Bytes of the weights of one vector. */
static size_t lookup_vector_bytes(const dn_stage *stage, const lookup *w) {
    return w->groups * LANES * (w->spread ? 1 : (size_t)stage->kernel * stage->kernel);
}

static uint64_t lookup_prepared(const dn_stage *stage, const void *prepared, lookup *w) {
    uint64_t used = 0;
    uint8_t *base = (uint8_t *)(uintptr_t)prepared;
    w->weights = (const uint8_t *)dn_block(base, &used, (uint64_t)w->vectors * lookup_vector_bytes(stage, w));
    w->thresholds = (const int16_t *)dn_block(base, &used, (uint64_t)w->chunks * w->count * HALF * sizeof(int16_t));
    return used;
}

static uint64_t lookup_scratch(const dn_stage *stage, size_t columns, uint8_t *scratch, lookup *w) {
    uint64_t used = 0;
    w->pitch = (columns + BLOCK - 1) / BLOCK * BLOCK + stage->kernel - 1;
    w->tables = (uint8_t *)dn_block(scratch, &used, (w->spread ? 1 : (uint64_t)w->ring) * w->groups * w->pitch * TABLE);
    w->spread_sums = (uint16_t *)dn_block(scratch, &used, w->spread ? (w->ring * (uint64_t)w->pitch * w->lanes + LANES) * sizeof(uint16_t) : 0);
    w->x = (uint8_t *)dn_block(scratch, &used, (uint64_t)columns * w->channels + DN_SLACK);
    w->places = (const uint8_t **)dn_block(scratch, &used, (uint64_t)stage->kernel * stage->kernel * w->groups * sizeof(uint8_t *));
    w->totals = (uint16_t *)dn_block(scratch, &used, (uint64_t)w->ring * w->pitch * sizeof(uint16_t));
    w->window = (uint16_t *)dn_block(scratch, &used, (uint64_t)stage->pool * w->pitch * sizeof(uint16_t));
    w->sums = (uint16_t *)dn_block(scratch, &used, ((uint64_t)stage->pool * BLOCK * w->sums_pitch + LANES) * sizeof(uint16_t));
    w->line = (uint8_t *)dn_block(scratch, &used, (uint64_t)columns / stage->pool * stage->filters);
    return used;
}

/* `count` bits of a plane from bit `at` on, at most 8. */
static unsigned lookup_bits(const uint8_t *plane, size_t at, size_t count) {
    unsigned bits = (unsigned)plane[at / 8] >> at % 8;
    if (at % 8 + count > 8) bits |= (unsigned)plane[at / 8 + 1] << (8 - at % 8);
    return bits & ((1u << count) - 1);
}

static void lookup_prepare(const dn_stage *stage, void *prepared) {
    lookup w;
    lookup_shape(stage, &w);
    lookup_prepared(stage, prepared, &w);
    size_t kernel = stage->kernel, filters = stage->filters, pairs = stage->weight_bits * w.copies, bytes = lookup_vector_bytes(stage, &w);
    uint8_t *weights = (uint8_t *)(uintptr_t)w.weights;
    memset(weights, 0, w.vectors * bytes);
    for (size_t place = 0; place < kernel * kernel; place++)
        for (size_t v = 0; v < pairs; v++)
            for (size_t f = 0; f < filters; f++) {
                const uint8_t *plane = stage->weights + (f * stage->weight_bits + v / w.copies) * stage->plane_bytes;
                size_t lane = ((w.spread ? place * pairs : 0) + v) * filters + f, half = lane % LANES;
                uint8_t *out = weights + lane / LANES * bytes + 2 * (half % HALF) + half / HALF;
                for (size_t group = 0; group < w.groups; group++) {
                    size_t t = group * GROUP, at = place * stage->stored_channels + v % w.copies * w.channels + t;
                    size_t step = w.spread ? group : (place / kernel * w.groups + group) * kernel + place % kernel;
                    out[step * LANES] = (uint8_t)lookup_bits(plane, at, dn_min(GROUP, w.channels - t));
                }
            }
    int16_t *thresholds = (int16_t *)(uintptr_t)w.thresholds;
    for (size_t f = 0; f < w.chunks * HALF; f++)
        for (size_t i = 0; i < w.count; i++)
            thresholds[(f / HALF * w.count + i) * HALF + f % HALF] = (int16_t)(f < filters ? dn_threshold(stage, f, i) - 1 : 0);
}

/* Tables and totals of one row of the map, into a slot of the ring (there is one row of tables if spread); `row` is NULL above and below the map, where zeros stand.
 * Byte e of the table at [group][border + column] is the sum of the X of those channels whose bit is set in e. */
static DN_NOINLINE void lookup_fill_row(const dn_conv *conv, const lookup *w, const uint8_t *row, size_t slot) {
    size_t c = conv->stage->in_channels, g = w->channels, columns = conv->columns, border = conv->stage->kernel / 2;
    uint8_t *tables = w->tables + (w->spread ? 0 : slot) * w->groups * w->pitch * TABLE;
    uint16_t *totals = w->totals + slot * w->pitch;
    memset(totals, 0, w->pitch * sizeof *totals);
    if (!row) {
        memset(tables, 0, w->groups * w->pitch * TABLE);
        return;
    }
    if (c != g) {
        for (size_t u = 0; u < columns; u++) {
            const uint8_t *from = row + u * c;
            uint8_t *DN_RESTRICT to = w->x + u * g;
            memcpy(to, from, g);
            for (size_t i = g; i < c; i += g)
                for (size_t t = 0; t < g; t++) to[t] = (uint8_t)(to[t] + from[i + t]);
        }
        row = w->x;
    }
    for (size_t u = 0; u < columns; u++) {
        const uint8_t *x = row + u * g;
        size_t total = 0, t = 0;
        for (; t + 8 <= g; t += 8) { /* eight bytes at a time: pairs, then the sum of four pairs in the top 16 bits */
            uint64_t eight, pairs;
            memcpy(&eight, x + t, 8);
            pairs = (eight & 0x00ff00ff00ff00ffu) + (eight >> 8 & 0x00ff00ff00ff00ffu);
            total += (size_t)(pairs * 0x0001000100010001u >> 48);
        }
        for (; t < g; t++) total += x[t];
        totals[border + u] = (uint16_t)total;
    }
    fill_tables(row, g, columns, w->groups, tables + border * TABLE, w->pitch);
    for (size_t group = 0; group < w->groups; group++) {
        uint8_t *line = tables + group * w->pitch * TABLE;
        memset(line, 0, border * TABLE);
        memset(line + (border + columns) * TABLE, 0, (w->pitch - border - columns) * TABLE);
    }
}

/* What the weights' zero point adds to each sum of conv row i of the pool: X under the kernel. `first` is the slot of its first row. */
static DN_NOINLINE void lookup_fill_window(const dn_stage *stage, const lookup *w, size_t columns, size_t first, uint16_t *DN_RESTRICT window) {
    size_t kernel = stage->kernel;
    memset(window, 0, w->pitch * sizeof *window);
    for (size_t i = 0; i < kernel; i++)
        for (size_t j = 0; j < kernel; j++) {
            const uint16_t *totals = w->totals + (first + i) % w->ring * w->pitch + j;
            for (size_t x = 0; x < columns; x++) window[x] = (uint16_t)(window[x] + totals[x]);
        }
    for (size_t x = 0; x < columns; x++) window[x] = (uint16_t)((unsigned)w->zeros * window[x]);
}

#define EACH_COLUMN(do) do(0) do(1) do(2) do(3) do(4) do(5) do(6) do(7)
#define CLEAR(p) sum[p] = mixed[p] = high[p] = v_zero();
#define FLUSH(p)                                \
    mixed[p] = v_add16(mixed[p], sum[p]);       \
    high[p] = v_add16(high[p], v_high(sum[p])); \
    sum[p] = v_zero();
#define STORE(p)                                                              \
    {                                                                         \
        vec even = v_sub16(mixed[p], v_low(high[p]));                         \
        if (w->fold) {                                                        \
            v_store(out + (p) * w->sums_pitch, v_add16(even, high[p]));       \
        } else {                                                              \
            v_store(out + (p) * w->sums_pitch, even);                         \
            v_store(out + (p) * w->sums_pitch + HALF, high[p]);               \
        }                                                                     \
    }
#define ADD(p, u, j)                                          \
    sum[p] = v_add8(sum[p], v_lookup(table##u, index##j));    \
    V_KEEP(sum[p]);

/* Sums of LANES virtual filters at BLOCK columns, 3x3: `places` [3 * groups] are the tables at the first column's left neighbour
 * in the row `x` = 0; `steps` of them can be added in bytes. */
static DN_NOINLINE void lookup_sums_3(const lookup *w, size_t x, const uint8_t *weights, size_t steps, uint16_t *out) {
    vec sum[BLOCK], mixed[BLOCK], high[BLOCK];
    const uint8_t *const *place = w->places, *const *last = place + 3 * w->groups;
    EACH_COLUMN(CLEAR)
    while (place < last) {
        const uint8_t *const *flush = place + dn_min(steps, (size_t)(last - place));
        for (; place < flush; place++, weights += 3 * LANES) {
            const uint8_t *at = *place + x * TABLE;
            const vec index0 = v_load(weights), index1 = v_load(weights + LANES), index2 = v_load(weights + 2 * LANES);
#define TABLE_AT(u) const vec table##u = v_load_table(at + (u) * TABLE);
            { TABLE_AT(0) ADD(0, 0, 0) }
            { TABLE_AT(1) ADD(1, 1, 0) ADD(0, 1, 1) }
            { TABLE_AT(2) ADD(2, 2, 0) ADD(1, 2, 1) ADD(0, 2, 2) }
            { TABLE_AT(3) ADD(3, 3, 0) ADD(2, 3, 1) ADD(1, 3, 2) }
            { TABLE_AT(4) ADD(4, 4, 0) ADD(3, 4, 1) ADD(2, 4, 2) }
            { TABLE_AT(5) ADD(5, 5, 0) ADD(4, 5, 1) ADD(3, 5, 2) }
            { TABLE_AT(6) ADD(6, 6, 0) ADD(5, 6, 1) ADD(4, 6, 2) }
            { TABLE_AT(7) ADD(7, 7, 0) ADD(6, 7, 1) ADD(5, 7, 2) }
            { TABLE_AT(8) ADD(7, 8, 1) ADD(6, 8, 2) }
            { TABLE_AT(9) ADD(7, 9, 2) }
#undef TABLE_AT
        }
        EACH_COLUMN(FLUSH)
    }
    EACH_COLUMN(STORE)
}

/* The same for any kernel: `places` [kernel * groups * kernel], one for each look-up. */
static DN_NOINLINE void lookup_sums_any(const lookup *w, size_t x, const uint8_t *weights, size_t count, size_t steps, uint16_t *out) {
    vec sum[BLOCK], mixed[BLOCK], high[BLOCK];
    const uint8_t *const *place = w->places, *const *last = place + count;
    EACH_COLUMN(CLEAR)
    while (place < last) {
        const uint8_t *const *flush = place + dn_min(steps, (size_t)(last - place));
        for (; place < flush; place++, weights += LANES) {
            const uint8_t *at = *place + x * TABLE;
            const vec index = v_load(weights);
#define ADD_ANY(p)                                                                    \
    sum[p] = v_add8(sum[p], v_lookup(v_load_table(at + (p) * TABLE), index));         \
    V_KEEP(sum[p]);
            EACH_COLUMN(ADD_ANY)
#undef ADD_ANY
        }
        EACH_COLUMN(FLUSH)
    }
    EACH_COLUMN(STORE)
}

/* The places of conv row y, counted from the border above the map; `across` is 1 (each row of a kernel is one) or the kernel's size. */
static void lookup_fill_places(const lookup *w, size_t kernel, size_t y, size_t across) {
    const uint8_t **place = w->places;
    for (size_t i = 0; i < kernel; i++)
        for (size_t group = 0; group < w->groups; group++)
            for (size_t j = 0; j < across; j++) *place++ = w->tables + (((y + i) % w->ring * w->groups + group) * w->pitch + j) * TABLE;
}

/* A stage's sums of HALF filters from f on, at one column. One pair of bit and copy is the usual case. */
static inline vec lookup_result(const dn_stage *stage, const lookup *w, const uint16_t *sums, size_t f, uint16_t window) {
    vec sum = v_zero();
    if (w->pairs == 1) {
        sum = v_load(sums + f);
    } else {
        size_t copies = w->pairs / stage->weight_bits, step = stage->filters;
        const uint16_t *at = sums + f + w->pairs * step;
        for (size_t b = 0; b < stage->weight_bits; b++) {
            sum = v_add16(sum, sum);
            for (size_t i = 0; i < copies; i++) {
                at -= step;
                sum = v_add16(sum, v_load(at));
            }
        }
    }
    sum = w->times2 == 2 ? v_add16(sum, sum) : v_mul16(sum, v_all16(w->times2));
    return v_sub16(sum, v_all16(window));
}

/* Pool: the sums of HALF filters from f on, at column p of the block (and its neighbours). */
static inline vec lookup_pool(const dn_stage *stage, const lookup *w, size_t p, size_t f, const uint16_t *window) {
    const uint16_t *sums = w->sums + p * w->sums_pitch, *below = sums + BLOCK * w->sums_pitch;
    vec sum = lookup_result(stage, w, sums, f, window[p]);
    if (stage->pool == 1) return sum;
    vec right = lookup_result(stage, w, sums + w->sums_pitch, f, window[p + 1]);
    vec down = lookup_result(stage, w, below, f, window[w->pitch + p]);
    vec across = lookup_result(stage, w, below + w->sums_pitch, f, window[w->pitch + p + 1]);
    return v_max16(v_max16(sum, right), v_max16(down, across));
}

/* Pool, thresholds and store: `valid` columns of the sums, output row y from output column x on. */
static DN_NOINLINE void lookup_finish(const dn_conv *conv, const lookup *w, size_t valid, size_t y, size_t x) {
    const dn_stage *stage = conv->stage;
    size_t pool = stage->pool, rows = conv->rows / pool, columns = conv->columns / pool, filters = stage->filters;
    const uint16_t *window = w->window + x * pool;
    for (size_t chunk = 0; chunk < w->chunks; chunk++) {
        size_t f = chunk * HALF, some = dn_min(HALF, filters - f);
        const int16_t *t = w->thresholds + chunk * w->count * HALF;
        uint8_t *line = w->line + x * filters + f;
        if (!stage->output_bits) {
            int16_t values[BLOCK][HALF];
            for (size_t p = 0; p < valid; p++) v_store(values[p], lookup_pool(stage, w, p, f, window));
            for (size_t i = 0; i < some; i++)
                for (size_t p = 0; p < valid; p++) ((int32_t *)conv->out)[((f + i) * rows + y) * columns + x + p] = values[p][i];
        } else if (w->count == 3) { /* 2 bits: the usual case */
            const vec t0 = v_load(t), t1 = v_load(t + HALF), t2 = v_load(t + 2 * HALF);
            for (size_t p = 0; p < valid; p += pool, line += filters) {
                vec sum = lookup_pool(stage, w, p, f, window);
                v_store_levels(line, v_count(v_count(v_count(v_zero(), sum, t0), sum, t1), sum, t2), some);
            }
        } else {
            for (size_t p = 0; p < valid; p += pool, line += filters) {
                vec sum = lookup_pool(stage, w, p, f, window), level = v_zero();
                for (size_t i = 0; i < w->count; i++) level = v_count(level, sum, v_load(t + i * HALF));
                v_store_levels(line, level, some);
            }
        }
    }
}

/* A row of bytes into the map as codes; no shape that matters needs it to be fast. */
static void lookup_store_codes(const dn_conv *conv, const uint8_t *line, size_t y) {
    size_t bits = conv->stage->output_bits, filters = conv->stage->filters, columns = conv->columns / conv->stage->pool;
    size_t together = dn_code_channels(bits, conv->out_layout), codes = (filters + together - 1) / together;
    uint8_t *out = (uint8_t *)conv->out + y * codes * columns;
    memset(out, 0, codes * columns);
    for (size_t x = 0; x < columns; x++)
        for (size_t f = 0; f < filters; f++) {
            uint8_t *code = out + f / together * columns + x;
            *code = (uint8_t)(*code | line[x * filters + f] << f % together * bits);
        }
}

static uint64_t lookup_scratch_bytes(const dn_stage *stage, size_t columns) {
    lookup w;
    lookup_shape(stage, &w);
    return lookup_scratch(stage, columns, NULL, &w);
}

static uint64_t lookup_prepared_bytes(const dn_stage *stage) {
    lookup w;
    lookup_shape(stage, &w);
    return lookup_prepared(stage, NULL, &w);
}

/* Sums of all places of the kernel at each pixel of a row, into a slot of the ring. */
static void lookup_spread_row(const dn_conv *conv, const lookup *w, int is_outside, size_t steps, size_t slot) {
    size_t border = conv->stage->kernel / 2, columns = conv->columns, bytes = lookup_vector_bytes(conv->stage, w);
    uint16_t *sums = w->spread_sums + slot * w->pitch * w->lanes;
    if (is_outside) {
        memset(sums, 0, w->pitch * w->lanes * sizeof *sums);
        return;
    }
    memset(sums, 0, border * w->lanes * sizeof *sums);
    memset(sums + (border + columns) * w->lanes, 0, (w->pitch - border - columns) * w->lanes * sizeof *sums);
    for (size_t group = 0; group < w->groups; group++) w->places[group] = w->tables + (group * w->pitch + border) * TABLE;
    for (size_t x = 0; x < columns; x += BLOCK)
        for (size_t i = 0; i < w->vectors; i++)
            lookup_sums_any(w, x, w->weights + i * bytes, w->groups, steps, sums + (border + x) * w->lanes + i * LANES);
}

/* Add up the places' sums of one block of output row y. */
static void lookup_gather(const dn_stage *stage, const lookup *w, size_t y, size_t x, size_t valid) {
    size_t kernel = stage->kernel, step = w->pairs * stage->filters;
    for (size_t p = 0; p < valid; p++)
        for (size_t f = 0; f < step; f += HALF) {
            vec sum = v_zero();
            for (size_t i = 0; i < kernel; i++) {
                const uint16_t *at = w->spread_sums + ((y + i) % w->ring * w->pitch + x + p) * w->lanes + i * kernel * step + f;
                for (size_t j = 0; j < kernel; j++, at += w->lanes + step) sum = v_add16(sum, v_load(at));
            }
            v_store(w->sums + p * w->sums_pitch + f, sum);
        }
}

static void lookup_conv_rows(const dn_conv *conv, size_t first, size_t last, void *scratch) {
    const dn_stage *stage = conv->stage;
    size_t kernel = stage->kernel, border = kernel / 2, pool = stage->pool, columns = conv->columns;
    lookup w;
    lookup_shape(stage, &w);
    lookup_prepared(stage, conv->prepared, &w);
    lookup_scratch(stage, columns, (uint8_t *)scratch, &w);
    size_t steps = 255 / (GROUP * w.x_max), is_3 = kernel == 3 && steps >= 3, bytes = lookup_vector_bytes(stage, &w);
    int codes = stage->output_bits && conv->out_layout != DN_BYTES;
    size_t made = first * pool; /* rows, counted from the border above the map */
    for (size_t y = first; y < last; y++) {
        for (; made < y * pool + w.ring; made++) {
            int is_outside = made < border || made - border >= conv->rows;
            lookup_fill_row(conv, &w, is_outside ? NULL : conv->in + (made - border) * columns * stage->in_channels, made % w.ring);
            if (w.spread) lookup_spread_row(conv, &w, is_outside, steps, made % w.ring);
        }
        if (!codes) w.line = (uint8_t *)conv->out + y * (columns / pool) * stage->filters;
        for (size_t i = 0; i < pool; i++) lookup_fill_window(stage, &w, columns, y * pool + i, w.window + i * w.pitch);
        for (size_t x = 0; x < columns; x += BLOCK) {
            size_t valid = dn_min(BLOCK, columns - x);
            if (w.spread) lookup_gather(stage, &w, y, x, valid);
            for (size_t i = 0; i < pool && !w.spread; i++) {
                lookup_fill_places(&w, kernel, y * pool + i, is_3 ? 1 : kernel);
                for (size_t v = 0; v < w.vectors; v++) {
                    uint16_t *out = w.sums + i * BLOCK * w.sums_pitch + v * (w.sums_pitch / w.vectors);
                    if (is_3)
                        lookup_sums_3(&w, x, w.weights + v * bytes, steps / 3, out);
                    else
                        lookup_sums_any(&w, x, w.weights + v * bytes, kernel * kernel * w.groups, steps, out);
                }
            }
            lookup_finish(conv, &w, valid, y, x / pool);
        }
        if (codes) lookup_store_codes(conv, w.line, y);
    }
}

#undef CLEAR
#undef FLUSH
#undef STORE
#undef ADD
