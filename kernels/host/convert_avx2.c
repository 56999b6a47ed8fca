/* convert_avx2.c - runs of elements between f32, f16 and bf16 with F16C and AVX2, eight at a time; also what the
 * AVX-512 path uses. Bit for bit what dtype.c gives: F16C keeps NaN as dtype.c does, bf16 is integer arithmetic. */
#include <immintrin.h>

#include "host.h"

static inline __m256 load8(uint32_t dtype, const char *p) {
    if (dtype == KERNEL_F32)
        return _mm256_loadu_ps((const float *)p);
    __m128i half = _mm_loadu_si128((const __m128i *)p);
    if (dtype == KERNEL_F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* Eight 32-bit values, the low halves of which are wanted. */
static inline __m128i pack8(__m256i x) {
    return _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}

static inline void store8(uint32_t dtype, char *p, __m256 x) {
    if (dtype == KERNEL_F32) {
        _mm256_storeu_ps((float *)p, x);
        return;
    }
    if (dtype == KERNEL_F16) {
        _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        return;
    }
    __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    _mm_storeu_si128((__m128i *)p, pack8(_mm256_blendv_epi8(_mm256_srli_epi32(rounded, 16), quiet, is_nan)));
}

void host_convert_avx2(uint32_t to_dtype, void *to, uint32_t from_dtype, const void *from, size_t count) {
    size_t in = kernel_dtype_size(from_dtype), out = kernel_dtype_size(to_dtype), i = 0;

    if (to_dtype == from_dtype) {
        memcpy(to, from, count * in);
        return;
    }
    for (; i + 8 <= count; i += 8)
        store8(to_dtype, (char *)to + i * out, load8(from_dtype, (const char *)from + i * in));
    for (; i < count; i++)
        kernel_store(to_dtype, to, i, kernel_load(from_dtype, from, i));
}
