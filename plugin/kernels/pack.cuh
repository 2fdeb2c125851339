// Eight channels at a time between memory and FP32 registers: one 16-byte access in FP16.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace bert {

constexpr int kPack = 8;

__device__ inline void load(const half* from, float (&to)[kPack]) {
  const int4 bits = *reinterpret_cast<const int4*>(from);
  const half2* pairs = reinterpret_cast<const half2*>(&bits);
#pragma unroll
  for (int i = 0; i < kPack / 2; ++i) {
    const float2 pair = __half22float2(pairs[i]);
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}

__device__ inline void load(const float* from, float (&to)[kPack]) {
#pragma unroll
  for (int i = 0; i < kPack; i += 4) {
    *reinterpret_cast<float4*>(to + i) = *reinterpret_cast<const float4*>(from + i);
  }
}

__device__ inline void load(const int32_t* from, float (&to)[kPack]) {
#pragma unroll
  for (int i = 0; i < kPack; i += 4) {
    const int4 values = *reinterpret_cast<const int4*>(from + i);
    to[i] = values.x;
    to[i + 1] = values.y;
    to[i + 2] = values.z;
    to[i + 3] = values.w;
  }
}

__device__ inline void load(const int8_t* from, float (&to)[kPack]) {
  const int2 bits = *reinterpret_cast<const int2*>(from);
  const int8_t* values = reinterpret_cast<const int8_t*>(&bits);
#pragma unroll
  for (int i = 0; i < kPack; ++i) to[i] = values[i];
}

__device__ inline void store(half* to, const float (&from)[kPack]) {
  int4 bits;
  half2* pairs = reinterpret_cast<half2*>(&bits);
#pragma unroll
  for (int i = 0; i < kPack / 2; ++i) {
    pairs[i] = __floats2half2_rn(from[2 * i], from[2 * i + 1]);
  }
  *reinterpret_cast<int4*>(to) = bits;
}

__device__ inline void store(float* to, const float (&from)[kPack]) {
#pragma unroll
  for (int i = 0; i < kPack; i += 4) {
    *reinterpret_cast<float4*>(to + i) = *reinterpret_cast<const float4*>(from + i);
  }
}

// ONNX's QuantizeLinear: a true division, halves to even, saturation.
__device__ inline int8_t quantized(float value, float scale) {
  return static_cast<int8_t>(__float2int_rn(fminf(fmaxf(value / scale, -128.0f), 127.0f)));
}

__device__ inline void store_quantized(int8_t* to, const float (&from)[kPack], float scale) {
  int2 bits;
  int8_t* values = reinterpret_cast<int8_t*>(&bits);
#pragma unroll
  for (int i = 0; i < kPack; ++i) values[i] = quantized(from[i], scale);
  *reinterpret_cast<int2*>(to) = bits;
}

// BertHalf is CUDA's half under a name that C knows.
__host__ __device__ inline const half* as_half(const uint16_t* pointer) {
  return reinterpret_cast<const half*>(pointer);
}
__host__ __device__ inline half* as_half(uint16_t* pointer) { return reinterpret_cast<half*>(pointer); }

}  // namespace bert
