// A tile in halves of eight rows, for the families with vectors of 256 bits: all but the product of a chunk.
//
// Dots is a page's own: Dots::kOffset(bits) is what its codes are above the weights, Dots::multiply<kBits, kBlock, kRows>
// adds the products of a block.
#pragma once

#include <immintrin.h>

#include "codes.h"
#include "family_list.h"
#include "x86_quantize.h"

namespace lantern {
namespace {

LANTERN_INLINE __m256i four_codes(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  return _mm256_set1_epi32(four);
}

LANTERN_INLINE __m256i load_half(const uint8_t* chunk) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(chunk)); }

LANTERN_INLINE __m256i low(__m256i bytes, char mask) { return _mm256_and_si256(bytes, _mm256_set1_epi8(mask)); }

// Bits that `mask` keeps of bytes moved to the right.
LANTERN_INLINE __m256i moved(__m256i bytes, int places, char mask) {
  return _mm256_and_si256(_mm256_srli_epi16(bytes, places), _mm256_set1_epi8(mask));
}

LANTERN_INLINE __m256i joined(__m256i a, __m256i b) { return _mm256_or_si256(a, b); }

// The codes of a group with fewer than 8 bits, a vector for each four columns.
template <unsigned kBits>
LANTERN_INLINE void load_codes(const uint8_t* chunks, __m256i* codes) {
  const __m256i a = load_half(chunks);
  if constexpr (kBits == 4) {
    codes[0] = low(a, 15);
    codes[1] = moved(a, 4, 15);
  } else if constexpr (kBits == 6) {
    const __m256i b = load_half(chunks + kChunk), c = load_half(chunks + 2 * kChunk);
    codes[0] = low(a, 63);
    codes[1] = low(b, 63);
    codes[2] = low(c, 63);
    codes[3] = joined(joined(moved(a, 2, 0x30), moved(b, 4, 0x0c)), moved(c, 6, 0x03));
  } else {
    const __m256i b = load_half(chunks + kChunk), c = load_half(chunks + 2 * kChunk), d = load_half(chunks + 3 * kChunk);
    const __m256i e = load_half(chunks + 4 * kChunk);
    codes[0] = low(a, 31);
    codes[1] = low(b, 31);
    codes[2] = low(c, 31);
    codes[3] = low(d, 31);
    codes[4] = low(e, 31);
    codes[5] = joined(moved(a, 3, 0x1c), moved(b, 5, 0x03));
    codes[6] = joined(moved(c, 3, 0x1c), moved(d, 5, 0x03));
    codes[7] = joined(joined(moved(e, 3, 0x1c), moved(b, 6, 0x02)), moved(d, 7, 0x01));
  }
}

template <int kOffset, unsigned kBits, bool kHasZeros>
LANTERN_INLINE __m256i offset_of(const int8_t* zeros, int32_t sum) {
  if (!kHasZeros) return _mm256_set1_epi32(-(kBits == 8 ? kOffset : middle_of(kBits)) * sum);
  __m256i zero = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros)));
  if (kBits == 8) zero = _mm256_add_epi32(zero, _mm256_set1_epi32(kOffset));
  return _mm256_mullo_epi32(zero, _mm256_set1_epi32(-sum));
}

// The scales of eight rows in block `b`; steps become floats here.
template <bool kHasSteps, bool kIsSigned>
LANTERN_INLINE __m256 scales_of(const float* scales, const uint8_t* steps, __m256 units, size_t b) {
  if (!kHasSteps) return _mm256_loadu_ps(scales + b * kTileRows);
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(steps + b * kTileRows));
  return _mm256_mul_ps(_mm256_cvtepi32_ps(kIsSigned ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes)), units);
}

template <class Dots, unsigned kBits, unsigned kBlock, bool kHasZeros, bool kHasSteps, int kRows>
LANTERN_INLINE void multiply_half(const Weights& weights, size_t tile, int first, const Activations& rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks(), row_bytes = num_blocks * kBlock;
  const uint8_t* chunks = weights.codes + tile * weights.tile_bytes() + first * 4;
  const float* scales = kHasSteps ? nullptr : weights.scales + tile * num_blocks * kTileRows + first;
  const uint8_t* steps = kHasSteps ? weights.steps + tile * num_blocks * kTileRows + first : nullptr;
  const __m256 units = kHasSteps ? _mm256_loadu_ps(weights.units + tile * kTileRows + first) : _mm256_setzero_ps();
  const int8_t* zeros = kHasZeros ? weights.zeros + tile * num_blocks * kTileRows + first : nullptr;
  __m256 result[kRows];
#pragma GCC unroll 4
  for (int m = 0; m < kRows; m++) result[m] = _mm256_setzero_ps();
  for (size_t b = 0; b < num_blocks; b++) {
    __m256i dots[kRows];
#pragma GCC unroll 4
    for (int m = 0; m < kRows; m++)
      dots[m] = offset_of<Dots::kOffset, kBits, kHasZeros>(kHasZeros ? zeros + b * kTileRows : nullptr, rows.sums[b * rows.num_rows + m]);
    Dots::template multiply<kBits, kBlock, kRows>(chunks + b * kTileRows * kBlock * kBits / 8, rows.codes + b * kBlock, row_bytes, dots);
    const __m256 scale = scales_of<kHasSteps, has_signed_steps(kBits)>(scales, steps, units, b);
#pragma GCC unroll 4
    for (int m = 0; m < kRows; m++) {
      const __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(rows.scales[b * rows.num_rows + m]));
      result[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[m]), factor, result[m]);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < kRows; m++) _mm256_storeu_ps(y + m * stride, result[m]);
}

template <class Dots, unsigned kBits, unsigned kBlock, bool kHasZeros, bool kHasSteps>
LANTERN_INLINE void multiply_halves(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks();
  for (int first = 0; first < static_cast<int>(kTileRows); first += 8)
    for (size_t m = 0; m < num_rows;) {
      const Activations part = row_of(rows, m, num_blocks, kBlock);
      float* target = y + m * stride + first;
      const size_t left = num_rows - m;
      if (left >= 4) multiply_half<Dots, kBits, kBlock, kHasZeros, kHasSteps, 4>(weights, tile, first, part, target, stride), m += 4;
      else if (left >= 2) multiply_half<Dots, kBits, kBlock, kHasZeros, kHasSteps, 2>(weights, tile, first, part, target, stride), m += 2;
      else multiply_half<Dots, kBits, kBlock, kHasZeros, kHasSteps, 1>(weights, tile, first, part, target, stride), m += 1;
    }
}

template <class Dots, unsigned kBits, unsigned kBlock, bool kHasZeros>
LANTERN_INLINE void multiply_tile(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  if (weights.steps) multiply_halves<Dots, kBits, kBlock, kHasZeros, true>(weights, tile, rows, num_rows, y, stride);
  else multiply_halves<Dots, kBits, kBlock, kHasZeros, false>(weights, tile, rows, num_rows, y, stride);
}

}  // namespace
}  // namespace lantern
