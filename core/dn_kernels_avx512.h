/* The primitives that both AVX-512 sets share: vectors of 64 bytes. Included under the set's own target, after immintrin.h. */
#define V_KEEP(a) __asm__("" : "+v"(a))
typedef __m512i vec;

static inline vec v_zero(void) { return _mm512_setzero_si512(); }
static inline vec v_load(const void *p) { return _mm512_loadu_si512(p); }
static inline void v_store(void *p, vec a) { _mm512_storeu_si512(p, a); }
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
