/* Kernels for AVX-512 with VBMI (Ice Lake, Zen 4 and later): tables of 64 bytes, one for six channels. */
#include "dn_impl.h"

#ifdef DN_X86
#include <string.h>

static int runs_here(void) { return dn_x86_has(DN_AVX512 | DN_AVX512_VBMI); }

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi"))), apply_to = function)
#else
#pragma GCC diagnostic ignored "-Wuninitialized" /* false alarms within immintrin.h, as C++ */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")
#endif
#include <immintrin.h>

enum { LANES = 64, GROUP = 6, TABLE = 64, TOGETHER = 4 };
#define EACH_FILTER(do) do(0) do(1) do(2) do(3)
#include "dn_kernels_avx512.h"

static inline vec v_load_table(const void *p) { return _mm512_loadu_si512(p); }
static inline vec v_lookup(vec table, vec index) { return _mm512_permutexvar_epi8(index, table); }

/* First the sums of three channels each, eight "halves" of eight bytes: three look-ups in the levels, with 0 where a bit is not
 * set. Then the sum of six channels at e = half[e mod 8] + next half[e div 8]. Pixels of up to 12 channels need four halves: two
 * pixels at a time. */
static inline void fill_tables(const uint8_t *x, size_t stride, size_t columns, size_t groups, uint8_t *tables, size_t pitch) {
    size_t pixels = groups <= 2 ? 2 : 1;
    uint8_t from[3][64], first[4][64], second[4][64];
    __mmask64 set[3] = {0xaaaaaaaaaaaaaaaau, 0xccccccccccccccccu, 0xf0f0f0f0f0f0f0f0u};
    for (size_t i = 0; i < 64; i++) {
        size_t half = i / 8;
        for (size_t channel = 0; channel < 3; channel++)
            from[channel][i] = (uint8_t)(pixels == 2 ? half / 4 * stride + 3 * (half % 4) + channel : 3 * half + channel);
        for (size_t q = 0; q < 4; q++) {
            first[q][i] = (uint8_t)(16 * q + i % 8);
            second[q][i] = (uint8_t)(16 * q + 8 + i / 8);
        }
    }
    const vec from0 = v_load(from[0]), from1 = v_load(from[1]), from2 = v_load(from[2]);
    for (size_t group = 0; group < groups; group += 4)
        for (size_t u = 0; u < columns; u += pixels) {
            vec levels = v_load(x + u * stride + group * GROUP);
            vec halves = v_add8(v_add8(_mm512_maskz_permutexvar_epi8(set[0], from0, levels), _mm512_maskz_permutexvar_epi8(set[1], from1, levels)),
                                _mm512_maskz_permutexvar_epi8(set[2], from2, levels));
            for (size_t q = 0; q < 4; q++) {
                size_t to = pixels == 2 ? q % 2 : group + q, column = pixels == 2 ? u + q / 2 : u;
                if (to >= groups) continue;
                v_store(tables + (to * pitch + column) * TABLE, v_add8(v_lookup(halves, v_load(first[q])), v_lookup(halves, v_load(second[q]))));
            }
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

const dn_kernels dn_kernels_avx512vbmi = {"avx512vbmi", runs_here, layout, prepared_bytes, prepare, scratch_bytes, conv_rows, describe, spin};
#endif
