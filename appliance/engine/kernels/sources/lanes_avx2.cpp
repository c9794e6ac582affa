// Floats with AVX2 and FMA: 16 registers of 8 floats.

#include "lanes_x86.h"

namespace lantern {
namespace {

constexpr int kKeys = 4, kMostScored = 2, kMostMixed = 6, kMostChannels = 2;
using Channels = Lanes;

struct Cursor {
  const float* keys;
  size_t width;

  LANTERN_INLINE_MEMBER Cursor(const float* first, size_t channels) : keys(first), width(channels) {}
  LANTERN_INLINE_MEMBER void move_on(size_t channels) { keys += channels; }
  LANTERN_INLINE_MEMBER __m256 at(int k, size_t channel) const { return _mm256_loadu_ps(keys + k * width + channel); }
};

template <int kQueries>
struct Sums {
  __m256 v[kQueries][kKeys];

  template <class Add>
  LANTERN_INLINE_MEMBER void each(const float* queries, const Cursor& cursor, size_t channel, Add add) {
    __m256 keys[kKeys];
#pragma GCC unroll 4
    for (int k = 0; k < kKeys; k++) keys[k] = cursor.at(k, channel);
#pragma GCC unroll 6
    for (int q = 0; q < kQueries; q++) {
      const __m256 query = _mm256_loadu_ps(queries + q * kLanes);
#pragma GCC unroll 4
      for (int k = 0; k < kKeys; k++) v[q][k] = add(query, keys[k], v[q][k]);
    }
  }

  LANTERN_INLINE_MEMBER Sums(const float* queries, const Cursor& cursor) {
    each(queries, cursor, 0, [](__m256 a, __m256 b, __m256) __attribute__((always_inline)) { return _mm256_mul_ps(a, b); });
  }

  LANTERN_INLINE_MEMBER void add(const float* queries, const Cursor& cursor, size_t channel) {
    each(queries, cursor, channel, [](__m256 a, __m256 b, __m256 c) __attribute__((always_inline)) { return _mm256_fmadd_ps(a, b, c); });
  }

  LANTERN_INLINE_MEMBER void store(float* scores, size_t stride) const {
#pragma GCC unroll 6
    for (int q = 0; q < kQueries; q++) {
      const __m256 halves = _mm256_hadd_ps(_mm256_hadd_ps(v[q][0], v[q][1]), _mm256_hadd_ps(v[q][2], v[q][3]));
      _mm_storeu_ps(scores + q * stride, sum_of_halves(halves));
    }
  }
};

}  // namespace
}  // namespace lantern

#include "float_kernels_of_page.h"

namespace lantern {

const FloatKernels kAvx2Lanes = kKernelsOfPage;

}  // namespace lantern
