// The network on a device: its weights, and its kernels in order. NVIDIA only.
#pragma once

#include <functional>
#include <vector>

#include "batch.h"
#include "gemm.h"
#include "model.h"
#include "resources.h"
#include "rows.h"

namespace bert::executor {

// The device that calls of this thread go to.
struct Device {
  int index, compute_capability, processors;
  // Whether a kernel may be launched before the one ahead of it has ended, in a graph too.
  bool overlaps;

  explicit Device(int index);
  void use() const;
};

// Throws where the device has no tensor cores for it.
void require_capable(const Device& device, BertPrecision precision);

// All weights, in one piece of device memory that lies as the file's tensors do.
class Network {
 public:
  // `tensors` on the host, in the order of `tensors_of`.
  Network(const BertArchitecture& architecture, BertPrecision precision,
          const std::vector<const void*>& tensors);

  struct LinearWeights {
    Type type;
    const void* weight;  // of the type
    const half* bias = nullptr;
    // Unless it is FP16: what values of the input, and of the weight, are to be multiplied by.
    float input_scale = 1.0f;
    const float* weight_scales = nullptr;  // on the device: one of E4M3, (out) of INT8
    // Of E4M3.
    float weight_scale = 1.0f;
    const float* input_inverse = nullptr;  // 1 / input_scale, on the device
  };
  struct Layer {
    LinearWeights linears[kLinears];
    NormWeights attention_norm, ffn_norm;
  };

  const BertArchitecture architecture;
  const Type type;  // of the layers' linears
  const half *word, *segment, *position;
  NormWeights embedding_norm;
  std::vector<Layer> layers;
  LinearWeights head;

 private:
  const Placement placed_;
  const DeviceMemory memory_;
  DeviceMemory inverses_;
};

// Memory for batches of up to `tokens` rows, on a stream of its own. Rows beyond a batch's tokens
// hold finite numbers throughout: they take part in GEMMs, and attention's tiles read over a
// window's end.
class Activations {
 public:
  Activations(const Network& network, int32_t tokens);

  half* hidden;   // (tokens, hidden): a layer's input
  half* middle;   // (tokens, hidden): after attention's layer norm
  half* wide;     // (tokens, 3 * hidden) queries, keys and values; later (tokens, intermediate)
  half* context;  // (tokens, hidden): attention's output, which nothing else writes
  half* product;  // (tokens, hidden): of a GEMM that a layer norm follows, but in INT8
  int32_t* sums;  // in INT8: of any GEMM, (tokens, its channels)
  float* logits;  // (2, tokens of the bucket): start, end
  // In FP8 and INT8: what linears take.
  uint8_t* narrow_quantized;   // (tokens, hidden): of `hidden` or of `middle`
  uint8_t* context_quantized;  // (tokens, hidden)
  uint8_t* inner_quantized;    // (tokens, intermediate)
  void* workspace;

  void poison(cudaStream_t stream) const;

 private:
  size_t bytes_;
  DeviceMemory memory_;
};

// One layer's GEMM over `tokens` rows.
Product product_of(const Network& network, const Activations& at, size_t layer, Linear linear,
                   int32_t tokens);

using Choose = std::function<Algorithm(Linear, const Product&)>;

// Queues all kernels for the batch in `block` (device memory, see batch.h).
void queue(const Network& network, const Gemm& gemm, const Choose& choose, const Activations& at,
           const Bucket& bucket, const void* block, bool overlapped, cudaStream_t stream);

}  // namespace bert::executor
