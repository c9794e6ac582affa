// AVX-VNNI (vectors of 256 bits): eight rows times four activations are one instruction.

#include <cpuid.h>

#include "avx2_tile.h"

namespace lantern {
namespace {

struct Dots {
  static constexpr int kOffset = 128;  // the instruction takes unsigned codes

  template <unsigned kBits, unsigned kBlock, int kRows>
  LANTERN_INLINE void multiply(const uint8_t* chunks, const int8_t* codes, size_t row_bytes, __m256i* dots) {
    const __m256i sign = _mm256_set1_epi8(-128);
#pragma GCC unroll 8
    for (unsigned k = 0; k < kBlock; k += 8) {
      __m256i first = load_half(chunks + k * 2 * kBits), second;
      if (kBits == 4) {
        second = high_codes(first);
        first = low_codes(first);
      } else {
        first = _mm256_xor_si256(first, sign);
        second = _mm256_xor_si256(load_half(chunks + k * 2 * kBits + 64), sign);
      }
#pragma GCC unroll 4
      for (int m = 0; m < kRows; m++) {
        const int8_t* row = codes + m * row_bytes + k;
        dots[m] = _mm256_dpbusd_avx_epi32(dots[m], first, four_codes(row));
        dots[m] = _mm256_dpbusd_avx_epi32(dots[m], second, four_codes(row + 4));
      }
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

const Family kAvxVnni{"avxvnni", is_supported, quantize_x86, kAnyRows, nullptr, kKernels};

}  // namespace lantern
