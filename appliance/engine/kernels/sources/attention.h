// Attention of queries over the keys and values of one head (https://arxiv.org/abs/1706.03762), the same bits on every
// processor and beside whatever other queries.
//
// A query's score of a key is their product in 8 partial sums: number i has the channels i, i + 8, ... in ascending order, the
// first product and fused multiply-adds. The partial sums s become ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)). Weights are
// e^(score - the largest one); their sum has 8 partial sums as well, over keys in ascending order. A result is the sum over
// keys, in ascending order, of weight * value by fused multiply-adds from +0, times the reciprocal of the weights' sum.
#pragma once

#include <cstddef>

#include "lane_count.h"

namespace lantern {

constexpr size_t kQueriesTogether = 6;  // they share what is read of keys and values

// A query of `width` floats, already multiplied with attention's scale, and the keys that it sees.
struct Query {
  const float* x;
  float* y;  // the result, of `width` floats
  size_t begin, end;
};

// The floats between the scores of two queries, and the floats of memory that attention needs.
constexpr size_t scores_stride(size_t num_keys) { return ((num_keys + kLanes - 1) / kLanes + 1) * kLanes; }
constexpr size_t scores_size(size_t num_keys, size_t width) { return kQueriesTogether * (scores_stride(num_keys) + width); }

// Keys and values are rows of `width` floats. `num_queries` is at most kQueriesTogether; `scores` is memory of the
// scores_size of the keys from the first to the last that any of them sees.
using Attend = void (*)(const float* keys, const float* values, size_t width, const Query* queries, size_t num_queries, float* scores);

}  // namespace lantern
