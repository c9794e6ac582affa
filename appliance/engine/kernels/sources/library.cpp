#include "library.h"

#include "pack.h"

const char* lantern_family() { return lantern::best_family()->name; }

namespace {

lantern::StoredWeights with_steps(lantern::StoredWeights stored) {
  stored.has_steps = lantern::can_have_steps(stored);
  return stored;
}

}  // namespace

unsigned lantern_packed_bits(size_t rows, size_t columns, unsigned bits, unsigned block, const uint8_t* codes, const uint8_t* zeros) {
  return lantern::narrowest_bits({codes, nullptr, zeros, rows, columns, bits, block, bits});
}

size_t lantern_packed_size(size_t rows, size_t columns, unsigned bits, unsigned block, unsigned packed_bits, const float* scales,
                           const uint8_t* zeros) {
  return lantern::packed_size(with_steps({nullptr, scales, zeros, rows, columns, bits, block, packed_bits}));
}

int lantern_pack(size_t rows, size_t columns, unsigned bits, unsigned block, unsigned packed_bits, const uint8_t* codes,
                 const float* scales, const uint8_t* zeros, uint8_t* memory) {
  return lantern::pack(with_steps({codes, scales, zeros, rows, columns, bits, block, packed_bits}), memory).codes != nullptr;
}
