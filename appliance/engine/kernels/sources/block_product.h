// Products of float activations with weights of 4, 5, 6 or 8 bits in blocks: the types, and the arithmetic that every family keeps.
//
// y[m][n] = sum over blocks b of dot[m][n][b] * (weight_scale[n][b] * activation_scale[m][b])
//
// Every family computes the same bits, because each step below is exact or has one rounding that the text fixes:
//
// - Activations: the peak of a block is its largest magnitude. Codes are x * (127 / peak) rounded to the nearest integer,
//   ties to even; the scale is peak / 127. A peak below kSmallestPeak makes a block of zeros with scale 0; a block with an
//   infinity or a NaN has codes 0 and scale NaN, so that the whole row of the result is NaN.
// - dot is an integer sum of (code - zero point) * activation code: exact in 32 bits and in a float (below 2^24).
// - The scales are multiplied with each other first; then the sum goes on by one fused multiply-add a block, blocks in
//   ascending order, from +0. Fused, because every processor that has a family here has the instruction, and because one
//   rounding leaves a compiler no choice; the sources are compiled with -ffp-contract=off.
#pragma once

#include <cstddef>
#include <cstdint>

#include "float_kernels.h"

// For the steps of a kernel: their operands are registers, which a call would store. The second one is for members.
#define LANTERN_INLINE static inline __attribute__((always_inline))
#define LANTERN_INLINE_MEMBER inline __attribute__((always_inline))

namespace lantern {

constexpr size_t kTileRows = 16;        // rows of W that lie together
constexpr size_t kLargestBlock = 128;
constexpr float kSmallestPeak = 0x1p-96f;
constexpr size_t kAlignment = 64;       // of each area of the packed weights
constexpr size_t kMostStepBlocks = 512; // of a row whose scales are steps: the floats of a tile may lie on the stack
constexpr size_t kMostNarrowColumns = 1 << 15;  // of a row whose codes have 5 or 6 bits: the bytes of a tile may lie there too

// 5 and 6 bits: what a bundle keeps as the upper bits of 8.
constexpr bool is_narrow(unsigned bits) { return bits == 5 || bits == 6; }

// Steps of scales are signed with fewer than 8 bits.
constexpr bool has_signed_steps(unsigned bits) { return bits != 8; }

// The code that stands for zero, where there are no zero points; codes of 8 bits are packed less that.
constexpr int middle_of(unsigned bits) { return bits == 8 ? 0 : 1 << (bits - 1); }

// Packed weights. Rows of W are tiles of kTileRows, filled up with rows of zeros. The codes of a tile lie block after
// block, in chunks of 64 bytes: 4 bytes of each row in turn. With 8 bits a chunk holds 4 signed codes (less 128) of each
// row; with 4 bits 8 codes, the first four in the low halves of the bytes and the next four in the high ones. codes.h has
// the layout of 5 and 6 bits. Scales and zero points have kTileRows entries a block of a tile. Zero points with 8 bits are
// less 128, as the codes; with 5 and 6 bits there are none.
//
// Scales are steps where all those of a row are whole multiples of one number, its unit, as lantern-quantize makes them: a
// byte instead of a float. step * unit is exactly the scale. A step is unsigned with 8 bits, and signed with fewer.
struct Weights {
  const uint8_t* codes;
  const float* scales;   // null: steps and units
  const int8_t* zeros;   // null: middle_of(bits)
  const uint8_t* steps;
  const float* units;    // of each row
  size_t rows;          // N
  size_t columns;       // K
  unsigned bits;
  unsigned block;

  size_t num_blocks() const { return (columns + block - 1) / block; }
  size_t num_tiles() const { return (rows + kTileRows - 1) / kTileRows; }
  size_t block_bytes() const { return kTileRows * block * bits / 8; }
  size_t tile_bytes() const { return num_blocks() * block_bytes(); }

  // The place of a row's scale and zero point in block `b`.
  size_t entry_of(size_t row, size_t b) const { return (row / kTileRows * num_blocks() + b) * kTileRows + row % kTileRows; }

  float scale_of(size_t row, size_t b) const {
    const size_t entry = entry_of(row, b);
    if (!steps) return scales[entry];
    return static_cast<float>(has_signed_steps(bits) ? static_cast<int8_t>(steps[entry]) : steps[entry]) * units[row];
  }
};

// Activations in codes: rows of num_blocks * block bytes, filled up with zeros. Scales and sums of codes lie block after
// block, so that kernels for several rows load those of neighbours together: entry b * num_rows + m.
struct Activations {
  int8_t* codes;
  float* scales;
  int32_t* sums;
  size_t num_rows;
};

// The activations from row m on.
inline Activations row_of(const Activations& rows, size_t m, size_t num_blocks, unsigned block) {
  return {rows.codes + m * num_blocks * block, rows.scales + m, rows.sums + m, rows.num_rows};
}

// Write one tile's columns of the result for `num_rows` rows: y[i * stride + 0 .. kTileRows - 1].
using Kernel = void (*)(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride);

// A kernel for each format: by bits (4, 5, 6, 8), block (32, 64, 128) and zero points (none, some).
struct Kernels {
  Kernel by_format[4][3][2];

  Kernel for_weights(const Weights& weights) const {
    const unsigned bits = weights.bits == 8 ? 3 : weights.bits - 4;
    return by_format[bits][weights.block == 128 ? 2 : weights.block == 64][weights.zeros != nullptr];
  }
};

#define LANTERN_KERNELS_OF_BITS(name, bits)                                                                         \
  {                                                                                                                 \
    {name<bits, 32, false>, name<bits, 32, true>}, {name<bits, 64, false>, name<bits, 64, true>}, {                 \
      name<bits, 128, false>, name<bits, 128, true>                                                                 \
    }                                                                                                               \
  }
#define LANTERN_KERNELS_OF_NARROW(name, bits) {{name<bits, 32, false>}, {name<bits, 64, false>}, {name<bits, 128, false>}}
// The table of the instances of template <unsigned kBits, unsigned kBlock, bool kHasZeros> name.
#define LANTERN_KERNELS(name)                                                                                       \
  {                                                                                                                 \
    {                                                                                                               \
      LANTERN_KERNELS_OF_BITS(name, 4), LANTERN_KERNELS_OF_NARROW(name, 5), LANTERN_KERNELS_OF_NARROW(name, 6),     \
          LANTERN_KERNELS_OF_BITS(name, 8)                                                                          \
    }                                                                                                               \
  }

constexpr size_t kAnyRows = SIZE_MAX;

// A family of kernels: one page of intrinsics, for processors that have its instructions.
struct Family {
  const char* name;
  bool (*is_supported)();

  // Write the codes, scales and sums of the first row, of `columns` floats.
  void (*quantize)(const float* x, size_t columns, unsigned block, const Activations& row);

  const FloatKernels* floats;

  // Rows of activations up to which the kernels read steps. For more, the scales of a tile are written as floats before:
  // kTileRows for each of its blocks.
  size_t most_rows_with_steps;
  void (*write_scales)(const uint8_t* steps, const float* units, bool is_signed, size_t num_blocks, float* scales);

  // Rows of activations up to which the kernels read codes of 5 and 6 bits. For more, those of a tile are written as 8 bits
  // before, and its scales as floats.
  size_t most_rows_with_narrow;

  Kernels kernels;
};

// The families of this build, the fastest first, and the first one that this processor supports.
const Family* const* families(size_t* count);
const Family* best_family();
const Family* family_named(const char* name);

// One result: all columns of W from tile `first` to `last`, the last tile cut to the rows that W has.
void multiply_tiles(const Family& family, const Weights& weights, size_t first, size_t last, const Activations& rows,
                    size_t num_rows, float* y);

}  // namespace lantern
