// The codes of activations, shared by the x86 families.
#pragma once

#include "block_product.h"

namespace lantern {

void quantize_x86(const float* x, size_t columns, unsigned block, const Activations& row);

}  // namespace lantern
