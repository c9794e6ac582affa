// Floats in plain C++.

#include <cmath>
#include <cstring>

#include "lanes.h"

namespace lantern {
namespace {

constexpr int kKeys = 1, kMostScored = 1, kMostMixed = 1, kMostChannels = 1;

struct Lanes {
  static constexpr int kCount = kLanes;
  float v[kCount];

  static Lanes load(const float* x) {
    Lanes found;
    std::memcpy(found.v, x, sizeof found.v);
    return found;
  }

  static Lanes filled(float x) {
    Lanes found;
    for (float& one : found.v) one = x;
    return found;
  }

  void store(float* x) const { std::memcpy(x, v, sizeof v); }
};

template <class Operation>
Lanes each(Operation operation) {
  Lanes found;
  for (int i = 0; i < Lanes::kCount; i++) found.v[i] = operation(i);
  return found;
}

Lanes operator+(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}

Lanes operator-(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}

Lanes operator*(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}

Lanes operator/(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}

Lanes fused(Lanes a, Lanes b, Lanes c) {
  return each([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}

Lanes larger(Lanes a, Lanes b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}

Lanes power_of_two(Lanes rounded) {
  return each([&](int i) {
    int32_t bits;
    std::memcpy(&bits, &rounded.v[i], sizeof bits);
    const uint32_t power_bits = static_cast<uint32_t>(bits - kRoundBits + kExponentOfOne) << kFractionBits;
    float power;
    std::memcpy(&power, &power_bits, sizeof power);
    return power;
  });
}

float total(Lanes x) {
  const auto pair = [&](int i) { return x.v[i] + x.v[i + 1]; };
  return (pair(0) + pair(2)) + (pair(4) + pair(6));
}

using Channels = Lanes;

struct Four {
  const float* x;

  Four() = default;
  explicit Four(const float* numbers) : x(numbers) {}
};

template <int kIndex>
Lanes fused_by(Four four, Lanes a, Lanes b) {
  return fused(a, Lanes::filled(four.x[kIndex]), b);
}

struct Cursor {
  const float* keys;

  Cursor(const float* first, size_t) : keys(first) {}
  void move_on(size_t channels) { keys += channels; }
};

template <int kQueries>
struct Sums {
  Lanes v;

  Sums(const float* query, const Cursor& cursor) : v(Lanes::load(query) * Lanes::load(cursor.keys)) {}
  void add(const float* query, const Cursor& cursor, size_t channel) { v = fused(Lanes::load(query), Lanes::load(cursor.keys + channel), v); }
  void store(float* scores, size_t) const { *scores = total(v); }
};

}  // namespace
}  // namespace lantern

#include "float_kernels_of_page.h"

namespace lantern {

const FloatKernels kPortableLanes = kKernelsOfPage;

}  // namespace lantern
