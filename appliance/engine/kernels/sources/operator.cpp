// The operator of onnxruntime: lantern.MatMulBlocks, with the inputs and attributes of com.microsoft.MatMulNBits.
//
// Inputs: activations (..., K) float; codes (N, blocks, block_size * bits / 8) uint8; scales (N * blocks) float; zero points
// (N * ceil(blocks * bits / 8)) uint8, optional. Attributes: K, N, bits (4 or 8), block_size (32, 64 or 128). With the
// attribute packed = 1 the second input is the memory that lantern_pack wrote, used where it lies, and there is no third;
// bits are then those of lantern_packed_bits, 5 and 6 among them, and has_zeros = 1 says that the memory holds zero points.

#include <initializer_list>
#include <new>

#include "library.h"
#include "operator_inputs.h"
#include "scratch.h"

namespace lantern {
namespace {

thread_local Scratch scratch;  // for the codes, scales and sums of activations

OrtStatus* pack_weights(const OrtApi* api, const OrtKernelInfo* info, StoredWeights stored, LoadedWeights* kernel) {
  const size_t num_blocks = (stored.columns + stored.block - 1) / stored.block, entries = stored.rows * num_blocks;
  const size_t zeros_size = stored.rows * ((num_blocks * stored.bits + 7) / 8);
  size_t num_inputs = 0;
  if (OrtStatus* status = api->KernelInfo_GetInputCount(info, &num_inputs)) return status;
  if (OrtStatus* status = constant_input(api, info, 1, "codes", entries * stored.block * stored.bits / 8, &stored.codes)) return status;
  if (OrtStatus* status = constant_input(api, info, 2, "scales", entries, &stored.scales)) return status;
  if (num_inputs > 3)
    if (OrtStatus* status = constant_input(api, info, 3, "zero points", zeros_size, &stored.zeros)) return status;
  stored.packed_bits = narrowest_bits(stored);
  stored.has_steps = can_have_steps(stored);
  kernel->memory = allocate(packed_size(stored));
  if (!kernel->memory) return api->CreateStatus(ORT_EP_FAIL, "MatMulBlocks: no memory for the packed weights");
  kernel->weights = pack(stored, kernel->memory);
  return kernel->weights.codes ? nullptr : api->CreateStatus(ORT_INVALID_ARGUMENT, "MatMulBlocks: a scale is not finite");
}

OrtStatus* ORT_API_CALL create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** created) {
  StoredWeights stored{};
  const bool is_packed = attribute(api, info, "packed") != 0;
  if (OrtStatus* status = read_attributes(api, info, is_packed, &stored)) return status;
  auto* kernel = new (std::nothrow) LoadedWeights{api, best_family(), {}, nullptr};
  if (!kernel) return api->CreateStatus(ORT_EP_FAIL, "MatMulBlocks: no memory for the operator");
  OrtStatus* status = is_packed ? map_weights(api, info, 1, stored, kernel) : pack_weights(api, info, stored, kernel);
  if (status) delete kernel;
  else *created = kernel;
  return status;
}

void ORT_API_CALL destroy(void* kernel) { delete static_cast<LoadedWeights*>(kernel); }

// Read the activations' shape; the result has the same with N in the last place.
OrtStatus* prepare(const LoadedWeights& kernel, OrtKernelContext* context, size_t* num_rows, const float** x, float** y) {
  const OrtApi* api = kernel.api;
  Shape shape;
  if (OrtStatus* status = read_input(api, context, 0, &shape, x)) return status;
  int64_t& last = shape.dimensions[shape.rank - 1];
  if (static_cast<size_t>(last) != kernel.weights.columns) return invalid(api, "the activations' last dimension", last);
  *num_rows = shape.count / kernel.weights.columns;
  last = static_cast<int64_t>(kernel.weights.rows);
  if (OrtStatus* status = make_output(api, context, 0, shape, y)) return status;
  return nullptr;
}

// One product, cut into tasks for the threads of the session.
struct Product {
  const LoadedWeights& kernel;
  const float* x;
  float* y;
  size_t num_rows;
  size_t num_tasks;
  Activations rows;

  static void quantize(void* data, size_t task) {
    const auto& product = *static_cast<const Product*>(data);
    const Weights& weights = product.kernel.weights;
    const size_t first = product.num_rows * task / product.num_tasks, last = product.num_rows * (task + 1) / product.num_tasks;
    for (size_t m = first; m < last; m++)
      product.kernel.family->quantize(product.x + m * weights.columns, weights.columns, weights.block,
                                      row_of(product.rows, m, weights.num_blocks(), weights.block));
  }

  static void multiply(void* data, size_t task) {
    const auto& product = *static_cast<const Product*>(data);
    const size_t num_tiles = product.kernel.weights.num_tiles();
    multiply_tiles(*product.kernel.family, product.kernel.weights, num_tiles * task / product.num_tasks,
                   num_tiles * (task + 1) / product.num_tasks, product.rows, product.num_rows, product.y);
  }

  OrtStatus* run(OrtKernelContext* context, void (*step)(void*, size_t), size_t tasks) {
    num_tasks = tasks;
    if (tasks > 1) return kernel.api->KernelContext_ParallelFor(context, step, tasks, 0, this);
    step(this, 0);
    return nullptr;
  }
};

OrtStatus* ORT_API_CALL compute(void* data, OrtKernelContext* context) {
  const auto& kernel = *static_cast<const LoadedWeights*>(data);
  const Weights& weights = kernel.weights;
  Product product{kernel, nullptr, nullptr, 0, 1, {}};
  if (OrtStatus* status = prepare(kernel, context, &product.num_rows, &product.x, &product.y)) return status;
  if (!product.num_rows) return nullptr;
  const size_t entries = product.num_rows * weights.num_blocks();
  uint8_t* memory = scratch.of_size(entries * (weights.block + sizeof(float) + sizeof(int32_t)));
  if (!memory) return kernel.api->CreateStatus(ORT_EP_FAIL, "MatMulBlocks: no memory for the activations");
  auto* codes = reinterpret_cast<int8_t*>(memory);
  auto* scales = reinterpret_cast<float*>(codes + entries * weights.block);
  product.rows = {codes, scales, reinterpret_cast<int32_t*>(scales + entries), product.num_rows};
  constexpr size_t kFloatsOfTask = 1 << 14, kProductsOfTask = 1 << 17;
  const size_t floats = product.num_rows * weights.columns;
  if (OrtStatus* status = product.run(context, Product::quantize, tasks_for(floats, kFloatsOfTask, product.num_rows)))
    return status;
  return product.run(context, Product::multiply, tasks_for(floats * weights.rows, kProductsOfTask, weights.num_tiles()));
}

ONNXTensorElementDataType ORT_API_CALL input_type(const OrtCustomOp*, size_t index) {
  return index == 0 || index == 2 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
}

OrtCustomOpInputOutputCharacteristic ORT_API_CALL input_characteristic(const OrtCustomOp*, size_t index) {
  return index < 2 ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
}

OrtCustomOp make_operator() {
  OrtCustomOp op = float_operator();
  op.GetName = [](const OrtCustomOp*) -> const char* { return "MatMulBlocks"; };
  op.GetInputType = input_type;
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 4; };
  op.GetInputCharacteristic = input_characteristic;
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = destroy;
  return op;
}

OrtStatus* add_to(OrtSessionOptions* options, const OrtApi* api) {
  static const OrtCustomOp op = make_operator();
  OrtCustomOpDomain* domain = nullptr;  // never released: sessions keep a pointer to it
  if (OrtStatus* status = api->CreateCustomOpDomain("lantern", &domain)) return status;
  const OrtCustomOp* const all[] = {&op, gather_operator(), gated_unit_operator(), causal_conv_operator(),
                                    group_attention_operator(), norm_operator(), skip_norm_operator()};
  for (const OrtCustomOp* each : all)
    if (OrtStatus* status = api->CustomOpDomain_Add(domain, each)) return status;
  return api->AddCustomOpDomain(options, domain);
}

}  // namespace
}  // namespace lantern

// onnxruntime looks for this name. An onnxruntime older than the header gets no operator, and says that it does not know it.
OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  return api ? lantern::add_to(options, api) : nullptr;
}

unsigned lantern_api_version() { return ORT_API_VERSION; }
