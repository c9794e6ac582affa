// Loops over the floats of rows in terms of Lanes.
#pragma once

#include "exponential.h"
#include "rows.h"

namespace lantern {
namespace {

// The first `count` floats, up to 8; zeros behind them.
LANTERN_INLINE Lanes load_some(const float* x, size_t count) {
  if (count >= kLanes) return Lanes::load(x);
  float some[kLanes] = {};
  for (size_t i = 0; i < count; i++) some[i] = x[i];
  return Lanes::load(some);
}

LANTERN_INLINE void store_some(Lanes x, size_t count, float* y) {
  if (count >= kLanes) return x.store(y);
  float all[kLanes];
  x.store(all);
  for (size_t i = 0; i < count; i++) y[i] = all[i];
}

// What is no number stays so, and -88 stands for what is below it.
LANTERN_INLINE Lanes silu(Lanes x) {
  x = larger(Lanes::filled(-88.0f), x);
  return x / (Lanes::filled(1.0f) + exponential(Lanes::filled(0.0f) - x));
}

LANTERN_INLINE void gate_row(const float* gates, const float* values, size_t size, float* y) {
  for (size_t i = 0; i < size; i += kLanes)
    store_some(silu(load_some(gates + i, size - i)) * load_some(values + i, size - i), size - i, y + i);
}

LANTERN_INLINE void sum_rows(const float* const* columns, const float* taps, size_t num_taps, size_t stride, const float* bias, bool has_silu,
                             size_t size, float* y) {
  for (size_t i = 0; i < size; i += kLanes) {
    const size_t count = size - i;
    Lanes sum = load_some(bias + i, count);
    for (size_t k = 0; k < num_taps; k++) sum = sum + load_some(columns[k] + i, count) * load_some(taps + k * stride + i, count);
    store_some(has_silu ? silu(sum) : sum, count, y + i);
  }
}

LANTERN_INLINE void rotate_row(const float* x, const float* cos, const float* sin, size_t half, float scale, float* y) {
  const Lanes factor = Lanes::filled(scale);
  for (size_t i = 0; i < half; i += kLanes) {
    const size_t count = half - i;
    const Lanes a = load_some(x + i, count) * factor, b = load_some(x + half + i, count) * factor;
    const Lanes c = load_some(cos + i, count), s = load_some(sin + i, count);
    store_some(a * c - b * s, count, y + i);
    store_some(b * c + a * s, count, y + half + i);
  }
}

}  // namespace
}  // namespace lantern
