// 8 floats of AVX2 and FMA, which the pages of floats for x86 share.
#pragma once

#include <immintrin.h>

#include "lanes.h"

namespace lantern {
namespace {

struct Lanes {
  static constexpr int kCount = kLanes;
  __m256 v;

  LANTERN_INLINE_MEMBER static Lanes load(const float* x) { return {_mm256_loadu_ps(x)}; }
  LANTERN_INLINE_MEMBER static Lanes filled(float x) { return {_mm256_set1_ps(x)}; }
  LANTERN_INLINE_MEMBER void store(float* x) const { _mm256_storeu_ps(x, v); }
};

LANTERN_INLINE Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_ps(a.v, b.v)}; }
LANTERN_INLINE Lanes operator-(Lanes a, Lanes b) { return {_mm256_sub_ps(a.v, b.v)}; }
LANTERN_INLINE Lanes operator*(Lanes a, Lanes b) { return {_mm256_mul_ps(a.v, b.v)}; }
LANTERN_INLINE Lanes operator/(Lanes a, Lanes b) { return {_mm256_div_ps(a.v, b.v)}; }
LANTERN_INLINE Lanes fused(Lanes a, Lanes b, Lanes c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
LANTERN_INLINE Lanes larger(Lanes a, Lanes b) { return {_mm256_max_ps(a.v, b.v)}; }

LANTERN_INLINE Lanes power_of_two(Lanes rounded) {
  const __m256i bits = _mm256_sub_epi32(_mm256_castps_si256(rounded.v), _mm256_set1_epi32(kRoundBits - kExponentOfOne));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(bits, kFractionBits))};
}

LANTERN_INLINE __m128 sum_of_halves(__m256 x) { return _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)); }

LANTERN_INLINE float total(Lanes x) {
  const __m256 pairs = _mm256_hadd_ps(x.v, x.v);
  return _mm_cvtss_f32(sum_of_halves(_mm256_hadd_ps(pairs, pairs)));
}

struct Four {
  const float* x;

  LANTERN_INLINE_MEMBER Four() = default;
  LANTERN_INLINE_MEMBER explicit Four(const float* numbers) : x(numbers) {}
};

template <int kIndex>
LANTERN_INLINE Lanes fused_by(Four four, Lanes a, Lanes b) {
  return {_mm256_fmadd_ps(a.v, _mm256_broadcast_ss(four.x + kIndex), b.v)};
}

}  // namespace
}  // namespace lantern
