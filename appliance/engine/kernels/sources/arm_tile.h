// Parts of a tile in registers, shared by the Arm families: its codes, its scales and the offsets of its zero points.
#pragma once

#include <arm_neon.h>

#include "codes.h"

namespace lantern {

// Load what a pointer is at and move the pointer on, in one instruction: the empty statement keeps the compiler from
// computing each address from the first one.
LANTERN_INLINE uint8x16x4_t next_chunk(const uint8_t*& chunks) {
  const uint8x16x4_t loaded = vld1q_u8_x4(chunks);
  chunks += 64;
  asm("" : "+r"(chunks));
  return loaded;
}

LANTERN_INLINE int8x16_t next_codes(const int8_t*& codes) {
  int8x16_t loaded = vld1q_s8(codes);
  codes += 16;
  asm("" : "+r"(codes), "+w"(loaded));  // in a register, else each four of them are loaded by themselves
  return loaded;
}

// The next `kVectors` times sixteen activations of each row: a[k][m] are those of row m.
template <int kVectors, int kRows>
LANTERN_INLINE void load_step(const int8_t** codes, int8x16_t (*a)[kRows]) {
#pragma GCC unroll 8
  for (int m = 0; m < kRows; m++) a[0][m] = next_codes(codes[m]);
  if constexpr (kVectors > 1) load_step<kVectors - 1, kRows>(codes, a + 1);
}

// Four steps as floats: each byte becomes the highest one of 32 bits, from which one instruction makes the number.
template <bool kIsSigned>
LANTERN_INLINE float32x4_t as_floats(uint8x16_t steps, uint8x16_t places) {
  const uint32x4_t high = vreinterpretq_u32_u8(vqtbl1q_u8(steps, places));
  return kIsSigned ? vcvtq_n_f32_s32(vreinterpretq_s32_u32(high), 24) : vcvtq_n_f32_u32(high, 24);
}

// The places that move the steps of four rows, from row 4 * `i` on, to the highest bytes.
LANTERN_INLINE uint8x16_t places_of(uint32_t i) {
  return vreinterpretq_u8_u32(uint32x4_t{i << 26 | 0xffffff, (4 * i + 1) << 24 | 0xffffff, (4 * i + 2) << 24 | 0xffffff, (4 * i + 3) << 24 | 0xffffff});
}

// The scales of a tile's blocks in turn; steps become floats in registers.
template <bool kHasSteps, bool kIsSigned>
struct TileScales {
  const float* scales;
  const uint8_t* steps;
  float32x4_t units[4];
  uint8x16_t places[4];

  LANTERN_INLINE_MEMBER TileScales(const Weights& weights, size_t tile) {
    const size_t entry = tile * weights.num_blocks() * kTileRows;
    scales = kHasSteps ? nullptr : weights.scales + entry;
    steps = kHasSteps ? weights.steps + entry : nullptr;
#pragma GCC unroll 4
    for (int i = 0; kHasSteps && i < 4; i++) units[i] = vld1q_f32(weights.units + tile * kTileRows + i * 4), places[i] = places_of(i);
  }

  LANTERN_INLINE_MEMBER void next(float32x4_t* block) {
    const uint8x16_t bytes = kHasSteps ? vld1q_u8(steps) : uint8x16_t{};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
      block[i] = kHasSteps ? vmulq_f32(as_floats<kIsSigned>(bytes, places[i]), units[i]) : vld1q_f32(scales + i * 4);
    if (kHasSteps) steps += kTileRows;
    else scales += kTileRows;
  }
};

// The codes of a group of columns with 5 or 6 bits for four rows of the tile, one vector for each four columns. `bytes`:
// those of these rows in each chunk.
LANTERN_INLINE void vectors_of_6_bits(const uint8x16_t* bytes, int8x16_t* vectors) {
  const uint8x16_t mask = vdupq_n_u8(63), fourth = vsriq_n_u8(vshrq_n_u8(bytes[0], 2), bytes[1], 4);
  vectors[0] = vreinterpretq_s8_u8(vandq_u8(bytes[0], mask));
  vectors[1] = vreinterpretq_s8_u8(vandq_u8(bytes[1], mask));
  vectors[2] = vreinterpretq_s8_u8(vandq_u8(bytes[2], mask));
  vectors[3] = vreinterpretq_s8_u8(vsriq_n_u8(fourth, bytes[2], 6));
}

LANTERN_INLINE void vectors_of_5_bits(const uint8x16_t* bytes, int8x16_t* vectors) {
  const uint8x16_t mask = vdupq_n_u8(31), eighth = vsriq_n_u8(vshrq_n_u8(bytes[4], 3), bytes[1], 6);
  vectors[0] = vreinterpretq_s8_u8(vandq_u8(bytes[0], mask));
  vectors[1] = vreinterpretq_s8_u8(vandq_u8(bytes[1], mask));
  vectors[2] = vreinterpretq_s8_u8(vandq_u8(bytes[2], mask));
  vectors[3] = vreinterpretq_s8_u8(vandq_u8(bytes[3], mask));
  vectors[4] = vreinterpretq_s8_u8(vandq_u8(bytes[4], mask));
  vectors[5] = vreinterpretq_s8_u8(vsriq_n_u8(vshrq_n_u8(bytes[0], 3), vshlq_n_u8(bytes[1], 1), 6));
  vectors[6] = vreinterpretq_s8_u8(vsriq_n_u8(vshrq_n_u8(bytes[2], 3), vshlq_n_u8(bytes[3], 1), 6));
  vectors[7] = vreinterpretq_s8_u8(vsriq_n_u8(eighth, bytes[3], 7));
}

template <unsigned kBits>
LANTERN_INLINE void vectors_of(const uint8x16_t* bytes, int8x16_t* vectors) {
  if constexpr (kBits == 5) vectors_of_5_bits(bytes, vectors);
  else vectors_of_6_bits(bytes, vectors);
}

// The bytes of a group for eight rows of the tile, in two fours: neighbours, which one instruction loads.
template <unsigned kBits>
struct Eight {
  static constexpr int kChunks = bytes_of_group(kBits) / kChunk;
  uint8x16_t bytes[2][kChunks];

  LANTERN_INLINE_MEMBER explicit Eight(const uint8_t* chunks) {
#pragma GCC unroll 8
    for (int i = 0; i < kChunks; i++) {
      bytes[0][i] = vld1q_u8(chunks + i * kChunk);
      bytes[1][i] = vld1q_u8(chunks + i * kChunk + 16);
    }
  }
};

// Write -zero * sum for the sixteen rows of a tile.
template <unsigned kBits, bool kHasZeros>
LANTERN_INLINE void offsets(const int8_t* zeros, int32_t sum, int32x4_t* offset) {
  if (!kHasZeros) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) offset[i] = vdupq_n_s32(-middle_of(kBits) * sum);
    return;
  }
  const int8x16_t bytes = vld1q_s8(zeros);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
  const int16_t factor = static_cast<int16_t>(-sum);  // at most 128 * 127
  offset[0] = vmull_n_s16(vget_low_s16(low), factor);
  offset[1] = vmull_high_n_s16(low, factor);
  offset[2] = vmull_n_s16(vget_low_s16(high), factor);
  offset[3] = vmull_high_n_s16(high, factor);
}

}  // namespace lantern
