// The operator of onnxruntime: lantern.GatherBlocks, rows of packed weights in float, as com.microsoft.GatherBlockQuantized
// has them. A table of embeddings that is the head as well is so in the file and in memory once.
//
// Inputs: the memory that lantern_pack wrote, uint8; indices (...), int64, from -N to N - 1. Output: (..., K) float.
// Attributes: K, N, bits, block_size, has_zeros, as those of MatMulBlocks with packed = 1.

#include <new>

#include "operator_inputs.h"

namespace lantern {
namespace {

OrtStatus* ORT_API_CALL create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** created) {
  StoredWeights stored{};
  if (OrtStatus* status = read_attributes(api, info, true, &stored)) return status;
  auto* kernel = new (std::nothrow) LoadedWeights{api, best_family(), {}, nullptr};
  if (!kernel) return api->CreateStatus(ORT_EP_FAIL, "GatherBlocks: no memory for the operator");
  OrtStatus* status = map_weights(api, info, 0, stored, kernel);
  if (status) delete kernel;
  else *created = kernel;
  return status;
}

void ORT_API_CALL destroy(void* kernel) { delete static_cast<LoadedWeights*>(kernel); }

OrtStatus* ORT_API_CALL compute(void* data, OrtKernelContext* context) {
  const auto& kernel = *static_cast<const LoadedWeights*>(data);
  const OrtApi* api = kernel.api;
  const auto num_rows = static_cast<int64_t>(kernel.weights.rows);
  Shape shape;
  const int64_t* indices = nullptr;
  float* result = nullptr;
  if (OrtStatus* status = read_input(api, context, 1, &shape, &indices)) return status;
  const size_t count = shape.count;
  if (shape.rank == Shape::kMostDimensions) return invalid(api, "the indices' rank", static_cast<long long>(shape.rank));
  shape.dimensions[shape.rank++] = static_cast<int64_t>(kernel.weights.columns);
  if (OrtStatus* status = make_output(api, context, 0, shape, &result)) return status;
  for (size_t i = 0; i < count; i++) {
    const int64_t index = indices[i];
    if (index < -num_rows || index >= num_rows) return invalid(api, "an index of a row", static_cast<long long>(index));
    unpack_row(kernel.weights, static_cast<size_t>(index < 0 ? index + num_rows : index),
               result + i * kernel.weights.columns);
  }
  return nullptr;
}

OrtCustomOp make_operator() {
  OrtCustomOp op = float_operator();
  op.GetName = [](const OrtCustomOp*) -> const char* { return "GatherBlocks"; };
  op.GetInputType = [](const OrtCustomOp*, size_t index) {
    return index ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = destroy;
  return op;
}

}  // namespace

const OrtCustomOp* gather_operator() {
  static const OrtCustomOp op = make_operator();
  return &op;
}

}  // namespace lantern
