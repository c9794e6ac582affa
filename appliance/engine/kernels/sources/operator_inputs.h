// What the operators read when a session is created: attributes, constant inputs, and packed weights where they lie.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdlib>

#include "block_product.h"
#include "custom_op.h"
#include "pack.h"

namespace lantern {

// The weights of an operator.
struct LoadedWeights {
  const OrtApi* api;
  const Family* family;
  Weights weights;
  uint8_t* memory;  // null: the weights lie in the initializer

  ~LoadedWeights() { std::free(memory); }
};

// A constant input; a status if it is absent or not constant.
inline OrtStatus* constant_value(const OrtApi* api, const OrtKernelInfo* info, size_t index, const char* name, const OrtValue** value) {
  int is_constant = 0;
  if (OrtStatus* status = api->KernelInfoGetConstantInput_tensor(info, index, &is_constant, value)) return status;
  return is_constant && *value ? nullptr : invalid(api, name, -1);
}

// The number of elements of a constant input.
inline OrtStatus* constant_size(const OrtApi* api, const OrtKernelInfo* info, size_t index, const char* name, size_t* count) {
  const OrtValue* value = nullptr;
  Shape shape;
  if (OrtStatus* status = constant_value(api, info, index, name, &value)) return status;
  if (OrtStatus* status = read_shape(api, value, &shape)) return status;
  *count = shape.count;
  return nullptr;
}

// The data of a constant input of exactly `size` elements; a status if it is absent, not constant or of another size.
template <class Element>
OrtStatus* constant_input(const OrtApi* api, const OrtKernelInfo* info, size_t index, const char* name, size_t size,
                          const Element** data) {
  size_t count = 0;
  const OrtValue* value = nullptr;
  void* found = nullptr;
  if (OrtStatus* status = constant_size(api, info, index, name, &count)) return status;
  if (count != size) return invalid(api, name, static_cast<long long>(count));
  if (OrtStatus* status = constant_value(api, info, index, name, &value)) return status;
  if (OrtStatus* status = api->GetTensorMutableData(const_cast<OrtValue*>(value), &found)) return status;
  *data = static_cast<const Element*>(found);
  return nullptr;
}

inline OrtStatus* read_attributes(const OrtApi* api, const OrtKernelInfo* info, bool is_packed, StoredWeights* stored) {
  const int64_t columns = attribute(api, info, "K"), rows = attribute(api, info, "N");
  const int64_t bits = attribute(api, info, "bits"), block = attribute(api, info, "block_size");
  constexpr int64_t kLargest = int64_t{1} << 30;
  if (columns < 1 || columns > kLargest) return invalid(api, "K", columns);
  if (rows < 1 || rows > kLargest) return invalid(api, "N", rows);
  if (bits != 4 && bits != 8 && !(is_packed && is_narrow(static_cast<unsigned>(bits)))) return invalid(api, "bits", bits);
  if (block != 32 && block != 64 && block != 128) return invalid(api, "block_size", block);
  stored->columns = static_cast<size_t>(columns);
  stored->rows = static_cast<size_t>(rows);
  stored->bits = stored->packed_bits = static_cast<unsigned>(bits);
  stored->block = static_cast<unsigned>(block);
  return nullptr;
}

inline uint8_t* allocate(size_t size) { return static_cast<uint8_t*>(std::aligned_alloc(kAlignment, size)); }

inline OrtStatus* map_weights(const OrtApi* api, const OrtKernelInfo* info, size_t index, const StoredWeights& stored,
                              LoadedWeights* kernel) {
  static const uint8_t kSome = 0;
  StoredWeights sizes = stored;
  sizes.zeros = attribute(api, info, "has_zeros") ? &kSome : nullptr;
  if (is_narrow(sizes.bits) && sizes.zeros) return invalid(api, "has_zeros", 1);
  size_t size = 0;
  if (OrtStatus* status = constant_size(api, info, index, "codes", &size)) return status;
  sizes.has_steps = size < packed_size(sizes);  // weights have steps only where that takes less memory
  const uint8_t* memory = nullptr;
  if (OrtStatus* status = constant_input(api, info, index, "codes", packed_size(sizes), &memory)) return status;
  if (reinterpret_cast<uintptr_t>(memory) % kAlignment) {  // a small initializer that lies in the file of the graph
    kernel->memory = allocate(size);
    if (!kernel->memory) return api->CreateStatus(ORT_EP_FAIL, "lantern: no memory for the weights");
    __builtin_memcpy(kernel->memory, memory, size);
    memory = kernel->memory;
  }
  kernel->weights = weights_in(sizes, memory);
  return nullptr;
}

}  // namespace lantern
