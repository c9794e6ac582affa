// Kernels over floats in 8 lanes, of one page of vectors each. All have the same bits.
#pragma once

#include "attention.h"
#include "norm.h"
#include "rows.h"

namespace lantern {

struct FloatKernels {
  Attend attend;
  Normalize normalize;
  Gate gate;
  SumColumns sum_columns;
  Rotate rotate;
};

extern const FloatKernels kPortableLanes, kNeonLanes, kAvx2Lanes, kAvx512Lanes;

}  // namespace lantern
