/* One row of one stage, from the few rows of its input map that a ring holds. The kernel of row streaming: small memory first.
 *
 * The weights are read where they are in the file, bit by bit. What they meet at one place of the map, the window, is brought into
 * their order. Stored channel b of a place meets every channel j = b mod c' of the duplicated map, and that is j mod c of the map,
 * so with r weight copies
 *
 *     Y[b] = sum over i < r of x[(b + i * c') mod c]          0 .. r * (2^input_bits - 1), at most 64 * 255: 14 bits.
 *
 * This is both shortcuts in one line: map copies (r = 1) repeat the pixel, weight copies add its blocks up. A weight of code q is
 * 2q - (2^bits - 1), hence, with the bit planes q_k and Y_p,
 *
 *     sum = 2 * (sum over k, p of 2^(k + p) * |q_k AND Y_p|) - (2^bits - 1) * (sum of all Y).
 *
 * The last term is the same for all filters. Half-way the numbers may leave 31 bits; they are kept mod 2^32, which the result,
 * within plus and minus accumulator_max < 2^31, survives. Before this file: dn_stream.c. The same integers: the kernels. */
#include "dn_impl.h"

#include <string.h>

enum { PLAIN_CHANNELS = 3, MAX_PLANES = 14, MAX_KERNEL = 7 };

/* Y at one place, bit planes in the order of a filter's weights. */
typedef struct window {
    uint8_t *bits;        /* [planes][pitch] */
    size_t planes, pitch; /* an even number of planes of whole 32-bit words; what is too much is 0 */
    int aligned;          /* the channels of a pixel are whole bytes, in the map and in the weights */
} window;

static window window_of(const dn_stage *stage, uint8_t *bits, int plain) {
    unsigned most = stage->weight_copies * ((1u << stage->input_bits) - 1);
    window w = {bits, 0, (stage->plane_bytes + 3) / 4 * 4, 0};
    while (most >> w.planes) w.planes++;
    w.planes += w.planes % 2;
    w.aligned = !plain && stage->in_channels % 8 == 0 && stage->stored_channels % 8 == 0;
    return w;
}

static size_t level_bytes(const dn_stage *stage) { return 8 * dn_bytes(stage->filters); }

uint64_t dn_row_scratch_bytes(const dn_stage *stage) {
    window w = window_of(stage, NULL, 0);
    return (uint64_t)w.planes * w.pitch + level_bytes(stage);
}

/* Byte i, bit j to byte j, bit i: eight numbers to eight planes, or back. The bytes in little-endian order. */
static uint64_t transpose(uint64_t x) {
    uint64_t t = (x ^ x >> 7) & UINT64_C(0x00aa00aa00aa00aa);
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & UINT64_C(0x0000cccc0000cccc);
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & UINT64_C(0x00000000f0f0f0f0);
    return x ^ t ^ t << 28;
}

static uint64_t load_bytes(const uint8_t *bytes) { return dn_load_u32(bytes) | (uint64_t)dn_load_u32(bytes + 4) << 32; }

/* Row y of the input map; NULL above and below it. `y` may have wrapped around below 0. */
static const uint8_t *row_of(const dn_ring *ring, size_t kernel, size_t y) {
    return y < ring->rows ? ring->slots + y % kernel * ring->row_bytes : NULL;
}

/* Y of one pixel, whole bytes of each plane: bit-sliced addition of the blocks. */
static void add_blocks(const dn_stage *stage, const uint8_t *pixel, const window *w, uint8_t *out) {
    size_t from = stage->in_channels / 8u, to = stage->stored_channels / 8u;
    for (size_t b = 0; b < to; b++) {
        unsigned sum[MAX_PLANES] = {0};
        size_t block = b % from;
        for (size_t i = 0; i < stage->weight_copies; i++, block = (block + to) % from) {
            unsigned carry = 0;
            for (size_t p = 0; p < w->planes; p++) {
                unsigned bits = p < stage->input_bits ? pixel[p * from + block] : 0, either = sum[p] ^ bits;
                unsigned next = (sum[p] & bits) | (either & carry);
                sum[p] = either ^ carry;
                carry = next;
            }
        }
        for (size_t p = 0; p < w->planes; p++) out[p * w->pitch + b] = (uint8_t)sum[p];
    }
}

/* The window of column x, of whole bytes. All but its last column was in the window of column x - 1. */
static void slide_window(const dn_stage *stage, const dn_ring *ring, size_t y, size_t x, const window *w) {
    size_t kernel = stage->kernel, border = kernel / 2, known = x ? kernel - 1 : 0;
    size_t from = stage->in_channels / 8u, to = stage->stored_channels / 8u, pixel_bytes = from * stage->input_bits;
    for (size_t i = 0; i < kernel; i++) {
        const uint8_t *row = row_of(ring, kernel, y + i - border);
        uint8_t *places = w->bits + i * kernel * to;
        for (size_t p = 0; p < w->planes && known; p++) memmove(places + p * w->pitch, places + p * w->pitch + to, known * to);
        for (size_t j = known; j < kernel; j++) {
            size_t column = x + j - border; /* left of the map it wraps around and is large */
            const uint8_t *pixel = row && column < ring->columns ? row + column * pixel_bytes : NULL;
            uint8_t *out = places + j * to;
            if (pixel && stage->weight_copies > 1) {
                add_blocks(stage, pixel, w, out);
                continue;
            }
            for (size_t p = 0; p < stage->input_bits; p++, out += w->pitch)
                if (pixel)
                    for (size_t c = 0; c < to; c += from) memcpy(out + c, pixel + p * from, from);
                else
                    memset(out, 0, to);
            for (size_t p = stage->input_bits; p < w->planes; p++, out += w->pitch) memset(out, 0, to);
        }
    }
}

/* Eight numbers of 16 bits, their low and high bytes, into byte `at` of each plane. */
static void put_numbers(const window *w, size_t at, const uint8_t *low, const uint8_t *high) {
    uint64_t planes = transpose(load_bytes(low));
    uint8_t *out = w->bits + at;
    for (size_t p = 0; p < w->planes; p++, out += w->pitch, planes >>= 8) {
        if (p == 8) planes = transpose(load_bytes(high));
        *out = (uint8_t)planes;
    }
}

/* The window of column x where channels are no whole bytes: number by number. */
static void fill_window(const dn_stage *stage, const dn_ring *ring, int plain, size_t y, size_t x, const window *w) {
    size_t kernel = stage->kernel, border = kernel / 2, channels = stage->in_channels, stored = stage->stored_channels;
    size_t plane = plain ? 0 : dn_bytes(channels), pixel_bytes = plain ? channels : plane * stage->input_bits, at = 0;
    uint8_t low[8] = {0}, high[8] = {0};
    for (size_t place = 0; place < kernel * kernel; place++) {
        const uint8_t *row = row_of(ring, kernel, y + place / kernel - border);
        size_t column = x + place % kernel - border;
        const uint8_t *pixel = row && column < ring->columns ? row + column * pixel_bytes : NULL;
        for (size_t b = 0; b < stored; b++) {
            unsigned number = 0;
            size_t c = b % channels;
            for (size_t i = 0; pixel && i < stage->weight_copies; i++, c = (c + stored) % channels)
                if (plain)
                    number += pixel[c];
                else
                    for (size_t p = 0; p < stage->input_bits; p++) number += ((unsigned)pixel[p * plane + c / 8] >> c % 8 & 1u) << p;
            low[at % 8] = (uint8_t)number;
            high[at % 8] = (uint8_t)(number >> 8);
            if (++at % 8 == 0) put_numbers(w, at / 8 - 1, low, high);
        }
    }
    if (at % 8 == 0) return;
    memset(low + at % 8, 0, 8 - at % 8);
    memset(high + at % 8, 0, 8 - at % 8);
    put_numbers(w, at / 8, low, high);
}

/* The same for the first stage without copies: each row of the window is a run of bytes. */
static void fill_plain_window(const dn_stage *stage, const dn_ring *ring, size_t y, size_t x, const window *w) {
    uint8_t numbers[(MAX_KERNEL * MAX_KERNEL * PLAIN_CHANNELS + 7) / 8 * 8] = {0};
    size_t kernel = stage->kernel, border = kernel / 2;
    size_t skipped = x < border ? border - x : 0, end = dn_min(kernel, ring->columns + border - x);
    for (size_t i = 0; i < kernel; i++) {
        const uint8_t *row = row_of(ring, kernel, y + i - border);
        if (row)
            memcpy(numbers + PLAIN_CHANNELS * (i * kernel + skipped), row + PLAIN_CHANNELS * (x + skipped - border),
                   PLAIN_CHANNELS * (end - skipped));
    }
    for (size_t at = 0; at < stage->plane_bytes; at++) put_numbers(w, at, numbers + 8 * at, NULL);
}

static void open_window(const dn_stage *stage, const dn_ring *ring, int plain, size_t y, size_t x, const window *w) {
    if (x == 0) memset(w->bits, 0, w->planes * w->pitch); /* for what is too much */
    if (w->aligned)
        slide_window(stage, ring, y, x, w);
    else if (plain && stage->map_copies == 1 && stage->weight_copies == 1)
        fill_plain_window(stage, ring, y, x, w);
    else
        fill_window(stage, ring, plain, y, x, w);
}

static uint32_t load_word(const uint8_t *bytes) {
    uint32_t word; /* in the machine's order: the bits are only counted */
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* |a| + 2 |b|, as the sum of the four bytes, at most 24 each. */
static uint32_t count_bits(uint32_t a, uint32_t b) {
    a -= a >> 1 & 0x55555555u;
    b -= b >> 1 & 0x55555555u;
    a = (a & 0x33333333u) + (a >> 2 & 0x33333333u); /* eight times 4 bits, at most 4 */
    b = (b & 0x33333333u) + (b >> 2 & 0x33333333u);
    a += 2 * b; /* at most 12 */
    return (a & 0x0f0f0f0fu) + (a >> 4 & 0x0f0f0f0fu);
}

static uint32_t add_bytes(uint32_t v) {
    v = (v & 0x00ff00ffu) + (v >> 8 & 0x00ff00ffu);
    return (v + (v >> 16)) & 0xffffu;
}

/* |weights AND low| + 2 |weights AND high|; ten words at most give bytes of 240. */
static uint32_t count_both(const uint8_t *weights, const uint8_t *low, const uint8_t *high, size_t bytes) {
    uint32_t total = 0;
    size_t at = 0;
    while (bytes - at >= 4) {
        size_t end = at + dn_min((bytes - at) / 4, 10) * 4;
        uint32_t sums = 0;
        for (; at < end; at += 4) {
            uint32_t word = load_word(weights + at);
            sums += count_bits(word & load_word(low + at), word & load_word(high + at));
        }
        total += add_bytes(sums);
    }
    if (at < bytes) { /* a part of a word: no byte behind the weights may be read */
        uint32_t word = 0;
        memcpy(&word, weights + at, bytes - at);
        total += add_bytes(count_bits(word & load_word(low + at), word & load_word(high + at)));
    }
    return total;
}

/* (2^bits - 1) * the sum of all Y, mod 2^32. */
static uint32_t window_sum(const dn_stage *stage, const window *w) {
    uint32_t sum = 0;
    for (size_t p = 0; p < w->planes; p += 2)
        for (const uint8_t *low = w->bits + p * w->pitch, *end = low + w->pitch; low < end; low += 4)
            sum += add_bytes(count_bits(load_word(low), load_word(low + w->pitch))) << p;
    return ((1u << stage->weight_bits) - 1) * sum;
}

static int32_t filter_sum(const dn_stage *stage, const window *w, size_t filter, uint32_t all) {
    const uint8_t *weights = stage->weights + filter * stage->weight_bits * stage->plane_bytes;
    uint32_t met = 0;
    for (size_t k = 0; k < stage->weight_bits; k++, weights += stage->plane_bytes)
        for (size_t p = 0; p < w->planes; p += 2)
            met += count_both(weights, w->bits + p * w->pitch, w->bits + (p + 1) * w->pitch, stage->plane_bytes) << (k + p);
    uint32_t sum = 2 * met - all;
    return sum < 0x80000000u ? (int32_t)sum : -(int32_t)(0xffffffffu - sum) - 1;
}

/* The number of thresholds that a sum reaches. They ascend, and there are 2^bits - 1 of them: each bit is one comparison. */
static uint8_t level_of(const dn_stage *stage, size_t filter, int32_t sum) {
    size_t level = 0;
    for (size_t step = (size_t)1 << stage->output_bits >> 1; step; step /= 2)
        if (sum >= dn_threshold(stage, filter, level + step - 1)) level += step;
    return (uint8_t)level;
}

void dn_row_sums(const dn_stage *stage, const dn_ring *ring, int plain, size_t y, size_t x, uint8_t *scratch, int32_t *sums) {
    window w = window_of(stage, scratch, plain);
    open_window(stage, ring, plain, y, x, &w);
    uint32_t all = window_sum(stage, &w);
    for (size_t f = 0; f < stage->filters; f++) sums[f] = filter_sum(stage, &w, f, all);
}

void dn_row_levels(const dn_stage *stage, const dn_ring *ring, int plain, size_t y, int merge, uint8_t *scratch, uint8_t *out) {
    window w = window_of(stage, scratch, plain);
    uint8_t *levels = scratch + w.planes * w.pitch; /* [filters], then zeros */
    size_t plane = dn_bytes(stage->filters), bits = stage->output_bits;
    memset(levels, 0, level_bytes(stage));
    for (size_t x = 0; x < ring->columns; out += bits * plane) {
        for (size_t g = 0; g < plane; g++) {
            uint64_t planes = 0;
            for (size_t p = 0; p < bits && merge; p++) planes |= (uint64_t)out[p * plane + g] << (8 * p);
            planes = transpose(planes);
            for (size_t f = 0; f < 8; f++, planes >>= 8) levels[8 * g + f] = (uint8_t)planes;
        }
        for (size_t end = x + stage->pool; x < end; x++) {
            open_window(stage, ring, plain, y, x, &w);
            uint32_t all = window_sum(stage, &w);
            for (size_t f = 0; f < stage->filters; f++) {
                uint8_t level = level_of(stage, f, filter_sum(stage, &w, f, all));
                if (level > levels[f]) levels[f] = level;
            }
        }
        for (size_t g = 0; g < plane; g++) {
            uint64_t planes = transpose(load_bytes(levels + 8 * g));
            for (size_t p = 0; p < bits; p++, planes >>= 8) out[p * plane + g] = (uint8_t)planes;
        }
    }
}
