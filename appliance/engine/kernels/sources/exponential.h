// e^x in Lanes.
#pragma once

#include "lanes.h"

namespace lantern {
namespace {

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: what is added to it loses its fraction

// e^x for -87 <= x <= 88, to 3 units in the last place, and e^-87 below: 2^n * e^r with |r| <= ln(2) / 2, and Taylor's series of
// e^r.
LANTERN_INLINE Lanes exponential(Lanes x) {
  x = larger(Lanes::filled(-87.0f), x);
  const Lanes shifted = fused(x, Lanes::filled(1.44269504f), Lanes::filled(kRound)), n = shifted - Lanes::filled(kRound);
  const Lanes r = fused(n, Lanes::filled(2.12194440e-4f), fused(n, Lanes::filled(-0.693359375f), x));
  Lanes p = fused(Lanes::filled(1.0f / 720), r, Lanes::filled(1.0f / 120));
  p = fused(p, r, Lanes::filled(1.0f / 24));
  p = fused(p, r, Lanes::filled(1.0f / 6));
  p = fused(p, r, Lanes::filled(0.5f));
  p = fused(p, r, Lanes::filled(1.0f));
  p = fused(p, r, Lanes::filled(1.0f));
  return p * power_of_two(shifted);
}

}  // namespace
}  // namespace lantern
