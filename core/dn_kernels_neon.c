/* Kernels for every 64-bit ARM: tables of 16 bytes, one for four channels, and products of bytes without dot products. */
#include "dn_impl.h"

#ifdef DN_NEON
#include <arm_neon.h>

static int runs_here(void) { return 1; }

enum { COLUMNS = 4, DOT_INSTRUCTIONS = 5 };
#define EACH_OF(do) do(0) do(1) do(2) do(3)

/* Sums of pairs: of filters 0 and 1 in `low`, of 2 and 3 in `high`. */
typedef struct dot {
    uint32x4_t low, high;
} dot;

static inline dot d_zero(void) {
    dot sums = {vdupq_n_u32(0), vdupq_n_u32(0)};
    return sums;
}

static inline dot d_add(dot sums, uint8x16_t w, uint8x16_t x) {
    sums.low = vpadalq_u16(sums.low, vmull_u8(vget_low_u8(w), vget_low_u8(x)));
    sums.high = vpadalq_u16(sums.high, vmull_high_u8(w, x));
    return sums;
}

#define d_add_lane(sums, w, x, lane) d_add(sums, w, vreinterpretq_u8_u32(vdupq_laneq_u32(vreinterpretq_u32_u8(x), lane)))

static inline uint32x4_t d_result(dot sums) { return vpaddq_u32(sums.low, sums.high); }

#include "dn_kernels_neon.h"

const dn_kernels dn_kernels_neon = {"neon", runs_here, layout, prepared_bytes, prepare, scratch_bytes, conv_rows, describe, spin};
#endif
