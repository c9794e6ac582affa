#include "reference.h"

#include <cfenv>
#include <cmath>
#include <limits>

namespace {

struct Block {
  std::vector<int> codes;
  float scale;
};

Block quantized(const float* x, size_t count, size_t size) {
  Block block{std::vector<int>(size), 0};
  float peak = 0;
  for (size_t i = 0; i < count; i++) {
    if (!std::isfinite(x[i])) return {std::vector<int>(size), std::numeric_limits<float>::quiet_NaN()};
    peak = std::fmax(peak, std::fabs(x[i]));
  }
  if (peak < 0x1p-96f) return block;
  block.scale = peak / 127;
  for (size_t i = 0; i < count; i++) block.codes[i] = static_cast<int>(std::nearbyint(x[i] * (127 / peak)));
  return block;
}

// The number at `index` of numbers of `bits`: of 4 bits that lie closely, the first in the lower half of a byte; else the
// upper bits of a byte.
int number_at(const uint8_t* bytes, size_t index, unsigned bits) {
  return bits == 4 ? bytes[index / 2] >> (index % 2 * 4) & 15 : bytes[index] >> (8 - bits);
}

}  // namespace

std::vector<float> reference_product(const Inputs& inputs) {
  const auto [bits, size, has_zeros, columns, rows, num_rows] = inputs.shape;
  const size_t num_blocks = (columns + size - 1) / size, row_bytes = num_blocks * size * inputs.shape.stored_bits() / 8;
  const size_t zero_bytes = (num_blocks * bits + 7) / 8;
  std::vector<float> y(num_rows * rows);
  for (size_t m = 0; m < num_rows; m++)
    for (size_t b = 0; b < num_blocks; b++) {
      const size_t begin = b * size, count = columns - begin < size ? columns - begin : size;
      const Block block = quantized(inputs.x.data() + m * columns + begin, count, size);
      for (size_t n = 0; n < rows; n++) {
        const int zero = has_zeros ? number_at(inputs.zeros.data() + n * zero_bytes, b, bits) : 1 << (bits - 1);
        int dot = 0;
        for (size_t i = 0; i < size; i++)
          dot += (number_at(inputs.codes.data() + n * row_bytes, begin + i, bits) - zero) * block.codes[i];
        const float scale = std::ldexp(inputs.scales[n * num_blocks + b], static_cast<int>(inputs.shape.stored_bits() - bits));
        y[m * rows + n] = std::fma(static_cast<float>(dot), scale * block.scale, y[m * rows + n]);
      }
    }
  return y;
}
