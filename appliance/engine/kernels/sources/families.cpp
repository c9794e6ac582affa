// The choice of a family by the processor's features, and the cutting of the last tile.

#include <cstring>

#include "family_list.h"

namespace lantern {
namespace {

const Family* const kFamilies[] = {
#if defined(__aarch64__)
    &kI8mm, &kDotprod, &kNeon,
#elif defined(__x86_64__)
    &kAvx512Vnni, &kAvxVnni, &kAvx2,
#endif
    &kPortable,
};

// One tile of weights, whose scales are written from its steps.
Weights with_scales(const Family& family, const Weights& weights, size_t tile, float* scales) {
  const size_t entry = tile * weights.num_blocks() * kTileRows;
  family.write_scales(weights.steps + entry, weights.units + tile * kTileRows, weights.bits == 4, weights.num_blocks(), scales);
  Weights there = weights;
  there.codes += tile * weights.tile_bytes();
  if (there.zeros) there.zeros += entry;
  there.scales = scales;
  there.steps = nullptr;
  return there;
}

}  // namespace

const Family* const* families(size_t* count) {
  *count = sizeof kFamilies / sizeof *kFamilies;
  return kFamilies;
}

const Family* best_family() {
  for (const Family* family : kFamilies)
    if (family->is_supported()) return family;
  return &kPortable;
}

const Family* family_named(const char* name) {
  for (const Family* family : kFamilies)
    if (!std::strcmp(family->name, name)) return family;
  return nullptr;
}

void multiply_tiles(const Family& family, const Weights& weights, size_t first, size_t last, const Activations& rows,
                    size_t num_rows, float* y) {
  constexpr size_t kRowsAtOnce = 40;  // their codes stay in the first cache while the tiles pass
  float cut[kRowsAtOnce * kTileRows];
  alignas(kAlignment) float scales[kMostStepBlocks * kTileRows];
  const size_t num_blocks = weights.num_blocks();
  const Kernel multiply = family.kernels.for_weights(weights);
  for (size_t m = 0; m < num_rows; m += kRowsAtOnce) {
    const size_t count = num_rows - m < kRowsAtOnce ? num_rows - m : kRowsAtOnce;
    const bool writes_scales = weights.steps && count > family.most_rows_with_steps;
    const Activations part = row_of(rows, m, num_blocks, weights.block);
    float* target = y + m * weights.rows;
    for (size_t i = first; i < last; i++) {
      const size_t begin = i * kTileRows;
      const Weights there = writes_scales ? with_scales(family, weights, i, scales) : weights;
      const size_t tile = writes_scales ? 0 : i;
      if (begin + kTileRows <= weights.rows) {
        multiply(there, tile, part, count, target + begin, weights.rows);
        continue;
      }
      multiply(there, tile, part, count, cut, kTileRows);
      for (size_t m = 0; m < count; m++)
        std::memcpy(target + m * weights.rows + begin, cut + m * kTileRows, (weights.rows - begin) * sizeof(float));
    }
  }
}

}  // namespace lantern
