// Floats with NEON: 8 floats are two registers.

#include <arm_neon.h>

#include "lanes.h"

namespace lantern {
namespace {

constexpr int kKeys = 4, kMostScored = 3, kMostMixed = 3, kMostChannels = 2;

struct Lanes {
  static constexpr int kCount = kLanes;
  float32x4_t low, high;

  LANTERN_INLINE_MEMBER static Lanes load(const float* x) { return {vld1q_f32(x), vld1q_f32(x + 4)}; }
  LANTERN_INLINE_MEMBER static Lanes filled(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
  LANTERN_INLINE_MEMBER void store(float* x) const { vst1q_f32(x, low), vst1q_f32(x + 4, high); }
};

LANTERN_INLINE Lanes operator+(Lanes a, Lanes b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
LANTERN_INLINE Lanes operator-(Lanes a, Lanes b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
LANTERN_INLINE Lanes operator*(Lanes a, Lanes b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
LANTERN_INLINE Lanes operator/(Lanes a, Lanes b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
LANTERN_INLINE Lanes fused(Lanes a, Lanes b, Lanes c) { return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)}; }
LANTERN_INLINE Lanes larger(Lanes a, Lanes b) { return {vmaxq_f32(a.low, b.low), vmaxq_f32(a.high, b.high)}; }

LANTERN_INLINE float32x4_t power_of_two(float32x4_t rounded) {
  const int32x4_t bits = vsubq_s32(vreinterpretq_s32_f32(rounded), vdupq_n_s32(kRoundBits - kExponentOfOne));
  return vreinterpretq_f32_s32(vshlq_n_s32(bits, kFractionBits));
}

LANTERN_INLINE Lanes power_of_two(Lanes rounded) { return {power_of_two(rounded.low), power_of_two(rounded.high)}; }

LANTERN_INLINE float total(Lanes x) { return vaddvq_f32(vpaddq_f32(x.low, x.high)); }

using Channels = Lanes;

struct Four {
  float32x4_t x;

  LANTERN_INLINE_MEMBER Four() = default;
  LANTERN_INLINE_MEMBER explicit Four(const float* numbers) : x(vld1q_f32(numbers)) {}
};

template <int kIndex>
LANTERN_INLINE Lanes fused_by(Four four, Lanes a, Lanes b) {
  return {vfmaq_laneq_f32(b.low, a.low, four.x, kIndex), vfmaq_laneq_f32(b.high, a.high, four.x, kIndex)};
}

struct Cursor {
  const float* keys[kKeys];

  LANTERN_INLINE_MEMBER Cursor(const float* first, size_t width) : keys{first, first + width, first + 2 * width, first + 3 * width} {}

  LANTERN_INLINE_MEMBER void move_on(size_t channels) {
#pragma GCC unroll 4
    for (int k = 0; k < kKeys; k++) {
      keys[k] += channels;
      asm("" : "+r"(keys[k]));  // each pointer in a register: pairs of registers are loaded from it in one instruction
    }
  }
};

// The keys are loaded one after the other: the sums of three queries leave them two registers.
template <int kQueries>
struct Sums {
  Lanes v[kQueries][kKeys];

  template <class Add>
  LANTERN_INLINE_MEMBER void each(const float* queries, const Cursor& cursor, size_t channel, Add add) {
    Lanes all[kQueries];
#pragma GCC unroll 3
    for (int q = 0; q < kQueries; q++) all[q] = Lanes::load(queries + q * kLanes);
#pragma GCC unroll 4
    for (int k = 0; k < kKeys; k++) {
      const Lanes key = Lanes::load(cursor.keys[k] + channel);
#pragma GCC unroll 3
      for (int q = 0; q < kQueries; q++) v[q][k] = add(all[q], key, v[q][k]);
    }
  }

  LANTERN_INLINE_MEMBER Sums(const float* queries, const Cursor& cursor) {
    each(queries, cursor, 0, [](Lanes a, Lanes b, Lanes) __attribute__((always_inline)) { return a * b; });
  }

  LANTERN_INLINE_MEMBER void add(const float* queries, const Cursor& cursor, size_t channel) {
    each(queries, cursor, channel, [](Lanes a, Lanes b, Lanes c) __attribute__((always_inline)) { return fused(a, b, c); });
  }

  LANTERN_INLINE_MEMBER void store(float* scores, size_t stride) const {
#pragma GCC unroll 3
    for (int q = 0; q < kQueries; q++) {
      float32x4_t fours[kKeys];
#pragma GCC unroll 4
      for (int k = 0; k < kKeys; k++) fours[k] = vpaddq_f32(v[q][k].low, v[q][k].high);
      vst1q_f32(scores + q * stride, vpaddq_f32(vpaddq_f32(fours[0], fours[1]), vpaddq_f32(fours[2], fours[3])));
    }
  }
};

}  // namespace
}  // namespace lantern

#include "float_kernels_of_page.h"

namespace lantern {

const FloatKernels kNeonLanes = kKernelsOfPage;

}  // namespace lantern
