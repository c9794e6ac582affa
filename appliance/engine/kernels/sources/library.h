// The names that the library exports.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtSessionOptions;
struct OrtApiBase;
struct OrtStatus;

#define LANTERN_EXPORT extern "C" __attribute__((visibility("default")))

LANTERN_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

// The onnxruntime API that the operator asks for: that of the header it was compiled with.
LANTERN_EXPORT unsigned lantern_api_version();

// The family that products take on this processor.
LANTERN_EXPORT const char* lantern_family();

// The bits of a code in the packed weights: 5 or 6 where codes of 8 bits leave the lower ones empty, else `bits`. `zeros` is
// null without zero points.
LANTERN_EXPORT unsigned lantern_packed_bits(size_t rows, size_t columns, unsigned bits, unsigned block, const uint8_t* codes,
                                            const uint8_t* zeros);

// Bytes of weights packed in so many bits, with these scales.
LANTERN_EXPORT size_t lantern_packed_size(size_t rows, size_t columns, unsigned bits, unsigned block, unsigned packed_bits,
                                          const float* scales, const uint8_t* zeros);

// Pack weights of a bundle into memory of that size at a multiple of 64; 0 if a scale is not finite.
LANTERN_EXPORT int lantern_pack(size_t rows, size_t columns, unsigned bits, unsigned block, unsigned packed_bits,
                                const uint8_t* codes, const float* scales, const uint8_t* zeros, uint8_t* memory);
