// Attention for any device and warp size, and the choice among the kernels there are.
//
// One warp a query. Keys come kWarp at a time: each lane scores one key, then all lanes add up
// the values of all of them, each lane its own channels. The softmax is online: the sums so far
// are rescaled when a higher score is met.

#include <atomic>
#include <string>

#include "attention.h"
#include "context.cuh"
#include "sequences.cuh"
#include "warp.cuh"

namespace bert {
namespace {

constexpr int kQueriesPerBlock = 4;

template <int kHead>
__global__ void __launch_bounds__(kQueriesPerBlock* kWarp)
    portable_kernel(BertSequences sequences, int heads, const half* qkv, ContextOutput output,
                    float scale) {
  constexpr int kPairs = kHead / 2;
  constexpr int kPairsPerLane = (kPairs + kWarp - 1) / kWarp;
  const int lane = threadIdx.x % kWarp;
  const Window window = window_of(sequences, blockIdx.z);
  const int query = blockIdx.x * kQueriesPerBlock + threadIdx.x / kWarp;
  if (query >= window.rows) return;
  const int hidden = heads * kHead;
  const int channel = blockIdx.y * kHead;
  const size_t out = static_cast<size_t>(window.start + query) * hidden + channel;

  float2 sums[kPairsPerLane] = {};
  float highest = -INFINITY, total = 0.0f;
  if (query < window.length) {
    const half* base = qkv + static_cast<size_t>(window.start) * 3 * hidden + channel;
    float own[kHead];
#pragma unroll
    for (int i = 0; i < kHead; i += kPack) {
      load(base + static_cast<size_t>(query) * 3 * hidden + i,
           *reinterpret_cast<float(*)[kPack]>(own + i));
    }
    for (int first = 0; first < window.length; first += kWarp) {
      const int key = first + lane;
      float score = -INFINITY;
      if (key < window.length) {
        const half* keys = base + static_cast<size_t>(key) * 3 * hidden + hidden;
        score = 0.0f;
#pragma unroll
        for (int i = 0; i < kHead; i += kPack) {
          float values[kPack];
          load(keys + i, values);
#pragma unroll
          for (int j = 0; j < kPack; ++j) score += own[i + j] * values[j];
        }
        score *= scale;
      }
      const float higher = fmaxf(highest, warp_max(score));
      const float rescale = exp2f(highest - higher);
      const float weight = exp2f(score - higher);
      highest = higher;
      total = total * rescale + weight;
#pragma unroll
      for (int p = 0; p < kPairsPerLane; ++p) {
        sums[p].x *= rescale;
        sums[p].y *= rescale;
      }
      const int keys = min(kWarp, window.length - first);
      for (int k = 0; k < keys; ++k) {
        const float probability = __shfl_sync(kAllLanes, weight, k);
        const half* values = base + static_cast<size_t>(first + k) * 3 * hidden + 2 * hidden;
#pragma unroll
        for (int p = 0; p < kPairsPerLane; ++p) {
          const int pair = lane + p * kWarp;
          if (pair < kPairs) {
            const float2 value = __half22float2(reinterpret_cast<const half2*>(values)[pair]);
            sums[p].x += probability * value.x;
            sums[p].y += probability * value.y;
          }
        }
      }
    }
    total = warp_sum(total);
  }
  const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
#pragma unroll
  for (int p = 0; p < kPairsPerLane; ++p) {
    const int pair = lane + p * kWarp;
    if (pair < kPairs) store_pair(output, out + 2 * pair, sums[p].x * inverse, sums[p].y * inverse);
  }
}

std::atomic<BertAttentionKernel> chosen{BERT_ATTENTION_AUTO};

BertAttentionKernel best() {
  [[maybe_unused]] const int capability = compute_capability();
#ifdef BERT_WITH_WGMMA
  if (capability == 90) return BERT_ATTENTION_WGMMA;
#endif
#ifdef BERT_WITH_MMA
  if (capability >= 75) return BERT_ATTENTION_MMA;
#endif
  return BERT_ATTENTION_PORTABLE;
}

bool available(BertAttentionKernel kernel) {
  [[maybe_unused]] const int capability = compute_capability();
#ifdef BERT_WITH_WGMMA
  if (kernel == BERT_ATTENTION_WGMMA) return capability == 90;
#endif
#ifdef BERT_WITH_MMA
  if (kernel == BERT_ATTENTION_MMA) return capability >= 75;
#endif
  return kernel == BERT_ATTENTION_PORTABLE || kernel == BERT_ATTENTION_AUTO;
}

}  // namespace

BertStatus attention_portable(const AttentionShape& shape, const half* qkv,
                              const ContextOutput& output, BertStream stream) {
  const BertSequences& sequences = shape.sequences;
  const dim3 grid((sequences.max_length + kQueriesPerBlock - 1) / kQueriesPerBlock, shape.heads,
                  sequences.windows);
  const auto kernel = shape.head_size == 64 ? portable_kernel<64> : portable_kernel<32>;
  kernel<<<grid, kQueriesPerBlock * kWarp, 0, stream>>>(sequences, shape.heads, qkv, output,
                                                        exponent_scale(shape.head_size));
  return launched("portable attention");
}

namespace {

BertStatus attend(const BertSequences* sequences, int32_t heads, int32_t head_size,
                  const BertHalf* qkv, const ContextOutput& output, BertStream stream) {
  BERT_RETURN_IF_ERROR(check(sequences));
  BERT_REQUIRE(head_size == 32 || head_size == 64,
               "heads have 32 or 64 channels, not " + std::to_string(head_size));
  BERT_REQUIRE(heads > 0 && heads * head_size <= BERT_MAX_HIDDEN,
               std::to_string(heads) + " heads of " + std::to_string(head_size) +
                   " channels are more than 1024");
  BERT_REQUIRE(qkv != nullptr, "attention's input is NULL");
  BERT_REQUIRE(output.quantized == nullptr || output.scale > 0,
               "a quantized output's scale is not positive");
  const AttentionShape shape{*sequences, heads, head_size};
  BertAttentionKernel kernel;
  BERT_RETURN_IF_ERROR(bert_attention_chosen(&kernel));
#ifdef BERT_WITH_WGMMA
  if (kernel == BERT_ATTENTION_WGMMA) return attention_wgmma(shape, as_half(qkv), output, stream);
#endif
#ifdef BERT_WITH_MMA
  if (kernel == BERT_ATTENTION_MMA) return attention_mma(shape, as_half(qkv), output, stream);
#endif
  return attention_portable(shape, as_half(qkv), output, stream);
}

}  // namespace
}  // namespace bert

BertStatus bert_attention_choose(BertAttentionKernel kernel) {
  if (!bert::available(kernel)) {
    return bert::fail(BERT_UNSUPPORTED, "this attention kernel is not built or not for this device");
  }
  bert::chosen = kernel;
  return BERT_OK;
}

BertStatus bert_attention_chosen(BertAttentionKernel* kernel) {
  BERT_REQUIRE(kernel != nullptr, "kernel is NULL");
  *kernel = bert::chosen != BERT_ATTENTION_AUTO ? bert::chosen.load() : bert::best();
  return BERT_OK;
}

BertStatus bert_attention(const BertSequences* sequences, int32_t heads, int32_t head_size,
                          const BertHalf* qkv, BertHalf* context, int8_t* quantized, float scale,
                          BertStream stream) {
  using namespace bert;
  BERT_REQUIRE((context != nullptr) != (quantized != nullptr),
               "attention writes one output, FP16 or INT8");
  return attend(sequences, heads, head_size, qkv, {as_half(context), quantized, scale, false},
                stream);
}

BertStatus bert_attention_e4m3(const BertSequences* sequences, int32_t heads, int32_t head_size,
                               const BertHalf* qkv, uint8_t* context, float scale,
                               BertStream stream) {
  using namespace bert;
#ifndef BERT_WITH_E4M3
  return fail(BERT_UNSUPPORTED, "this library was built without E4M3");
#endif
  BERT_REQUIRE(context != nullptr, "attention's output is NULL");
  return attend(sequences, heads, head_size, qkv,
                {nullptr, reinterpret_cast<int8_t*>(context), scale, true}, stream);
}
