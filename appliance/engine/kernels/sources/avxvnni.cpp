// AVX-VNNI (vectors of 256 bits): eight rows times four activations are one instruction.

#include <cpuid.h>

#include "avx2_tile.h"

namespace lantern {
namespace {

struct Dots {
  static constexpr int kOffset = 128;  // the instruction takes unsigned codes

  template <unsigned kBits, unsigned kBlock, int kRows>
  LANTERN_INLINE void multiply(const uint8_t* chunks, const int8_t* codes, size_t row_bytes, __m256i* dots) {
    constexpr unsigned kStep = kBits == 8 ? 8 : columns_of_group(kBits);
    const __m256i sign = _mm256_set1_epi8(-128);
#pragma GCC unroll 8
    for (unsigned k = 0; k < kBlock; k += kStep) {
      const uint8_t* step = chunks + k * 2 * kBits;
      __m256i vectors[kStep / 4];
      if constexpr (kBits == 8) {
        vectors[0] = _mm256_xor_si256(load_half(step), sign);
        vectors[1] = _mm256_xor_si256(load_half(step + kChunk), sign);
      } else {
        load_codes<kBits>(step, vectors);
      }
#pragma GCC unroll 4
      for (int m = 0; m < kRows; m++)
#pragma GCC unroll 8
        for (unsigned i = 0; i < kStep / 4; i++)
          dots[m] = _mm256_dpbusd_avx_epi32(dots[m], vectors[i], four_codes(codes + m * row_bytes + k + i * 4));
    }
  }
};

template <unsigned kBits, unsigned kBlock, bool kHasZeros>
void multiply_rows(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  multiply_tile<Dots, kBits, kBlock, kHasZeros>(weights, tile, rows, num_rows, y, stride);
}

// The compiler's own test does not know this feature: leaf 7, subleaf 1, bit 4 of EAX.
bool is_supported() {
  unsigned a, b, c, d;
  return kAvx2.is_supported() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

constexpr Kernels kKernels = LANTERN_KERNELS(multiply_rows);

}  // namespace

const Family kAvxVnni{"avxvnni", is_supported, quantize_x86, &kAvx2Lanes, kAnyRows, nullptr, kAnyRows, kKernels};

}  // namespace lantern
