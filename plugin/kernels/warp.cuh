// A warp's width and its reductions. Iluvatar's warps have 64 threads, NVIDIA's 32.
#pragma once

#include <type_traits>

#ifndef BERT_WARP_SIZE
#define BERT_WARP_SIZE 32
#endif

namespace bert {

constexpr int kWarp = BERT_WARP_SIZE;
using LaneMask = std::conditional_t<kWarp == 64, unsigned long long, unsigned>;
constexpr LaneMask kAllLanes = ~LaneMask{0};

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, lanes);
  }
  return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, lanes));
  }
  return value;
}

}  // namespace bert
