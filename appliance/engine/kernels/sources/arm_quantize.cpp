#include "arm_quantize.h"

#include "arm_tile.h"
#include "quantize_row.h"

namespace lantern {
namespace {

// 32 values at once: every block has a multiple of them.
constexpr unsigned kStep = 32;

uint32_t peak_of(const float* x, unsigned block) {
  uint32x4_t peaks[2] = {vdupq_n_u32(0), vdupq_n_u32(0)};
  for (unsigned k = 0; k < block; k += kStep)
#pragma GCC unroll 8
    for (unsigned i = 0; i < kStep; i += 4) {
      const uint32x4_t bits = vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + k + i)), vdupq_n_u32(0x7fffffff));
      peaks[i / 4 % 2] = vmaxq_u32(peaks[i / 4 % 2], bits);
    }
  return vmaxvq_u32(vmaxq_u32(peaks[0], peaks[1]));
}

LANTERN_INLINE int16x8_t codes_of(const float* x, float inverse) {
  const int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), inverse));
  const int32x4_t high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4), inverse));
  return vuzp1q_s16(vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high));
}

int32_t write_codes(const float* x, float inverse, unsigned block, int8_t* codes) {
  int32x4_t sum = vdupq_n_s32(0);
  for (unsigned k = 0; k < block; k += kStep)
#pragma GCC unroll 2
    for (unsigned i = k; i < k + kStep; i += 16) {
      const int16x8_t low = codes_of(x + i, inverse), high = codes_of(x + i + 8, inverse);
      vst1q_s8(codes + i, vuzp1q_s8(vreinterpretq_s8_s16(low), vreinterpretq_s8_s16(high)));
      sum = vpadalq_s16(sum, vaddq_s16(low, high));
    }
  return vaddvq_s32(sum);
}

template <bool kIsSigned>
void write_scales(const uint8_t* steps, const float* units, size_t num_blocks, float* scales) {
  float32x4_t by_row[4];
  uint8x16_t places[4];
#pragma GCC unroll 4
  for (unsigned i = 0; i < 4; i++) {
    by_row[i] = vld1q_f32(units + i * 4);
    places[i] = places_of(i);
  }
#pragma GCC unroll 4
  for (size_t b = 0; b < num_blocks; b++, steps += kTileRows, scales += kTileRows) {
    const uint8x16_t bytes = vld1q_u8(steps);
#pragma GCC unroll 4
    for (unsigned i = 0; i < 4; i++) vst1q_f32(scales + i * 4, vmulq_f32(as_floats<kIsSigned>(bytes, places[i]), by_row[i]));
  }
}

}  // namespace

void quantize_arm(const float* x, size_t columns, unsigned block, const Activations& row) {
  quantize_row<peak_of, write_codes>(x, columns, block, row);
}

void write_scales_arm(const uint8_t* steps, const float* units, bool is_signed, size_t num_blocks, float* scales) {
  if (is_signed) write_scales<true>(steps, units, num_blocks, scales);
  else write_scales<false>(steps, units, num_blocks, scales);
}

}  // namespace lantern
