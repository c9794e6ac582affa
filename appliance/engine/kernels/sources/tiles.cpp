// A product tile by tile, each in the form that suits the number of rows of activations.

#include <cstring>

#include "block_product.h"
#include "codes.h"
#include "scratch.h"

namespace lantern {
namespace {

thread_local Scratch scratch;  // for the codes of a tile as 8 bits

// Write the vectors of a group from `kVector` on as chunks of 8 bits.
template <unsigned kBits, size_t kVector = 0>
void write_vectors(const uint8_t* chunks, uint8_t* codes) {
  if constexpr (kVector < columns_of_group(kBits) / 4) {
    for (size_t i = 0; i < kChunk; i++)
      codes[i] = static_cast<uint8_t>(code_in_group(kBits, chunks + i, kVector) - middle_of(kBits));
    write_vectors<kBits, kVector + 1>(chunks, codes + kChunk);
  }
}

void write_codes_as_8_bits(const Weights& weights, size_t tile, uint8_t* codes) {
  const uint8_t* chunks = weights.codes + tile * weights.tile_bytes();
  const size_t columns = columns_of_group(weights.bits), num_groups = weights.num_blocks() * weights.block / columns;
  for (size_t i = 0; i < num_groups; i++, chunks += bytes_of_group(weights.bits), codes += columns * kTileRows)
    if (weights.bits == 5) write_vectors<5>(chunks, codes);
    else write_vectors<6>(chunks, codes);
}

void write_scales(const Family& family, const Weights& weights, size_t tile, float* scales) {
  const size_t num_blocks = weights.num_blocks(), entry = tile * num_blocks * kTileRows;
  const float* units = weights.units + tile * kTileRows;
  if (family.write_scales)
    return family.write_scales(weights.steps + entry, units, has_signed_steps(weights.bits), num_blocks, scales);
  for (size_t b = 0; b < num_blocks; b++)
    for (size_t i = 0; i < kTileRows; i++) scales[b * kTileRows + i] = weights.scale_of(tile * kTileRows + i, b);
}

// One tile of weights in the form that suits many rows of activations: `scales` for its blocks, `codes` for its codes as
// 8 bits, or null: they stay as they are.
Weights written_tile(const Family& family, const Weights& weights, size_t tile, float* scales, uint8_t* codes) {
  const size_t entry = tile * weights.num_blocks() * kTileRows;
  Weights there = weights;
  there.codes += tile * weights.tile_bytes();
  if (there.zeros) there.zeros += entry;
  if (there.scales) there.scales += entry;
  if (there.steps) {
    write_scales(family, weights, tile, scales);
    there.scales = scales;
    there.steps = nullptr;
  }
  if (codes) {
    write_codes_as_8_bits(weights, tile, codes);
    there.codes = codes;
    there.bits = 8;
  }
  return there;
}

}  // namespace

void multiply_tiles(const Family& family, const Weights& weights, size_t first, size_t last, const Activations& rows,
                    size_t num_rows, float* y) {
  constexpr size_t kRowsAtOnce = 40;  // their codes stay in the first cache while the tiles pass
  float cut[kRowsAtOnce * kTileRows];
  alignas(kAlignment) float scales[kMostStepBlocks * kTileRows];
  const size_t num_blocks = weights.num_blocks();
  for (size_t m = 0; m < num_rows; m += kRowsAtOnce) {
    const size_t count = num_rows - m < kRowsAtOnce ? num_rows - m : kRowsAtOnce;
    const bool writes_codes = is_narrow(weights.bits) && count > family.most_rows_with_narrow;
    const bool is_written = writes_codes || (weights.steps && count > family.most_rows_with_steps);
    uint8_t* codes = writes_codes ? scratch.of_size(num_blocks * weights.block * kTileRows) : nullptr;
    const Activations part = row_of(rows, m, num_blocks, weights.block);
    float* target = y + m * weights.rows;
    for (size_t i = first; i < last; i++) {
      const size_t begin = i * kTileRows;
      const Weights there = is_written ? written_tile(family, weights, i, scales, codes) : weights;
      const Kernel multiply = family.kernels.for_weights(there);
      const size_t tile = is_written ? 0 : i;
      if (begin + kTileRows <= weights.rows) {
        multiply(there, tile, part, count, target + begin, weights.rows);
        continue;
      }
      multiply(there, tile, part, count, cut, kTileRows);
      for (size_t m = 0; m < count; m++)
        std::memcpy(target + m * weights.rows + begin, cut + m * kTileRows, (weights.rows - begin) * sizeof(float));
    }
  }
}

}  // namespace lantern
