// Floats in plain C++.

#include <cmath>
#include <cstring>

#include "lanes.h"

namespace lantern {
namespace {

constexpr int kKeys = 1, kMostScored = 1, kMostMixed = 1, kMostChannels = 1;

struct Lanes {
  static constexpr int kCount = 8;
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

#include "attention_kernel.h"
#include "norm_kernel.h"
#include "rows_kernel.h"

namespace lantern {
namespace {

void attend(const float* keys, const float* values, size_t width, const Query* queries, size_t num_queries, float* scores) {
  attend_queries(keys, values, width, queries, num_queries, scores);
}

void normalize(const float* x, const float* skip, const float* scale, size_t width, float epsilon, float* sum, float* y) {
  normalize_row(x, skip, scale, width, epsilon, sum, y);
}

void gate(const float* gates, const float* values, size_t size, float* y) { gate_row(gates, values, size, y); }

void sum_columns(const float* const* columns, const float* taps, size_t num_taps, size_t stride, const float* bias, bool has_silu,
                 size_t size, float* y) {
  sum_rows(columns, taps, num_taps, stride, bias, has_silu, size, y);
}

void rotate(const float* x, const float* cos, const float* sin, size_t half, float scale, float* y) {
  rotate_row(x, cos, sin, half, scale, y);
}

}  // namespace

const FloatKernels kPortableLanes{attend, normalize, gate, sum_columns, rotate};

}  // namespace lantern
