#include "network.h"

#include <algorithm>
#include <cstring>

#include "engine_file.h"

namespace bert::executor {

Device::Device(int index) : index(index) {
  cuda(cudaSetDevice(index), "device");
  int major = 0, minor = 0;
  cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index), "device");
  cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index), "device");
  cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, index), "device");
  compute_capability = 10 * major + minor;
  constexpr int kOverlapsInGraphs = 12030;  // CUDA 12.3
  int runtime = 0, driver = 0;
  cuda(cudaRuntimeGetVersion(&runtime), "CUDA's version");
  cuda(cudaDriverGetVersion(&driver), "CUDA's version");
  overlaps = compute_capability >= 90 && std::min(runtime, driver) >= kOverlapsInGraphs;
}

void Device::use() const { cuda(cudaSetDevice(index), "device"); }

Network::Network(const BertArchitecture& architecture)
    : architecture(architecture),
      placed_(place(tensors_of(architecture))),
      memory_(device_memory(placed_.bytes)) {
  size_t next = 0;  // in the order of `tensors_of`
  const auto tensor = [&] {
    return reinterpret_cast<const half*>(static_cast<const char*>(memory_.get()) +
                                         placed_.offsets[next++]);
  };
  const auto norm = [&] {
    const half* gamma = tensor();
    return NormWeights{gamma, tensor()};
  };
  const auto linear = [&] {
    const half* weight = tensor();
    return LinearWeights{weight, tensor()};
  };
  word = tensor();
  segment = tensor();
  position = tensor();
  embedding_norm = norm();
  layers.resize(static_cast<size_t>(architecture.layers));
  for (Layer& layer : layers) {
    layer.linears[kQkv] = linear();
    layer.linears[kOutput] = linear();
    layer.attention_norm = norm();
    layer.linears[kInner] = linear();
    layer.linears[kOuter] = linear();
    layer.ffn_norm = norm();
  }
  head = linear();
}

Network::Network(const BertArchitecture& architecture, const void* tensors)
    : Network(architecture) {
  cuda(cudaMemcpy(memory_.get(), tensors, placed_.bytes, cudaMemcpyHostToDevice), "weights");
}

Network::Network(const BertArchitecture& architecture, const std::vector<const void*>& tensors)
    : Network(architecture) {
  const std::vector<TensorSpec> specs = tensors_of(architecture);
  for (size_t i = 0; i < specs.size(); ++i) {
    cuda(cudaMemcpy(static_cast<char*>(memory_.get()) + placed_.offsets[i], tensors[i],
                    specs[i].bytes, cudaMemcpyHostToDevice),
         "weights");
  }
}

Activations::Activations(const BertArchitecture& a, int32_t tokens) {
  const size_t rows = static_cast<size_t>(tokens);
  size_t next = 0;
  const auto part = [&](size_t bytes) {
    const size_t begin = next;
    next = begin + aligned(bytes);
    return begin;
  };
  const size_t narrow_bytes = rows * a.hidden * sizeof(half);
  const size_t hidden_at = part(narrow_bytes), middle_at = part(narrow_bytes);
  const size_t wide_at = part(rows * std::max(3 * a.hidden, a.intermediate) * sizeof(half));
  const size_t context_at = part(narrow_bytes), product_at = part(narrow_bytes);
  const size_t logits_at = part(2 * rows * sizeof(float)), workspace_at = part(kWorkspace);
  bytes_ = next;
  memory_ = device_memory(bytes_);
  char* base = static_cast<char*>(memory_.get());
  hidden = reinterpret_cast<half*>(base + hidden_at);
  middle = reinterpret_cast<half*>(base + middle_at);
  wide = reinterpret_cast<half*>(base + wide_at);
  context = reinterpret_cast<half*>(base + context_at);
  product = reinterpret_cast<half*>(base + product_at);
  logits = reinterpret_cast<float*>(base + logits_at);
  workspace = base + workspace_at;
}

void Activations::poison(cudaStream_t stream) const {
  cuda(cudaMemsetAsync(memory_.get(), 0xFF, bytes_, stream), "poison");  // NaN in every type
}

Product product_of(const Network& network, const Activations& at, size_t layer, Linear linear,
                   int32_t tokens) {
  const LinearShape shape = shape_of(network.architecture, linear);
  const Network::LinearWeights& weights = network.layers[layer].linears[linear];
  Product product{nullptr, weights.weight, weights.bias, nullptr, tokens, shape.in, shape.out,
                  Epilogue::kBias};
  switch (linear) {
    case kQkv:
      product.input = at.hidden;
      product.output = at.wide;
      break;
    case kInner:
      product.input = at.middle;
      product.output = at.wide;
      product.epilogue = Epilogue::kBiasGelu;
      break;
    case kOutput:
    case kOuter:
      // The layer norm that follows adds the bias, which costs it nothing.
      product.input = linear == kOutput ? at.context : at.wide;
      product.output = at.product;
      product.epilogue = Epilogue::kNone;
      break;
  }
  return product;
}

void queue(const Network& network, const Gemm& gemm, const Choose& choose, const Activations& at,
           const Bucket& bucket, const void* block, bool overlapped, cudaStream_t stream) {
  const BertArchitecture& a = network.architecture;
  const int32_t rows = bucket.tokens;
  const int32_t* starts = static_cast<const int32_t*>(block);
  const auto* tokens = reinterpret_cast<const Token*>(static_cast<const char*>(block) +
                                                      token_offset(bucket.windows));
  // Rows that windows can have. Those behind are beyond any batch's tokens.
  const int64_t most = int64_t{bucket.windows} * bucket.longest;
  const BertSequences sequences{bucket.windows, bucket.longest,
                                static_cast<int32_t>(std::min<int64_t>(rows, most)), starts,
                                nullptr};
  const auto linear = [&](size_t layer, Linear which) {
    const Product product = product_of(network, at, layer, which, rows);
    gemm.run(product, choose(which, product), at.workspace, stream);
  };

  embed({network.word, network.segment, network.position, network.embedding_norm, tokens,
         starts + bucket.windows, at.hidden, at.context, rows, a.hidden, a.epsilon},
        stream);
  for (size_t i = 0; i < network.layers.size(); ++i) {
    const Network::Layer& layer = network.layers[i];
    const bool last = i + 1 == network.layers.size();
    linear(i, kQkv);
    kernels(bert_attention(&sequences, a.heads, a.hidden / a.heads,
                           reinterpret_cast<const BertHalf*>(at.wide),
                           reinterpret_cast<BertHalf*>(at.context), nullptr, 0.0f, stream));
    linear(i, kOutput);
    AddNorm norm{at.product, at.hidden, layer.linears[kOutput].bias, layer.attention_norm,
                 at.middle,  nullptr,   nullptr,                     nullptr,
                 nullptr,    rows,      a.hidden,                    a.epsilon};
    add_norm(norm, overlapped, stream);
    linear(i, kInner);
    linear(i, kOuter);
    norm.residual = at.middle;
    norm.bias = layer.linears[kOuter].bias;
    norm.norm = layer.ffn_norm;
    norm.output = last ? nullptr : at.hidden;
    norm.head_weight = network.head.weight;
    norm.head_bias = network.head.bias;
    norm.start = at.logits;
    norm.end = at.logits + rows;
    add_norm(norm, overlapped, stream);
  }
}

}  // namespace bert::executor
