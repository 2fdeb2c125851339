// Which tensors a network has. No CUDA.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bert_executor.h"

namespace bert::executor {

// What a linear's input and weight are.
enum class Type { kHalf, kE4m3, kInt8 };
Type layer_type(BertPrecision precision);  // of a layer's linears
Type head_type(BertPrecision precision);   // of the QA head

// The GEMMs of a layer: queries, keys and values; attention's output; the feed-forward block's two.
enum Linear : int32_t { kQkv, kOutput, kInner, kOuter };
constexpr int kLinears = 4;

struct LinearShape {
  int in, out;
};
LinearShape shape_of(const BertArchitecture& architecture, Linear linear);

struct TensorSpec {
  std::string name;
  uint64_t bytes;
};

// Throws unless the sizes are within what the kernels serve.
void check(const BertArchitecture& architecture, BertPrecision precision);

// Every tensor of the network, in the order of the forward pass.
std::vector<TensorSpec> tensors_of(const BertArchitecture& architecture,
                                   BertPrecision precision = BERT_FP16);

}  // namespace bert::executor
