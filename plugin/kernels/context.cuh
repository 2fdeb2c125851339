// Writing contexts, for every attention kernel.
#pragma once

#include "attention.h"
#include "pack.cuh"

namespace bert {

// log2(e) / sqrt(head size): scores times this are exponents of two.
inline float exponent_scale(int head_size) {
  return 1.4426950408889634f / sqrtf(static_cast<float>(head_size));
}

__device__ inline void store_pair(const ContextOutput& output, size_t at, float first,
                                  float second) {
  if (output.quantized == nullptr) {
    *reinterpret_cast<half2*>(output.context + at) = __floats2half2_rn(first, second);
  } else {
    char2 pair;
    pair.x = quantized(first, output.scale);
    pair.y = quantized(second, output.scale);
    *reinterpret_cast<char2*>(output.quantized + at) = pair;
  }
}

// Zeros `rows` rows of padding of one head, from `first_row` on; by `threads` threads together.
__device__ inline void zero_padding(const ContextOutput& output, int first_row, int rows,
                                    int channel, int head_size, int hidden, int thread,
                                    int threads) {
  const int packs = head_size / kPack;
  for (int i = thread; i < rows * packs; i += threads) {
    const size_t at =
        static_cast<size_t>(first_row + i / packs) * hidden + channel + i % packs * kPack;
    if (output.quantized == nullptr) {
      *reinterpret_cast<int4*>(output.context + at) = make_int4(0, 0, 0, 0);
    } else {
      *reinterpret_cast<int2*>(output.quantized + at) = make_int2(0, 0);
    }
  }
}

}  // namespace bert
