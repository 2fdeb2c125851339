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
  require(layer_type(precision) != Type::kE4m3 || device.compute_capability >= 89,
          "FP8 wants compute capability 8.9, and this device has " +
              std::to_string(device.compute_capability / 10) + "." +
              std::to_string(device.compute_capability % 10));
}

Network::Network(const BertArchitecture& architecture, BertPrecision precision,
                 const std::vector<const void*>& tensors)
    : architecture(architecture),
      type(layer_type(precision)),
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
  const auto linear = [&](Type own) {
    LinearWeights weights{own, tensor()};
    if (own != Type::kHalf) {
      std::vector<float> scales(specs[next].bytes / sizeof(float));
      std::memcpy(scales.data(), tensors[next], specs[next].bytes);
      for (float scale : scales) {
        require(std::isfinite(scale) && scale > 0,
                "a number of " + specs[next].name + " is not positive");
      }
      weights.weight_scale = scales.front();
      weights.input_scale = scales.back();
      weights.weight_scales = reinterpret_cast<const float*>(tensor());
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
    layer.linears[kQkv] = linear(type);
    layer.linears[kOutput] = linear(type);
    layer.attention_norm = norm();
    layer.linears[kInner] = linear(type);
    layer.linears[kOuter] = linear(type);
    layer.ffn_norm = norm();
  }
  head = linear(head_type(precision));
  if (type != Type::kE4m3) return;

  std::vector<float> inverses;
  for (const Layer& layer : layers) {
    for (const LinearWeights& own : layer.linears) inverses.push_back(1.0f / own.input_scale);
  }
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
  const bool quantized = network.type != Type::kHalf, integers = network.type == Type::kInt8;
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
  const size_t context_at = part(narrow_bytes), product_at = part(integers ? 0 : narrow_bytes);
  // INT32 takes twice as much as FP16.
  const size_t sums_at = part(integers ? 2 * std::max(3 * narrow_bytes, inner_bytes) : 0);
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
  sums = reinterpret_cast<int32_t*>(base + sums_at);
  narrow_quantized = reinterpret_cast<uint8_t*>(base + narrow_quantized_at);
  context_quantized = reinterpret_cast<uint8_t*>(base + context_quantized_at);
  inner_quantized = reinterpret_cast<uint8_t*>(base + inner_quantized_at);
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
  Product product{nullptr, own.weight, own.bias, nullptr, tokens, shape.in, shape.out,
                  Epilogue::kBias, own.type};
  const auto input = [&](const half* values, const uint8_t* rounded) {
    product.input = own.type == Type::kHalf ? static_cast<const void*>(values) : rounded;
  };
  switch (linear) {
    case kQkv:
      input(at.hidden, at.narrow_quantized);
      product.output = at.wide;
      break;
    case kOutput:
      input(at.context, at.context_quantized);
      break;
    case kInner:
      input(at.middle, at.narrow_quantized);
      product.output = at.wide;
      product.epilogue = Epilogue::kBiasGelu;
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
  if (own.type == Type::kE4m3) {
    product.scale = own.input_scale * own.weight_scale;
    if (linear == kInner) {
      product.output = at.inner_quantized;
      product.output_scale = weights.linears[kOuter].input_inverse;
    }
  } else if (own.type == Type::kInt8) {
    product.output = at.sums;
    product.epilogue = Epilogue::kNone;
  }
  return product;
}

namespace {

// What follows a linear's sums in INT8, unless the layer norm behind it reads them.
void finish(const Network& network, const Activations& at, size_t layer, Linear linear,
            int32_t tokens, cudaStream_t stream) {
  const LinearShape shape = shape_of(network.architecture, linear);
  const Network::Layer& weights = network.layers[layer];
  const Network::LinearWeights& own = weights.linears[linear];
  BertLinearInt8 sums{};
  sums.sums = at.sums;
  sums.input_scale = own.input_scale;
  sums.weight_scales = own.weight_scales;
  sums.bias = reinterpret_cast<const BertHalf*>(own.bias);
  sums.tokens = tokens;
  sums.in = shape.in;
  sums.out = shape.out;
  if (linear == kQkv) {
    sums.output_half = reinterpret_cast<BertHalf*>(at.wide);
  } else {
    sums.activation = BERT_GELU;
    sums.output_quantized = reinterpret_cast<int8_t*>(at.inner_quantized);
    sums.output_scale = weights.linears[kOuter].input_scale;
  }
  kernels(bert_linear_int8_finish(&sums, stream));
}

void attend(const Network& network, const Activations& at, size_t layer,
            const BertSequences& sequences, cudaStream_t stream) {
  const int32_t heads = network.architecture.heads, size = network.architecture.hidden / heads;
  const auto* qkv = reinterpret_cast<const BertHalf*>(at.wide);
  const float scale = network.layers[layer].linears[kOutput].input_scale;
  switch (network.type) {
    case Type::kHalf:
      kernels(bert_attention(&sequences, heads, size, qkv,
                             reinterpret_cast<BertHalf*>(at.context), nullptr, 0.0f, stream));
      break;
    case Type::kE4m3:
      kernels(bert_attention_e4m3(&sequences, heads, size, qkv, at.context_quantized, scale,
                                  stream));
      break;
    case Type::kInt8:
      kernels(bert_attention(&sequences, heads, size, qkv, nullptr,
                             reinterpret_cast<int8_t*>(at.context_quantized), scale, stream));
      break;
  }
}

}  // namespace

void queue(const Network& network, const Gemm& gemm, const Choose& choose, const Activations& at,
           const Bucket& bucket, const void* block, bool overlapped, cudaStream_t stream) {
  const BertArchitecture& a = network.architecture;
  const bool quantized = network.type != Type::kHalf, integers = network.type == Type::kInt8;
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
    if (integers && (which == kQkv || which == kInner)) {
      finish(network, at, layer, which, rows, stream);
    }
  };
  // Of a norm whose rows layer `layer`'s linear takes.
  const auto rounded = [&](size_t layer, Linear taker) {
    return QuantizedOutput{quantized ? at.narrow_quantized : nullptr, network.type,
                           network.layers[layer].linears[taker].input_scale};
  };
  // Of the product that the linear before it leaves.
  const auto norm_behind = [&](const Network::LinearWeights& own, const half* residual,
                               const NormWeights& weights) {
    AddNorm norm{};
    if (integers) {
      norm.sums = {at.sums, own.weight_scales, own.input_scale};
    } else {
      norm.product = at.product;
    }
    norm.residual = residual;
    norm.bias = own.bias;
    norm.norm = weights;
    norm.rows = rows;
    norm.hidden = a.hidden;
    norm.epsilon = a.epsilon;
    return norm;
  };

  embed({network.word, network.segment, network.position, network.embedding_norm, tokens,
         starts + bucket.windows, at.hidden, quantized ? nullptr : at.context,
         quantized ? at.context_quantized : nullptr, rows, a.hidden, a.epsilon, rounded(0, kQkv)},
        stream);
  for (size_t i = 0; i < network.layers.size(); ++i) {
    const Network::Layer& layer = network.layers[i];
    linear(i, kQkv);
    attend(network, at, i, sequences, stream);
    linear(i, kOutput);
    AddNorm norm = norm_behind(layer.linears[kOutput], at.hidden, layer.attention_norm);
    norm.output = at.middle;
    norm.quantized = rounded(i, kInner);
    add_norm(norm, overlapped, stream);
    linear(i, kInner);
    linear(i, kOuter);
    norm = norm_behind(layer.linears[kOuter], at.middle, layer.ffn_norm);
    if (i + 1 < network.layers.size()) {
      norm.output = at.hidden;
      norm.quantized = rounded(i + 1, kQkv);
    } else {
      const Network::LinearWeights& head = network.head;
      norm.head = {head.type,        head.weight, head.bias,       head.weight_scales,
                   head.input_scale, at.logits,   at.logits + rows};
    }
    add_norm(norm, overlapped, stream);
  }
}

}  // namespace bert::executor
