// The operator of onnxruntime: lantern.GatherBlocks, rows of packed weights in float, as com.microsoft.GatherBlockQuantized
// has them. A table of embeddings that is the head as well is so in the file and in memory once.
//
// Inputs: the memory that lantern_pack wrote, uint8; indices (...), int64, from -N to N - 1. Output: (..., K) float.
// Attributes: K, N, bits, block_size, has_zeros, as those of MatMulBlocks with packed = 1.

#include "gather.h"

#include <new>

#include "operator_inputs.h"

namespace lantern {
namespace {

constexpr size_t kMostDimensions = 8;

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

// Read the indices' shape; the result has the same, and K in a last place.
OrtStatus* read_shape(const OrtApi* api, const OrtValue* indices, int64_t* dimensions, size_t* rank, size_t* count) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  if (OrtStatus* status = api->GetTensorTypeAndShape(indices, &info)) return status;
  OrtStatus* status = api->GetDimensionsCount(info, rank);
  if (!status && *rank >= kMostDimensions) status = invalid(api, "the indices' rank", static_cast<long long>(*rank));
  if (!status) status = api->GetDimensions(info, dimensions, *rank);
  if (!status) status = api->GetTensorShapeElementCount(info, count);
  api->ReleaseTensorTypeAndShapeInfo(info);
  return status;
}

OrtStatus* ORT_API_CALL compute(void* data, OrtKernelContext* context) {
  const auto& kernel = *static_cast<const LoadedWeights*>(data);
  const OrtApi* api = kernel.api;
  const auto num_rows = static_cast<int64_t>(kernel.weights.rows);
  const OrtValue* indices = nullptr;
  int64_t dimensions[kMostDimensions];
  size_t rank = 0, count = 0;
  if (OrtStatus* status = api->KernelContext_GetInput(context, 1, &indices)) return status;
  if (OrtStatus* status = read_shape(api, indices, dimensions, &rank, &count)) return status;
  dimensions[rank] = static_cast<int64_t>(kernel.weights.columns);
  OrtValue* output = nullptr;
  void *found = nullptr, *result = nullptr;
  if (OrtStatus* status = api->KernelContext_GetOutput(context, 0, dimensions, rank + 1, &output)) return status;
  if (!count) return nullptr;
  if (OrtStatus* status = api->GetTensorMutableData(const_cast<OrtValue*>(indices), &found)) return status;
  if (OrtStatus* status = api->GetTensorMutableData(output, &result)) return status;
  for (size_t i = 0; i < count; i++) {
    const int64_t index = static_cast<const int64_t*>(found)[i];
    if (index < -num_rows || index >= num_rows) return invalid(api, "an index of a row", static_cast<long long>(index));
    unpack_row(kernel.weights, static_cast<size_t>(index < 0 ? index + num_rows : index),
               static_cast<float*>(result) + i * kernel.weights.columns);
  }
  return nullptr;
}

OrtCustomOp make_operator() {
  OrtCustomOp op{};
  op.version = ORT_API_VERSION;
  op.GetName = [](const OrtCustomOp*) -> const char* { return "GatherBlocks"; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op.GetInputType = [](const OrtCustomOp*, size_t index) {
    return index ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = destroy;
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1 << 20; };
  return op;
}

}  // namespace

const OrtCustomOp* gather_operator() {
  static const OrtCustomOp op = make_operator();
  return &op;
}

}  // namespace lantern
