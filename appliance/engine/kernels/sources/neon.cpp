// NEON without dot products (Cortex-A53, A72): products of bytes in 16 bits, added up pairwise into 32.
//
// Two products of signed bytes fit into 16 bits (2 * 128 * 127 < 2^15), and sixteen of a byte with an unsigned half byte
// (16 * 15 * 127 < 2^15); so sums of 8-bit codes are widened every 8 columns, sums of 4-bit codes every 64. In a block of 32
// a sum of 4-bit codes has eight products, so that two are added up before they are widened. Codes of 5 and 6 bits are
// widened with each group of 32 or 16 columns (8 * 31 * 127 and 4 * 63 * 127 < 2^15).

#include <arm_neon.h>

#include "arm_quantize.h"
#include "arm_tile.h"
#include "family_list.h"

namespace lantern {
namespace {

template <int kLane>
LANTERN_INLINE int8x16_t four_of(int8x16_t codes) {
  return vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(codes), kLane));
}

// Add the products of a vector of codes to two vectors of sums, or begin these.
LANTERN_INLINE void add_products(int16x8_t* sums, int8x16_t weights, int8x16_t activations, bool is_first) {
  sums[0] = is_first ? vmull_s8(vget_low_s8(weights), vget_low_s8(activations))
                     : vmlal_s8(sums[0], vget_low_s8(weights), vget_low_s8(activations));
  sums[1] = is_first ? vmull_high_s8(weights, activations) : vmlal_high_s8(sums[1], weights, activations);
}

LANTERN_INLINE void widen(int32x4_t& sum, int16x8_t narrow, bool is_first) {
  sum = is_first ? vpaddlq_s16(narrow) : vpadalq_s16(sum, narrow);
}

// Four columns of the activations' rows, and the four next to them.
template <int kRows>
struct Fours {
  int8x16_t first[kRows];
  int8x16_t second[kRows];
};

template <int kRows, int kLane>
LANTERN_INLINE Fours<kRows> fours_of(const int8x16_t* codes) {
  Fours<kRows> fours;
#pragma GCC unroll 2
  for (int m = 0; m < kRows; m++) {
    fours.first[m] = four_of<kLane>(codes[m]);
    fours.second[m] = four_of<kLane + 1>(codes[m]);
  }
  return fours;
}

// Eight columns of 8-bit codes, `k` to `k + 7` of a block. Sums: for each row of activations two for each four of weights.
template <int kRows>
LANTERN_INLINE void multiply_8_columns_8_bits(const uint8_t*& chunks, const Fours<kRows>& fours, int32x4_t (*sums)[8], unsigned k) {
  const uint8x16x4_t a = next_chunk(chunks), b = next_chunk(chunks);
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++)
#pragma GCC unroll 2
    for (int m = 0; m < kRows; m++) {
      int16x8_t narrow[2];
      add_products(narrow, vreinterpretq_s8_u8(a.val[i]), fours.first[m], true);
      add_products(narrow, vreinterpretq_s8_u8(b.val[i]), fours.second[m], false);
      widen(sums[m][2 * i], narrow[0], k == 0);
      widen(sums[m][2 * i + 1], narrow[1], k == 0);
    }
}

template <int kRows>
LANTERN_INLINE void multiply_8_columns_4_bits(const uint8_t*& chunks, const Fours<kRows>& fours, int16x8_t (*sums)[8], unsigned k) {
  const uint8x16x4_t bytes = next_chunk(chunks);
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    const int8x16_t low = vreinterpretq_s8_u8(vandq_u8(bytes.val[i], vdupq_n_u8(15)));
    const int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(bytes.val[i], 4));
#pragma GCC unroll 2
    for (int m = 0; m < kRows; m++) {
      add_products(sums[m] + 2 * i, low, fours.first[m], k % 64 == 0);
      add_products(sums[m] + 2 * i, high, fours.second[m], false);
    }
  }
}

template <unsigned kBlock, int kRows>
LANTERN_INLINE void multiply_block_8_bits(const uint8_t*& chunks, const int8_t** codes, int32x4_t (*sums)[8]) {
#pragma GCC unroll 8
  for (unsigned k = 0; k < kBlock; k += 16) {
    int8x16_t a[kRows];
#pragma GCC unroll 2
    for (int m = 0; m < kRows; m++) a[m] = next_codes(codes[m]);
    multiply_8_columns_8_bits<kRows>(chunks, fours_of<kRows, 0>(a), sums, k);
    multiply_8_columns_8_bits<kRows>(chunks, fours_of<kRows, 2>(a), sums, k + 8);
  }
}

template <unsigned kBlock, int kRows>
LANTERN_INLINE void multiply_block_4_bits(const uint8_t*& chunks, const int8_t** codes, int32x4_t (*sums)[8]) {
  int16x8_t narrow[kRows][8];
#pragma GCC unroll 8
  for (unsigned k = 0; k < kBlock; k += 16) {
    int8x16_t a[kRows];
#pragma GCC unroll 2
    for (int m = 0; m < kRows; m++) a[m] = next_codes(codes[m]);
    multiply_8_columns_4_bits<kRows>(chunks, fours_of<kRows, 0>(a), narrow, k);
    multiply_8_columns_4_bits<kRows>(chunks, fours_of<kRows, 2>(a), narrow, k + 8);
    if ((k + 16) % 64 && k + 16 < kBlock) continue;
#pragma GCC unroll 2
    for (int m = 0; m < kRows; m++)
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) {
        if (kBlock == 32 && i % 2 == 0) sums[m][i] = vpaddlq_s16(vpaddq_s16(narrow[m][i], narrow[m][i + 1]));
        if (kBlock > 32) widen(sums[m][i], narrow[m][i], k < 64);
      }
  }
}

// Four activations of each row for the vectors of a group from `kVector` on.
template <int kVector, int kVectors, int kRows>
LANTERN_INLINE void write_fours(const int8x16_t (*codes)[kRows], int8x16_t (*fours)[kRows]) {
  if constexpr (kVector < kVectors) {
#pragma GCC unroll 2
    for (int m = 0; m < kRows; m++) fours[kVector][m] = four_of<kVector % 4>(codes[kVector / 4][m]);
    write_fours<kVector + 1, kVectors, kRows>(codes, fours);
  }
}

// A group with codes of 5 or 6 bits, for the four rows of the tile from row 4 * `i` on.
template <unsigned kBits, int kRows>
LANTERN_INLINE void multiply_four(const uint8x16_t* bytes, const int8x16_t (*fours)[kRows], int32x4_t (*sums)[8], int i, bool is_first) {
  constexpr unsigned kVectors = columns_of_group(kBits) / 4;
  int8x16_t vectors[kVectors];
  vectors_of<kBits>(bytes, vectors);
#pragma GCC unroll 2
  for (int m = 0; m < kRows; m++) {
    int16x8_t narrow[2];
#pragma GCC unroll 8
    for (unsigned vector = 0; vector < kVectors; vector++) add_products(narrow, vectors[vector], fours[vector][m], vector == 0);
    widen(sums[m][2 * i], narrow[0], is_first);
    widen(sums[m][2 * i + 1], narrow[1], is_first);
  }
}

// A block with codes of 5 or 6 bits, group after group.
template <unsigned kBits, unsigned kBlock, int kRows>
LANTERN_INLINE void multiply_block_narrow(const uint8_t*& chunks, const int8_t** codes, int32x4_t (*sums)[8]) {
  constexpr unsigned kColumns = columns_of_group(kBits), kVectors = kColumns / 4;
#pragma GCC unroll 8
  for (unsigned k = 0; k < kBlock; k += kColumns, chunks += bytes_of_group(kBits)) {
    int8x16_t a[kColumns / 16][kRows], fours[kVectors][kRows];
    load_step<kColumns / 16, kRows>(codes, a);
    write_fours<0, kVectors, kRows>(a, fours);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      const Eight<kBits> eight(chunks + half * 32);
      multiply_four<kBits, kRows>(eight.bytes[0], fours, sums, 2 * half, k == 0);
      multiply_four<kBits, kRows>(eight.bytes[1], fours, sums, 2 * half + 1, k == 0);
    }
  }
}

template <unsigned kBits, unsigned kBlock, bool kHasZeros, bool kHasSteps, int kRows>
LANTERN_INLINE void multiply_part(const Weights& weights, size_t tile, const Activations& rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks(), row_bytes = num_blocks * kBlock;
  const uint8_t* chunks = weights.codes + tile * weights.tile_bytes();
  const int8_t* zeros = kHasZeros ? weights.zeros + tile * num_blocks * kTileRows : nullptr;
  const int8_t *codes[kRows], *last = rows.codes + row_bytes;
#pragma GCC unroll 2
  for (int m = 0; m < kRows; m++) codes[m] = rows.codes + m * row_bytes;
  TileScales<kHasSteps, has_signed_steps(kBits)> scales(weights, tile);
  float32x4_t result[kRows][4] = {};
  for (size_t entry = 0; codes[0] != last; entry += rows.num_rows) {
    int32x4_t sums[kRows][8];
    if constexpr (kBits == 8) multiply_block_8_bits<kBlock, kRows>(chunks, codes, sums);
    else if constexpr (is_narrow(kBits)) multiply_block_narrow<kBits, kBlock, kRows>(chunks, codes, sums);
    else multiply_block_4_bits<kBlock, kRows>(chunks, codes, sums);
    float32x4_t scale[4];
    scales.next(scale);
#pragma GCC unroll 2
    for (int m = 0; m < kRows; m++) {
      int32x4_t offset[4];
      offsets<kBits, kHasZeros>(zeros, rows.sums[entry + m], offset);
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        int32x4_t dot = kBits == 4 && kBlock == 32 ? sums[m][2 * i] : vpaddq_s32(sums[m][2 * i], sums[m][2 * i + 1]);
        if (kBits != 8 || kHasZeros) dot = vaddq_s32(dot, offset[i]);
        const float32x4_t factor = vmulq_n_f32(scale[i], rows.scales[entry + m]);
        result[m][i] = vfmaq_f32(result[m][i], vcvtq_f32_s32(dot), factor);
      }
    }
    if (kHasZeros) zeros += kTileRows;
  }
#pragma GCC unroll 2
  for (int m = 0; m < kRows; m++)
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) vst1q_f32(y + m * stride + i * 4, result[m][i]);
}

template <unsigned kBits, unsigned kBlock, bool kHasZeros, bool kHasSteps>
void multiply_pairs(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks();
  size_t m = 0;
  for (; m + 2 <= num_rows; m += 2)
    multiply_part<kBits, kBlock, kHasZeros, kHasSteps, 2>(weights, tile, row_of(rows, m, num_blocks, kBlock), y + m * stride, stride);
  if (m < num_rows)
    multiply_part<kBits, kBlock, kHasZeros, kHasSteps, 1>(weights, tile, row_of(rows, m, num_blocks, kBlock), y + m * stride, stride);
}

template <unsigned kBits, unsigned kBlock, bool kHasZeros>
void multiply_rows(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  if (weights.steps) multiply_pairs<kBits, kBlock, kHasZeros, true>(weights, tile, rows, num_rows, y, stride);
  else multiply_pairs<kBits, kBlock, kHasZeros, false>(weights, tile, rows, num_rows, y, stride);
}

bool is_supported() { return true; }  // every 64-bit Arm processor has it

constexpr Kernels kKernels = LANTERN_KERNELS(multiply_rows);

}  // namespace

const Family kNeon{"neon", is_supported, quantize_arm, &kNeonLanes, 2, write_scales_arm, 11, kKernels};

}  // namespace lantern
