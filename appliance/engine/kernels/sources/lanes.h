// What the pages of floats need to define their lanes, and the kernels that they make of them.
//
// Lanes are 8 floats: load, store, filled (with one number), fused (a * b + c), a + b, a - b, a * b, a / b, larger (the second
// where one is no number), power_of_two (of whole numbers that were rounded by adding kRound), total.
#pragma once

#include <cstdint>

#include "block_product.h"
#include "float_kernels.h"

namespace lantern {

constexpr int32_t kRoundBits = 0x4b400000;  // of 1.5 * 2^23, as a float
constexpr int32_t kExponentOfOne = 127, kFractionBits = 23;

// A number that a type carries.
template <int kValue>
struct Index {
  static constexpr int value = kValue;
};

}  // namespace lantern
