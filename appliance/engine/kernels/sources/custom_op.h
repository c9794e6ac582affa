// What the operators of the library have in common: their callbacks for onnxruntime, and the shapes of their inputs.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstdio>

namespace lantern {

inline OrtStatus* invalid(const OrtApi* api, const char* what, long long value) {
  char message[160];
  std::snprintf(message, sizeof message, "lantern: %s is %lld", what, value);
  return api->CreateStatus(ORT_INVALID_ARGUMENT, message);
}

inline int64_t attribute(const OrtApi* api, const OrtKernelInfo* info, const char* name) {
  int64_t value = 0;
  if (OrtStatus* status = api->KernelInfoGetAttribute_int64(info, name, &value)) {
    api->ReleaseStatus(status);
    return 0;
  }
  return value;
}

struct Shape {
  static constexpr size_t kMostDimensions = 8;
  int64_t dimensions[kMostDimensions];
  size_t rank, count;  // of dimensions, of elements

  size_t operator[](size_t axis) const { return static_cast<size_t>(dimensions[axis]); }
};

// The shape of a tensor; a status if it has no dimension or more than kMostDimensions.
inline OrtStatus* read_shape(const OrtApi* api, const OrtValue* value, Shape* shape) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  if (OrtStatus* status = api->GetTensorTypeAndShape(value, &info)) return status;
  OrtStatus* status = api->GetDimensionsCount(info, &shape->rank);
  if (!status && (shape->rank < 1 || shape->rank > Shape::kMostDimensions))
    status = invalid(api, "the rank of an input", static_cast<long long>(shape->rank));
  if (!status) status = api->GetDimensions(info, shape->dimensions, shape->rank);
  api->ReleaseTensorTypeAndShapeInfo(info);
  shape->count = 1;
  for (size_t axis = 0; !status && axis < shape->rank; axis++) shape->count *= (*shape)[axis];
  return status;
}

template <class Element>
OrtStatus* read_input(const OrtApi* api, OrtKernelContext* context, size_t index, Shape* shape, const Element** data) {
  const OrtValue* value = nullptr;
  void* found = nullptr;
  if (OrtStatus* status = api->KernelContext_GetInput(context, index, &value)) return status;
  if (OrtStatus* status = read_shape(api, value, shape)) return status;
  if (OrtStatus* status = api->GetTensorMutableData(const_cast<OrtValue*>(value), &found)) return status;
  *data = static_cast<const Element*>(found);
  return nullptr;
}

inline OrtStatus* make_output(const OrtApi* api, OrtKernelContext* context, size_t index, const Shape& shape, float** data) {
  OrtValue* value = nullptr;
  void* made = nullptr;
  if (OrtStatus* status = api->KernelContext_GetOutput(context, index, shape.dimensions, shape.rank, &value)) return status;
  if (OrtStatus* status = api->GetTensorMutableData(value, &made)) return status;
  *data = static_cast<float*>(made);
  return nullptr;
}

// An operator from float inputs, all of them required, to one float output; what differs is set by its own file.
inline OrtCustomOp float_operator() {
  OrtCustomOp op{};
  op.version = ORT_API_VERSION;
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
  op.GetInputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1 << 20; };
  return op;
}

// As many tasks as have enough to do, up to `most` and kMostTasks.
inline size_t tasks_for(size_t work, size_t work_of_task, size_t most) {
  constexpr size_t kMostTasks = 32;
  const size_t wanted = work / work_of_task, limit = most < kMostTasks ? most : kMostTasks;
  return wanted < 1 ? 1 : wanted < limit ? wanted : limit;
}

// The operators beside MatMulBlocks.
const OrtCustomOp* gather_operator();
const OrtCustomOp* gated_unit_operator();
const OrtCustomOp* causal_conv_operator();
const OrtCustomOp* group_attention_operator();
const OrtCustomOp* norm_operator();
const OrtCustomOp* skip_norm_operator();

}  // namespace lantern
