// Loops over the floats of rows, the same bits on every processor: each float has its sums and products in one order.
#pragma once

#include <cstddef>

namespace lantern {

// y = silu(gates) * values, of `size` floats each; silu(x) = x / (1 + e^-x), to 1e-6 of itself.
using Gate = void (*)(const float* gates, const float* values, size_t size, float* y);

// y = bias + the sum over taps k of columns[k] * taps[k * stride], of `size` floats each, and silu of that if asked for.
using SumColumns = void (*)(const float* const* columns, const float* taps, size_t num_taps, size_t stride, const float* bias, bool has_silu,
                            size_t size, float* y);

// y = scale * x turned by angles (rotary positions, https://arxiv.org/abs/2104.09864): pairs are x[i] and x[half + i].
using Rotate = void (*)(const float* x, const float* cos, const float* sin, size_t half, float scale, float* y);

}  // namespace lantern
