/* Photo -> input map: the integer resize of docs/arithmetic.md. `dupnet.image` gives the same pixels.
 *
 * The vertical pass needs few rows of the horizontal one at a time; they live in a ring, so that a large photo needs little memory. */
#include "dn_impl.h"

#include <string.h>

/* The most input positions that one output position reads: w_k > 0 in an open interval of length 2 * max(out, n) / out. */
size_t dn_resize_taps(size_t n, size_t out) { return dn_min(n, (2 * dn_max(out, n) + out - 1) / out); }

/* First input position and weights q [taps] of output position o. Weights beyond the triangle are 0. */
size_t dn_resize_fill_taps(size_t n, size_t out, size_t o, size_t taps, uint16_t *q) {
    int64_t step = 2 * (int64_t)out, reach = 2 * (int64_t)dn_max(out, n), centre = (2 * (int64_t)o + 1) * (int64_t)n;
    int64_t start = centre - reach + (int64_t)out;
    size_t first = dn_min(start > 0 ? (size_t)(start / step) : 0, n - taps);
    for (int pass = 0, total = 0; pass < 2; pass++) { /* the sum of all w first: at most 2^29 for sides up to 2^14 */
        int64_t sum = 0, before = 0;
        for (size_t i = 0; i < taps; i++) {
            int64_t distance = (2 * (int64_t)(first + i) + 1) * (int64_t)out - centre;
            int64_t w = reach - (distance < 0 ? -distance : distance);
            if (w > 0) sum += w;
            if (pass == 1) {
                int64_t after = sum * DN_ONE / total;
                q[i] = (uint16_t)(after - before);
                before = after;
            }
        }
        total = (int)sum;
    }
    return first;
}

/* The scratch memory of one call. */
typedef struct work {
    size_t across, down; /* taps of the horizontal and the vertical pass */
    uint16_t *first;     /* [columns] */
    uint16_t *q;         /* [columns][across] */
    uint16_t *q_down;    /* [down] */
    uint32_t *sums;      /* [DN_PIXEL_BYTES * columns], at most 16384 * 255 + 8192 < 2^32 */
    uint8_t *ring;       /* [down][DN_PIXEL_BYTES * columns], row y of the horizontal pass in slot y mod down */
} work;

/* Lay `w` out over `scratch`, which may be NULL; returns the bytes used. */
static uint64_t lay_out(size_t width, size_t height, size_t rows, size_t columns, uint8_t *scratch, work *w) {
    uint64_t used = 0;
    w->across = dn_resize_taps(width, columns);
    w->down = dn_resize_taps(height, rows);
    w->first = (uint16_t *)dn_block(scratch, &used, columns * (uint64_t)sizeof(uint16_t));
    w->q = (uint16_t *)dn_block(scratch, &used, columns * (uint64_t)sizeof(uint16_t) * w->across);
    w->q_down = (uint16_t *)dn_block(scratch, &used, w->down * (uint64_t)sizeof(uint16_t));
    w->sums = (uint32_t *)dn_block(scratch, &used, DN_PIXEL_BYTES * columns * (uint64_t)sizeof(uint32_t));
    w->ring = (uint8_t *)dn_block(scratch, &used, DN_PIXEL_BYTES * columns * (uint64_t)w->down);
    return used;
}

uint64_t dn_resize_scratch_bytes(size_t width, size_t height, size_t rows, size_t columns) {
    work w;
    return lay_out(width, height, rows, columns, NULL, &w);
}

void dn_resize_row(const uint8_t *row, const uint16_t *first, const uint16_t *q, size_t taps, size_t columns, uint8_t *out) {
    for (size_t x = 0; x < columns; x++, q += taps, out += DN_PIXEL_BYTES) {
        const uint8_t *p = row + DN_PIXEL_BYTES * (size_t)first[x];
        uint32_t red = DN_ONE / 2, green = DN_ONE / 2, blue = DN_ONE / 2; /* at most 16384 * 255 + 8192 */
        for (size_t i = 0; i < taps; i++, p += DN_PIXEL_BYTES) {
            red += (uint32_t)q[i] * p[0];
            green += (uint32_t)q[i] * p[1];
            blue += (uint32_t)q[i] * p[2];
        }
        out[0] = (uint8_t)(red / DN_ONE);
        out[1] = (uint8_t)(green / DN_ONE);
        out[2] = (uint8_t)(blue / DN_ONE);
    }
}

void dn_resize_rows(const dn_photo *photo, size_t rows, size_t columns, size_t first, size_t last, uint8_t *scratch, uint8_t *out,
                    size_t out_row_bytes) {
    work w;
    if (photo->width == columns && photo->height == rows) { /* both passes are the identity */
        for (size_t y = first; y < last; y++) memcpy(out + y * out_row_bytes, photo->pixels + y * photo->row_bytes, DN_PIXEL_BYTES * columns);
        return;
    }
    lay_out(photo->width, photo->height, rows, columns, scratch, &w);
    for (size_t x = 0; x < columns; x++)
        w.first[x] = (uint16_t)dn_resize_fill_taps(photo->width, columns, x, w.across, w.q + x * w.across);
    size_t made = 0, wide = DN_PIXEL_BYTES * columns; /* rows of the photo below `made` are in the ring, or no longer needed */
    for (size_t y = first; y < last; y++) {
        size_t top = dn_resize_fill_taps(photo->height, rows, y, w.down, w.q_down);
        for (made = dn_max(made, top); made < top + w.down; made++)
            dn_resize_row(photo->pixels + made * photo->row_bytes, w.first, w.q, w.across, columns, w.ring + made % w.down * wide);
        for (size_t x = 0; x < wide; x++) w.sums[x] = DN_ONE / 2;
        for (size_t i = 0; i < w.down; i++) {
            const uint8_t *row = w.ring + (top + i) % w.down * wide;
            uint32_t q = w.q_down[i];
            for (size_t x = 0; x < wide; x++) w.sums[x] += q * row[x];
        }
        for (size_t x = 0; x < wide; x++) out[y * out_row_bytes + x] = (uint8_t)(w.sums[x] / DN_ONE);
    }
}

dn_view dn_view_of(size_t width, size_t height, size_t size, size_t stride) {
    size_t longest = dn_max(width, height);
    dn_view view;
    view.scaled_width = dn_max(1, (width * size + longest / 2) / longest); /* at most 2^14 * 2^13 + 2^13 < 2^32 */
    view.scaled_height = dn_max(1, (height * size + longest / 2) / longest);
    view.columns = (view.scaled_width + stride - 1) / stride * stride;
    view.rows = (view.scaled_height + stride - 1) / stride * stride;
    return view;
}

static int is_side(size_t side) { return side >= 1 && side <= DN_MAX_PHOTO_SIDE; }

dn_status dn_resize_arena_bytes(size_t width, size_t height, size_t rows, size_t columns, size_t *bytes) {
    if (!bytes) return DN_NULL_ARGUMENT;
    if (!is_side(width) || !is_side(height) || !is_side(rows) || !is_side(columns)) return DN_BAD_PHOTO_SIZE;
    return dn_arena_size(dn_resize_scratch_bytes(width, height, rows, columns), bytes);
}

dn_status dn_resize(const dn_photo *photo, size_t rows, size_t columns, void *arena, size_t arena_bytes, uint8_t *out) {
    size_t needed;
    if (!photo || !photo->pixels || !arena || !out) return DN_NULL_ARGUMENT;
    dn_status status = dn_resize_arena_bytes(photo->width, photo->height, rows, columns, &needed);
    if (status != DN_OK) return status;
    if (photo->row_bytes < DN_PIXEL_BYTES * photo->width) return DN_BAD_PHOTO_SIZE;
    if (arena_bytes < needed) return DN_ARENA_TOO_SMALL;
    dn_resize_rows(photo, rows, columns, 0, rows, dn_arena_start(arena), out, DN_PIXEL_BYTES * columns);
    return DN_OK;
}
