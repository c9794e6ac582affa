// The portable family: plain C++, the reference that every other family equals to the bit.

#include <cmath>
#include <cstring>
#include <limits>

#include "codes.h"
#include "family_list.h"

namespace lantern {
namespace {

uint32_t magnitude_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits & 0x7fffffff;  // ordered as the magnitudes are; infinities and NaNs are the largest
}

void quantize_block(const float* x, size_t count, int8_t* codes, float* scale, int32_t* sum) {
  uint32_t peak_bits = 0;
  for (size_t i = 0; i < count; i++) peak_bits = magnitude_bits(x[i]) > peak_bits ? magnitude_bits(x[i]) : peak_bits;
  float peak;
  std::memcpy(&peak, &peak_bits, sizeof peak);
  *sum = 0;
  *scale = 0;
  if (peak_bits >= 0x7f800000) *scale = std::numeric_limits<float>::quiet_NaN();
  if (peak_bits >= 0x7f800000 || peak < kSmallestPeak) return;
  *scale = peak / 127.0f;
  const float inverse = 127.0f / peak;
  for (size_t i = 0; i < count; i++) {
    codes[i] = static_cast<int8_t>(std::nearbyint(x[i] * inverse));
    *sum += codes[i];
  }
}

void quantize(const float* x, size_t columns, unsigned block, const Activations& row) {
  for (size_t begin = 0, b = 0; begin < columns; begin += block, b++) {
    const size_t count = columns - begin < block ? columns - begin : block;
    std::memset(row.codes + begin, 0, block);
    quantize_block(x + begin, count, row.codes + begin, row.scales + b * row.num_rows, row.sums + b * row.num_rows);
  }
}

int32_t dot_of(const Weights& weights, size_t entry, size_t row, const int8_t* activations) {
  const uint8_t* block = weights.codes + entry * weights.block_bytes();
  const int zero = weights.zeros ? weights.zeros[entry * kTileRows + row] : middle_of(weights.bits);
  int32_t dot = 0;
  for (size_t k = 0; k < weights.block; k++) dot += (code_at(weights.bits, block, row, k) - zero) * activations[k];
  return dot;
}

template <unsigned, unsigned, bool>
void multiply(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks();
  for (size_t m = 0; m < num_rows; m++)
    for (size_t n = 0; n < kTileRows; n++) {
      float sum = 0;
      for (size_t b = 0; b < num_blocks; b++) {
        const size_t entry = tile * num_blocks + b;
        const int32_t dot = dot_of(weights, entry, n, rows.codes + (m * num_blocks + b) * weights.block);
        const float scale = weights.scale_of(tile * kTileRows + n, b) * rows.scales[b * rows.num_rows + m];
        sum = std::fma(static_cast<float>(dot), scale, sum);
      }
      y[m * stride + n] = sum;
    }
}

bool is_supported() { return true; }

}  // namespace

const Family kPortable{"portable", is_supported, quantize, &kPortableLanes, kAnyRows, nullptr, kAnyRows, LANTERN_KERNELS(multiply)};

}  // namespace lantern
