// Root mean square normalization (https://arxiv.org/abs/1910.07467), the same bits on every processor.
//
// The squares of a row have 8 partial sums: number i has the channels i, i + 8, ... in ascending order, by fused multiply-adds
// from +0. They become ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)). A result is x * r, rounded, times the scale, where
// r = 1 / sqrt(sum / width + epsilon).
#pragma once

#include <cstddef>

namespace lantern {

// y = the norm of a row of `width` floats, or of x + skip if `skip` is not null, which then is written to `sum`; that may be y.
using Normalize = void (*)(const float* x, const float* skip, const float* scale, size_t width, float epsilon, float* sum, float* y);

}  // namespace lantern
