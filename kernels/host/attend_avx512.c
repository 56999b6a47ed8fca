/* attend_avx512.c - attention with AVX-512. The algorithm is in attend_vector.h. */
#include "host.h"
#include "vector_avx512.h"

#define ATTEND host_attend_avx512

/* Products of words: bytes 0 and 2 of a quartet are the codes of one product, 1 and 3 those of the other. */
#define DOT_SUMS 1
static inline vec_int v_piece(vec_int x, uint32_t shift, uint32_t mask, uint32_t piece) {
    return v_int_and(v_shifted(x, shift + 8 * piece), v_int_set1(mask * 0x00010001));
}
static inline vec_int v_dot(vec_int sum, vec_int codes, vec_int factors) {
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(codes, factors));
    __asm__("" : "+v"(sum)); /* gcc would add up many products first, and spill them */
    return sum;
}
static inline vec v_joined(const vec_int *sums) {
    return _mm512_cvtepi32_ps(sums[0]);
}
static inline void v_factors(const vec *x, char *to) {
    __m256i words = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x[0]));
    words = _mm256_shufflelo_epi16(words, _MM_SHUFFLE(3, 1, 2, 0));
    _mm256_storeu_si256((__m256i *)to, _mm256_shufflehi_epi16(words, _MM_SHUFFLE(3, 1, 2, 0)));
}

#include "attend_vector.h"
