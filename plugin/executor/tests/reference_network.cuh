// The whole network in float64 on the GPU, one thread a number: written for reading.
#pragma once

#include <cuda_runtime_api.h>

#include <cmath>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "bert_executor.h"
#include "device.h"
#include "model.h"

namespace reference_network {

using Buffer = DeviceBuffer<double>;
using Values = std::vector<double>;

constexpr int kThreads = 128;
inline int Blocks(long long threads) { return static_cast<int>((threads + kThreads - 1) / kThreads); }
inline void Launched() { Cuda(cudaGetLastError()); }

__device__ inline long long Index() {
  return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// How a linear's input is rounded.
struct Rounding {
  bert::executor::Type type;
  double scale;
};

__global__ void RoundKernel(const double* x, double* y, long long count, Rounding rounding) {
  const long long at = Index();
  if (at >= count) return;
  const double steps = x[at] / rounding.scale;
  double rounded = fmin(fmax(rint(steps), -128.0), 127.0);
  if (rounding.type == bert::executor::Type::kE4m3) {
    const double magnitude = fmin(fabs(steps), 448.0);
    // Three bits behind the first; below 2^-6 the steps stay 2^-9.
    const int exponent = magnitude < 0x1p-6 ? -6 : ilogb(magnitude);
    rounded = copysign(ldexp(rint(ldexp(magnitude, 3 - exponent)), exponent - 3), steps);
  }
  y[at] = rounded * rounding.scale;
}

// y (tokens, out) = x W' + bias, then GELU if `gelu`.
__global__ void LinearKernel(const double* x, const double* weight, const double* bias, double* y,
                             int tokens, int in, int out, bool gelu) {
  const long long at = Index();
  if (at >= static_cast<long long>(tokens) * out) return;
  const double* row = x + at / out * in;
  const double* column = weight + at % out * in;
  double sum = bias[at % out];
  for (int i = 0; i < in; ++i) sum += row[i] * column[i];
  y[at] = gelu ? 0.5 * sum * (1 + erf(sum * sqrt(0.5))) : sum;
}

// y = norm(x + residual); `residual` may be nullptr.
__global__ void NormKernel(const double* x, const double* residual, const double* gamma,
                           const double* beta, double* y, int tokens, int hidden, double epsilon) {
  const long long token = Index();
  if (token >= tokens) return;
  const long long begin = token * hidden;
  const auto value = [&](int c) {
    return x[begin + c] + (residual == nullptr ? 0.0 : residual[begin + c]);
  };
  double mean = 0, variance = 0;
  for (int c = 0; c < hidden; ++c) mean += value(c) / hidden;
  for (int c = 0; c < hidden; ++c) variance += (value(c) - mean) * (value(c) - mean) / hidden;
  for (int c = 0; c < hidden; ++c) {
    y[begin + c] = (value(c) - mean) / sqrt(variance + epsilon) * gamma[c] + beta[c];
  }
}

// `begin` and `length` (tokens): of the window that a token is in.
__global__ void AttentionKernel(const double* qkv, const int* begin, const int* length,
                                double* context, int tokens, int heads, int size) {
  const long long at = Index();
  if (at >= static_cast<long long>(tokens) * heads) return;
  const int token = static_cast<int>(at / heads), head = static_cast<int>(at % heads);
  const long long row = 3LL * heads * size;
  const double* query = qkv + token * row + head * size;
  const auto score = [&](int k) {
    const double* key = qkv + (begin[token] + k) * row + (heads + head) * size;
    double dot = 0;
    for (int i = 0; i < size; ++i) dot += query[i] * key[i];
    return dot / sqrt(static_cast<double>(size));
  };
  double highest = -INFINITY, total = 0, sums[64] = {};
  for (int k = 0; k < length[token]; ++k) highest = fmax(highest, score(k));
  for (int k = 0; k < length[token]; ++k) {
    const double weight = exp(score(k) - highest);
    const double* value = qkv + (begin[token] + k) * row + (2 * heads + head) * size;
    total += weight;
    for (int i = 0; i < size; ++i) sums[i] += weight * value[i];
  }
  for (int i = 0; i < size; ++i) context[at * size + i] = sums[i] / total;
}

// The network over windows that lie one after the other.
class Network {
 public:
  // `inputs`: of linears, by name, whose inputs are rounded.
  Network(const BertArchitecture& architecture, const std::map<std::string, Values>& weights,
          const std::map<std::string, Rounding>& inputs = {})
      : a_(architecture), host_(weights), inputs_(inputs) {
    for (const auto& [name, values] : weights) {
      device_.emplace(std::piecewise_construct, std::forward_as_tuple(name),
                      std::forward_as_tuple(values));
    }
  }

  // Start logits of all tokens, then end logits.
  Values Logits(const std::vector<int>& lengths, const std::vector<int>& ids,
                const std::vector<int>& segments) const {
    const int tokens = static_cast<int>(ids.size()), hidden = a_.hidden;
    std::vector<int> begins, lengths_of;
    Values sum;
    for (int length : lengths) {
      const int begin = static_cast<int>(begins.size());
      for (int p = 0; p < length; ++p) {
        begins.push_back(begin);
        lengths_of.push_back(length);
        for (int c = 0; c < hidden; ++c) {
          sum.push_back(Host("embeddings.word", ids[begin + p], c) +
                        Host("embeddings.segment", segments[begin + p], c) +
                        Host("embeddings.position", p, c));
        }
      }
    }
    const DeviceBuffer<int> begin(begins), length(lengths_of);
    const Buffer embedded(sum);
    const size_t narrow = static_cast<size_t>(tokens) * hidden;
    Buffer x(narrow), y(narrow), context(narrow), qkv(3 * narrow),
        inner(static_cast<size_t>(tokens) * a_.intermediate), logits(2 * static_cast<size_t>(tokens));
    Norm("embeddings.norm", embedded, nullptr, x, tokens);
    for (int i = 0; i < a_.layers; ++i) {
      const std::string layer = "layer." + std::to_string(i);
      Linear(layer + ".attention.qkv", x, qkv, tokens, hidden, 3 * hidden, false);
      AttentionKernel<<<Blocks(static_cast<long long>(tokens) * a_.heads), kThreads>>>(
          qkv.get(), begin.get(), length.get(), context.get(), tokens, a_.heads,
          hidden / a_.heads);
      Launched();
      Linear(layer + ".attention.output", context, y, tokens, hidden, hidden, false);
      Norm(layer + ".attention.norm", y, &x, x, tokens);
      Linear(layer + ".ffn.in", x, inner, tokens, hidden, a_.intermediate, true);
      Linear(layer + ".ffn.out", inner, y, tokens, a_.intermediate, hidden, false);
      Norm(layer + ".ffn.norm", y, &x, x, tokens);
    }
    Linear("qa", x, logits, tokens, hidden, 2, false);
    const Values pairs = logits.Read();
    Values split(pairs.size());
    for (int t = 0; t < tokens; ++t) {
      split[t] = pairs[2 * t];
      split[tokens + t] = pairs[2 * t + 1];
    }
    return split;
  }

 private:
  double Host(const std::string& table, int row, int channel) const {
    return host_.at(table)[static_cast<size_t>(row) * a_.hidden + channel];
  }
  void Linear(const std::string& name, const Buffer& x, const Buffer& y, int tokens, int in,
              int out, bool gelu) const {
    const long long count = static_cast<long long>(tokens) * in;
    const auto rounding = inputs_.find(name);
    const bool rounded = rounding != inputs_.end();
    const Buffer taken(rounded ? count : 1);
    if (rounded) {
      RoundKernel<<<Blocks(count), kThreads>>>(x.get(), taken.get(), count, rounding->second);
      Launched();
    }
    LinearKernel<<<Blocks(static_cast<long long>(tokens) * out), kThreads>>>(
        rounded ? taken.get() : x.get(), device_.at(name + ".weight").get(),
        device_.at(name + ".bias").get(), y.get(), tokens, in, out, gelu);
    Launched();
  }
  void Norm(const std::string& name, const Buffer& x, const Buffer* residual, const Buffer& y,
            int tokens) const {
    NormKernel<<<Blocks(tokens), kThreads>>>(
        x.get(), residual == nullptr ? nullptr : residual->get(),
        device_.at(name + ".gamma").get(), device_.at(name + ".beta").get(), y.get(), tokens,
        a_.hidden, a_.epsilon);
    Launched();
  }

  const BertArchitecture a_;
  const std::map<std::string, Values> host_;
  const std::map<std::string, Rounding> inputs_;
  std::map<std::string, Buffer> device_;
};

}  // namespace reference_network
