// The kernels over floats, made of the lanes of the page that includes this at its end.
#pragma once

#include "attention_kernel.h"
#include "norm_kernel.h"
#include "rows_kernel.h"

namespace lantern {
namespace {

void attend(const float* keys, const float* values, size_t width, const Query* queries, size_t num_queries, float* scores) {
  attend_queries(keys, values, width, queries, num_queries, scores);
}

void normalize(const float* x, const float* skip, const float* scale, size_t width, float epsilon, float* sum, float* y) {
  normalize_row(x, skip, scale, width, epsilon, sum, y);
}

void gate(const float* gates, const float* values, size_t size, float* y) { gate_row(gates, values, size, y); }

void sum_columns(const float* const* columns, const float* taps, size_t num_taps, size_t stride, const float* bias, bool has_silu,
                 size_t size, float* y) {
  sum_rows(columns, taps, num_taps, stride, bias, has_silu, size, y);
}

void rotate(const float* x, const float* cos, const float* sin, size_t half, float scale, float* y) {
  rotate_row(x, cos, sin, half, scale, y);
}

constexpr FloatKernels kKernelsOfPage{attend, normalize, gate, sum_columns, rotate};

}  // namespace
}  // namespace lantern
