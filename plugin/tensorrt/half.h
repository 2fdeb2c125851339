#ifndef BERT_PLUGIN_HALF_H
#define BERT_PLUGIN_HALF_H

#include <cstdint>
#include <cstring>

#include "kernels/bert_kernels.h"

namespace bert_plugin {

// binary16 of a binary32, halves to even; too large a value becomes infinity. On the host, so
// that weights can be converted where there is no GPU.
inline BertHalf HalfFromFloat(float value) {
  constexpr uint32_t kInfinity = 0x7f800000, kOverflow = 0x477ff000 /* 65520 */;
  constexpr uint32_t kSmallestNormal = 0x38800000 /* 2^-14 */, kRebias = 0x38000000;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > kInfinity) return static_cast<BertHalf>(sign | 0x7e00);
  if (bits >= kOverflow) return static_cast<BertHalf>(sign | 0x7c00);
  if (bits >= kSmallestNormal) {
    const uint32_t rounded = bits - kRebias + 0xfff + (bits >> 13 & 1);
    return static_cast<BertHalf>(sign | rounded >> 13);
  }
  // Below, the steps are 2^-24 wide, as are binary32's between 1/2 and 1: its addition rounds.
  float magnitude;
  std::memcpy(&magnitude, &bits, sizeof(magnitude));
  magnitude += 0.5f;
  std::memcpy(&bits, &magnitude, sizeof(bits));
  return static_cast<BertHalf>(sign | (bits - 0x3f000000));
}

inline bool IsFinite(BertHalf value) { return (value & 0x7c00) != 0x7c00; }

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_HALF_H
