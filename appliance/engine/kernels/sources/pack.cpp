#include "pack.h"

#include <cmath>
#include <cstring>

#include "codes.h"

namespace lantern {
namespace {

size_t aligned(size_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

Weights without_areas(const StoredWeights& stored) {
  Weights weights{};
  weights.rows = stored.rows;
  weights.columns = stored.columns;
  weights.bits = stored.packed_bits;
  weights.block = stored.block;
  return weights;
}

// A code of a block, as it is packed.
uint8_t packed_code(const StoredWeights& stored, const uint8_t* block, size_t k) {
  if (stored.bits == 4) return block[k / 2] >> (k % 2 * 4) & 15;
  return stored.packed_bits == 8 ? block[k] ^ 0x80 : static_cast<uint8_t>(block[k] >> (8 - stored.packed_bits));
}

void pack_block(const StoredWeights& stored, const uint8_t* block, size_t row, uint8_t* packed) {
  const unsigned bits = stored.packed_bits;
  const size_t columns = columns_of_group(bits);
  for (size_t k = 0; k < stored.block; k += columns, packed += bytes_of_group(bits))
    for (size_t i = 0; i < 4; i++) {
      uint8_t codes[8];
      for (size_t vector = 0; vector < columns / 4; vector++) codes[vector] = packed_code(stored, block, k + vector * 4 + i);
      write_group(bits, codes, packed + row * 4 + i);
    }
}

// A scale of the bundle, for packed codes: a power of two times as large, where these have fewer bits.
float packed_scale(const StoredWeights& stored, float scale) {
  return scale * static_cast<float>(1u << (stored.bits - stored.packed_bits));
}

int8_t packed_zero(const StoredWeights& stored, const uint8_t* zeros, size_t block) {
  if (stored.bits == 8) return static_cast<int8_t>(zeros[block] ^ 0x80);
  return static_cast<int8_t>(zeros[block / 2] >> (block % 2 * 4) & 15);
}

// The bytes of the area of scales, or of steps and the area of units after it.
size_t scales_size(const Weights& weights, bool has_steps) {
  const size_t entries = weights.num_tiles() * weights.num_blocks() * kTileRows;
  return has_steps ? aligned(entries) + aligned(weights.num_tiles() * kTileRows * sizeof(float)) : aligned(entries * sizeof(float));
}

int most_steps(unsigned bits) { return has_signed_steps(bits) ? 127 : 255; }

// Whole steps of a unit in a scale; a number that does not fit if they are not exactly the scale.
int steps_in(float scale, float unit, unsigned bits) {
  const float steps = std::nearbyint(scale / unit);
  const bool fits = std::fabs(steps) <= static_cast<float>(most_steps(bits)) && (has_signed_steps(bits) || steps >= 0);
  return fits && steps * unit == scale ? static_cast<int>(steps) : 256;
}

bool are_steps(const float* scales, size_t count, float unit, unsigned bits) {
  for (size_t b = 0; b < count; b++)
    if (steps_in(scales[b], unit, bits) == 256) return false;
  return true;
}

// The unit of the scales of a row: the smallest number of which all are multiples that fit; 1 for zeros, 0 if there is none.
float unit_of(const float* scales, size_t count, unsigned bits) {
  float largest = 0;
  for (size_t b = 0; b < count; b++) {
    if (!std::isfinite(scales[b])) return 0;
    largest = std::fmax(largest, std::fabs(scales[b]));
  }
  if (largest == 0) return 1;
  for (int steps = most_steps(bits); steps > 0; steps--) {
    const float unit = largest / static_cast<float>(steps);
    if (are_steps(scales, count, unit, bits)) return unit;
  }
  return 0;
}

}  // namespace

unsigned narrowest_bits(const StoredWeights& stored) {
  if (stored.bits != 8 || stored.zeros || stored.columns > kMostNarrowColumns) return stored.bits;
  const size_t size = stored.rows * without_areas(stored).num_blocks() * stored.block;
  uint8_t used = 0;
  for (size_t i = 0; i < size; i++) used |= stored.codes[i];
  return used & 3 ? 8 : used & 4 ? 6 : 5;
}

bool can_have_steps(const StoredWeights& stored) {
  const Weights weights = without_areas(stored);
  const size_t num_blocks = weights.num_blocks();
  if (num_blocks > kMostStepBlocks || scales_size(weights, true) >= scales_size(weights, false)) return false;
  for (size_t n = 0; n < stored.rows; n++)
    if (unit_of(stored.scales + n * num_blocks, num_blocks, stored.packed_bits) == 0) return false;
  return true;
}

size_t packed_size(const StoredWeights& stored) {
  const Weights weights = without_areas(stored);
  const size_t entries = weights.num_tiles() * weights.num_blocks() * kTileRows;
  return aligned(weights.num_tiles() * weights.tile_bytes()) + scales_size(weights, stored.has_steps) +
         (stored.zeros ? aligned(entries) : 0);
}

Weights weights_in(const StoredWeights& stored, const uint8_t* memory) {
  Weights weights = without_areas(stored);
  const size_t entries = weights.num_tiles() * weights.num_blocks() * kTileRows;
  const uint8_t* scales = memory + aligned(weights.num_tiles() * weights.tile_bytes());
  weights.codes = memory;
  if (stored.has_steps) {
    weights.steps = scales;
    weights.units = reinterpret_cast<const float*>(scales + aligned(entries));
  } else {
    weights.scales = reinterpret_cast<const float*>(scales);
  }
  if (stored.zeros) weights.zeros = reinterpret_cast<const int8_t*>(scales + scales_size(weights, stored.has_steps));
  return weights;
}

Weights pack(const StoredWeights& stored, uint8_t* memory) {
  const Weights weights = weights_in(stored, memory);
  const size_t num_blocks = weights.num_blocks();
  const size_t stored_block = stored.block * stored.bits / 8, stored_zeros = (num_blocks * stored.bits + 7) / 8;
  auto* scales = const_cast<float*>(weights.scales);
  auto* steps = const_cast<uint8_t*>(weights.steps);
  auto* units = const_cast<float*>(weights.units);
  auto* zeros = const_cast<int8_t*>(weights.zeros);
  std::memset(memory, 0, packed_size(stored));
  for (size_t n = 0; n < stored.rows; n++) {
    const size_t tile = n / kTileRows, row = n % kTileRows;
    const float unit = steps ? unit_of(stored.scales + n * num_blocks, num_blocks, stored.packed_bits) : 0;
    if (steps) units[n] = packed_scale(stored, unit);
    for (size_t b = 0; b < num_blocks; b++) {
      const float scale = stored.scales[n * num_blocks + b];
      if (!std::isfinite(packed_scale(stored, scale))) return without_areas(stored);
      const size_t entry = tile * num_blocks + b;
      if (steps) steps[entry * kTileRows + row] = static_cast<uint8_t>(steps_in(scale, unit, stored.packed_bits));
      else scales[entry * kTileRows + row] = packed_scale(stored, scale);
      if (zeros) zeros[entry * kTileRows + row] = packed_zero(stored, stored.zeros + n * stored_zeros, b);
      pack_block(stored, stored.codes + (n * num_blocks + b) * stored_block, row, memory + entry * weights.block_bytes());
    }
  }
  return weights;
}

void unpack_row(const Weights& weights, size_t row, float* y) {
  const size_t tile = row / kTileRows, num_blocks = weights.num_blocks();
  const uint8_t* block = weights.codes + tile * weights.tile_bytes();
  for (size_t b = 0; b < num_blocks; b++, block += weights.block_bytes()) {
    const size_t begin = b * weights.block;
    const size_t count = weights.columns - begin < weights.block ? weights.columns - begin : weights.block;
    const int zero = weights.zeros ? weights.zeros[weights.entry_of(row, b)] : middle_of(weights.bits);
    const float scale = weights.scale_of(row, b);
    for (size_t k = 0; k < count; k++)
      y[begin + k] = static_cast<float>(code_at(weights.bits, block, row % kTileRows, k) - zero) * scale;
  }
}

}  // namespace lantern
