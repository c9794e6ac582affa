// The operator of onnxruntime: lantern.GroupAttention, which computes what com.microsoft.GroupQueryAttention does with plain
// keys and values of floats, each token by itself: with the same bits alone, beside others and in a draft.
//
// Inputs, B texts of S new tokens with H heads of D channels, G of which share one of KV heads of keys and values:
//   query (B, S, H D) float, or with keys and values behind it (B, S, (H + 2 KV) D) where the next two are absent
//   key, value (B, S, KV D) float
//   past_key, past_value (B, KV, capacity, D) float
//   seqlens_k (B) int32, the tokens of each text with the new ones, less one; total_sequence_length, not read
//   cos_cache, sin_cache (positions, R / 2) float, where do_rotary is 1
// Outputs: (B, S, H D) float; the keys and values, which may be the same memory as the past ones.
// Attributes: num_heads, kv_num_heads, scale, do_rotary, local_window_size (-1: none), as of the other operator.

#include <cstring>
#include <new>

#include "block_product.h"
#include "custom_op.h"
#include "scratch.h"

namespace lantern {
namespace {

enum Input : size_t { kQuery, kKey, kValue, kPastKey, kPastValue, kLengths, kLongest, kCos, kSin, kNumInputs };
enum Output : size_t { kResult, kPresentKey, kPresentValue, kNumOutputs };

constexpr size_t kFloatsOfTask = 1 << 15;  // of keys and values, read for one block of queries

thread_local Scratch scratch_of_queries, scratch_of_scores;

struct Kernel {
  const OrtApi* api;
  const FloatKernels* floats;
  size_t num_heads, num_kv_heads, window;  // window 0: none
  float scale;
  bool has_rotation;
};

// A tensor of new vectors, and where they begin in its rows.
struct Vectors {
  const float* data;
  size_t stride;  // floats of a token

  const float* of(size_t token, size_t head, size_t width) const { return data + token * stride + head * width; }
};

struct Attention {
  const Kernel& kernel;
  Vectors queries, keys, values;  // of token b * S + s
  const float *past_key, *past_value, *cos, *sin;
  float *key, *value, *result, *turned;
  const int32_t* lengths;
  size_t num_texts, num_tokens, capacity, width, rotated, num_tasks;

  size_t group() const { return kernel.num_heads / kernel.num_kv_heads; }
  size_t num_blocks() const { return (num_tokens * group() + kQueriesTogether - 1) / kQueriesTogether; }
  size_t total(size_t text) const { return static_cast<size_t>(lengths[text]) + 1; }
  size_t position(size_t text, size_t token) const { return total(text) - num_tokens + token; }
  size_t head_offset(size_t text, size_t head) const { return (text * kernel.num_kv_heads + head) * capacity * width; }

  void turn(const float* x, size_t at, float scale, float* y) const {
    if (rotated) kernel.floats->rotate(x, cos + at * rotated / 2, sin + at * rotated / 2, rotated / 2, scale, y);
    for (size_t i = rotated; i < width; i++) y[i] = x[i] * scale;
  }

  // A task has a share of the new tokens: their queries are turned, their keys and values put behind the past ones.
  static void prepare(void* data, size_t task) {
    const auto& it = *static_cast<const Attention*>(data);
    const size_t count = it.num_texts * it.num_tokens;
    for (size_t token = count * task / it.num_tasks; token < count * (task + 1) / it.num_tasks; token++) {
      const size_t text = token / it.num_tokens, at = it.position(text, token % it.num_tokens), heads = it.kernel.num_heads;
      for (size_t head = 0; head < heads; head++)
        it.turn(it.queries.of(token, head, it.width), at, it.kernel.scale, it.turned + (token * heads + head) * it.width);
      for (size_t head = 0; head < it.kernel.num_kv_heads; head++) {
        const size_t offset = it.head_offset(text, head) + at * it.width;
        it.turn(it.keys.of(token, head, it.width), at, 1.0f, it.key + offset);
        std::memcpy(it.value + offset, it.values.of(token, head, it.width), it.width * sizeof(float));
      }
    }
  }

  // A task has a share of the blocks of queries, those of a head of keys and values one after another.
  static void attend(void* data, size_t task) {
    const auto& it = *static_cast<const Attention*>(data);
    const size_t count = it.num_texts * it.kernel.num_kv_heads * it.num_blocks();
    for (size_t block = count * task / it.num_tasks; block < count * (task + 1) / it.num_tasks; block++)
      it.attend_block(block / it.num_blocks(), block % it.num_blocks() * kQueriesTogether);
  }

  void attend_block(size_t head, size_t first) const {
    const size_t text = head / kernel.num_kv_heads, kv_head = head % kernel.num_kv_heads, left = num_tokens * group() - first;
    const size_t num_queries = left < kQueriesTogether ? left : kQueriesTogether;
    Query of_block[kQueriesTogether];
    for (size_t i = 0; i < num_queries; i++) {
      const size_t token = (first + i) / group(), row = text * num_tokens + token;
      const size_t offset = (row * kernel.num_heads + kv_head * group() + (first + i) % group()) * width;
      const size_t end = position(text, token) + 1;
      of_block[i] = {turned + offset, result + offset, kernel.window && end > kernel.window ? end - kernel.window : 0, end};
    }
    const size_t offset = head_offset(text, kv_head);
    auto* scores = reinterpret_cast<float*>(scratch_of_scores.of_size(scores_size(total(text), width) * sizeof(float)));
    if (!scores) return fail(of_block, num_queries);
    kernel.floats->attend(key + offset, value + offset, width, of_block, num_queries, scores);
  }

  // Without memory for scores a result is no number, which the engine reports.
  void fail(const Query* queries_of_block, size_t num_queries) const {
    for (size_t i = 0; i < num_queries; i++)
      for (size_t d = 0; d < width; d++) queries_of_block[i].y[d] = __builtin_nanf("");
  }

  void copy_past() const {
    for (size_t text = 0; text < num_texts; text++)
      for (size_t head = 0; head < kernel.num_kv_heads; head++) {
        const size_t offset = head_offset(text, head), size = position(text, 0) * width * sizeof(float);
        if (key != past_key) std::memcpy(key + offset, past_key + offset, size);
        if (value != past_value) std::memcpy(value + offset, past_value + offset, size);
      }
  }
};

OrtStatus* ORT_API_CALL create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** created) {
  const int64_t heads = attribute(api, info, "num_heads"), kv_heads = attribute(api, info, "kv_num_heads");
  const int64_t window = attribute(api, info, "local_window_size");
  if (kv_heads < 1 || heads < kv_heads || heads % kv_heads) return invalid(api, "the number of heads of attention", heads);
  float scale = 0;
  if (OrtStatus* status = api->KernelInfoGetAttribute_float(info, "scale", &scale)) return status;
  auto* kernel = new (std::nothrow) Kernel{
      api, best_family()->floats, static_cast<size_t>(heads), static_cast<size_t>(kv_heads), window > 0 ? static_cast<size_t>(window) : 0,
      scale, attribute(api, info, "do_rotary") != 0};
  if (!kernel) return api->CreateStatus(ORT_EP_FAIL, "GroupAttention: no memory for the operator");
  *created = kernel;
  return nullptr;
}

OrtStatus* read_vectors(const OrtApi* api, OrtKernelContext* context, Attention* it) {
  Shape shape, past;
  const OrtValue* key = nullptr;
  const size_t heads = it->kernel.num_heads, kv_heads = it->kernel.num_kv_heads;
  if (OrtStatus* status = read_input(api, context, kPastKey, &past, &it->past_key)) return status;
  if (past.rank != 4 || past[1] != kv_heads) return invalid(api, "the number of heads of past keys", past.dimensions[1]);
  it->num_texts = past[0];
  it->capacity = past[2];
  it->width = past[3];
  if (!it->width || it->width % kLanes) return invalid(api, "the number of channels of a head", past.dimensions[3]);
  const size_t kv_width = kv_heads * it->width, own = heads * it->width;
  Shape past_value;
  if (OrtStatus* status = read_input(api, context, kPastValue, &past_value, &it->past_value)) return status;
  if (past_value.rank != 4 || std::memcmp(past.dimensions, past_value.dimensions, 4 * sizeof *past.dimensions))
    return invalid(api, "the number of past values", static_cast<long long>(past_value.count));
  if (OrtStatus* status = api->KernelContext_GetInput(context, kKey, &key)) return status;
  if (OrtStatus* status = read_input(api, context, kQuery, &shape, &it->queries.data)) return status;
  const size_t stride = own + (key ? 0 : 2 * kv_width);
  if (shape.rank != 3 || shape[0] != it->num_texts || shape[2] != stride)
    return invalid(api, "the number of channels of queries", shape.dimensions[shape.rank - 1]);
  it->num_tokens = shape[1];
  it->queries.stride = stride;
  it->keys = {it->queries.data + own, stride};
  it->values = {it->queries.data + own + kv_width, stride};
  if (!key) return nullptr;
  constexpr Input kOfPairs[] = {kKey, kValue};
  for (const Input index : kOfPairs) {
    Vectors* vectors = index == kKey ? &it->keys : &it->values;
    if (OrtStatus* status = read_input(api, context, index, &shape, &vectors->data)) return status;
    if (shape.rank != 3 || shape[0] != it->num_texts || shape[1] != it->num_tokens || shape[2] != kv_width)
      return invalid(api, "the number of channels of keys or values", shape.dimensions[shape.rank - 1]);
    vectors->stride = kv_width;
  }
  return nullptr;
}

OrtStatus* read_positions(const OrtApi* api, OrtKernelContext* context, Attention* it) {
  Shape lengths, cos{}, sin{};
  if (OrtStatus* status = read_input(api, context, kLengths, &lengths, &it->lengths)) return status;
  if (lengths.count != it->num_texts) return invalid(api, "the number of lengths", static_cast<long long>(lengths.count));
  if (it->kernel.has_rotation) {
    if (OrtStatus* status = read_input(api, context, kCos, &cos, &it->cos)) return status;
    if (OrtStatus* status = read_input(api, context, kSin, &sin, &it->sin)) return status;
    if (cos.rank != 2 || sin.rank != 2 || cos[0] != sin[0] || cos[1] != sin[1] || 2 * cos[1] > it->width)
      return invalid(api, "the number of angles of a position", cos.dimensions[cos.rank - 1]);
    it->rotated = 2 * cos[1];
  }
  const size_t most = it->rotated && cos[0] < it->capacity ? cos[0] : it->capacity;
  for (size_t text = 0; text < it->num_texts; text++)
    if (it->lengths[text] < 0 || it->total(text) > most || it->total(text) < it->num_tokens)
      return invalid(api, "the number of tokens of a text", it->lengths[text] + 1LL);
  return nullptr;
}

OrtStatus* run(const Kernel& kernel, OrtKernelContext* context, Attention* it, size_t work, void (*step)(void*, size_t), size_t most) {
  it->num_tasks = tasks_for(work, kFloatsOfTask, most);
  if (it->num_tasks > 1) return kernel.api->KernelContext_ParallelFor(context, step, it->num_tasks, 0, it);
  step(it, 0);
  return nullptr;
}

OrtStatus* ORT_API_CALL compute(void* data, OrtKernelContext* context) {
  const auto& kernel = *static_cast<const Kernel*>(data);
  const OrtApi* api = kernel.api;
  Attention it{kernel, {}, {}, {}, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0, 0, 0, 0, 0, 1};
  if (OrtStatus* status = read_vectors(api, context, &it)) return status;
  if (OrtStatus* status = read_positions(api, context, &it)) return status;
  const auto signed_of = [](size_t size) { return static_cast<int64_t>(size); };
  const size_t channels = kernel.num_heads * it.width, count = it.num_texts * it.num_tokens * channels;
  const Shape result{{signed_of(it.num_texts), signed_of(it.num_tokens), signed_of(channels)}, 3, count};
  const Shape cache{{signed_of(it.num_texts), signed_of(kernel.num_kv_heads), signed_of(it.capacity), signed_of(it.width)}, 4, 0};
  if (OrtStatus* status = make_output(api, context, kResult, result, &it.result)) return status;
  if (OrtStatus* status = make_output(api, context, kPresentKey, cache, &it.key)) return status;
  if (OrtStatus* status = make_output(api, context, kPresentValue, cache, &it.value)) return status;
  if (!count) return nullptr;
  it.turned = reinterpret_cast<float*>(scratch_of_queries.of_size(count * sizeof(float)));
  if (!it.turned) return api->CreateStatus(ORT_EP_FAIL, "GroupAttention: no memory for queries");
  it.copy_past();
  if (OrtStatus* status = run(kernel, context, &it, count, Attention::prepare, it.num_texts * it.num_tokens)) return status;
  size_t longest = 0;
  for (size_t text = 0; text < it.num_texts; text++) longest = it.total(text) > longest ? it.total(text) : longest;
  const size_t num_blocks = it.num_texts * kernel.num_kv_heads * it.num_blocks();
  return run(kernel, context, &it, num_blocks * longest * it.width * 2, Attention::attend, num_blocks);
}

OrtCustomOp make_operator() {
  OrtCustomOp op = float_operator();
  op.GetName = [](const OrtCustomOp*) -> const char* { return "GroupAttention"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return kNumInputs; };
  op.GetInputType = [](const OrtCustomOp*, size_t index) {
    return index == kLengths || index == kLongest ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
    return index == kKey || index == kValue || index >= kCos ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return kNumOutputs; };
  op.CreateKernelV2 = create;
  op.KernelComputeV2 = compute;
  op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return op;
}

}  // namespace

const OrtCustomOp* group_attention_operator() {
  static const OrtCustomOp op = make_operator();
  return &op;
}

}  // namespace lantern
