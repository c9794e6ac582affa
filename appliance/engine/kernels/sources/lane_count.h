#pragma once

#include <cstddef>

namespace lantern {

constexpr size_t kLanes = 8;  // partial sums of the kernels over floats; the channels of a head of attention are a multiple

}  // namespace lantern
