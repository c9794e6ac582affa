// The families that the pages of intrinsics define; which of them are linked depends on the architecture.
#pragma once

#include "block_product.h"

namespace lantern {

extern const Family kPortable;
extern const Family kNeon, kDotprod, kI8mm;
extern const Family kAvx2, kAvxVnni, kAvx512Vnni;

}  // namespace lantern
