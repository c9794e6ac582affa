// The operator of onnxruntime: lantern.CausalConvRows, a convolution of each channel over time with the columns before it as
// state, as com.microsoft.CausalConvWithState computes it, on rows of tokens instead of rows of channels.
//
// Inputs: rows (B, S, C) float; kernel (C, 1, K) float, constant; state (B, C, K - 1) float, the last columns; bias (C)
// float, constant, optional. Outputs: rows (B, S, C) float; the state after them, which may be the same memory. Attribute:
// silu (0 or 1), what is done with each sum. A sum begins with the bias and goes from the oldest column to the newest.

#include <new>

#include "operator_inputs.h"

namespace lantern {
namespace {

constexpr size_t kMostTaps = 8, kChunk = 64;  // columns of a sum; channels whose state is taken up at once

struct Kernel {
  const OrtApi* api;
  SumColumns sum_columns;
  size_t num_channels, num_taps;
  bool has_silu;
  float* taps;  // (K, C), oldest column first
  float* bias;  // (C), behind the taps

  ~Kernel() { std::free(taps); }
};

struct Convolution {
  const Kernel& kernel;
  const float *x, *past;
  float *y, *present;
  size_t num_rows, num_tokens, num_tasks;

  // A task has a share of the channels.
  static void step(void* data, size_t task) {
    const auto& it = *static_cast<const Convolution*>(data);
    const size_t num_chunks = (it.kernel.num_channels + kChunk - 1) / kChunk;
    const size_t first = num_chunks * task / it.num_tasks, last = num_chunks * (task + 1) / it.num_tasks;
    for (size_t row = 0; row < it.num_rows; row++)
      for (size_t chunk = first; chunk < last; chunk++) it.convolve(row, chunk * kChunk);
  }

  void convolve(size_t row, size_t channel) const {
    const size_t width = kernel.num_channels - channel < kChunk ? kernel.num_channels - channel : kChunk;
    const size_t num_columns = kernel.num_taps - 1, stride = kernel.num_channels;
    float columns[kMostTaps][kChunk];
    const float* state = past + (row * stride + channel) * num_columns;
    for (size_t i = 0; i < width; i++)
      for (size_t k = 0; k < num_columns; k++) columns[k][i] = state[i * num_columns + k];
    const float* tokens = x + row * num_tokens * stride + channel;
    // Column t: of the state below num_columns, of a token from there on.
    const auto column = [&](size_t t) { return t < num_columns ? columns[t] : tokens + (t - num_columns) * stride; };
    for (size_t token = 0; token < num_tokens; token++) {
      const float* values[kMostTaps];
      for (size_t k = 0; k < kernel.num_taps; k++) values[k] = column(token + k);
      kernel.sum_columns(values, kernel.taps + channel, kernel.num_taps, stride, kernel.bias + channel, kernel.has_silu, width,
                  y + (row * num_tokens + token) * stride + channel);
    }
    float* after = present + (row * stride + channel) * num_columns;
    for (size_t k = 0; k < num_columns; k++) {
      const float* values = column(num_tokens + k);
      for (size_t i = 0; i < width; i++) after[i * num_columns + k] = values[i];
    }
  }
};

OrtStatus* read_taps(const OrtApi* api, const OrtKernelInfo* info, Kernel* kernel) {
  const OrtValue* value = nullptr;
  Shape shape;
  if (OrtStatus* status = constant_value(api, info, 1, "the kernel of a convolution", &value)) return status;
  if (OrtStatus* status = read_shape(api, value, &shape)) return status;
  const size_t num_taps = shape[shape.rank - 1];
  if (shape.rank != 3 || shape[1] != 1 || num_taps < 2 || num_taps > kMostTaps)
    return invalid(api, "the number of columns of a convolution", static_cast<long long>(num_taps));
  kernel->num_channels = shape[0];
  kernel->num_taps = num_taps;
  const float *taps = nullptr, *bias = nullptr;
  if (OrtStatus* status = constant_input(api, info, 1, "the kernel of a convolution", shape.count, &taps)) return status;
  size_t num_inputs = 0;
  if (OrtStatus* status = api->KernelInfo_GetInputCount(info, &num_inputs)) return status;
  if (num_inputs > 3)
    if (OrtStatus* status = constant_input(api, info, 3, "the bias of a convolution", shape[0], &bias)) return status;
  kernel->taps = static_cast<float*>(std::calloc(shape.count + shape[0], sizeof(float)));
  if (!kernel->taps) return api->CreateStatus(ORT_EP_FAIL, "CausalConvRows: no memory for the kernel");
  kernel->bias = kernel->taps + shape.count;
  for (size_t c = 0; c < shape[0]; c++) {
    for (size_t k = 0; k < num_taps; k++) kernel->taps[k * shape[0] + c] = taps[c * num_taps + k];
    if (bias) kernel->bias[c] = bias[c];
  }
  return nullptr;
}

OrtStatus* ORT_API_CALL create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** created) {
  auto* kernel = new (std::nothrow) Kernel{api, best_family()->floats->sum_columns, 0, 0, attribute(api, info, "silu") != 0, nullptr, nullptr};
  if (!kernel) return api->CreateStatus(ORT_EP_FAIL, "CausalConvRows: no memory for the operator");
  OrtStatus* status = read_taps(api, info, kernel);
  if (status) delete kernel;
  else *created = kernel;
  return status;
}

OrtStatus* ORT_API_CALL compute(void* data, OrtKernelContext* context) {
  const auto& kernel = *static_cast<const Kernel*>(data);
  const OrtApi* api = kernel.api;
  Shape rows, state;
  Convolution it{kernel, nullptr, nullptr, nullptr, nullptr, 0, 0, 1};
  if (OrtStatus* status = read_input(api, context, 0, &rows, &it.x)) return status;
  if (OrtStatus* status = read_input(api, context, 2, &state, &it.past)) return status;
  if (rows.rank != 3 || rows[2] != kernel.num_channels) return invalid(api, "the number of channels", rows.dimensions[rows.rank - 1]);
  if (state.rank != 3 || state[0] != rows[0] || state[1] != kernel.num_channels || state[2] != kernel.num_taps - 1)
    return invalid(api, "the number of floats of a state", static_cast<long long>(state.count));
  if (OrtStatus* status = make_output(api, context, 0, rows, &it.y)) return status;
  if (OrtStatus* status = make_output(api, context, 1, state, &it.present)) return status;
  it.num_rows = rows[0];
  it.num_tokens = rows[1];
  constexpr size_t kSumsOfTask = 1 << 13;
  it.num_tasks = tasks_for(rows.count, kSumsOfTask, (kernel.num_channels + kChunk - 1) / kChunk);
  if (it.num_tasks > 1) return api->KernelContext_ParallelFor(context, Convolution::step, it.num_tasks, 0, &it);
  Convolution::step(&it, 0);
  return nullptr;
}

OrtCustomOp make_operator() {
  OrtCustomOp op = float_operator();
  op.GetName = [](const OrtCustomOp*) -> const char* { return "CausalConvRows"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 4; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index < 3 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 2; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return op;
}

}  // namespace

const OrtCustomOp* causal_conv_operator() {
  static const OrtCustomOp op = make_operator();
  return &op;
}

}  // namespace lantern
