#include "cases.h"

#include <cmath>
#include <limits>

namespace {

using Random = std::mt19937;

float extreme_float(Random& random) {
  switch (random() % 16) {
    case 0: return 0;
    case 1: return -0.0f;
    case 2: return std::numeric_limits<float>::denorm_min();
    case 3: return std::ldexp(1.0f, -static_cast<int>(random() % 149));
    case 4: return -std::ldexp(1.0f, static_cast<int>(random() % 60));
    case 5: return std::uniform_real_distribution<float>(-0x1p-95f, 0x1p-95f)(random);
    default: return std::uniform_real_distribution<float>(-1, 1)(random);
  }
}

void make_extreme_activations(Inputs& inputs, Random& random) {
  const Case& shape = inputs.shape;
  for (size_t m = 0; m < shape.num_rows; m++) {
    float* row = inputs.x.data() + m * shape.columns;
    const unsigned kind = random() % 8;
    for (size_t k = 0; k < shape.columns; k++) row[k] = kind == 0 ? 0 : kind == 1 ? (random() % 2 ? 1.0f : -1.0f) : extreme_float(random);
    if (kind == 2) row[random() % shape.columns] = std::numeric_limits<float>::infinity();
    if (kind == 3) row[random() % shape.columns] = std::numeric_limits<float>::quiet_NaN();
  }
}

// Scales that are whole steps of a unit for each row, which weights are packed as.
void make_steps(Inputs& inputs, Random& random, bool is_extreme) {
  const size_t num_blocks = inputs.scales.size() / inputs.shape.rows;
  for (size_t n = 0; n < inputs.shape.rows; n++) {
    const int exponent = is_extreme && random() % 8 == 0 ? -static_cast<int>(random() % 130) : -22;
    const float unit = std::ldexp(static_cast<float>(1024 + random() % 1024), exponent);  // as exact as a half float
    for (size_t b = 0; b < num_blocks; b++) {
      const int step = inputs.shape.bits == 8 ? static_cast<int>(random() % 256) : static_cast<int>(random() % 255) - 127;
      inputs.scales[n * num_blocks + b] = static_cast<float>(step) * unit;
    }
  }
}

}  // namespace

Inputs make_inputs(const Case& shape, unsigned seed, Values values) {
  Random random(seed);
  Inputs inputs{shape, {}, {}, {}, {}};
  const size_t num_blocks = (shape.columns + shape.block - 1) / shape.block;
  inputs.codes.resize(shape.rows * num_blocks * shape.block * shape.stored_bits() / 8);
  inputs.scales.resize(shape.rows * num_blocks);
  inputs.zeros.resize(shape.rows * ((num_blocks * shape.bits + 7) / 8));
  inputs.x.resize(shape.num_rows * shape.columns);
  const bool is_extreme = values == Values::kExtreme;
  const uint8_t ends[] = {0x00, 0xff, 0x80, 0x0f};
  const unsigned kind = random() % 5;
  const unsigned empty = shape.stored_bits() - shape.bits;
  for (uint8_t& code : inputs.codes) code = static_cast<uint8_t>((is_extreme && kind < 4 ? ends[kind] : random()) >> empty << empty);
  for (uint8_t& zero : inputs.zeros) zero = static_cast<uint8_t>(is_extreme ? ends[random() % 4] : random());
  std::uniform_real_distribution<float> scale(-0.02f, 0.02f);
  std::normal_distribution<float> activation;
  for (float& value : inputs.scales) value = is_extreme && random() % 8 == 0 ? 0 : scale(random);
  if (seed / 2 % 2 == 0) make_steps(inputs, random, is_extreme);
  if (is_extreme) make_extreme_activations(inputs, random);
  else for (float& value : inputs.x) value = activation(random);
  return inputs;
}

Packed::Packed(const Inputs& inputs)
    : size_(packed_size(inputs.stored())),
      memory_(static_cast<uint8_t*>(std::aligned_alloc(lantern::kAlignment, size_))),
      weights_(pack(inputs.stored(), memory_.get())) {}

void run(const lantern::Family& family, const Packed& packed, const float* x, size_t num_rows, float* y) {
  const lantern::Weights& weights = packed.weights();
  const size_t num_blocks = weights.num_blocks(), row_bytes = num_blocks * weights.block;
  std::vector<int8_t> codes(num_rows * row_bytes);
  std::vector<float> scales(num_rows * num_blocks);
  std::vector<int32_t> sums(num_rows * num_blocks);
  const lantern::Activations rows{codes.data(), scales.data(), sums.data(), num_rows};
  for (size_t m = 0; m < num_rows; m++)
    family.quantize(x + m * weights.columns, weights.columns, weights.block, row_of(rows, m, num_blocks, weights.block));
  lantern::multiply_tiles(family, weights, 0, weights.num_tiles(), rows, num_rows, y);
}
