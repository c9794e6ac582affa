// Every family that this processor supports, against the reference, to the bit.
//
//   equality shapes          all classes of shapes, ordinary and extreme values
//   equality fuzz SEED COUNT random shapes, values and alignments of the activations and the result
//   equality families        the names of the families that are tested here
//
// Prints the first difference and ends with 1, or the number of products compared.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "reference.h"

namespace {

unsigned long compared = 0, with_steps = 0;

bool same(float a, float b) {
  uint32_t bits[2];
  std::memcpy(bits, &a, 4);
  std::memcpy(bits + 1, &b, 4);
  return bits[0] == bits[1] || (std::isnan(a) && std::isnan(b));  // a NaN's sign and payload are not promised
}

void fail(const lantern::Family& family, const Inputs& inputs, unsigned seed, size_t at, float is, float should) {
  const Case& shape = inputs.shape;
  std::printf("%s differs: %u bits, block %u, %s, K %zu, N %zu, M %zu, seed %u: row %zu, column %zu is %a, should be %a\n",
              family.name, shape.bits, shape.block, shape.has_zeros ? "zero points" : "symmetric", shape.columns, shape.rows,
              shape.num_rows, seed, at / shape.rows, at % shape.rows, static_cast<double>(is), static_cast<double>(should));
  std::exit(1);
}

// Compare all families. `shift`: floats by which the activations and the result lie off their alignment.
void compare(const Case& shape, unsigned seed, Values values, size_t shift = 0) {
  const Inputs inputs = make_inputs(shape, seed, values);
  const Packed packed(inputs);
  with_steps += packed.weights().steps != nullptr;
  const std::vector<float> expected = reference_product(inputs);
  size_t count;
  const lantern::Family* const* all = lantern::families(&count);
  for (size_t f = 0; f < count; f++) {
    if (!all[f]->is_supported()) continue;
    Inputs moved = inputs;
    moved.x.insert(moved.x.begin(), shift, 0.0f);
    std::vector<float> y(shift + expected.size(), 1e30f);
    run(*all[f], packed, moved.x.data() + shift, shape.num_rows, y.data() + shift);
    for (size_t i = 0; i < expected.size(); i++)
      if (!same(y[shift + i], expected[i])) fail(*all[f], inputs, seed, i, y[shift + i], expected[i]);
    for (size_t i = 0; i < shift; i++)
      if (y[i] != 1e30f) fail(*all[f], inputs, seed, i, y[i], 1e30f);
    compared++;
  }
}

std::vector<bool> zero_points_of(unsigned bits) {
  return lantern::is_narrow(bits) ? std::vector<bool>{false} : std::vector<bool>{false, true};
}

void compare_shapes() {
  unsigned seed = 0;
  for (unsigned bits : {4u, 5u, 6u, 8u})
    for (unsigned block : {32u, 64u, 128u})
      for (bool has_zeros : zero_points_of(bits))
        for (size_t rows : {1u, 15u, 16u, 17u, 51u})
          for (size_t columns : {size_t{1}, size_t{block - 1}, size_t{block}, size_t{3 * block}, size_t{5 * block + 7}})
            for (size_t num_rows = 1; num_rows <= 17; num_rows += 1 + (seed % 3 == 0 ? 3 : 0), seed++)
              compare({bits, block, has_zeros, columns, rows, num_rows}, seed, seed % 2 ? Values::kExtreme : Values::kOrdinary);
}

// Rows of activations and columns of weights in more than one part.
void compare_large_shapes() {
  unsigned seed = 1000;
  for (unsigned bits : {4u, 5u, 6u, 8u})
    for (unsigned block : {32u, 64u, 128u})
      for (bool has_zeros : zero_points_of(bits))
        for (size_t num_rows : {18u, 41u, 83u}) {
          compare({bits, block, has_zeros, 2048 + 3 * block + 5, 33, num_rows}, seed, seed % 2 ? Values::kExtreme : Values::kOrdinary);
          seed++;
        }
}

void fuzz(unsigned seed, unsigned count) {
  std::mt19937 random(seed);
  for (unsigned i = 0; i < count; i++) {
    const unsigned block = 32u << random() % 3;
    const unsigned widths[] = {4, 5, 6, 8}, bits = widths[random() % 4];
    const Case shape{bits, block, random() % 2 == 0 && !lantern::is_narrow(bits), 1 + random() % (random() % 8 ? 700 : 2500),
                     1 + random() % 70, 1 + random() % 60};
    compare(shape, static_cast<unsigned>(random()), random() % 2 ? Values::kExtreme : Values::kOrdinary, random() % 16);
  }
}

void print_families() {
  size_t count;
  const lantern::Family* const* all = lantern::families(&count);
  for (size_t f = 0; f < count; f++)
    if (all[f]->is_supported()) std::printf("%s\n", all[f]->name);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && !std::strcmp(argv[1], "families")) return print_families(), 0;
  if (argc == 2 && !std::strcmp(argv[1], "shapes")) compare_shapes(), compare_large_shapes();
  else if (argc == 4 && !std::strcmp(argv[1], "fuzz")) fuzz(std::atoi(argv[2]), std::atoi(argv[3]));
  else return std::fprintf(stderr, "equality shapes | fuzz SEED COUNT | families\n"), 2;
  std::printf("%lu products equal, weights of %lu shapes with steps\n", compared, with_steps);
}
