/* The decoder of the coded part of a packed file: an adaptive binary range decoder, and the weights and thresholds that it
 * gives (docs/format.md, "The code"). `dupnet.coder` is the same in Python, and the encoder.
 *
 * Nothing here trusts a byte: whatever is read, every write stays within the stage's sizes, and every value that leaves is in
 * range or refused. Past the end of its bytes the decoder reads zeros; dn_model.c refuses the file then. */
#include "dn_impl.h"

#include <string.h>

enum {
    PROBABILITY_BITS = 13, /* a context is its probability of a 1 in 8192ths, times 8, plus how often it was used, at most 4 */
    COUNT_BITS = 3,
    FRESH = 1 << 15,       /* probability 1/2, never used */
    MAGNITUDE_BITS = 34
};

static uint32_t next_byte(dn_coder *c) {
    if (c->at < c->end) return *c->at++;
    c->missing = 1;
    return 0;
}

void dn_coder_open(dn_coder *c, const uint8_t *bytes, size_t length) {
    c->at = bytes;
    c->end = bytes + length;
    c->missing = 0;
    c->range = 0xffffffffu;
    c->code = 0;
    for (int i = 0; i < 4; i++) c->code = c->code << 8 | next_byte(c);
    for (int i = 0; i < DN_CODER_CONTEXTS; i++) c->contexts[i] = FRESH;
}

int dn_coder_is_complete(const dn_coder *c) { return !c->missing && c->at == c->end && c->code == 0; }

/* One bit. The range never falls below 2^24 and a probability is 31 to 8161 of 8192, so both parts of the range hold something. */
static uint32_t read_bit(dn_coder *c, size_t context) {
    uint32_t state = c->contexts[context], probability = state >> COUNT_BITS, count = state & ((1u << COUNT_BITS) - 1);
    uint32_t bound = (c->range >> PROBABILITY_BITS) * probability, bit = c->code < bound;
    if (bit) {
        c->range = bound;
        probability += ((1u << PROBABILITY_BITS) - probability) >> (count + 1);
    } else {
        c->code -= bound;
        c->range -= bound;
        probability -= probability >> (count + 1);
    }
    c->contexts[context] = (uint16_t)(probability << COUNT_BITS | (count + (count < 4)));
    for (; c->range < 1u << 24; c->range <<= 8) c->code = c->code << 8 | next_byte(c);
    return bit;
}

static uint32_t bit_at(const uint8_t *bits, size_t i) { return (uint32_t)bits[i / 8] >> i % 8 & 1u; }

void dn_coder_weights(dn_coder *c, const dn_stage *stage, uint8_t *planes) {
    size_t channels = stage->stored_channels, row_bits = stage->kernel * channels, i;
    memset(planes, 0, (size_t)stage->filters * stage->plane_bytes);
    for (size_t f = 0; f < stage->filters && !c->missing; f++, planes += stage->plane_bytes) {
        i = 0;
        for (size_t row = 0; row < stage->kernel; row++)
            for (size_t column = 0; column < stage->kernel; column++)
                for (size_t channel = 0, copy = 0, within = 0; channel < channels; channel++, i++, within++) {
                    if (within == stage->in_channels) within = 0, copy++;
                    size_t context = DN_CODER_AFTER_0;
                    if (!copy || bit_at(planes, i - stage->in_channels)) {
                        uint32_t above = row ? bit_at(planes, i - row_bits) : 2;
                        uint32_t left = column ? bit_at(planes, i - channels) : 2;
                        context = 9 * dn_min(copy, 3) + 3 * above + left;
                    }
                    planes[i / 8] = (uint8_t)(planes[i / 8] | read_bit(c, context) << i % 8);
                }
    }
}

/* An integer of a kind; 2^34 or more, which no file may hold, becomes 2^34. */
static int64_t read_integer(dn_coder *c, size_t kind) {
    if (!read_bit(c, kind)) return 0;
    int negative = (int)read_bit(c, kind + 1);
    size_t length = 1;
    while (read_bit(c, kind + 2 + dn_min(length - 1, 15)))
        if (++length > MAGNITUDE_BITS) return (int64_t)1 << MAGNITUDE_BITS;
    int64_t magnitude = 1;
    for (size_t digits = length - 1; digits > 0; digits--)
        magnitude = magnitude << 1 | (int64_t)read_bit(c, digits == length - 1 ? kind + 18 + dn_min(digits - 1, 14) : kind + 33);
    return negative ? -magnitude : magnitude;
}

/* value / 2^bits, rounded down. */
static int64_t shift_down(int64_t value, int bits) { return value >= 0 ? value >> bits : ~(~value >> bits); }

static uint32_t ones(uint32_t v) {
    v -= v >> 1 & 0x55555555u;
    v = (v & 0x33333333u) + (v >> 2 & 0x33333333u);
    return ((v + (v >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24;
}

/* Sum of one filter's weights: below 2^31, as the stage's accumulators are (DN_FILE_ACCUMULATOR), and levels are at least 1. */
static int64_t weight_sum(const dn_stage *stage, size_t filter) {
    const uint8_t *plane = stage->weights + filter * stage->weight_bits * stage->plane_bytes;
    int64_t sum = 0, count = (int64_t)stage->kernel * stage->kernel * stage->stored_channels;
    for (size_t b = 0; b < stage->weight_bits; b++, plane += stage->plane_bytes) {
        uint32_t set = 0;
        size_t i = 0;
        for (; i + 4 <= stage->plane_bytes; i += 4) set += ones(dn_load_u32(plane + i));
        for (; i < stage->plane_bytes; i++) set += ones(plane[i]);
        sum += (int64_t)set << b;
    }
    return 2 * sum - count * ((1 << stage->weight_bits) - 1);
}

static void store_threshold(uint8_t *at, int64_t value, size_t bytes) {
    uint64_t two_complement = (uint64_t)value;
    for (size_t i = 0; i < bytes; i++) at[i] = (uint8_t)(two_complement >> 8 * i);
}

/* All sums fit in 64 bits: thresholds are below 2^31, integers at most 2^34, means at most 32 times what enters them. */
dn_status dn_coder_thresholds(dn_coder *c, const dn_stage *stage, uint8_t *out) {
    size_t count = ((size_t)1 << stage->output_bits) - 1;
    int64_t highest = ((int64_t)1 << stage->input_bits) - 1, bound = stage->accumulator_max, surplus = 0, steps = 0;
    for (size_t f = 0; f < stage->filters; f++) {
        int64_t least = -bound, value = 0, step = 0;
        for (size_t i = 0; i < count; i++, out += stage->threshold_bytes) {
            int64_t error = read_integer(c, i == 0 ? DN_CODER_FIRST : i == 1 ? DN_CODER_STEP : DN_CODER_BEND);
            if (i == 0) {
                value = shift_down(stage->slope * highest * stage->weight_copies * weight_sum(stage, f), 8) + shift_down(surplus + 16, 5) + error;
                surplus += f ? error : 32 * error;
            } else {
                if (i == 1) {
                    step = shift_down(steps + 16, 5);
                    steps += f ? error : 32 * error;
                }
                step += error;
                value += step;
            }
            if (c->missing || value < least || value > bound + 1) return c->missing ? DN_FILE_CODE : DN_FILE_THRESHOLD;
            store_threshold(out, value, stage->threshold_bytes);
            least = value;
        }
    }
    return DN_OK;
}
