// The operators of onnxruntime: lantern.RMSNorm, the norm of rows (norm.h), and lantern.SkipRMSNorm, that of a sum with the
// residual stream.
//
// Inputs: x (..., W) float; scale (W) float; and of the second one skip (..., W) float. Outputs: (..., W) float; and of the
// second one x + skip, optional. Attribute: epsilon.

#include <new>

#include "block_product.h"
#include "custom_op.h"

namespace lantern {
namespace {

struct Kernel {
  const OrtApi* api;
  Normalize normalize;
  float epsilon;
};

struct Rows {
  const Kernel& kernel;
  const float *x, *skip, *scale;
  float *sum, *y;
  size_t width, count, num_tasks;

  // A task has a share of the rows.
  static void step(void* data, size_t task) {
    const auto& it = *static_cast<const Rows*>(data);
    for (size_t row = it.count * task / it.num_tasks; row < it.count * (task + 1) / it.num_tasks; row++) {
      const size_t at = row * it.width;
      it.kernel.normalize(it.x + at, it.skip ? it.skip + at : nullptr, it.scale, it.width, it.kernel.epsilon, it.sum + at, it.y + at);
    }
  }
};

OrtStatus* ORT_API_CALL create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** created) {
  float epsilon = 0;
  if (OrtStatus* status = api->KernelInfoGetAttribute_float(info, "epsilon", &epsilon)) return status;
  *created = new (std::nothrow) Kernel{api, best_family()->floats->normalize, epsilon};
  return *created ? nullptr : api->CreateStatus(ORT_EP_FAIL, "RMSNorm: no memory for the operator");
}

OrtStatus* ORT_API_CALL compute(void* data, OrtKernelContext* context) {
  const auto& kernel = *static_cast<const Kernel*>(data);
  const OrtApi* api = kernel.api;
  Shape shape, scale, skip;
  Rows it{kernel, nullptr, nullptr, nullptr, nullptr, nullptr, 0, 0, 1};
  size_t num_inputs = 0, num_outputs = 0;
  if (OrtStatus* status = api->KernelContext_GetInputCount(context, &num_inputs)) return status;
  if (OrtStatus* status = api->KernelContext_GetOutputCount(context, &num_outputs)) return status;
  if (OrtStatus* status = read_input(api, context, 0, &shape, &it.x)) return status;
  if (OrtStatus* status = read_input(api, context, 1, &scale, &it.scale)) return status;
  it.width = shape[shape.rank - 1];
  if (scale.count != it.width) return invalid(api, "the number of scales of a norm", static_cast<long long>(scale.count));
  if (num_inputs > 2) {
    if (OrtStatus* status = read_input(api, context, 2, &skip, &it.skip)) return status;
    if (skip.count != shape.count) return invalid(api, "the number of floats to add before a norm", static_cast<long long>(skip.count));
  }
  if (OrtStatus* status = make_output(api, context, 0, shape, &it.y)) return status;
  it.sum = it.y;
  if (num_outputs > 1)
    if (OrtStatus* status = make_output(api, context, 1, shape, &it.sum)) return status;
  if (!shape.count) return nullptr;
  it.count = shape.count / it.width;
  constexpr size_t kFloatsOfTask = 1 << 15;
  it.num_tasks = tasks_for(shape.count, kFloatsOfTask, it.count);
  if (it.num_tasks > 1) return api->KernelContext_ParallelFor(context, Rows::step, it.num_tasks, 0, &it);
  Rows::step(&it, 0);
  return nullptr;
}

OrtCustomOp make_operator() {
  OrtCustomOp op = float_operator();
  op.GetName = [](const OrtCustomOp*) -> const char* { return "RMSNorm"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return op;
}

OrtCustomOp make_skip_operator() {
  OrtCustomOp op = make_operator();
  op.GetName = [](const OrtCustomOp*) -> const char* { return "SkipRMSNorm"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 3; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index < 1 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  return op;
}

}  // namespace

const OrtCustomOp* norm_operator() {
  static const OrtCustomOp op = make_operator();
  return &op;
}

const OrtCustomOp* skip_norm_operator() {
  static const OrtCustomOp op = make_skip_operator();
  return &op;
}

}  // namespace lantern
