#include "floats.h"

#include <cstdint>
#include <cstring>

// The compiler makes a function for wider vectors as well, and the loader takes it where the processor has them. It has no
// fused products, which would round otherwise.
#ifdef __x86_64__
#define LANTERN_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define LANTERN_WIDE
#endif

namespace lantern {
namespace {

// e^x for -87 <= x <= 88, to 2 units in the last place: 2^n * e^r with |r| <= ln(2) / 2, and Taylor's series of e^r.
inline float exponential(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: what is added to it loses its fraction
  const float shifted = x * 1.44269504f + kRound, n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln(2) in two parts, n times the first of which is exact
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  int32_t bits, round_bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  std::memcpy(&round_bits, &kRound, sizeof bits);
  const uint32_t power_bits = static_cast<uint32_t>(bits - round_bits + 127) << 23;
  float power;
  std::memcpy(&power, &power_bits, sizeof power);
  return p * power;
}

inline float silu(float x) {
  x = x < -88.0f ? -88.0f : x;
  const float t = x > 87.0f ? -87.0f : -x;
  return x / (1.0f + exponential(t));
}

LANTERN_WIDE void gate(const float* gates, const float* values, size_t size, float* __restrict y) {
  for (size_t i = 0; i < size; i++) y[i] = silu(gates[i]) * values[i];
}

LANTERN_WIDE void sum(const float* const* columns, const float* taps, size_t num_taps, size_t stride, const float* bias, bool has_silu,
                      size_t size, float* __restrict y) {
  for (size_t i = 0; i < size; i++) y[i] = bias[i];
  for (size_t k = 0; k < num_taps; k++) {
    const float *column = columns[k], *tap = taps + k * stride;
    for (size_t i = 0; i < size; i++) y[i] += column[i] * tap[i];
  }
  if (has_silu)
    for (size_t i = 0; i < size; i++) y[i] = silu(y[i]);
}

}  // namespace

// The loader's choices would be exported under names of their own, were they not in this file alone.
void gate_values(const float* gates, const float* values, size_t size, float* __restrict y) { gate(gates, values, size, y); }

void sum_columns(const float* const* columns, const float* taps, size_t num_taps, size_t stride, const float* bias, bool has_silu,
                 size_t size, float* __restrict y) {
  sum(columns, taps, num_taps, stride, bias, has_silu, size, y);
}

}  // namespace lantern
