// The operator of onnxruntime: lantern.GatedUnit, the gated linear unit of a decoder's MLP between its two products
// (SwiGLU, https://arxiv.org/abs/2002.05202): the halves of a row are a gate g and values u, the result is silu(g) * u.
//
// Input: (..., 2 F) float. Output: (..., F) float. Stock operators are a Split, which copies both halves, a QuickGelu and
// a Mul.

#include "block_product.h"
#include "custom_op.h"

namespace lantern {
namespace {

struct Unit {
  Gate gate;
  const float* x;
  float* y;
  size_t num_rows, width, num_tasks;

  // A task has an equal share of each row.
  static void step(void* data, size_t task) {
    const auto& unit = *static_cast<const Unit*>(data);
    const size_t first = unit.width * task / unit.num_tasks, last = unit.width * (task + 1) / unit.num_tasks;
    for (size_t row = 0; row < unit.num_rows; row++) {
      const float* gate = unit.x + row * 2 * unit.width + first;
      unit.gate(gate, gate + unit.width, last - first, unit.y + row * unit.width + first);
    }
  }
};

OrtStatus* ORT_API_CALL create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo*, void** created) {
  *created = const_cast<OrtApi*>(api);
  return nullptr;
}

OrtStatus* ORT_API_CALL compute(void* data, OrtKernelContext* context) {
  const auto* api = static_cast<const OrtApi*>(data);
  Shape shape;
  Unit unit{best_family()->floats->gate, nullptr, nullptr, 0, 0, 1};
  if (OrtStatus* status = read_input(api, context, 0, &shape, &unit.x)) return status;
  int64_t& last = shape.dimensions[shape.rank - 1];
  if (last % 2) return invalid(api, "the last dimension of gates and values", last);
  last /= 2;
  if (OrtStatus* status = make_output(api, context, 0, shape, &unit.y)) return status;
  if (!shape.count) return nullptr;
  unit.width = static_cast<size_t>(last);
  unit.num_rows = shape.count / 2 / unit.width;
  constexpr size_t kFloatsOfTask = 1 << 14;
  unit.num_tasks = tasks_for(shape.count / 2, kFloatsOfTask, unit.width);
  if (unit.num_tasks > 1) return api->KernelContext_ParallelFor(context, Unit::step, unit.num_tasks, 0, &unit);
  Unit::step(&unit, 0);
  return nullptr;
}

OrtCustomOp make_operator() {
  OrtCustomOp op = float_operator();
  op.GetName = [](const OrtCustomOp*) -> const char* { return "GatedUnit"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = [](void*) {};
  return op;
}

}  // namespace

const OrtCustomOp* gated_unit_operator() {
  static const OrtCustomOp op = make_operator();
  return &op;
}

}  // namespace lantern
