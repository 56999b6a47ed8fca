/* attend_avx512.c - attention with AVX-512. The algorithm is in attend_vector.h. */
#include "host.h"
#include "vector_avx512.h"

#define ATTEND host_attend_avx512

#include "attend_vector.h"
