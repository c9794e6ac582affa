// NEON with dot products of four bytes (Cortex-A76): a code's chunk times one lane of the activations.

#include <arm_neon.h>
#include <sys/auxv.h>

#include "arm_quantize.h"
#include "arm_tile.h"
#include "family_list.h"

namespace lantern {
namespace {

// Four columns: dots[m][i] += codes of four rows times lane `kLane` of the activations' row m.
template <int kLane, int kRows>
LANTERN_INLINE void multiply_4_columns(const int8x16_t* weights, const int8x16_t* codes, int32x4_t (*dots)[4]) {
#pragma GCC unroll 8
  for (int m = 0; m < kRows; m++)
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) dots[m][i] = vdotq_laneq_s32(dots[m][i], weights[i], codes[m], kLane);
}

template <int kLane, int kRows>
LANTERN_INLINE void multiply_chunk_8_bits(const uint8_t*& chunks, const int8x16_t* codes, int32x4_t (*dots)[4]) {
  const uint8x16x4_t bytes = next_chunk(chunks);
  int8x16_t weights[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) weights[i] = vreinterpretq_s8_u8(bytes.val[i]);
  multiply_4_columns<kLane, kRows>(weights, codes, dots);
}

template <int kLane, int kRows>
LANTERN_INLINE void multiply_chunk_4_bits(const uint8_t*& chunks, const int8x16_t* codes, int32x4_t (*dots)[4]) {
  const uint8x16x4_t bytes = next_chunk(chunks);
  int8x16_t low[4], high[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    low[i] = vreinterpretq_s8_u8(vandq_u8(bytes.val[i], vdupq_n_u8(15)));
    high[i] = vreinterpretq_s8_u8(vshrq_n_u8(bytes.val[i], 4));
  }
  multiply_4_columns<kLane, kRows>(low, codes, dots);
  multiply_4_columns<kLane + 1, kRows>(high, codes, dots);
}

// dots[m] += the vectors of a group from `kVector` on times their lanes of the activations.
template <int kVector, int kVectors, int kRows>
LANTERN_INLINE void multiply_vectors(const int8x16_t* vectors, const int8x16_t (*codes)[kRows], int32x4_t (*dots)[4], int i) {
  if constexpr (kVector < kVectors) {
#pragma GCC unroll 8
    for (int m = 0; m < kRows; m++) dots[m][i] = vdotq_laneq_s32(dots[m][i], vectors[kVector], codes[kVector / 4][m], kVector % 4);
    multiply_vectors<kVector + 1, kVectors, kRows>(vectors, codes, dots, i);
  }
}

// A group of columns with 5 or 6 bits, for the eight rows of the tile from row 8 * kHalf on.
template <unsigned kBits, int kHalf, int kRows>
LANTERN_INLINE void multiply_eight(const uint8_t* chunks, const int8x16_t (*codes)[kRows], int32x4_t (*dots)[4]) {
  constexpr int kVectors = columns_of_group(kBits) / 4;
  const Eight<kBits> eight(chunks + kHalf * 32);
  int8x16_t vectors[kVectors];
  vectors_of<kBits>(eight.bytes[0], vectors);
  multiply_vectors<0, kVectors, kRows>(vectors, codes, dots, 2 * kHalf);
  vectors_of<kBits>(eight.bytes[1], vectors);
  multiply_vectors<0, kVectors, kRows>(vectors, codes, dots, 2 * kHalf + 1);
}

template <unsigned kBits, int kRows>
LANTERN_INLINE void multiply_group(const uint8_t*& chunks, const int8x16_t (*codes)[kRows], int32x4_t (*dots)[4]) {
  multiply_eight<kBits, 0, kRows>(chunks, codes, dots);
  multiply_eight<kBits, 1, kRows>(chunks, codes, dots);
  chunks += bytes_of_group(kBits);
}

// Columns that are read together: whole groups, and whole vectors of activations.
constexpr unsigned columns_of_step(unsigned bits) { return bits == 5 ? 32 : 16; }

// The columns of a step; codes[k][m]: sixteen activations of row m.
template <unsigned kBits, int kRows>
LANTERN_INLINE void multiply_columns(const uint8_t*& chunks, const int8x16_t (*codes)[kRows], int32x4_t (*dots)[4]) {
  if constexpr (is_narrow(kBits)) {
    multiply_group<kBits, kRows>(chunks, codes, dots);
  } else if constexpr (kBits == 4) {
    multiply_chunk_4_bits<0, kRows>(chunks, codes[0], dots);
    multiply_chunk_4_bits<2, kRows>(chunks, codes[0], dots);
  } else {
    multiply_chunk_8_bits<0, kRows>(chunks, codes[0], dots);
    multiply_chunk_8_bits<1, kRows>(chunks, codes[0], dots);
    multiply_chunk_8_bits<2, kRows>(chunks, codes[0], dots);
    multiply_chunk_8_bits<3, kRows>(chunks, codes[0], dots);
  }
}

// What the sums of a block begin with: minus the zero points times the sums of activations.
template <unsigned kBits, bool kHasZeros, int kRows>
LANTERN_INLINE void begin_dots(const int8_t* zeros, const int32_t* sums, int32x4_t (*dots)[4]) {
#pragma GCC unroll 8
  for (int m = 0; m < kRows; m++) offsets<kBits, kHasZeros>(zeros, sums[m], dots[m]);
}

// A tile times kRows rows of activations.
template <unsigned kBits, unsigned kBlock, bool kHasZeros, bool kHasSteps, int kRows>
LANTERN_INLINE void multiply_part(const Weights& weights, size_t tile, const Activations& rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks(), row_bytes = num_blocks * kBlock;
  const uint8_t* chunks = weights.codes + tile * weights.tile_bytes();
  const int8_t* zeros = kHasZeros ? weights.zeros + tile * num_blocks * kTileRows : nullptr;
  const int8_t *codes[kRows], *last = rows.codes + row_bytes;
#pragma GCC unroll 8
  for (int m = 0; m < kRows; m++) codes[m] = rows.codes + m * row_bytes;
  TileScales<kHasSteps, has_signed_steps(kBits)> scales(weights, tile);
  float32x4_t result[kRows][4] = {};
  for (size_t entry = 0; codes[0] != last; entry += rows.num_rows) {
    int32x4_t dots[kRows][4];
    begin_dots<kBits, kHasZeros, kRows>(zeros, rows.sums + entry, dots);
#pragma GCC unroll 8
    for (unsigned k = 0; k < kBlock; k += columns_of_step(kBits)) {
      int8x16_t a[columns_of_step(kBits) / 16][kRows];
      load_step<columns_of_step(kBits) / 16, kRows>(codes, a);
      multiply_columns<kBits, kRows>(chunks, a, dots);
    }
    float32x4_t scale[4];
    scales.next(scale);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; m++)
#pragma GCC unroll 4
      for (int i = 0; i < 4; i++)
        result[m][i] = vfmaq_f32(result[m][i], vcvtq_f32_s32(dots[m][i]), vmulq_n_f32(scale[i], rows.scales[entry + m]));
    if (kHasZeros) zeros += kTileRows;
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; m++)
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) vst1q_f32(y + m * stride + i * 4, result[m][i]);
}

// One row and two have functions of their own, whose frames are small: each is called once a tile.
template <unsigned kBits, unsigned kBlock, bool kHasZeros, bool kHasSteps, int kRows>
__attribute__((noinline)) void multiply_some(const Weights& weights, size_t tile, const Activations& rows, float* y, size_t stride) {
  multiply_part<kBits, kBlock, kHasZeros, kHasSteps, kRows>(weights, tile, rows, y, stride);
}

template <unsigned kBits, unsigned kBlock, bool kHasZeros, bool kHasSteps>
__attribute__((noinline)) void multiply_few(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks();
  size_t m = 0;
  for (; num_rows - m >= 2; m += 2)
    multiply_some<kBits, kBlock, kHasZeros, kHasSteps, 2>(weights, tile, row_of(rows, m, num_blocks, kBlock), y + m * stride, stride);
  if (m < num_rows) multiply_some<kBits, kBlock, kHasZeros, kHasSteps, 1>(weights, tile, row_of(rows, m, num_blocks, kBlock), y + m * stride, stride);
}

// Columns of a tile for several rows of activations: from block `first` up to `last`, of 4 bits packed or unpacked to 8.
struct Columns {
  const uint8_t* chunks;
  size_t first, last;
};

constexpr unsigned kUnpackedColumns = 1024;  // at once: 16 KiB, which stay in the first cache
constexpr size_t kUnpackingRows = 16;       // of activations, which pay for it

// Write codes of 4 bits as codes of 8 bits are packed; without zero points less 8.
template <bool kHasZeros>
void unpack(const uint8_t* chunks, size_t num_chunks, uint8_t* bytes) {
  const uint8x16_t middle = vdupq_n_u8(kHasZeros ? 0 : 8);
  for (size_t i = 0; i < num_chunks; i++, chunks += 64, bytes += 128) {
    const uint8x16x4_t packed = vld1q_u8_x4(chunks);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
      vst1q_u8(bytes + j * 16, vsubq_u8(vandq_u8(packed.val[j], vdupq_n_u8(15)), middle));
      vst1q_u8(bytes + 64 + j * 16, vsubq_u8(vshrq_n_u8(packed.val[j], 4), middle));
    }
  }
}

// Sixteen columns of a half of a tile, as signed bytes: a vector of four rows for each four columns.
template <bool kIsPacked>
LANTERN_INLINE void load_half(const uint8_t* chunks, int8x16_t (*weights)[2]) {
#pragma GCC unroll 4
  for (int chunk = 0; chunk < (kIsPacked ? 2 : 4); chunk++)
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
      const uint8x16_t bytes = vld1q_u8(chunks + chunk * 64 + i * 16);
      if constexpr (kIsPacked) {
        weights[2 * chunk][i] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
        weights[2 * chunk + 1][i] = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
      } else {
        weights[chunk][i] = vreinterpretq_s8_u8(bytes);
      }
    }
}

// One row of activations times those columns.
LANTERN_INLINE void multiply_row(const int8x16_t (*weights)[2], int8x16_t codes, int32x4_t* dots) {
#pragma GCC unroll 2
  for (int i = 0; i < 2; i++) {
    dots[i] = vdotq_laneq_s32(dots[i], weights[0][i], codes, 0);
    dots[i] = vdotq_laneq_s32(dots[i], weights[1][i], codes, 1);
    dots[i] = vdotq_laneq_s32(dots[i], weights[2][i], codes, 2);
    dots[i] = vdotq_laneq_s32(dots[i], weights[3][i], codes, 3);
  }
}

// The first sums of a block for eight rows of a tile: minus the zero points times the sums of activations.
template <unsigned kBits, bool kHasZeros, int kRows>
LANTERN_INLINE void begin_half(const int8_t* zeros, const int32_t* sums, int32x4_t (*dots)[2]) {
  int32x4_t four = vdupq_n_s32(0), last = four, points[2] = {four, four};
  if constexpr (kBits == 4 || kHasZeros) {
    four = vmulq_n_s32(vld1q_s32(sums), kHasZeros ? -1 : -8);
    if constexpr (kRows == 5) last = vdupq_n_s32(sums[4] * (kHasZeros ? -1 : -8));
  }
  if constexpr (kHasZeros) {
    const int16x8_t wide = vmovl_s8(vld1_s8(zeros));
    points[0] = vmovl_s16(vget_low_s16(wide));
    points[1] = vmovl_high_s16(wide);
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; m++)
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
      const int32x4_t sum = m == 4 ? last : vdupq_n_s32(four[m & 3]);
      dots[m][i] = kHasZeros ? vmulq_s32(points[i], sum) : sum;
    }
}

// Eight rows of a tile, from row `row` on, times kRows rows of activations. Five keep all sums in registers: the weights
// of sixteen columns take eight, the sums twenty.
template <unsigned kBits, unsigned kBlock, bool kHasZeros, bool kIsPacked, int kRows>
LANTERN_INLINE void multiply_half(const Weights& weights, size_t tile, int row, const Columns& columns, const Activations& rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks(), row_bytes = num_blocks * kBlock;
  const size_t entry = (tile * num_blocks + columns.first) * kTileRows + row;
  const uint8_t* chunks = columns.chunks + row * 4;
  const float* scales = weights.scales + entry;
  const int8_t* zeros = kHasZeros ? weights.zeros + entry : nullptr;
  const int8_t* codes = rows.codes + columns.first * kBlock;
  float32x4_t result[kRows][2] = {};
  if (columns.first)
#pragma GCC unroll 8
    for (int m = 0; m < kRows; m++) result[m][0] = vld1q_f32(y + m * stride), result[m][1] = vld1q_f32(y + m * stride + 4);
  for (size_t b = columns.first; b < columns.last; b++) {
    int32x4_t dots[kRows][2];
    begin_half<kBits, kHasZeros, kRows>(zeros, rows.sums + b * rows.num_rows, dots);
#pragma GCC unroll 8
    for (unsigned k = 0; k < kBlock; k += 16) {
      int8x16_t part[4][2];
      load_half<kIsPacked>(chunks + k * (kIsPacked ? 8 : 16), part);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; m++) multiply_row(part, vld1q_s8(codes + m * row_bytes + k), dots[m]);
    }
    const float32x4_t low = vld1q_f32(scales), high = vld1q_f32(scales + 4);
    const float* factors = rows.scales + b * rows.num_rows;
    const float32x4_t four = vld1q_f32(factors);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; m++) {
      const float factor = m == 4 ? factors[4] : four[m & 3];
      result[m][0] = vfmaq_f32(result[m][0], vcvtq_f32_s32(dots[m][0]), vmulq_n_f32(low, factor));
      result[m][1] = vfmaq_f32(result[m][1], vcvtq_f32_s32(dots[m][1]), vmulq_n_f32(high, factor));
    }
    chunks += kTileRows * kBlock / (kIsPacked ? 2 : 1);
    codes += kBlock;
    scales += kTileRows;
    if (kHasZeros) zeros += kTileRows;
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; m++) vst1q_f32(y + m * stride, result[m][0]), vst1q_f32(y + m * stride + 4, result[m][1]);
}

// One half of a tile after the other: the sums of both need too many registers.
template <unsigned kBits, unsigned kBlock, bool kHasZeros, bool kIsPacked, int kRows>
__attribute__((noinline)) void multiply_halves(const Weights& weights, size_t tile, const Columns& columns, const Activations& rows, float* y, size_t stride) {
  for (int row = 0; row < 16; row += 8)
    multiply_half<kBits, kBlock, kHasZeros, kIsPacked, kRows>(weights, tile, row, columns, rows, y + row, stride);
}

// Rows of activations by fours and fives; return how many those were: all of 8 or 12 and more, else all but up to three.
template <unsigned kBits, unsigned kBlock, bool kHasZeros, bool kIsPacked>
size_t multiply_many(const Weights& weights, size_t tile, const Columns& columns, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks(), rest = (5 - num_rows % 5) % 5 * 4, by_fours = rest <= num_rows ? rest : 0;
  size_t m = 0;
  for (; m < by_fours; m += 4)
    multiply_halves<kBits, kBlock, kHasZeros, kIsPacked, 4>(weights, tile, columns, row_of(rows, m, num_blocks, kBlock), y + m * stride, stride);
  for (; num_rows - m >= 5; m += 5)
    multiply_halves<kBits, kBlock, kHasZeros, kIsPacked, 5>(weights, tile, columns, row_of(rows, m, num_blocks, kBlock), y + m * stride, stride);
  return m;
}

template <unsigned kBits, unsigned kBlock, bool kHasZeros>
__attribute__((noinline)) void multiply_several(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  constexpr bool kIsPacked = kBits == 4;
  const size_t num_blocks = weights.num_blocks();
  const uint8_t* chunks = weights.codes + tile * weights.tile_bytes();
  size_t m = 0;
  if (kIsPacked && num_rows >= kUnpackingRows) {
    alignas(kAlignment) uint8_t bytes[kTileRows * kUnpackedColumns];
    for (size_t first = 0, last; first < num_blocks; first = last) {
      last = first + kUnpackedColumns / kBlock < num_blocks ? first + kUnpackedColumns / kBlock : num_blocks;
      unpack<kHasZeros>(chunks + first * weights.block_bytes(), (last - first) * kBlock / 8, bytes);
      m = multiply_many<8, kBlock, kHasZeros, false>(weights, tile, {bytes, first, last}, rows, num_rows, y, stride);
    }
  } else {
    m = multiply_many<kBits, kBlock, kHasZeros, kIsPacked>(weights, tile, {chunks, 0, num_blocks}, rows, num_rows, y, stride);
  }
  multiply_few<kBits, kBlock, kHasZeros, false>(weights, tile, row_of(rows, m, num_blocks, kBlock), num_rows - m, y + m * stride, stride);
}

template <unsigned kBits, unsigned kBlock, bool kHasZeros>
void multiply_rows(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  if (num_rows == 1 && weights.steps) return multiply_some<kBits, kBlock, kHasZeros, true, 1>(weights, tile, rows, y, stride);
  if (num_rows == 1) return multiply_some<kBits, kBlock, kHasZeros, false, 1>(weights, tile, rows, y, stride);
  if (weights.steps) return multiply_few<kBits, kBlock, kHasZeros, true>(weights, tile, rows, num_rows, y, stride);
  if constexpr (is_narrow(kBits)) multiply_few<kBits, kBlock, kHasZeros, false>(weights, tile, rows, num_rows, y, stride);
  else multiply_several<kBits, kBlock, kHasZeros>(weights, tile, rows, num_rows, y, stride);
}

bool is_supported() { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }

constexpr Kernels kKernels = LANTERN_KERNELS(multiply_rows);

}  // namespace

const Family kDotprod{"dotprod", is_supported, quantize_arm, &kNeonLanes, 3, write_scales_arm, 5, kKernels};

}  // namespace lantern
