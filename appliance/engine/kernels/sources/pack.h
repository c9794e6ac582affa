// Weights from the layout of a bundle (that of MatMulNBits) to the packed one.
#pragma once

#include "block_product.h"

namespace lantern {

// The weights of a bundle: codes (rows, blocks, block * bits / 8) with the lower code in the lower half of a byte,
// scales (rows, blocks), zero points (rows, blocks * bits / 8, rounded up) or null for the middle of the range.
struct StoredWeights {
  const uint8_t* codes;
  const float* scales;
  const uint8_t* zeros;
  size_t rows;
  size_t columns;
  unsigned bits;
  unsigned block;
  unsigned packed_bits;  // `bits`, or what narrowest_bits() tells
  bool has_steps = false;
};

// The fewest bits that hold the codes: 5 or 6 if the lower 3 or 2 bits of all codes of 8 are empty, else `bits`. The scales
// of the packed weights are then 8 or 4 times those of the bundle, which changes no bit of a product.
unsigned narrowest_bits(const StoredWeights& stored);

// True if the scales can be packed as steps of a unit for each row, and take less memory so.
bool can_have_steps(const StoredWeights& stored);

// Bytes that the packed weights need, each area at a multiple of kAlignment.
size_t packed_size(const StoredWeights& stored);

// The packed weights that `memory` holds already. Of `stored` only the sizes count, and whether there are zero points and
// steps.
Weights weights_in(const StoredWeights& stored, const uint8_t* memory);

// Pack into `memory`, aligned to kAlignment. A null pointer in the result's codes: a scale was not finite.
Weights pack(const StoredWeights& stored, uint8_t* memory);

// Write the columns of one row of packed weights in float: (code - zero point) * scale.
void unpack_row(const Weights& weights, size_t row, float* y);

}  // namespace lantern
