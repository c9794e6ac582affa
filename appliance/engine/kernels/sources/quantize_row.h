#pragma once

#include <cstring>
#include <limits>

#include "block_product.h"

namespace lantern {

using Peak = uint32_t (*)(const float* x, unsigned block);
using WriteCodes = int32_t (*)(const float* x, float inverse, unsigned block, int8_t* codes);

// Quantizes one block. `peak_of` gives the bits of its largest magnitude, `write_codes` writes the codes and gives their
// sum; a block with an infinity or NaN gets a scale that is NaN.
template <Peak peak_of, WriteCodes write_codes>
void quantize_block(const float* x, unsigned block, int8_t* codes, float* scale, int32_t* sum) {
  const uint32_t peak_bits = peak_of(x, block);
  float peak;
  std::memcpy(&peak, &peak_bits, sizeof peak);
  if (peak_bits >= 0x7f800000 || peak < kSmallestPeak) {
    std::memset(codes, 0, block);
    *sum = 0;
    *scale = peak_bits >= 0x7f800000 ? std::numeric_limits<float>::quiet_NaN() : 0;
    return;
  }
  *scale = peak / 127.0f;
  *sum = write_codes(x, 127.0f / peak, block, codes);
}

// Quantizes one row of activations; its last block is filled with zeros. The functions are of an anonymous namespace, so
// that no other file's instantiation, made for another processor, is taken.
template <Peak peak_of, WriteCodes write_codes>
void quantize_row(const float* x, size_t columns, unsigned block, const Activations& row) {
  for (size_t begin = 0, b = 0; begin < columns; begin += block, b++) {
    float* scale = row.scales + b * row.num_rows;
    int32_t* sum = row.sums + b * row.num_rows;
    if (columns - begin >= block) {
      quantize_block<peak_of, write_codes>(x + begin, block, row.codes + begin, scale, sum);
      continue;
    }
    float filled[kLargestBlock] = {};
    std::memcpy(filled, x + begin, (columns - begin) * sizeof(float));
    quantize_block<peak_of, write_codes>(filled, block, row.codes + begin, scale, sum);
  }
}

}  // namespace lantern
