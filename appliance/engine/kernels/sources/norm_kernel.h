// Norms in terms of Lanes.
#pragma once

#include <cmath>

#include "lanes.h"

namespace lantern {
namespace {

LANTERN_INLINE void normalize_row(const float* x, const float* skip, const float* scale, size_t width, float epsilon, float* sum, float* y) {
  const size_t whole = width / kLanes * kLanes;
  if (skip) {
    for (size_t i = 0; i < whole; i += kLanes) (Lanes::load(x + i) + Lanes::load(skip + i)).store(sum + i);
    for (size_t i = whole; i < width; i++) sum[i] = x[i] + skip[i];
    x = sum;
  }
  Lanes squares = Lanes::filled(0.0f);
  for (size_t i = 0; i < whole; i += kLanes) squares = fused(Lanes::load(x + i), Lanes::load(x + i), squares);
  if (whole < width) {
    float rest[kLanes] = {};
    for (size_t i = whole; i < width; i++) rest[i - whole] = x[i];
    squares = fused(Lanes::load(rest), Lanes::load(rest), squares);
  }
  const float factor = 1.0f / std::sqrt(total(squares) / static_cast<float>(width) + epsilon);
  const Lanes factors = Lanes::filled(factor);
  for (size_t i = 0; i < whole; i += kLanes) (Lanes::load(x + i) * factors * Lanes::load(scale + i)).store(y + i);
  for (size_t i = whole; i < width; i++) y[i] = x[i] * factor * scale[i];
}

}  // namespace
}  // namespace lantern
