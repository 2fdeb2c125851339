// Writing contexts, for every attention kernel.
#pragma once

#if __has_include(<cuda_fp8.h>)
#include <cuda_fp8.h>
#define BERT_WITH_E4M3
#endif

#include "attention.h"
#include "pack.cuh"

namespace bert {

// log2(e) / sqrt(head size): scores times this are exponents of two.
inline float exponent_scale(int head_size) {
  return 1.4426950408889634f / sqrtf(static_cast<float>(head_size));
}

// Two values as INT8 or E4M3, side by side in memory.
__device__ inline unsigned quantized_pair(const ContextOutput& output, float first,
                                          float second) {
#ifdef BERT_WITH_E4M3
  if (output.e4m3) {
    return __nv_cvt_float2_to_fp8x2(make_float2(first / output.scale, second / output.scale),
                                    __NV_SATFINITE, __NV_E4M3);
  }
#endif
  const auto low = static_cast<uint8_t>(quantized(first, output.scale));
  const auto high = static_cast<uint8_t>(quantized(second, output.scale));
  return low | unsigned{high} << 8;
}

__device__ inline void store_pair(const ContextOutput& output, size_t at, float first,
                                  float second) {
  if (output.quantized == nullptr) {
    *reinterpret_cast<half2*>(output.context + at) = __floats2half2_rn(first, second);
  } else {
    *reinterpret_cast<uint16_t*>(output.quantized + at) = quantized_pair(output, first, second);
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
