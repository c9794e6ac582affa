// The choice of a family by the processor's features.

#include <cstring>

#include "family_list.h"

namespace lantern {
namespace {

const Family* const kFamilies[] = {
#if defined(__aarch64__)
    &kI8mm, &kDotprod, &kNeon,
#elif defined(__x86_64__)
    &kAvx512Vnni, &kAvxVnni, &kAvx2,
#endif
    &kPortable,
};

}  // namespace

const Family* const* families(size_t* count) {
  *count = sizeof kFamilies / sizeof *kFamilies;
  return kFamilies;
}

const Family* best_family() {
  for (const Family* family : kFamilies)
    if (family->is_supported()) return family;
  return &kPortable;
}

const Family* family_named(const char* name) {
  for (const Family* family : kFamilies)
    if (!std::strcmp(family->name, name)) return family;
  return nullptr;
}

}  // namespace lantern
