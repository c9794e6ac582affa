// Inputs of a product, made from a seed, and the way a product is run on one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "block_product.h"
#include "pack.h"

struct Case {
  unsigned bits;    // of the packed codes: 5 and 6 are stored as the upper ones of 8
  unsigned block;
  bool has_zeros;
  size_t columns;   // K
  size_t rows;      // N
  size_t num_rows;  // M

  unsigned stored_bits() const { return lantern::is_narrow(bits) ? 8 : bits; }
};

enum class Values { kOrdinary, kExtreme };

struct Inputs {
  Case shape;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<uint8_t> zeros;
  std::vector<float> x;

  lantern::StoredWeights stored() const {
    lantern::StoredWeights found{codes.data(), scales.data(), shape.has_zeros ? zeros.data() : nullptr, shape.rows, shape.columns, shape.stored_bits(), shape.block, shape.bits};
    found.has_steps = lantern::can_have_steps(found);
    return found;
  }
};

// Half of the seeds (0, 1, 4, 5, ...) give scales that are packed as steps. Extreme: codes at the ends of their range,
// activations of any magnitude, zeros, now and then an infinity or a NaN.
Inputs make_inputs(const Case& shape, unsigned seed, Values values);

// Packed weights in memory that ends where they do, so that a sanitizer sees a read past them.
class Packed {
 public:
  explicit Packed(const Inputs& inputs);

  size_t size() const { return size_; }
  const lantern::Weights& weights() const { return weights_; }

 private:
  struct Free {
    void operator()(uint8_t* memory) const { std::free(memory); }
  };

  size_t size_;
  std::unique_ptr<uint8_t, Free> memory_;
  lantern::Weights weights_;
};

// Quantize `x` and multiply, on this thread.
void run(const lantern::Family& family, const Packed& packed, const float* x, size_t num_rows, float* y);
