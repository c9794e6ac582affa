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

// Bytes of packed weights with these scales; `zeros` is null without zero points.
LANTERN_EXPORT size_t lantern_packed_size(size_t rows, size_t columns, unsigned bits, unsigned block, const float* scales,
                                          const uint8_t* zeros);

// Pack weights of a bundle into memory of that size at a multiple of 64; 0 if a scale is not finite.
LANTERN_EXPORT int lantern_pack(size_t rows, size_t columns, unsigned bits, unsigned block, const uint8_t* codes,
                                const float* scales, const uint8_t* zeros, uint8_t* memory);
