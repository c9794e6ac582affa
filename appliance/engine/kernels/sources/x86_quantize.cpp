#include "x86_quantize.h"

#include "quantize_row.h"

#include <immintrin.h>

namespace lantern {
namespace {

uint32_t peak_of(const float* x, unsigned block) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  __m256i peak = _mm256_setzero_si256();
  for (unsigned k = 0; k < block; k += 8)
    peak = _mm256_max_epu32(peak, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + k)), mask));
  __m128i half = _mm_max_epu32(_mm256_castsi256_si128(peak), _mm256_extracti128_si256(peak, 1));
  half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0x4e));
  half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(half));
}

int32_t sum_of(__m256i sums) {
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
  return _mm_cvtsi128_si32(half);
}

int32_t write_codes(const float* x, float inverse, unsigned block, int8_t* codes) {
  const __m256 factor = _mm256_set1_ps(inverse);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  __m256i sums = _mm256_setzero_si256();
  for (unsigned k = 0; k < block; k += 32) {
    __m256i part[4];
    for (unsigned i = 0; i < 4; i++) part[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k + i * 8), factor));
    const __m256i low = _mm256_packs_epi32(part[0], part[1]), high = _mm256_packs_epi32(part[2], part[3]);
    const __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + k), packed);
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), packed);
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  return sum_of(sums);
}

}  // namespace

void quantize_x86(const float* x, size_t columns, unsigned block, const Activations& row) {
  quantize_row<peak_of, write_codes>(x, columns, block, row);
}

}  // namespace lantern
