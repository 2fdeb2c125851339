#include "network.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine_file.h"

namespace bert::executor {

Device::Device(int index) : index(index) {
  int count = 0;
  cuda(cudaGetDeviceCount(&count), "devices");
  require(index >= 0 && index < count, "there is no device " + std::to_string(index) + " of " +
                                           std::to_string(count));
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

void require_capable(const Device& device, BertPrecision precision) {
  require(precision != BERT_FP8 || device.compute_capability >= 89,
          "FP8 wants compute capability 8.9, and this device has " +
              std::to_string(device.compute_capability / 10) + "." +
              std::to_string(device.compute_capability % 10));
}

Network::Network(const BertArchitecture& architecture, BertPrecision precision,
                 const std::vector<const void*>& tensors)
    : architecture(architecture),
      precision(precision),
      placed_(place(tensors_of(architecture, precision))),
      memory_(device_memory(placed_.bytes)) {
  const std::vector<TensorSpec> specs = tensors_of(architecture, precision);
  for (size_t i = 0; i < specs.size(); ++i) {
    cuda(cudaMemcpy(static_cast<char*>(memory_.get()) + placed_.offsets[i], tensors[i],
                    specs[i].bytes, cudaMemcpyHostToDevice),
         "weights");
  }
  size_t next = 0;  // in the order of `tensors_of`
  const auto tensor = [&] {
    return reinterpret_cast<const half*>(static_cast<const char*>(memory_.get()) +
                                         placed_.offsets[next++]);
  };
  const auto norm = [&] {
    const half* gamma = tensor();
    return NormWeights{gamma, tensor()};
  };
  std::vector<float> inverses;
  const auto linear = [&] {
    LinearWeights weights{tensor(), nullptr, 1.0f, 1.0f, nullptr};
    if (precision == BERT_FP8) {
      float scales[2];
      std::memcpy(scales, tensors[next++], sizeof(scales));
      for (float scale : scales) {
        require(std::isfinite(scale) && scale > 0, "a scale of an FP8 linear is not positive");
      }
      weights.input_scale = scales[0];
      weights.weight_scale = scales[1];
      inverses.push_back(1.0f / scales[0]);
    }
    weights.bias = tensor();
    return weights;
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
  head_weight = tensor();
  head_bias = tensor();
  if (precision != BERT_FP8) return;

  inverses_ = device_memory(inverses.size() * sizeof(float));
  cuda(cudaMemcpy(inverses_.get(), inverses.data(), inverses.size() * sizeof(float),
                  cudaMemcpyHostToDevice),
       "scales");
  for (size_t i = 0; i < inverses.size(); ++i) {
    layers[i / kLinears].linears[i % kLinears].input_inverse =
        static_cast<const float*>(inverses_.get()) + i;
  }
}

Activations::Activations(const Network& network, int32_t tokens) {
  const BertArchitecture& a = network.architecture;
  const bool quantized = network.precision == BERT_FP8;
  const size_t rows = static_cast<size_t>(tokens);
  size_t next = 0;
  const auto part = [&](size_t bytes) {
    const size_t begin = next;
    next = begin + aligned(bytes);
    return begin;
  };
  const size_t narrow_bytes = rows * a.hidden * sizeof(half);
  const size_t inner_bytes = rows * a.intermediate * sizeof(half);
  const size_t hidden_at = part(narrow_bytes), middle_at = part(narrow_bytes);
  const size_t wide_at = part(std::max(3 * narrow_bytes, inner_bytes));
  const size_t context_at = part(narrow_bytes), product_at = part(narrow_bytes);
  const size_t narrow_quantized_at = part(quantized ? narrow_bytes / 2 : 0);
  const size_t context_quantized_at = part(quantized ? narrow_bytes / 2 : 0);
  const size_t inner_quantized_at = part(quantized ? inner_bytes / 2 : 0);
  const size_t logits_at = part(2 * rows * sizeof(float)), workspace_at = part(kWorkspace);
  bytes_ = next;
  memory_ = device_memory(bytes_);
  char* base = static_cast<char*>(memory_.get());
  hidden = reinterpret_cast<half*>(base + hidden_at);
  middle = reinterpret_cast<half*>(base + middle_at);
  wide = reinterpret_cast<half*>(base + wide_at);
  context = reinterpret_cast<half*>(base + context_at);
  product = reinterpret_cast<half*>(base + product_at);
  narrow_quantized = reinterpret_cast<__nv_fp8_storage_t*>(base + narrow_quantized_at);
  context_quantized = reinterpret_cast<__nv_fp8_storage_t*>(base + context_quantized_at);
  inner_quantized = reinterpret_cast<__nv_fp8_storage_t*>(base + inner_quantized_at);
  logits = reinterpret_cast<float*>(base + logits_at);
  workspace = base + workspace_at;
}

void Activations::poison(cudaStream_t stream) const {
  cuda(cudaMemsetAsync(memory_.get(), 0xFF, bytes_, stream), "poison");  // NaN in every type
}

Product product_of(const Network& network, const Activations& at, size_t layer, Linear linear,
                   int32_t tokens) {
  const LinearShape shape = shape_of(network.architecture, linear);
  const Network::Layer& weights = network.layers[layer];
  const Network::LinearWeights& own = weights.linears[linear];
  const bool quantized = network.precision == BERT_FP8;
  Product product{nullptr, own.weight, own.bias, nullptr, tokens, shape.in, shape.out,
                  Epilogue::kBias};
  product.quantized = quantized;
  product.scale = own.input_scale * own.weight_scale;
  const auto input = [&](const half* values, const __nv_fp8_storage_t* rounded) {
    product.input = quantized ? static_cast<const void*>(rounded) : values;
  };
  switch (linear) {
    case kQkv:
      input(at.hidden, at.narrow_quantized);
      product.output = at.wide;
      break;
    case kInner:
      input(at.middle, at.narrow_quantized);
      product.output = at.wide;
      product.epilogue = Epilogue::kBiasGelu;
      if (quantized) {
        product.output = at.inner_quantized;
        product.output_scale = weights.linears[kOuter].input_inverse;
      }
      break;
    case kOutput:
      input(at.context, at.context_quantized);
      break;
    case kOuter:
      input(at.wide, at.inner_quantized);
      break;
  }
  if (linear == kOutput || linear == kOuter) {
    // The layer norm that follows adds the bias, which costs it nothing.
    product.output = at.product;
    product.epilogue = Epilogue::kNone;
  }
  return product;
}

void queue(const Network& network, const Gemm& gemm, const Choose& choose, const Activations& at,
           const Bucket& bucket, const void* block, bool overlapped, cudaStream_t stream) {
  const BertArchitecture& a = network.architecture;
  const bool quantized = network.precision == BERT_FP8;
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
  // Of a norm whose rows layer `layer`'s linear takes.
  const auto rounded = [&](size_t layer, Linear taker) {
    if (!quantized) return E4m3Output{nullptr, 0.0f};
    return E4m3Output{at.narrow_quantized,
                      1.0f / network.layers[layer].linears[taker].input_scale};
  };

  embed({network.word, network.segment, network.position, network.embedding_norm, tokens,
         starts + bucket.windows, at.hidden, quantized ? nullptr : at.context,
         quantized ? at.context_quantized : nullptr, rows, a.hidden, a.epsilon, rounded(0, kQkv)},
        stream);
  for (size_t i = 0; i < network.layers.size(); ++i) {
    const Network::Layer& layer = network.layers[i];
    const bool last = i + 1 == network.layers.size();
    linear(i, kQkv);
    const auto* qkv = reinterpret_cast<const BertHalf*>(at.wide);
    if (quantized) {
      kernels(bert_attention_e4m3(&sequences, a.heads, a.hidden / a.heads, qkv,
                                  at.context_quantized, layer.linears[kOutput].input_scale,
                                  stream));
    } else {
      kernels(bert_attention(&sequences, a.heads, a.hidden / a.heads, qkv,
                             reinterpret_cast<BertHalf*>(at.context), nullptr, 0.0f, stream));
    }
    linear(i, kOutput);
    AddNorm norm{};
    norm.product = at.product;
    norm.residual = at.hidden;
    norm.bias = layer.linears[kOutput].bias;
    norm.norm = layer.attention_norm;
    norm.output = at.middle;
    norm.rows = rows;
    norm.hidden = a.hidden;
    norm.epsilon = a.epsilon;
    norm.quantized = rounded(i, kInner);
    add_norm(norm, overlapped, stream);
    linear(i, kInner);
    linear(i, kOuter);
    norm.residual = at.middle;
    norm.bias = layer.linears[kOuter].bias;
    norm.norm = layer.ffn_norm;
    if (last) {
      norm.output = nullptr;
      norm.head_weight = network.head_weight;
      norm.head_bias = network.head_bias;
      norm.start = at.logits;
      norm.end = at.logits + rows;
    } else {
      norm.output = at.hidden;
      norm.quantized = rounded(i + 1, kQkv);
    }
    add_norm(norm, overlapped, stream);
  }
}

}  // namespace bert::executor
