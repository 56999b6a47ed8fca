/* attend_vnni.c - attention with AVX-512 and its products of bytes (VNNI), which quantised rows are made for. The
 * algorithm is in attend_vector.h. */
#include "host.h"
#include "vector_avx512.h"

#define ATTEND host_attend_vnni

/* An integer is high * 256 + low, two signed bytes; all four codes of a quartet meet the low ones in one product and
 * the high ones in the other. The sum of the high ones is multiplied at the end. */
#define DOT_SUMS 2
static inline vec_int v_piece(vec_int x, uint32_t shift, uint32_t mask, uint32_t piece) {
    (void)piece;
    return mask == 255 ? x : v_int_and(v_shifted(x, shift), v_int_set1(mask * 0x01010101));
}
static inline vec_int v_dot(vec_int sum, vec_int codes, vec_int factors) {
    return _mm512_dpbusd_epi32(sum, codes, factors);
}
static inline vec v_joined(const vec_int *sums) {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(sums[1], 8), sums[0]));
}
static inline void v_factors(const vec *x, char *to) {
    __m512i whole = _mm512_cvtps_epi32(x[0]), l = _mm512_srai_epi32(_mm512_slli_epi32(whole, 24), 24);
    __m128i low = _mm512_cvtepi32_epi8(whole);
    __m128i high = _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_sub_epi32(whole, l), 8));
    _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi32(low, high));
    _mm_storeu_si128((__m128i *)(to + 16), _mm_unpackhi_epi32(low, high));
}

#include "attend_vector.h"
