// The product from the layout of a bundle, by the rule in block_product.h alone: shares no code with the kernels.
#pragma once

#include <vector>

#include "cases.h"

std::vector<float> reference_product(const Inputs& inputs);
