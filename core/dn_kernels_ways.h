/* The functions of an x86 kernel set's table, for every vector width: which way each stage goes, and the loops that measure the peak.
 * NEON has its own. Included last, after dn_kernels_first.h, dn_kernels_pixels.h, dn_kernels_lookup.h. */

/* Four ways to compute a stage, by its shape alone: */
typedef enum way { FIRST, PIXELS, LOOKUP, PORTABLE } way;

static way way_of(const dn_stage *stage) {
    if (stage->is_general) return PORTABLE;
    if (first_covers(stage)) return FIRST;
    if (pixels_cover(stage) && !(lookup_covers(stage) && lookup_cost(stage) < pixels_cost(stage))) return PIXELS;
    return lookup_covers(stage) ? LOOKUP : PORTABLE;
}

static dn_layout layout(const dn_stage *stage) {
    if (way_of(stage + 1) != PIXELS) return DN_BYTES;
    return TABLE == 16 ? DN_CODES4 : DN_CODES6;
}

static uint64_t prepared_bytes(const dn_stage *stage) {
    switch (way_of(stage)) {
        case FIRST: return first_prepared_bytes(stage);
        case PIXELS: return pixels_prepared_bytes(stage);
        case LOOKUP: return lookup_prepared_bytes(stage);
        case PORTABLE: break;
    }
    return dn_kernels_portable.prepared_bytes(stage);
}

static void prepare(const dn_stage *stage, void *prepared) {
    switch (way_of(stage)) {
        case FIRST: first_prepare(stage, prepared); break;
        case PIXELS: pixels_prepare(stage, prepared); break;
        case LOOKUP: lookup_prepare(stage, prepared); break;
        case PORTABLE: dn_kernels_portable.prepare(stage, prepared); break;
    }
}

static uint64_t scratch_bytes(const dn_stage *stage, size_t columns) {
    switch (way_of(stage)) {
        case FIRST: return first_scratch_bytes(stage, columns);
        case PIXELS: return pixels_scratch_bytes(stage, columns);
        case LOOKUP: return lookup_scratch_bytes(stage, columns);
        case PORTABLE: break;
    }
    return dn_kernels_portable.scratch_bytes(stage, columns);
}

static void conv_rows(const dn_conv *conv, size_t first, size_t last, void *scratch) {
    switch (way_of(conv->stage)) {
        case FIRST: first_conv_rows(conv, first, last, scratch); break;
        case PIXELS: pixels_conv_rows(conv, first, last, scratch); break;
        case LOOKUP: lookup_conv_rows(conv, first, last, scratch); break;
        case PORTABLE: dn_kernels_portable.conv_rows(conv, first, last, scratch); break;
    }
}

static const char *describe(const dn_stage *stage, uint64_t *vectors) {
    size_t g = dn_gcd(stage->in_channels, stage->stored_channels), taps = (size_t)stage->kernel * stage->kernel;
    size_t virtual_filters = stage->weight_bits * (stage->stored_channels / g) * stage->filters;
    switch (way_of(stage)) {
        case FIRST: *vectors = (uint64_t)1024 * 27 * stage->filters / LANES; return "pairs";
        case PIXELS: *vectors = (uint64_t)1024 * taps * stage->in_channels * stage->filters / ((uint64_t)LANES * (CODE_BITS / (unsigned)stage->input_bits)); return "pixels";
        case LOOKUP: *vectors = (uint64_t)1024 * taps * g * virtual_filters / (LANES * GROUP); return "lookup";
        case PORTABLE: break;
    }
    return dn_kernels_portable.describe(stage, vectors);
}

#define SPIN(p)                             \
    V_KEEP(table);                          \
    V_KEEP(index);                          \
    sum[p] = v_add8(sum[p], v_lookup(table, index));
#define SPIN_PAIRS(p)                       \
    V_KEEP(table);                          \
    V_KEEP(index);                          \
    sum[p] = v_add16(sum[p], v_pairs(table, index));
#define SPIN_START(p) sum[p] = v_zero();
#define SPUN(p) table = v_add8(table, sum[p]);

static DN_NOINLINE void spin(const char *name, uint64_t vectors, void *result) {
    vec sum[BLOCK], table = v_all16(0), index = v_all16(0);
    EACH_COLUMN(SPIN_START)
    if (name[1] == 'a') /* pairs */
        for (uint64_t i = 0; i < vectors; i += BLOCK) { EACH_COLUMN(SPIN_PAIRS) }
    else
        for (uint64_t i = 0; i < vectors; i += BLOCK) { EACH_COLUMN(SPIN) }
    EACH_COLUMN(SPUN)
    v_store(result, table);
}
