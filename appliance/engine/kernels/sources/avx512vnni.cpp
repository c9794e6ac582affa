// AVX-512 with VNNI: a chunk of sixteen rows times four activations is one instruction, the activations read from memory.

#include <immintrin.h>

#include "codes.h"
#include "family_list.h"
#include "x86_quantize.h"

namespace lantern {
namespace {

// Four activations in each lane.
LANTERN_INLINE __m512i four_codes(const int8_t* codes) {
  int32_t four;
  __builtin_memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

// Minus the sums of activations times what the unsigned codes are above the weights.
template <unsigned kBits, bool kHasZeros>
LANTERN_INLINE __m512i offset_of(const int8_t* zeros, int32_t sum) {
  if (!kHasZeros) return _mm512_set1_epi32((kBits == 8 ? -128 : -middle_of(kBits)) * sum);
  __m512i zero = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros)));
  if (kBits == 8) zero = _mm512_add_epi32(zero, _mm512_set1_epi32(128));
  return _mm512_mullo_epi32(zero, _mm512_set1_epi32(-sum));
}

LANTERN_INLINE __m512i chunk_at(const uint8_t* chunks, size_t i) { return _mm512_loadu_si512(chunks + i * kChunk); }

LANTERN_INLINE __m512i low(__m512i bytes, char mask) { return _mm512_and_si512(bytes, _mm512_set1_epi8(mask)); }

// Bits that `mask` keeps of bytes moved to the right.
LANTERN_INLINE __m512i moved(__m512i bytes, unsigned places, char mask) {
  return _mm512_and_si512(_mm512_srli_epi16(bytes, places), _mm512_set1_epi8(mask));
}

// The same, beside the bits of `others`.
LANTERN_INLINE __m512i beside(__m512i others, __m512i bytes, unsigned places, char mask) {
  constexpr int kOrAnd = 0xf8;  // a | (b & c)
  return _mm512_ternarylogic_epi32(others, _mm512_srli_epi16(bytes, places), _mm512_set1_epi8(mask), kOrAnd);
}

// Columns whose codes are made at once: with 8 bits two chunks, else a group.
constexpr unsigned columns_of_step(unsigned bits) { return bits == 8 ? 8 : columns_of_group(bits); }

// The unsigned codes of a step, a vector for each four columns.
template <unsigned kBits>
LANTERN_INLINE void load_codes(const uint8_t* chunks, __m512i* codes) {
  const __m512i a = chunk_at(chunks, 0);
  if constexpr (kBits == 4) {
    codes[0] = low(a, 15);
    codes[1] = moved(a, 4, 15);
  } else if constexpr (kBits == 8) {
    const __m512i sign = _mm512_set1_epi8(-128);
    codes[0] = _mm512_xor_si512(a, sign);
    codes[1] = _mm512_xor_si512(chunk_at(chunks, 1), sign);
  } else if constexpr (kBits == 6) {
    const __m512i b = chunk_at(chunks, 1), c = chunk_at(chunks, 2);
    codes[0] = low(a, 63);
    codes[1] = low(b, 63);
    codes[2] = low(c, 63);
    codes[3] = beside(beside(moved(a, 2, 0x30), b, 4, 0x0c), c, 6, 0x03);
  } else {
    const __m512i b = chunk_at(chunks, 1), c = chunk_at(chunks, 2), d = chunk_at(chunks, 3), e = chunk_at(chunks, 4);
    codes[0] = low(a, 31);
    codes[1] = low(b, 31);
    codes[2] = low(c, 31);
    codes[3] = low(d, 31);
    codes[4] = low(e, 31);
    codes[5] = beside(moved(a, 3, 0x1c), b, 5, 0x03);
    codes[6] = beside(moved(c, 3, 0x1c), d, 5, 0x03);
    codes[7] = beside(beside(moved(e, 3, 0x1c), b, 6, 0x02), d, 7, 0x01);
  }
}

template <unsigned kBits, unsigned kBlock, int kRows>
LANTERN_INLINE void multiply_block(const uint8_t* chunks, const int8_t* codes, size_t row_bytes, __m512i* dots) {
  constexpr unsigned kStep = columns_of_step(kBits);
#pragma GCC unroll 8
  for (unsigned k = 0; k < kBlock; k += kStep) {
    __m512i vectors[kStep / 4];
    load_codes<kBits>(chunks + k * 2 * kBits, vectors);
#pragma GCC unroll 8
    for (unsigned i = 0; i < kStep / 4; i++)
#pragma GCC unroll 8
      for (int m = 0; m < kRows; m++) dots[m] = _mm512_dpbusd_epi32(dots[m], vectors[i], four_codes(codes + m * row_bytes + k + i * 4));
  }
}

// The scales of the tile's rows in block `b`; steps become floats here.
template <bool kHasSteps, bool kIsSigned>
LANTERN_INLINE __m512 scales_of(const float* scales, const uint8_t* steps, __m512 units, size_t b) {
  if (!kHasSteps) return _mm512_loadu_ps(scales + b * kTileRows);
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(steps + b * kTileRows));
  return _mm512_mul_ps(_mm512_cvtepi32_ps(kIsSigned ? _mm512_cvtepi8_epi32(bytes) : _mm512_cvtepu8_epi32(bytes)), units);
}

template <unsigned kBits, unsigned kBlock, bool kHasZeros, bool kHasSteps, int kRows>
LANTERN_INLINE void multiply_part(const Weights& weights, size_t tile, const Activations& rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks(), row_bytes = num_blocks * kBlock;
  const uint8_t* chunks = weights.codes + tile * weights.tile_bytes();
  const float* scales = kHasSteps ? nullptr : weights.scales + tile * num_blocks * kTileRows;
  const uint8_t* steps = kHasSteps ? weights.steps + tile * num_blocks * kTileRows : nullptr;
  const __m512 units = kHasSteps ? _mm512_loadu_ps(weights.units + tile * kTileRows) : _mm512_setzero_ps();
  const int8_t* zeros = kHasZeros ? weights.zeros + tile * num_blocks * kTileRows : nullptr;
  __m512 result[kRows];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; m++) result[m] = _mm512_setzero_ps();
  for (size_t b = 0; b < num_blocks; b++) {
    __m512i dots[kRows];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; m++) dots[m] = offset_of<kBits, kHasZeros>(kHasZeros ? zeros + b * kTileRows : nullptr, rows.sums[b * rows.num_rows + m]);
    multiply_block<kBits, kBlock, kRows>(chunks + b * kTileRows * kBlock * kBits / 8, rows.codes + b * kBlock, row_bytes, dots);
    const __m512 scale = scales_of<kHasSteps, has_signed_steps(kBits)>(scales, steps, units, b);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; m++) {
      const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(rows.scales[b * rows.num_rows + m]));
      result[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[m]), factor, result[m]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; m++) _mm512_storeu_ps(y + m * stride, result[m]);
}

template <unsigned kBits, unsigned kBlock, bool kHasZeros, bool kHasSteps>
void multiply_parts(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  const size_t num_blocks = weights.num_blocks();
  for (size_t m = 0; m < num_rows;) {
    const Activations part = row_of(rows, m, num_blocks, kBlock);
    float* target = y + m * stride;
    const size_t left = num_rows - m;
    if (left >= 8) multiply_part<kBits, kBlock, kHasZeros, kHasSteps, 8>(weights, tile, part, target, stride), m += 8;
    else if (left >= 4) multiply_part<kBits, kBlock, kHasZeros, kHasSteps, 4>(weights, tile, part, target, stride), m += 4;
    else if (left >= 2) multiply_part<kBits, kBlock, kHasZeros, kHasSteps, 2>(weights, tile, part, target, stride), m += 2;
    else multiply_part<kBits, kBlock, kHasZeros, kHasSteps, 1>(weights, tile, part, target, stride), m += 1;
  }
}

template <unsigned kBits, unsigned kBlock, bool kHasZeros>
void multiply_rows(const Weights& weights, size_t tile, const Activations& rows, size_t num_rows, float* y, size_t stride) {
  if (weights.steps) multiply_parts<kBits, kBlock, kHasZeros, true>(weights, tile, rows, num_rows, y, stride);
  else multiply_parts<kBits, kBlock, kHasZeros, false>(weights, tile, rows, num_rows, y, stride);
}

bool is_supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("avx2");
}

constexpr Kernels kKernels = LANTERN_KERNELS(multiply_rows);

}  // namespace

const Family kAvx512Vnni{"avx512vnni", is_supported, quantize_x86, &kAvx512Lanes, kAnyRows, nullptr, kAnyRows, kKernels};

}  // namespace lantern
