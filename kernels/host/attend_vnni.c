/* attend_vnni.c - attention with AVX-512 and its products of bytes (VNNI), which quantised rows are made for. The
 * algorithm is in attend_vector.h. */
#include "host.h"
#include "vector_avx512.h"

#define ATTEND host_attend_vnni

/* Each lane: sum of four products of an unsigned byte of `codes` and a signed one of `q`, added to the lane's integer.
 */
static inline vec_int v_dot(vec_int sum, vec_int codes, vec_int q) {
    return _mm512_dpbusd_epi32(sum, codes, q);
}
#define V_DOT 1

static inline vec_int v_int_zero(void) {
    return _mm512_setzero_si512();
}
static inline vec_int v_int_set1(uint32_t x) {
    return _mm512_set1_epi32((int)x);
}
static inline vec_int v_int_and(vec_int a, vec_int b) {
    return _mm512_and_si512(a, b);
}
static inline vec_int v_int_or(vec_int a, vec_int b) {
    return _mm512_or_si512(a, b);
}
static inline vec_int v_shifted_left(vec_int x, uint32_t bits) {
    return _mm512_sll_epi32(x, _mm_cvtsi32_si128((int)bits));
}
/* high * 256 + low, as floats */
static inline vec v_int_join(vec_int high, vec_int low) {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 8), low));
}
static inline vec v_abs(vec x) {
    return _mm512_abs_ps(x);
}
/* Sixteen integers of at most 16 bits as bytes: value = high * 256 + low, both signed. */
static inline void v_int_split(vec x, int8_t *low, int8_t *high) {
    __m512i whole = _mm512_cvtps_epi32(x), l = _mm512_srai_epi32(_mm512_slli_epi32(whole, 24), 24);
    _mm_storeu_si128((__m128i *)low, _mm512_cvtepi32_epi8(whole));
    _mm_storeu_si128((__m128i *)high, _mm512_cvtepi32_epi8(_mm512_srai_epi32(_mm512_sub_epi32(whole, l), 8)));
}

#include "attend_vector.h"
