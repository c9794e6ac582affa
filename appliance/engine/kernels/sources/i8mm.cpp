// NEON with products of 2 x 8 by 8 x 2 bytes (Cortex-A710, X1 successors, Neoverse V1) for several rows of activations at once;
// a single row goes to the family with dot products.

#include <arm_neon.h>
#include <sys/auxv.h>

#include "arm_quantize.h"
#include "family_list.h"

namespace lantern {
namespace {

#ifndef HWCAP2_I8MM
#define HWCAP2_I8MM (1 << 13)
#endif

constexpr int kPairs = 4;       // pairs of activations' rows
constexpr int kWeightPairs = 4; // pairs of weights' rows, half of a tile

// Bytes of four rows as the columns k to k + 3 and k + 4 to k + 7: a vector of 2 x 8 bytes for each two rows.
LANTERN_INLINE void pair_rows(int8x16_t first, int8x16_t second, int8x16_t* pairs) {
  const int32x4_t a = vreinterpretq_s32_s8(first), b = vreinterpretq_s32_s8(second);
  pairs[0] = vreinterpretq_s8_s32(vzip1q_s32(a, b));
  pairs[1] = vreinterpretq_s8_s32(vzip2q_s32(a, b));
}

// Eight columns of eight rows of the tile.
template <unsigned kBits>
LANTERN_INLINE void load_weights(const uint8_t* chunks, int8x16_t* pairs) {
  const uint8x16x2_t bytes = vld1q_u8_x2(chunks);
  if constexpr (kBits == 4) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++)
      pair_rows(vreinterpretq_s8_u8(vandq_u8(bytes.val[i], vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8(bytes.val[i], 4)),
                pairs + 2 * i);
  } else {
    const uint8x16x2_t next = vld1q_u8_x2(chunks + 64);
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) pair_rows(vreinterpretq_s8_u8(bytes.val[i]), vreinterpretq_s8_u8(next.val[i]), pairs + 2 * i);
  }
}

// Sixteen columns of two rows of activations: a vector of 2 x 8 bytes for each eight columns.
LANTERN_INLINE void load_activations(const int8_t* codes, size_t row_bytes, int8x16_t* halves) {
  const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(codes)), b = vreinterpretq_s64_s8(vld1q_s8(codes + row_bytes));
  halves[0] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
  halves[1] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
}

// Eight values, each twice: a vector for each pair of rows.
LANTERN_INLINE void each_twice(int32x4_t low, int32x4_t high, int32x4_t* pairs) {
  pairs[0] = vzip1q_s32(low, low);
  pairs[1] = vzip2q_s32(low, low);
  pairs[2] = vzip1q_s32(high, high);
  pairs[3] = vzip2q_s32(high, high);
}

template <unsigned kBits, bool kHasZeros>
LANTERN_INLINE void begin_sums(const int8_t* zeros, const int32_t* sums, int32x4_t (*dots)[kWeightPairs]) {
  const int factor = kBits == 4 && !kHasZeros ? -8 : -1;
  int32x4_t twice[kPairs];
  each_twice(vmulq_n_s32(vld1q_s32(sums), factor), vmulq_n_s32(vld1q_s32(sums + 4), factor), twice);
#pragma GCC unroll 4
  for (int p = 0; p < kPairs; p++)
#pragma GCC unroll 4
    for (int i = 0; i < kWeightPairs; i++) {
      dots[p][i] = kBits == 4 ? twice[p] : vdupq_n_s32(0);
      if (!kHasZeros) continue;
      const int32x2_t pair = {zeros[2 * i], zeros[2 * i + 1]};
      dots[p][i] = vmulq_s32(twice[p], vcombine_s32(pair, pair));
    }
}

// Eight rows of a tile, from row `first` on, times eight rows of activations. Sums of two by two results stay as they are
// until the last block.
template <unsigned kBits, unsigned kBlock, bool kHasZeros>
LANTERN_INLINE void multiply_part(const Weights& weights, size_t tile, int first, const Activations& rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks(), row_bytes = num_blocks * kBlock;
  const uint8_t* chunks = weights.codes + tile * weights.tile_bytes() + first * 4;
  float32x4_t result[kPairs][kWeightPairs] = {};
  for (size_t b = 0; b < num_blocks; b++) {
    const size_t entry = tile * num_blocks + b;
    const float* scales = weights.scales + entry * kTileRows + first;
    int32x4_t dots[kPairs][kWeightPairs];
    begin_sums<kBits, kHasZeros>(kHasZeros ? weights.zeros + entry * kTileRows + first : nullptr, rows.sums + b * rows.num_rows, dots);
#pragma GCC unroll 8
    for (unsigned k = 0; k < kBlock; k += 16, chunks += kTileRows * 2 * kBits) {
      int8x16_t a[kPairs][2];
#pragma GCC unroll 4
      for (int p = 0; p < kPairs; p++) load_activations(rows.codes + b * kBlock + k + 2 * p * row_bytes, row_bytes, a[p]);
#pragma GCC unroll 2
      for (int half = 0; half < 2; half++) {
        int8x16_t w[kWeightPairs];
        load_weights<kBits>(chunks + half * kTileRows * kBits, w);
#pragma GCC unroll 4
        for (int p = 0; p < kPairs; p++)
#pragma GCC unroll 4
          for (int i = 0; i < kWeightPairs; i++) dots[p][i] = vmmlaq_s32(dots[p][i], a[p][half], w[i]);
      }
    }
    float32x4_t pairs[kWeightPairs];  // two scales of weights, both twice
#pragma GCC unroll 4
    for (int i = 0; i < kWeightPairs; i++) pairs[i] = vreinterpretq_f32_f64(vld1q_dup_f64(reinterpret_cast<const double*>(scales + 2 * i)));
    const int32_t* factors = reinterpret_cast<const int32_t*>(rows.scales + b * rows.num_rows);
    int32x4_t twice[kPairs];
    each_twice(vld1q_s32(factors), vld1q_s32(factors + 4), twice);
#pragma GCC unroll 4
    for (int p = 0; p < kPairs; p++)
#pragma GCC unroll 4
      for (int i = 0; i < kWeightPairs; i++)
        result[p][i] = vfmaq_f32(result[p][i], vcvtq_f32_s32(dots[p][i]), vmulq_f32(pairs[i], vreinterpretq_f32_s32(twice[p])));
  }
#pragma GCC unroll 4
  for (int p = 0; p < kPairs; p++)
#pragma GCC unroll 4
    for (int i = 0; i < kWeightPairs; i++) {
      vst1_f32(y + 2 * p * stride + 2 * i, vget_low_f32(result[p][i]));
      vst1_f32(y + (2 * p + 1) * stride + 2 * i, vget_high_f32(result[p][i]));
    }
}

template <unsigned kBits, unsigned kBlock, bool kHasZeros>
void multiply_rows(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks(), whole = is_narrow(kBits) ? 0 : num_rows / (2 * kPairs) * (2 * kPairs);
  if constexpr (!is_narrow(kBits))
    for (size_t m = 0; m < whole; m += 2 * kPairs) {
      const Activations part = row_of(rows, m, num_blocks, kBlock);
      multiply_part<kBits, kBlock, kHasZeros>(weights, tile, 0, part, y + m * stride, stride);
      multiply_part<kBits, kBlock, kHasZeros>(weights, tile, 8, part, y + m * stride + 8, stride);
    }
  if (whole == num_rows) return;
  const Kernel rest = kDotprod.kernels.for_weights(weights);
  rest(weights, tile, row_of(rows, whole, num_blocks, kBlock), num_rows - whole, y + whole * stride, stride);
}

bool is_supported() { return kDotprod.is_supported() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM); }

constexpr Kernels kKernels = LANTERN_KERNELS(multiply_rows);

}  // namespace

const Family kI8mm{"i8mm", is_supported, quantize_arm, &kNeonLanes, 3, write_scales_arm, 5, kKernels};

}  // namespace lantern
