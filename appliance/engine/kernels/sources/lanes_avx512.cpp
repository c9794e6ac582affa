// Floats with AVX-512: 32 registers of 16 floats. A register has the partial sums of two keys, or 16 channels of a result.

#include "lanes_x86.h"

namespace lantern {
namespace {

constexpr int kKeys = 8, kPairs = 4, kMostScored = 6, kMostMixed = 6, kMostChannels = 4;

struct Channels {
  static constexpr int kCount = 16;
  __m512 v;

  LANTERN_INLINE_MEMBER static Channels load(const float* x) { return {_mm512_loadu_ps(x)}; }
  LANTERN_INLINE_MEMBER static Channels filled(float x) { return {_mm512_set1_ps(x)}; }
  LANTERN_INLINE_MEMBER void store(float* x) const { _mm512_storeu_ps(x, v); }
};

LANTERN_INLINE Channels operator*(Channels a, Channels b) { return {_mm512_mul_ps(a.v, b.v)}; }
LANTERN_INLINE Channels fused(Channels a, Channels b, Channels c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

template <int kIndex>
LANTERN_INLINE Channels fused_by(Four four, Channels a, Channels b) {
  return {_mm512_fmadd_ps(a.v, _mm512_set1_ps(four.x[kIndex]), b.v)};
}

LANTERN_INLINE __m512 joined(__m256 low, __m256 high) {
  return _mm512_castpd_ps(_mm512_insertf64x4(_mm512_castps_pd(_mm512_castps256_ps512(low)), _mm256_castps_pd(high), 1));
}

LANTERN_INLINE __m512 twice(const float* x) { return _mm512_castpd_ps(_mm512_broadcast_f64x4(_mm256_castps_pd(_mm256_loadu_ps(x)))); }

struct Cursor {
  const float* keys;
  size_t width;

  LANTERN_INLINE_MEMBER Cursor(const float* first, size_t channels) : keys(first), width(channels) {}
  LANTERN_INLINE_MEMBER void move_on(size_t channels) { keys += channels; }

  // Those of key `i`, and behind them those of key i + kPairs.
  LANTERN_INLINE_MEMBER __m512 at(int i, size_t channel) const {
    return joined(_mm256_loadu_ps(keys + i * width + channel), _mm256_loadu_ps(keys + (i + kPairs) * width + channel));
  }
};

// Sums of neighbours, those of a and then those of b in each 128 bits.
LANTERN_INLINE __m512 neighbours(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}

template <int kQueries>
struct Sums {
  __m512 v[kQueries][kPairs];

  template <class Add>
  LANTERN_INLINE_MEMBER void each(const float* queries, const Cursor& cursor, size_t channel, Add add) {
    __m512 keys[kPairs];
#pragma GCC unroll 4
    for (int i = 0; i < kPairs; i++) keys[i] = cursor.at(i, channel);
#pragma GCC unroll 6
    for (int q = 0; q < kQueries; q++) {
      const __m512 query = twice(queries + q * kLanes);
#pragma GCC unroll 4
      for (int i = 0; i < kPairs; i++) v[q][i] = add(query, keys[i], v[q][i]);
    }
  }

  LANTERN_INLINE_MEMBER Sums(const float* queries, const Cursor& cursor) {
    each(queries, cursor, 0, [](__m512 a, __m512 b, __m512) __attribute__((always_inline)) { return _mm512_mul_ps(a, b); });
  }

  LANTERN_INLINE_MEMBER void add(const float* queries, const Cursor& cursor, size_t channel) {
    each(queries, cursor, channel, [](__m512 a, __m512 b, __m512 c) __attribute__((always_inline)) { return _mm512_fmadd_ps(a, b, c); });
  }

  LANTERN_INLINE_MEMBER void store(float* scores, size_t stride) const {
#pragma GCC unroll 6
    for (int q = 0; q < kQueries; q++) {
      const __m512 fours = neighbours(neighbours(v[q][0], v[q][1]), neighbours(v[q][2], v[q][3]));
      const __m512 sums = _mm512_add_ps(fours, _mm512_shuffle_f32x4(fours, fours, 0xb1));  // both halves of a key's sums
      _mm_storeu_ps(scores + q * stride, _mm512_castps512_ps128(sums));
      _mm_storeu_ps(scores + q * stride + kPairs, _mm512_extractf32x4_ps(sums, 2));
    }
  }
};

}  // namespace
}  // namespace lantern

#include "float_kernels_of_page.h"

namespace lantern {

const FloatKernels kAvx512Lanes = kKernelsOfPage;

}  // namespace lantern
