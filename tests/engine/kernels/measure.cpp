// One product of one family, timed and, under the counting plugin of a processor emulator, marked for it.
//
//   measure FAMILY BITS BLOCK ZEROS K N M [RUNS]
//
// Prints nanoseconds a run (the median) and bytes of packed weights. Each run quantizes its activations, on one thread.

#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cases.h"

namespace {

constexpr int kMark = 0x4d41524b;

double now_ns() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e9 + time.tv_nsec;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 8) return std::fprintf(stderr, "measure FAMILY BITS BLOCK ZEROS K N M [RUNS]\n"), 2;
  const lantern::Family* family = lantern::family_named(argv[1]);
  if (!family || !family->is_supported()) return std::fprintf(stderr, "%s: not supported here\n", argv[1]), 3;
  const auto number = [&](int i) { return static_cast<unsigned>(std::atoi(argv[i])); };
  const Case shape{number(2), number(3), number(4) != 0, number(5), number(6), number(7)};
  const Inputs inputs = make_inputs(shape, 5, Values::kOrdinary);
  const Packed packed(inputs);
  std::vector<float> y(shape.num_rows * shape.rows);
  std::vector<double> times;
  const int runs = argc > 8 ? std::atoi(argv[8]) : 1;
  run(*family, packed, inputs.x.data(), shape.num_rows, y.data());
  for (int i = 0; i < runs; i++) {
    const double begin = now_ns();
    prctl(kMark, 0);
    run(*family, packed, inputs.x.data(), shape.num_rows, y.data());
    prctl(kMark, 1);
    times.push_back(now_ns() - begin);
  }
  std::sort(times.begin(), times.end());
  std::printf("%.0f ns %zu bytes\n", times[times.size() / 2], packed.size());
}
