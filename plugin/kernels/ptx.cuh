// What the kernels of NVIDIA's tensor cores share. NVIDIA only.
#pragma once

#include <cuda_fp16.h>

namespace bert {

__device__ inline unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Two values in FP16, as a word of a product's operand.
__device__ inline unsigned pack_pair(float first, float second) {
  const half2 pair = __floats2half2_rn(first, second);
  return *reinterpret_cast<const unsigned*>(&pair);
}

}  // namespace bert
