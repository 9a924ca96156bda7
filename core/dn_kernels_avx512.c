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
#define V_KEEP(a) __asm__("" : "+v"(a))
typedef __m512i vec;

static inline vec v_zero(void) { return _mm512_setzero_si512(); }
static inline vec v_load(const void *p) { return _mm512_loadu_si512(p); }
static inline void v_store(void *p, vec a) { _mm512_storeu_si512(p, a); }
static inline vec v_load_table(const void *p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)p)); }
static inline vec v_lookup(vec table, vec index) { return _mm512_shuffle_epi8(table, index); }
static inline vec v_add8(vec a, vec b) { return _mm512_add_epi8(a, b); }
static inline vec v_add16(vec a, vec b) { return _mm512_add_epi16(a, b); }
static inline vec v_sub16(vec a, vec b) { return _mm512_sub_epi16(a, b); }
static inline vec v_mul16(vec a, vec b) { return _mm512_mullo_epi16(a, b); }
static inline vec v_max16(vec a, vec b) { return _mm512_max_epi16(a, b); }
static inline vec v_high(vec a) { return _mm512_srli_epi16(a, 8); }
static inline vec v_low(vec a) { return _mm512_slli_epi16(a, 8); }
static inline vec v_all16(uint16_t x) { return _mm512_set1_epi16((short)x); }
static inline vec v_pairs(vec x, vec w) { return _mm512_maddubs_epi16(x, w); }
static inline vec v_or(vec a, vec b) { return _mm512_or_si512(a, b); }
static inline vec v_low_byte(vec a) { return _mm512_and_si512(a, _mm512_set1_epi16(0x00ff)); }
static inline vec v_high_byte(vec a) { return _mm512_and_si512(a, _mm512_set1_epi16(-0x100)); }
static inline vec v_count(vec n, vec a, vec t) { return _mm512_mask_add_epi16(n, _mm512_cmpgt_epi16_mask(a, t), n, _mm512_set1_epi16(1)); }
static inline void v_store_half(uint8_t *p, vec a) { _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi16_epi8(a)); }

static inline void v_store_levels(uint8_t *p, vec a, size_t n) {
    __m256i levels = _mm512_cvtepi16_epi8(a);
    if (n == 32)
        _mm256_storeu_si256((__m256i *)(void *)p, levels);
    else if (n == 16)
        _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(levels));
    else
        _mm256_mask_storeu_epi8(p, ((__mmask32)1 << n) - 1, levels);
}

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
