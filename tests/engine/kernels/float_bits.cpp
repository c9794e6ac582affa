// The loops over floats: hashes of their results' bits, which are the same on every processor, and how exact they are.
//
//   float_bits        prints two hashes, of gated values and of convolutions, and the largest error of silu by its value

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "floats.h"

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

}  // namespace

int main() {
  constexpr size_t kCount = 1000003, kTaps = 4, kWidth = 61;
  const std::vector<float> gate = numbers(kCount, -120.0f, 2.4e-4f), ones(kCount, 1.0f);
  std::vector<float> gated(kCount);
  lantern::gate_values(gate.data(), ones.data(), kCount, gated.data());
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
    lantern::sum_columns(columns, taps.data(), kTaps, kWidth, bias.data(), i, kWidth, sums.data() + i * kWidth);
  std::printf("%016llx %016llx %.2e\n", static_cast<unsigned long long>(hash_of(gated)),
              static_cast<unsigned long long>(hash_of(sums)), worst);
}
