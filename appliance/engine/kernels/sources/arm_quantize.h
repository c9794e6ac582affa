// The codes of activations and the floats of scales, shared by the Arm families.
#pragma once

#include "block_product.h"

namespace lantern {

void quantize_arm(const float* x, size_t columns, unsigned block, const Activations& row);
void write_scales_arm(const uint8_t* steps, const float* units, bool is_signed, size_t num_blocks, float* scales);

}  // namespace lantern
