/* Kernels for AVX-512 without further extensions (Skylake and later): tables of 16 bytes, one for four channels. */
#include "dn_impl.h"

#ifdef DN_X86
#include <string.h>

static int runs_here(void) { return dn_x86_has(DN_AVX512); }

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC diagnostic ignored "-Wuninitialized" /* false alarms within immintrin.h, as C++ */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif
#include <immintrin.h>

enum { LANES = 64, GROUP = 4, TABLE = 16, TOGETHER = 4 };
#define EACH_FILTER(do) do(0) do(1) do(2) do(3)
#include "dn_kernels_avx512.h"

static inline vec v_load_table(const void *p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p)); }
static inline vec v_lookup(vec table, vec index) { return _mm512_shuffle_epi8(table, index); }

/* Each 128 bits make one table: lane q has channels 4 q .. 4 q + 3 of the group of groups, and 0 where a bit is not set. */
static inline void fill_tables(const uint8_t *x, size_t stride, size_t columns, size_t groups, uint8_t *tables, size_t pitch) {
    uint8_t from[GROUP][LANES];
    for (size_t i = 0; i < LANES; i++)
        for (size_t channel = 0; channel < GROUP; channel++)
            from[channel][i] = (uint8_t)(i >> channel & 1 ? i / TABLE * GROUP + channel : 0x80);
    const vec from0 = v_load(from[0]), from1 = v_load(from[1]), from2 = v_load(from[2]), from3 = v_load(from[3]);
    for (size_t group = 0; group < groups; group += LANES / TABLE)
        for (size_t u = 0; u < columns; u++) {
            vec levels = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(x + u * stride + group * GROUP)));
            vec sums = v_add8(v_add8(v_lookup(levels, from0), v_lookup(levels, from1)), v_add8(v_lookup(levels, from2), v_lookup(levels, from3)));
            uint8_t *to = tables + (group * pitch + u) * TABLE;
            _mm_storeu_si128((__m128i *)(void *)to, _mm512_castsi512_si128(sums));
            if (group + 1 < groups) _mm_storeu_si128((__m128i *)(void *)(to + pitch * TABLE), _mm512_extracti32x4_epi32(sums, 1));
            if (group + 2 < groups) _mm_storeu_si128((__m128i *)(void *)(to + 2 * pitch * TABLE), _mm512_extracti32x4_epi32(sums, 2));
            if (group + 3 < groups) _mm_storeu_si128((__m128i *)(void *)(to + 3 * pitch * TABLE), _mm512_extracti32x4_epi32(sums, 3));
        }
}

#include "dn_kernels_pixels.h"
#include "dn_kernels_first.h"
#include "dn_kernels_lookup.h"
#include "dn_kernels_ways.h"

#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const dn_kernels dn_kernels_avx512 = {"avx512", runs_here, layout, prepared_bytes, prepare, scratch_bytes, conv_rows, describe, spin};
#endif
