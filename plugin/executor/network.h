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

// All weights, in one piece of device memory that lies as the file's tensors do.
class Network {
 public:
  Network(const BertArchitecture& architecture, const void* tensors);
  Network(const BertArchitecture& architecture, const std::vector<const void*>& tensors);

  struct LinearWeights {
    const half* weight;
    const half* bias;
  };
  struct Layer {
    LinearWeights linears[kLinears];
    NormWeights attention_norm, ffn_norm;
  };

  const BertArchitecture architecture;
  const half *word, *segment, *position;
  NormWeights embedding_norm;
  std::vector<Layer> layers;
  LinearWeights head;

 private:
  explicit Network(const BertArchitecture& architecture);
  const Placement placed_;
  DeviceMemory memory_;
};

// Memory for batches of up to `tokens` rows, on a stream of its own. Rows beyond a batch's tokens
// hold finite numbers throughout: they take part in GEMMs, and attention's tiles read over a
// window's end.
class Activations {
 public:
  Activations(const BertArchitecture& architecture, int32_t tokens);

  half* hidden;   // (tokens, hidden): a layer's input
  half* middle;   // (tokens, hidden): after attention's layer norm
  half* wide;     // (tokens, 3 * hidden) queries, keys and values; later (tokens, intermediate)
  half* context;  // (tokens, hidden): attention's output, which nothing else writes
  half* product;  // (tokens, hidden): of a GEMM that a layer norm follows
  float* logits;  // (2, tokens of the bucket): start, end
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
