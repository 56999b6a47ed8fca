/* attend_avx2.c - attention with AVX2, FMA and F16C: a block of 16 rows is two vectors. The algorithm is in
 * attend_vector.h. */
#include <immintrin.h>

#include "host.h"

#define LANES 8u
#define BUDGET 12u
#define ATTEND host_attend_avx2

typedef __m256 vec;
typedef __m256i vec_mask;
typedef __m256i vec_int;

static inline vec v_zero(void) {
    return _mm256_setzero_ps();
}
static inline vec v_set1(float x) {
    return _mm256_set1_ps(x);
}
static inline vec v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, vec x) {
    _mm256_storeu_ps(p, x);
}
static inline vec v_load_f16(const char *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline vec v_load_bf16(const char *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
static inline vec_int v_load_int(const char *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}
static inline vec_int v_int_zero(void) {
    return _mm256_setzero_si256();
}
static inline vec_int v_int_set1(uint32_t x) {
    return _mm256_set1_epi32((int)x);
}
static inline vec_int v_int_and(vec_int a, vec_int b) {
    return _mm256_and_si256(a, b);
}
static inline vec_int v_int_or(vec_int a, vec_int b) {
    return _mm256_or_si256(a, b);
}
/* Each lane shifted right, and left. */
static inline vec_int v_shifted(vec_int x, uint32_t bits) {
    return _mm256_srl_epi32(x, _mm_cvtsi32_si128((int)bits));
}
static inline vec_int v_shifted_left(vec_int x, uint32_t bits) {
    return _mm256_sll_epi32(x, _mm_cvtsi32_si128((int)bits));
}
/* Products of words: bytes 0 and 2 of a quartet are the codes of one product, 1 and 3 those of the other. */
#define DOT_SUMS 1
static inline vec_int v_piece(vec_int x, uint32_t shift, uint32_t mask, uint32_t piece) {
    if (piece && mask == 0xffu >> shift)
        return _mm256_srl_epi16(x, _mm_cvtsi32_si128((int)shift + 8));
    return _mm256_and_si256(v_shifted(x, shift + 8 * piece), _mm256_set1_epi32((int)(mask * 0x10001)));
}
static inline vec_int v_dot(vec_int sum, vec_int codes, vec_int factors) {
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(_mm256_madd_epi16(codes, factors)));
    return sum; /* written so as gcc would add up many products first, and spill them */
}
static inline vec v_joined(const vec_int *sums) {
    return _mm256_cvtepi32_ps(sums[0]);
}
static inline void v_factors(const vec *x, char *to) {
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
    words = _mm256_permute4x64_epi64(words, _MM_SHUFFLE(3, 1, 2, 0));
    words = _mm256_shufflelo_epi16(words, _MM_SHUFFLE(3, 1, 2, 0));
    _mm256_storeu_si256((__m256i *)to, _mm256_shufflehi_epi16(words, _MM_SHUFFLE(3, 1, 2, 0)));
}
static inline vec v_add(vec a, vec b) {
    return _mm256_add_ps(a, b);
}
static inline vec v_sub(vec a, vec b) {
    return _mm256_sub_ps(a, b);
}
static inline vec v_mul(vec a, vec b) {
    return _mm256_mul_ps(a, b);
}
static inline vec v_div(vec a, vec b) {
    return _mm256_div_ps(a, b);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}
static inline vec v_abs(vec x) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}
/* b where a is NaN */
static inline vec v_max(vec a, vec b) {
    return _mm256_max_ps(a, b);
}
static inline float v_max_across(vec a) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
static inline float v_sum_across(vec a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
/* The lanes whose numbers differ in that bit change places. */
static inline vec v_swapped(vec x, uint32_t bit) {
    return bit == 1   ? _mm256_permute_ps(x, _MM_SHUFFLE(2, 3, 0, 1))
           : bit == 2 ? _mm256_permute_ps(x, _MM_SHUFFLE(1, 0, 3, 2))
                      : _mm256_permute2f128_ps(x, x, 1);
}
/* The first n lanes, n <= LANES. */
static inline vec_mask v_first(uint32_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vec v_select(vec_mask mask, vec yes, vec no) {
    return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(mask));
}
static inline vec v_load_masked(const float *p, vec_mask mask) {
    return _mm256_maskload_ps(p, mask);
}
static inline void v_store_masked(float *p, vec_mask mask, vec x) {
    _mm256_maskstore_ps(p, mask, x);
}
static inline vec v_one_where_ge(vec a, vec b) {
    return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ), _mm256_set1_ps(1.0f));
}
/* 2^x for x <= 0; 0 below 2^-100, so that no denormal comes up; NaN stays. The polynomial is a Taylor series of
 * degree 7 on [-0.5, 0.5]: its error is far below float rounding. The power of two is added to the exponent. */
static inline vec v_exp2(vec x) {
    vec kept = _mm256_cmp_ps(x, _mm256_set1_ps(-100.0f), _CMP_NLT_UQ);
    vec whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec f = _mm256_sub_ps(x, whole), p = _mm256_set1_ps(1.52527338e-5f);
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.54035304e-4f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.33335581e-3f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(9.61812911e-3f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(5.55041087e-2f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(2.40226507e-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(6.93147181e-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
    __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
    vec scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), power));
    return _mm256_and_ps(scaled, kept);
}

#include "attend_vector.h"
