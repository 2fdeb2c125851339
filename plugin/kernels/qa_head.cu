// The QA head: two dot products a token, one warp a token. Bound by reading the hidden states.

#include <string>

#include "pack.cuh"
#include "status.h"
#include "warp.cuh"

namespace bert {
namespace {

constexpr int kRowsPerBlock = 8;

__global__ void __launch_bounds__(kRowsPerBlock* kWarp)
    qa_head_kernel(const half* input, int tokens, int hidden, const half* weight,
                   const half* bias, float* start, float* end) {
  const int row = blockIdx.x * kRowsPerBlock + threadIdx.x / kWarp;
  if (row >= tokens) return;
  const int lane = threadIdx.x % kWarp;
  float sums[2] = {0.0f, 0.0f};
  for (int channel = lane * kPack; channel < hidden; channel += kWarp * kPack) {
    float values[kPack], weights[kPack];
    load(input + static_cast<size_t>(row) * hidden + channel, values);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      load(weight + i * hidden + channel, weights);
#pragma unroll
      for (int j = 0; j < kPack; ++j) sums[i] += values[j] * weights[j];
    }
  }
  sums[0] = warp_sum(sums[0]);
  sums[1] = warp_sum(sums[1]);
  if (lane == 0) {
    start[row] = sums[0] + __half2float(bias[0]);
    end[row] = sums[1] + __half2float(bias[1]);
  }
}

}  // namespace
}  // namespace bert

BertStatus bert_qa_head(const BertHalf* input, int32_t tokens, int32_t hidden,
                        const BertHalf* weight, const BertHalf* bias, float* start, float* end,
                        BertStream stream) {
  using namespace bert;
  BERT_REQUIRE(input != nullptr && weight != nullptr && bias != nullptr && start != nullptr &&
                   end != nullptr,
               "a tensor of the QA head is NULL");
  BERT_REQUIRE(tokens > 0 && hidden > 0 && hidden % kPack == 0,
               "hidden is a multiple of 8, not " + std::to_string(hidden));
  const int blocks = (tokens + kRowsPerBlock - 1) / kRowsPerBlock;
  qa_head_kernel<<<blocks, kRowsPerBlock * kWarp, 0, stream>>>(
      as_half(input), tokens, hidden, as_half(weight), as_half(bias), start, end);
  return launched("QA head");
}
