// AVX2 without VNNI: products of unsigned by signed bytes, added pairwise in 16 bits and again in 32.
//
// A pair fits into 16 bits: the magnitudes of 8-bit codes are at most 128, and 2 * 128 * 127 < 2^15; of 4-bit codes the sum
// of eight pairs fits as well (16 * 15 * 127 < 2^15), of 5-bit codes that of four, of 6-bit codes that of two.

#include "avx2_tile.h"

namespace lantern {
namespace {

struct Dots {
  static constexpr int kOffset = 0;  // the 8-bit codes are signed here

  // Four signed codes times four activations a lane: the sign of each code moves to its activation.
  LANTERN_INLINE __m256i multiply_chunk_8_bits(__m256i weights, __m256i codes) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(codes, weights));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }

  template <unsigned kBlock, int kRows>
  LANTERN_INLINE void multiply_8_bits(const uint8_t* chunks, const int8_t* codes, size_t row_bytes, __m256i* dots) {
    for (unsigned k = 0; k < kBlock; k += 4) {
      const __m256i weights = load_half(chunks + k * 16);
#pragma GCC unroll 4
      for (int m = 0; m < kRows; m++)
        dots[m] = _mm256_add_epi32(dots[m], multiply_chunk_8_bits(weights, four_codes(codes + m * row_bytes + k)));
    }
  }

  // Pairs are added up in 16 bits as long as they fit.
  template <unsigned kBits, unsigned kBlock, int kRows>
  LANTERN_INLINE void multiply_few_bits(const uint8_t* chunks, const int8_t* codes, size_t row_bytes, __m256i* dots) {
    constexpr unsigned kColumns = kBits == 6 ? 16 : 32, kVectors = kColumns / 4, kSum = kBits == 4 ? 8 : kBits == 5 ? 4 : 2;
#pragma GCC unroll 4
    for (unsigned begin = 0; begin < kBlock; begin += kColumns) {
      __m256i vectors[kVectors];
#pragma GCC unroll 4
      for (unsigned k = 0; k < kColumns; k += columns_of_group(kBits)) load_codes<kBits>(chunks + (begin + k) * 2 * kBits, vectors + k / 4);
#pragma GCC unroll 4
      for (int m = 0; m < kRows; m++) {
        const int8_t* row = codes + m * row_bytes + begin;
#pragma GCC unroll 4
        for (unsigned first = 0; first < kVectors; first += kSum) {
          __m256i pairs = _mm256_maddubs_epi16(vectors[first], four_codes(row + first * 4));
#pragma GCC unroll 8
          for (unsigned i = first + 1; i < first + kSum; i++)
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(vectors[i], four_codes(row + i * 4)));
          dots[m] = _mm256_add_epi32(dots[m], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
      }
    }
  }

  template <unsigned kBits, unsigned kBlock, int kRows>
  LANTERN_INLINE void multiply(const uint8_t* chunks, const int8_t* codes, size_t row_bytes, __m256i* dots) {
    if constexpr (kBits == 8) multiply_8_bits<kBlock, kRows>(chunks, codes, row_bytes, dots);
    else multiply_few_bits<kBits, kBlock, kRows>(chunks, codes, row_bytes, dots);
  }
};

template <unsigned kBits, unsigned kBlock, bool kHasZeros>
void multiply_rows(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  multiply_tile<Dots, kBits, kBlock, kHasZeros>(weights, tile, rows, num_rows, y, stride);
}

bool is_supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

constexpr Kernels kKernels = LANTERN_KERNELS(multiply_rows);

}  // namespace

const Family kAvx2{"avx2", is_supported, quantize_x86, &kAvx2Lanes, kAnyRows, nullptr, kAnyRows, kKernels};

}  // namespace lantern
