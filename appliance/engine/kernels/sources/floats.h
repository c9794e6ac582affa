// Loops over floats, with the same bits on every processor: each float has sums and products in one order, whatever the width
// of the vectors that the compiler makes of them.
#pragma once

#include <cstddef>

namespace lantern {

// y = silu(gates) * values, of `size` floats each; silu(x) = x / (1 + e^-x), to 1e-6 of itself.
void gate_values(const float* gates, const float* values, size_t size, float* __restrict y);

// y = bias + the sum over taps k of columns[k] * taps[k * stride], of `size` floats each, and silu of that if asked for.
void sum_columns(const float* const* columns, const float* taps, size_t num_taps, size_t stride, const float* bias, bool has_silu,
                 size_t size, float* __restrict y);

}  // namespace lantern
