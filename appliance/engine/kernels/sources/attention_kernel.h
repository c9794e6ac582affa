// Attention in terms of Lanes, and of what the page that includes this defines beside them:
//
//   Cursor     the place in the channels of kKeys keys; move_on by so many channels
//   Sums       the partial sums of the scores of kKeys keys, for some queries whose channels lie one after the other: begun by
//              the first products, those of 8 channels at a time added, and stored as scores
//   Channels   kCount channels of a value or a result
//   Four       four weights, of which fused_by takes one
//   kMostScored and kMostMixed queries at once, as many as there are registers; kMostChannels vectors of a result
#pragma once

#include "exponential.h"

namespace lantern {
namespace {

// The scores of kKeys keys, for `kQueries` queries whose scores are `stride` floats apart. `packed`: eight channels of each
// query in turn, of `kAll` queries.
template <int kAll, int kQueries>
LANTERN_INLINE void score_keys(const float* keys, size_t width, const float* packed, float* scores, size_t stride) {
  constexpr size_t kStep = kAll * kLanes;
  Cursor cursor(keys, width);
  Sums<kQueries> sums(packed, cursor);
  packed += kStep, cursor.move_on(kLanes);
  size_t d = kLanes;
  for (; d + 2 * kLanes <= width; d += 2 * kLanes) {
    sums.add(packed, cursor, 0);
    sums.add(packed + kStep, cursor, kLanes);
    packed += 2 * kStep, cursor.move_on(2 * kLanes);
  }
  if (d < width) sums.add(packed, cursor, 0);
  sums.store(scores, stride);
}

template <int kAll>
LANTERN_INLINE float score_of(const float* key, size_t width, const float* packed) {
  Lanes sums = Lanes::load(packed) * Lanes::load(key);
  for (size_t d = kLanes; d < width; d += kLanes) sums = fused(Lanes::load(packed + d * kAll), Lanes::load(key + d), sums);
  return total(sums);
}

template <int kAll, int kQueries>
LANTERN_INLINE void score_tile(const float* keys, size_t width, const float* packed, float* scores, size_t stride) {
  constexpr int kNow = kQueries < kMostScored ? kQueries : kMostScored;
  score_keys<kAll, kNow>(keys, width, packed, scores, stride);
  if constexpr (kQueries > kNow)
    score_tile<kAll, kQueries - kNow>(keys, width, packed + kNow * kLanes, scores + kNow * stride, stride);
}

template <int kQueries>
LANTERN_INLINE void score(const float* keys, size_t width, size_t count, const float* packed, float* scores, size_t stride) {
  size_t key = 0;
  for (; key + kKeys <= count; key += kKeys)
    score_tile<kQueries, kQueries>(keys + key * width, width, packed, scores + key, stride);
  for (; key < count; key++)
    for (int q = 0; q < kQueries; q++)
      scores[q * stride + key] = score_of<kQueries>(keys + key * width, width, packed + q * kLanes);
}

template <int kQueries>
LANTERN_INLINE void pack_queries(const Query* queries, size_t width, float* packed) {
  for (size_t d = 0; d < width; d += kLanes)
    for (int q = 0; q < kQueries; q++, packed += kLanes) Lanes::load(queries[q].x + d).store(packed);
}

// Make weights of the scores of `count` keys, behind which there is room up to a multiple of kLanes; return their sum.
LANTERN_INLINE float weigh(float* scores, size_t count) {
  const size_t padded = (count + kLanes - 1) / kLanes * kLanes;
  for (size_t i = count; i < padded; i++) scores[i] = -__builtin_inff();
  Lanes most = Lanes::load(scores);
  for (size_t i = kLanes; i < padded; i += kLanes) most = larger(most, Lanes::load(scores + i));
  float each[kLanes];
  most.store(each);
  float largest = each[0];
  for (size_t i = 1; i < kLanes; i++) largest = each[i] > largest ? each[i] : largest;
  Lanes sums = Lanes::filled(0.0f);
  for (size_t i = 0; i < padded; i += kLanes) {
    const Lanes weights = exponential(Lanes::load(scores + i) - Lanes::filled(largest));
    weights.store(scores + i);
    sums = sums + weights;  // what stands for no key is lost beside the largest one's 1
  }
  return total(sums);
}

// `kVectors` vectors of channels of the results. `weights` are `stride` floats apart, `factors` one for each query.
template <class Vector, int kQueries, int kVectors>
LANTERN_INLINE void mix(const float* values, size_t width, size_t count, const float* weights, size_t stride, const Query* queries,
                        const float* factors, size_t channel) {
  Vector sums[kQueries][kVectors];
#pragma GCC unroll 6
  for (int q = 0; q < kQueries; q++)
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; c++) sums[q][c] = Vector::filled(0.0f);
  const float* value = values + channel;
  size_t key = 0;
  for (; key + 4 <= count; key += 4) {
    Four four[kQueries];
#pragma GCC unroll 6
    for (int q = 0; q < kQueries; q++) four[q] = Four(weights + q * stride + key);
    const auto add = [&](auto index) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; c++) {
        const Vector part = Vector::load(value + c * Vector::kCount);
#pragma GCC unroll 6
        for (int q = 0; q < kQueries; q++) sums[q][c] = fused_by<decltype(index)::value>(four[q], part, sums[q][c]);
      }
      value += width;
    };
    add(Index<0>());
    add(Index<1>());
    add(Index<2>());
    add(Index<3>());
  }
  for (; key < count; key++, value += width)
#pragma GCC unroll 6
    for (int q = 0; q < kQueries; q++)
#pragma GCC unroll 4
      for (int c = 0; c < kVectors; c++)
        sums[q][c] = fused(Vector::load(value + c * Vector::kCount), Vector::filled(weights[q * stride + key]), sums[q][c]);
#pragma GCC unroll 6
  for (int q = 0; q < kQueries; q++)
#pragma GCC unroll 4
    for (int c = 0; c < kVectors; c++)
      (sums[q][c] * Vector::filled(factors[q])).store(queries[q].y + channel + c * Vector::kCount);
}

template <int kQueries>
LANTERN_INLINE void mix_all(const float* values, size_t width, size_t count, const float* weights, size_t stride, const Query* queries,
                            const float* factors) {
  constexpr int kNow = kQueries < kMostMixed ? kQueries : kMostMixed;
  constexpr size_t kTogether = kMostChannels * Channels::kCount;
  size_t channel = 0;
  for (; channel + kTogether <= width; channel += kTogether)
    mix<Channels, kNow, kMostChannels>(values, width, count, weights, stride, queries, factors, channel);
  for (; channel < width; channel += kLanes)
    mix<Lanes, kNow, 1>(values, width, count, weights, stride, queries, factors, channel);
  if constexpr (kQueries > kNow)
    mix_all<kQueries - kNow>(values, width, count, weights + kNow * stride, stride, queries + kNow, factors + kNow);
}

template <int kQueries>
LANTERN_INLINE void attend_together(const float* keys, const float* values, size_t width, const Query* queries, float* scores) {
  size_t begin = queries[0].begin, end = queries[0].end;
  for (int q = 1; q < kQueries; q++) {
    begin = queries[q].begin < begin ? queries[q].begin : begin;
    end = queries[q].end > end ? queries[q].end : end;
  }
  const size_t stride = scores_stride(end - begin);
  float* packed = scores + kQueries * stride;
  pack_queries<kQueries>(queries, width, packed);
  score<kQueries>(keys + begin * width, width, end - begin, packed, scores, stride);
  float factors[kQueries];
  for (int q = 0; q < kQueries; q++) {
    float* own = scores + q * stride;
    const size_t first = queries[q].begin - begin, last = queries[q].end - begin;
    factors[q] = 1.0f / weigh(own + first, last - first);
    for (size_t i = 0; i < first; i++) own[i] = 0.0f;
    for (size_t i = last; i < end - begin; i++) own[i] = 0.0f;  // of keys that others see
  }
  mix_all<kQueries>(values + begin * width, width, end - begin, scores, stride, queries, factors);
}

LANTERN_INLINE void attend_queries(const float* keys, const float* values, size_t width, const Query* queries, size_t num_queries, float* scores) {
  switch (num_queries) {
    case 1: return attend_together<1>(keys, values, width, queries, scores);
    case 2: return attend_together<2>(keys, values, width, queries, scores);
    case 3: return attend_together<3>(keys, values, width, queries, scores);
    case 4: return attend_together<4>(keys, values, width, queries, scores);
    case 5: return attend_together<5>(keys, values, width, queries, scores);
    default: return attend_together<6>(keys, values, width, queries, scores);
  }
}

}  // namespace
}  // namespace lantern
