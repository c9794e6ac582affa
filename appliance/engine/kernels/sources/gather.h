// The operator of onnxruntime that reads rows of packed weights: lantern.GatherBlocks.
#pragma once

#include <onnxruntime_c_api.h>

namespace lantern {

const OrtCustomOp* gather_operator();

}  // namespace lantern
