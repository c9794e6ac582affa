// Memory of a thread, kept for the next product.
#pragma once

#include <cstdlib>

#include "block_product.h"

namespace lantern {

class Scratch {
 public:
  ~Scratch() { std::free(memory_); }

  // At least `size` bytes at a multiple of kAlignment, whose contents are lost; null if there is no memory.
  uint8_t* of_size(size_t size) {
    if (size <= size_) return memory_;
    std::free(memory_);
    memory_ = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment));
    size_ = memory_ ? size : 0;
    return memory_;
  }

 private:
  uint8_t* memory_ = nullptr;
  size_t size_ = 0;
};

}  // namespace lantern
