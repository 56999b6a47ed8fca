/* vector_avx512.h - what attend_vector.h needs of a vector, with AVX-512: a block of 16 rows is one vector. */
#include <immintrin.h>

#define LANES 16u
#define BUDGET 24u

typedef __m512 vec;
typedef __mmask16 vec_mask;
typedef __m512i vec_int;

static inline vec v_zero(void) {
    return _mm512_setzero_ps();
}
static inline vec v_set1(float x) {
    return _mm512_set1_ps(x);
}
static inline vec v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vec x) {
    _mm512_storeu_ps(p, x);
}
static inline vec v_load_f16(const char *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline vec v_load_bf16(const char *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline vec_int v_load_int(const char *p) {
    return _mm512_loadu_si512(p);
}
/* Each lane shifted right, and left. */
static inline vec_int v_shifted(vec_int x, uint32_t bits) {
    return _mm512_srl_epi32(x, _mm_cvtsi32_si128((int)bits));
}
static inline vec_int v_shifted_left(vec_int x, uint32_t bits) {
    return _mm512_sll_epi32(x, _mm_cvtsi32_si128((int)bits));
}
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
static inline vec v_add(vec a, vec b) {
    return _mm512_add_ps(a, b);
}
static inline vec v_sub(vec a, vec b) {
    return _mm512_sub_ps(a, b);
}
static inline vec v_mul(vec a, vec b) {
    return _mm512_mul_ps(a, b);
}
static inline vec v_div(vec a, vec b) {
    return _mm512_div_ps(a, b);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline vec v_abs(vec x) {
    return _mm512_abs_ps(x);
}
/* b where a is NaN */
static inline vec v_max(vec a, vec b) {
    return _mm512_max_ps(a, b);
}
static inline float v_max_across(vec a) {
    return _mm512_reduce_max_ps(a);
}
static inline float v_sum_across(vec a) {
    return _mm512_reduce_add_ps(a);
}
/* The lanes whose numbers differ in that bit change places. */
static inline vec v_swapped(vec x, uint32_t bit) {
    return bit == 1   ? _mm512_permute_ps(x, _MM_SHUFFLE(2, 3, 0, 1))
           : bit == 2 ? _mm512_permute_ps(x, _MM_SHUFFLE(1, 0, 3, 2))
           : bit == 4 ? _mm512_shuffle_f32x4(x, x, _MM_SHUFFLE(2, 3, 0, 1))
                      : _mm512_shuffle_f32x4(x, x, _MM_SHUFFLE(1, 0, 3, 2));
}
/* The first n lanes, n <= LANES. */
static inline vec_mask v_first(uint32_t n) {
    return (vec_mask)((1u << n) - 1);
}
static inline vec v_select(vec_mask mask, vec yes, vec no) {
    return _mm512_mask_blend_ps(mask, no, yes);
}
static inline vec v_load_masked(const float *p, vec_mask mask) {
    return _mm512_maskz_loadu_ps(mask, p);
}
static inline void v_store_masked(float *p, vec_mask mask, vec x) {
    _mm512_mask_storeu_ps(p, mask, x);
}
static inline vec v_one_where_ge(vec a, vec b) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), _mm512_set1_ps(1.0f));
}
/* 2^x for x <= 0; 0 below 2^-100, so that no denormal comes up; NaN stays. The polynomial is a Taylor series of
 * degree 7 on [-0.5, 0.5]: its error is far below float rounding. */
static inline vec v_exp2(vec x) {
    __mmask16 kept = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-100.0f), _CMP_NLT_UQ);
    vec whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec f = _mm512_sub_ps(x, whole), p = _mm512_set1_ps(1.52527338e-5f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.54035304e-4f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.33335581e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.61812911e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40226507e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93147181e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(kept, p, whole);
}
