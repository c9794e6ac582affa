// The codes of a block of packed weights: where each of them lies, for code that takes one at a time.
//
// 5 bits: 32 columns of the sixteen rows are eight vectors V0 .. V7 of 64 bytes, four columns each, in five chunks A .. E.
// 6 bits: 16 columns are four vectors in the chunks A .. C. The low bits of a chunk's byte are the code of its own vector;
// the bits above are those of the vectors that have no chunk, so that two or three shifts give one of them:
//
//     5 bits   bits 7 to 5              bits 4 to 0      6 bits   bits 7, 6   bits 5 to 0
//     A        V5: 4, 3, 2              V0               A        V3: 5, 4    V0
//     B        V7: 1;  V5: 1, 0         V1               B        V3: 3, 2    V1
//     C        V6: 4, 3, 2              V2               C        V3: 1, 0    V2
//     D        V7: 0;  V6: 1, 0         V3
//     E        V7: 4, 3, 2              V4
#pragma once

#include "block_product.h"

namespace lantern {

constexpr size_t kChunk = 64;  // bytes: four of each row of a tile

// Columns that codes are packed in together, four in a vector.
constexpr size_t columns_of_group(unsigned bits) { return bits == 5 ? 32 : bits == 6 ? 16 : 32 / bits; }

constexpr size_t bytes_of_group(unsigned bits) { return columns_of_group(bits) * kTileRows * bits / 8; }

// The code of a vector in a group, from the bytes of one row and column in the group's chunks. A signed code of 8 bits.
inline int code_in_group(unsigned bits, const uint8_t* bytes, size_t vector) {
  const auto byte = [&](size_t chunk) { return static_cast<int>(bytes[chunk * kChunk]); };
  if (bits == 8) return static_cast<int8_t>(byte(0));
  if (bits == 4) return vector == 0 ? byte(0) & 15 : byte(0) >> 4;
  if (bits == 6) return vector < 3 ? byte(vector) & 63 : byte(0) >> 6 << 4 | byte(1) >> 6 << 2 | byte(2) >> 6;
  switch (vector) {
    case 5: return byte(0) >> 5 << 2 | (byte(1) >> 5 & 3);
    case 6: return byte(2) >> 5 << 2 | (byte(3) >> 5 & 3);
    case 7: return byte(4) >> 5 << 2 | byte(1) >> 7 << 1 | byte(3) >> 7;
    default: return byte(vector) & 31;
  }
}

// The code of column `k` in a block that begins at `block`, of a row of its tile.
inline int code_at(unsigned bits, const uint8_t* block, size_t row, size_t k) {
  const size_t columns = columns_of_group(bits), in_group = k % columns;
  return code_in_group(bits, block + k / columns * bytes_of_group(bits) + row * 4 + k % 4, in_group / 4);
}

// Write the codes of one row and column of a group, one of each vector, into the bytes of its chunks.
inline void write_group(unsigned bits, const uint8_t* codes, uint8_t* bytes) {
  const auto write = [&](size_t chunk, int byte) { bytes[chunk * kChunk] = static_cast<uint8_t>(byte); };
  const auto& v = codes;
  switch (bits) {
    case 4: return write(0, v[0] | v[1] << 4);
    case 8: return write(0, v[0]);
    case 6:
      for (size_t i = 0; i < 3; i++) write(i, v[i] | (v[3] >> (4 - 2 * i) & 3) << 6);
      return;
    default:
      write(0, v[0] | v[5] >> 2 << 5);
      write(1, v[1] | (v[5] & 3) << 5 | (v[7] >> 1 & 1) << 7);
      write(2, v[2] | v[6] >> 2 << 5);
      write(3, v[3] | (v[6] & 3) << 5 | (v[7] & 1) << 7);
      write(4, v[4] | v[7] >> 2 << 5);
  }
}

}  // namespace lantern
