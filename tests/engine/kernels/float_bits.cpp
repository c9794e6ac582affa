// The loops over floats: hashes of their results' bits, which are the same on every processor, and how exact they are.
//
//   float_bits        prints three hashes, of gated values, of convolutions and of attention with norms, and the largest error of
//                     silu by its value; it fails if the families of the processor do not agree about the third

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "block_product.h"

namespace {

uint64_t hash_of(const std::vector<float>& values) {
  uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    for (int i = 0; i < 4; i++) hash = (hash ^ (bits >> (8 * i) & 255)) * 1099511628211u;
  }
  return hash;
}

std::vector<float> numbers(size_t count, float least, float step) {
  std::vector<float> found(count);
  for (size_t i = 0; i < count; i++) found[i] = least + step * static_cast<float>(i);
  return found;
}

std::vector<float> waves(size_t count, float step) {
  std::vector<float> found(count);
  for (size_t i = 0; i < count; i++) found[i] = static_cast<float>(static_cast<int>(i * 2654435761u % 2001) - 1000) * step;
  return found;
}

// Attention of one query and more, some of which see fewer keys than others, after a turn of each; and norms.
std::vector<float> attended(const lantern::Family& family, size_t width) {
  constexpr size_t kKeys = 77, kQueries = lantern::kQueriesTogether;
  const std::vector<float> keys = waves(kKeys * width, 1e-3f), values = waves(kKeys * width + 5, 3e-3f);
  const std::vector<float> angles = waves(width, 1e-3f), plain = waves(kQueries * width + 3, 2e-3f);
  std::vector<float> queries(kQueries * width), results, scores(lantern::scores_size(kKeys, width)), y(kQueries * width);
  for (size_t i = 0; i < kQueries; i++)
    family.floats->rotate(plain.data() + 3 + i * width, angles.data(), angles.data() + width / 2, width / 2, 0.7f, queries.data() + i * width);
  for (size_t count = 1; count <= kQueries; count++)
    for (const size_t first : {0, 3, 40}) {
      lantern::Query of_block[kQueries];
      for (size_t i = 0; i < count; i++) of_block[i] = {queries.data() + i * width, y.data() + i * width, first + i / 2, kKeys + 1 - kQueries + i};
      family.floats->attend(keys.data(), values.data() + 5, width, of_block, count, scores.data());
      results.insert(results.end(), y.begin(), y.begin() + static_cast<long>(count * width));
    }
  std::vector<float> sums(width), norms(width);
  family.floats->normalize(queries.data(), values.data() + 5, angles.data(), width, 1e-5f, sums.data(), norms.data());
  family.floats->normalize(queries.data() + 1, nullptr, angles.data(), width - 1, 1e-5f, nullptr, y.data());
  for (const std::vector<float>& some : {sums, norms, y}) results.insert(results.end(), some.begin(), some.end());
  return results;
}

uint64_t hash_of_attention() {
  uint64_t hash = 0;
  for (const size_t width : {8, 24, 64, 128}) {
    size_t count = 0;
    const lantern::Family* const* families = lantern::families(&count);
    const std::vector<float> expected = attended(*lantern::family_named("portable"), width);
    for (size_t i = 0; i < count; i++)
      if (families[i]->is_supported() && hash_of(attended(*families[i], width)) != hash_of(expected))
        std::fprintf(stderr, "%s: other bits than portable, %zu channels\n", families[i]->name, width), std::exit(1);
    hash = hash * 31 + hash_of(expected);
  }
  return hash;
}

}  // namespace

int main() {
  constexpr size_t kCount = 1000003, kTaps = 4, kWidth = 61;
  const std::vector<float> gate = numbers(kCount, -120.0f, 2.4e-4f), ones(kCount, 1.0f);
  std::vector<float> gated(kCount);
  lantern::best_family()->floats->gate(gate.data(), ones.data(), kCount, gated.data());
  double worst = 0;
  for (size_t i = 0; i < kCount; i++) {
    const double exact = gate[i] / (1 + std::exp(-static_cast<double>(gate[i])));
    if (std::fabs(exact) > 1e-30) worst = std::fmax(worst, std::fabs(gated[i] / exact - 1));
  }
  const std::vector<float> bias = numbers(kWidth, -3.0f, 0.1f), taps = numbers(kWidth * kTaps, -1.0f, 0.01f);
  std::vector<float> sums(2 * kWidth);
  const float* columns[kTaps];
  for (size_t k = 0; k < kTaps; k++) columns[k] = gate.data() + 480000 + 777 * k;
  for (size_t i = 0; i < 2; i++)
    lantern::best_family()->floats->sum_columns(columns, taps.data(), kTaps, kWidth, bias.data(), i, kWidth, sums.data() + i * kWidth);
  std::printf("%016llx %016llx %016llx %.2e\n", static_cast<unsigned long long>(hash_of(gated)),
              static_cast<unsigned long long>(hash_of(sums)), static_cast<unsigned long long>(hash_of_attention()), worst);
}
