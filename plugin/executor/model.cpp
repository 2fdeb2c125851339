#include "model.h"

#include <cmath>

#include "error.h"

namespace bert::executor {

Type layer_type(BertPrecision precision) {
  switch (precision) {
    case BERT_FP16:
      return Type::kHalf;
    case BERT_FP8:
      return Type::kE4m3;
    case BERT_INT8:
    case BERT_INT8_HALF_HEAD:
      return Type::kInt8;
  }
  throw Error(BERT_BAD_ARGUMENT, "there is no precision " + std::to_string(precision));
}

Type head_type(BertPrecision precision) {
  return precision == BERT_INT8 ? Type::kInt8 : Type::kHalf;
}

LinearShape shape_of(const BertArchitecture& a, Linear linear) {
  switch (linear) {
    case kQkv:
      return {a.hidden, 3 * a.hidden};
    case kOutput:
      return {a.hidden, a.hidden};
    case kInner:
      return {a.hidden, a.intermediate};
    case kOuter:
      return {a.intermediate, a.hidden};
  }
  throw Error(BERT_BAD_ARGUMENT, "there is no linear " + std::to_string(linear));
}

void check(const BertArchitecture& a, BertPrecision precision) {
  const auto within = [](int32_t value, int32_t most, const char* what) {
    require(value >= 1 && value <= most, std::string(what) + " is 1 to " + std::to_string(most) +
                                             ", not " + std::to_string(value));
  };
  const int step = layer_type(precision) == Type::kHalf ? 8 : 16;
  within(a.layers, 1024, "layers");
  within(a.hidden, BERT_MAX_HIDDEN, "hidden");
  within(a.heads, a.hidden, "heads");
  within(a.intermediate, 1 << 16, "intermediate");
  within(a.vocab, 1 << 24, "vocab");
  within(a.segments, 1 << 8, "segments");
  within(a.positions, 1 << 16, "positions");
  require(a.hidden % step == 0 && a.intermediate % step == 0,
          "hidden and intermediate are multiples of " + std::to_string(step) + ", not " +
              std::to_string(a.hidden) + " and " + std::to_string(a.intermediate));
  require(a.hidden == 32 * a.heads || a.hidden == 64 * a.heads,
          "heads have 32 or 64 channels, not " + std::to_string(a.hidden) + " / " +
              std::to_string(a.heads));
  require(std::isfinite(a.epsilon) && a.epsilon >= 0, "epsilon is no small positive number");
}

std::vector<TensorSpec> tensors_of(const BertArchitecture& a, BertPrecision precision) {
  constexpr uint64_t kHalfBytes = 2;
  const Type type = layer_type(precision);
  const uint64_t hidden = static_cast<uint64_t>(a.hidden);
  const uint64_t intermediate = static_cast<uint64_t>(a.intermediate);
  std::vector<TensorSpec> tensors;
  const auto add = [&](const std::string& name, uint64_t rows, uint64_t columns) {
    tensors.push_back({name, rows * columns * kHalfBytes});
  };
  const auto norm = [&](const std::string& name) {
    add(name + ".gamma", 1, hidden);
    add(name + ".beta", 1, hidden);
  };
  const auto linear = [&](const std::string& name, uint64_t out, uint64_t in, Type own) {
    if (own == Type::kHalf) {
      add(name + ".weight", out, in);
    } else {
      const uint64_t weight_scales = own == Type::kInt8 ? out : 1;
      tensors.push_back({name + ".weight", out * in});
      tensors.push_back({name + ".scales", (weight_scales + 1) * sizeof(float)});
    }
    add(name + ".bias", 1, out);
  };
  add("embeddings.word", static_cast<uint64_t>(a.vocab), hidden);
  add("embeddings.segment", static_cast<uint64_t>(a.segments), hidden);
  add("embeddings.position", static_cast<uint64_t>(a.positions), hidden);
  norm("embeddings.norm");
  for (int32_t i = 0; i < a.layers; ++i) {
    const std::string layer = "layer." + std::to_string(i);
    linear(layer + ".attention.qkv", 3 * hidden, hidden, type);
    linear(layer + ".attention.output", hidden, hidden, type);
    norm(layer + ".attention.norm");
    linear(layer + ".ffn.in", intermediate, hidden, type);
    linear(layer + ".ffn.out", hidden, intermediate, type);
    norm(layer + ".ffn.norm");
  }
  linear("qa", 2, hidden, head_type(precision));
  return tensors;
}

}  // namespace bert::executor
