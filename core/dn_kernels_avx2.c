/* Kernels for AVX2 (Haswell and later): tables of 16 bytes, one for four channels. */
#include "dn_impl.h"

#ifdef DN_X86
#include <string.h>

static int runs_here(void) { return dn_x86_has(DN_AVX2); }

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC diagnostic ignored "-Wuninitialized" /* false alarms within immintrin.h, as C++ */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
#include <immintrin.h>

enum { LANES = 32, GROUP = 4, TABLE = 16, TOGETHER = 4 };
#define EACH_FILTER(do) do(0) do(1) do(2) do(3)
#define V_KEEP(a) __asm__("" : "+x"(a))
typedef __m256i vec;

static inline vec v_zero(void) { return _mm256_setzero_si256(); }
static inline vec v_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
static inline void v_store(void *p, vec a) { _mm256_storeu_si256((__m256i *)p, a); }
static inline vec v_load_table(const void *p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p)); }
static inline vec v_lookup(vec table, vec index) { return _mm256_shuffle_epi8(table, index); }
static inline vec v_add8(vec a, vec b) { return _mm256_add_epi8(a, b); }
static inline vec v_add16(vec a, vec b) { return _mm256_add_epi16(a, b); }
static inline vec v_sub16(vec a, vec b) { return _mm256_sub_epi16(a, b); }
static inline vec v_mul16(vec a, vec b) { return _mm256_mullo_epi16(a, b); }
static inline vec v_max16(vec a, vec b) { return _mm256_max_epi16(a, b); }
static inline vec v_high(vec a) { return _mm256_srli_epi16(a, 8); }
static inline vec v_low(vec a) { return _mm256_slli_epi16(a, 8); }
static inline vec v_all16(uint16_t x) { return _mm256_set1_epi16((short)x); }
static inline vec v_pairs(vec x, vec w) { return _mm256_maddubs_epi16(x, w); }
static inline vec v_or(vec a, vec b) { return _mm256_or_si256(a, b); }
static inline vec v_low_byte(vec a) { return _mm256_and_si256(a, _mm256_set1_epi16(0x00ff)); }
static inline vec v_high_byte(vec a) { return _mm256_and_si256(a, _mm256_set1_epi16(-0x100)); }
static inline vec v_count(vec n, vec a, vec t) { return _mm256_sub_epi16(n, _mm256_cmpgt_epi16(a, t)); }
static inline void v_store_half(uint8_t *p, vec a) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm_packus_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1)));
}

static inline void v_store_levels(uint8_t *p, vec a, size_t n) {
    __m128i levels = _mm_packus_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    uint8_t bytes[16];
    if (n == 16) {
        _mm_storeu_si128((__m128i *)(void *)p, levels);
    } else {
        _mm_storeu_si128((__m128i *)(void *)bytes, levels);
        memcpy(p, bytes, n);
    }
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
            vec levels = _mm256_broadcastq_epi64(_mm_loadl_epi64((const __m128i *)(const void *)(x + u * stride + group * GROUP)));
            vec sums = v_add8(v_add8(v_lookup(levels, from0), v_lookup(levels, from1)), v_add8(v_lookup(levels, from2), v_lookup(levels, from3)));
            uint8_t *to = tables + (group * pitch + u) * TABLE;
            _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(sums));
            if (group + 1 < groups) _mm_storeu_si128((__m128i *)(void *)(to + pitch * TABLE), _mm256_extracti128_si256(sums, 1));
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

const dn_kernels dn_kernels_avx2 = {"avx2", runs_here, layout, prepared_bytes, prepare, scratch_bytes, conv_rows, describe, spin};
#endif
