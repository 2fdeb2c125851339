#ifndef BERT_PLUGIN_TESTS_CASES_H
#define BERT_PLUGIN_TESTS_CASES_H

// Every plugin with the fields and tensors it must take, at a given hidden size. What is refused
// follows from what is listed here.

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/device.h"
#include "tests/fake_runtime.h"
#include "tests/reference.h"

inline std::mt19937 g_random(20240229);

inline int32_t RandomInt(int32_t low, int32_t high) {
  return std::uniform_int_distribution<int32_t>(low, high)(g_random);
}

inline std::vector<float> RandomFloats(size_t count, double spread = 1, double mean = 0) {
  std::normal_distribution<float> normal(static_cast<float>(mean), static_cast<float>(spread));
  std::vector<float> values(count);
  for (float& value : values) value = normal(g_random);
  return values;
}

enum class Kind { kInteger, kPositive, kWeights, kQuantizable };

struct FieldRule {
  std::string name;
  Kind kind;
  bool required;
  std::vector<int32_t> absurd;  // integers that must be refused
};

struct TensorRule {
  bool hidden;  // (B, S, C), else (B, S)
  std::vector<fake::DataType> types;
  int64_t channels;
};

struct Case {
  std::string label, name, version;
  fake::FieldList fields;
  std::vector<FieldRule> rules;
  std::vector<TensorRule> inputs, outputs;

  int64_t any_channels = 0;  // where any are allowed, these stand for them
  int32_t max_length = 512;

  std::vector<fake::Tensor> Tensors(const std::vector<TensorRule>& rules_of, int64_t windows,
                                    int64_t length, bool five_dims = false) const {
    std::vector<fake::Tensor> tensors;
    for (const TensorRule& rule : rules_of) {
      std::vector<int64_t> dims{windows, length};
      if (rule.hidden) dims.push_back(rule.channels);
      if (rule.hidden && five_dims) dims.insert(dims.end(), {1, 1});
      tensors.push_back({dims, rule.types.back(), 0.05f});
    }
    return tensors;
  }
  std::vector<std::string> Required() const {
    std::vector<std::string> names;
    for (const FieldRule& rule : rules) {
      if (rule.required) names.push_back(rule.name);
    }
    return names;
  }
};

class CaseBuilder {
 public:
  CaseBuilder(const std::string& label, const std::string& name, const std::string& version) {
    case_.label = label;
    case_.name = name;
    case_.version = version;
  }
  CaseBuilder& Int(const std::string& name, int32_t value, std::vector<int32_t> absurd,
                   bool required = true) {
    case_.fields.Int(name, value);
    return Rule(name, Kind::kInteger, required, std::move(absurd));
  }
  CaseBuilder& Weights(const std::string& name, const std::vector<float>& values,
                       bool required = true) {
    case_.fields.Floats(name, values);
    return Rule(name, Kind::kWeights, required);
  }
  CaseBuilder& Quantizable(const std::string& name, const std::vector<float>& values) {
    case_.fields.Floats(name, values);
    return Rule(name, Kind::kQuantizable, true);
  }
  CaseBuilder& Positive(const std::string& name, const std::vector<float>& values,
                        bool required = true) {
    case_.fields.Floats(name, values);
    return Rule(name, Kind::kPositive, required);
  }
  // Where the interface's tensors carry no scales.
  CaseBuilder& Scale(const std::string& name, float value, bool required = true) {
    return fake::kScalesInFields ? Positive(name, {value}, required) : *this;
  }
  CaseBuilder& Input(bool hidden, std::vector<fake::DataType> types, int64_t channels = 0) {
    case_.inputs.push_back({hidden, std::move(types), channels});
    return *this;
  }
  CaseBuilder& Output(bool hidden, fake::DataType type, int64_t channels = 0) {
    case_.outputs.push_back({hidden, {type}, channels});
    return *this;
  }
  CaseBuilder& MaxLength(int32_t length) {
    case_.max_length = length;
    return *this;
  }
  CaseBuilder& AnyChannels() {
    case_.any_channels = case_.inputs[0].channels;
    return *this;
  }
  Case Done() { return case_; }

 private:
  CaseBuilder& Rule(const std::string& name, Kind kind, bool required,
                    std::vector<int32_t> absurd = {}) {
    case_.rules.push_back({name, kind, required, std::move(absurd)});
    return *this;
  }

  Case case_;
};

constexpr const char* kEmbedding = "CustomEmbLayerNormPluginDynamic_IxRT";
constexpr const char* kAttention = "CustomQKVToContextPluginDynamic_IxRT";
constexpr const char* kSkipNorm = "CustomSkipLayerNormPluginDynamic_IxRT";
constexpr const char* kFc = "CustomFCPluginDynamic_IxRT";
constexpr const char* kFfn = "CustomFFNPluginDynamic_IxRT";
constexpr const char* kGelu = "CustomGeluPluginDynamic_IxRT";

constexpr fake::DataType kFloat = fake::DataType::kFLOAT, kHalf = fake::DataType::kHALF,
                         kInt8 = fake::DataType::kINT8, kInt32 = fake::DataType::kINT32;
constexpr int32_t kHalfId = static_cast<int32_t>(kHalf), kInt8Id = static_cast<int32_t>(kInt8);
constexpr int32_t kFloatId = static_cast<int32_t>(kFloat);

constexpr size_t kVocab = 60, kSegments = 2;

// Hidden sizes with heads of 32 and of 64 channels: BERT's, or as small as serves on the host.
inline std::vector<int32_t> HiddenSizes() {
  return g_on_host ? std::vector<int32_t>{96, 128} : std::vector<int32_t>{384, 768};
}
constexpr int32_t HeadsOf(int32_t hidden) {
  return hidden / (hidden == 128 || hidden == 768 ? 64 : 32);
}

inline std::vector<Case> AllCases(int32_t hidden) {
  const size_t h = static_cast<size_t>(hidden);
  const double unit = 1 / std::sqrt(static_cast<double>(hidden));
  std::vector<Case> cases;

  for (const bool int8 : {false, true}) {
    const size_t positions = int8 ? 100 : 512;
    CaseBuilder builder("embedding", kEmbedding, int8 ? "2" : "1");
    builder.Weights("bert_embeddings_layernorm_beta", RandomFloats(h, 0.1))
        .Weights("bert_embeddings_layernorm_gamma", RandomFloats(h, 0.1, 1))
        .Weights("bert_embeddings_word_embeddings", RandomFloats(kVocab * h))
        .Weights("bert_embeddings_token_type_embeddings", RandomFloats(kSegments * h))
        .Weights("bert_embeddings_position_embeddings", RandomFloats(positions * h))
        .Int("output_fp16", 1, {0, 2, -1})
        .Int("full_mask", 0, {}, false)
        .Int("mha_type_id", int8 ? kInt8Id : kHalfId, {kFloatId, 17, -1}, false)
        .Int("pad_id", 0, {}, false);
    if (int8) builder.Scale("output_scale", 0.03f);
    for (int i = 0; i < 3; ++i) builder.Input(false, {kInt32});
    builder.Output(true, int8 ? kInt8 : kHalf, hidden).Output(false, int8 ? kInt8 : kInt32);
    if (int8) builder.Output(true, kFloat, hidden);
    cases.push_back(builder.MaxLength(static_cast<int32_t>(positions)).Done());
  }

  for (const bool mask : {true, false}) {
    CaseBuilder builder(mask ? "attention" : "attention without a mask", kAttention, "1");
    builder.Int("type_id", kHalfId, {kFloatId, kInt8Id, -1, 99})
        .Int("hidden_size", hidden, {0, -1, hidden + 1, 1 << 30})
        .Int("num_heads", HeadsOf(hidden), {0, -1, 1, 5, hidden, 1 << 30})
        .Int("has_mask", mask, {-1, 2})
        .Input(true, {kHalf}, 3 * hidden);
    if (mask) builder.Input(false, {kInt32});
    cases.push_back(builder.Output(true, kHalf, hidden).Done());
  }
  cases.push_back(CaseBuilder("attention, INT8", kAttention, "3")
                      .Int("hidden_size", hidden, {0, -1, hidden + 1, 1 << 30})
                      .Int("num_heads", HeadsOf(hidden), {0, -1, 1, 5, hidden, 1 << 30})
                      .Positive("dq_probs", {6, 20, 1})
                      .Scale("input_scale", 0.02f, false)
                      .Scale("output_scale", 0.01f)
                      .Input(true, {kHalf, kInt8}, 3 * hidden)
                      .Input(false, {kInt8})
                      .Output(true, kInt8, hidden)
                      .Done());

  const std::vector<int32_t> absurd_ld{0, -8, hidden + 1, hidden + 8, 1 << 20};
  for (const bool bias : {true, false}) {
    CaseBuilder builder(bias ? "skip layer norm" : "skip layer norm without a bias", kSkipNorm,
                        "1");
    builder.Int("ld", hidden, absurd_ld)
        .Int("type_id", kHalfId, {kFloatId, kInt8Id, -1})
        .Weights("beta", RandomFloats(h, 0.1))
        .Weights("gamma", RandomFloats(h, 0.1, 1));
    if (bias) builder.Weights("bias", RandomFloats(h, 0.1), false);
    cases.push_back(builder.Input(true, {kHalf}, hidden)
                        .Input(true, {kHalf}, hidden)
                        .Output(true, kHalf, hidden)
                        .Done());
  }
  for (const bool single : {false, true}) {
    CaseBuilder builder(single ? "skip layer norm, INT8, FP32 output" : "skip layer norm, INT8",
                        kSkipNorm, "3");
    builder.Int("ld", hidden, absurd_ld)
        .Int("type_id", kInt8Id, {kFloatId, kHalfId, -1})
        .Weights("beta", RandomFloats(h, 0.1))
        .Weights("gamma", RandomFloats(h, 0.1, 1))
        .Weights("bias", RandomFloats(h, 0.1), false)
        .Scale("input_scale", 0.04f, false);
    if (single) builder.Int("output_fp32", 1, {-1, 2}, false);
    builder.Scale("output_scale", 0.03f, !single);
    cases.push_back(builder.Input(true, {kHalf, kInt8}, hidden)
                        .Input(true, {kInt8}, hidden)
                        .Input(true, {kFloat}, hidden)
                        .Output(true, single ? kFloat : kInt8, hidden)
                        .Output(true, kFloat, hidden)
                        .Done());
  }

  for (const int32_t out : {3 * hidden, 2}) {
    const size_t rows = static_cast<size_t>(out);
    cases.push_back(CaseBuilder("fully connected to " + std::to_string(out), kFc, "1")
                        .Int("out_dims", out, {0, -1, out + 1, 1 << 30})
                        .Int("type_id", kHalfId, {kFloatId, kInt8Id, -1})
                        .Weights("W", RandomFloats(rows * h, unit))
                        .Weights("B", RandomFloats(rows, 0.1), false)
                        .Input(true, {kHalf}, hidden)
                        .Output(true, kHalf, out)
                        .Done());
  }
  for (const bool channel_scales : {false, true}) {
    CaseBuilder builder(channel_scales ? "fully connected, INT8, a scale a channel"
                                       : "fully connected, INT8",
                        kFc, "2");
    builder.Int("out_dims", 3 * hidden, {0, -16, 3 * hidden + 1, 3 * hidden + 16, 1 << 30})
        .Quantizable("W", RandomFloats(3 * h * h, unit))
        .Weights("Bias", RandomFloats(3 * h, 0.1), false);
    if (channel_scales) {
      std::vector<float> scales = RandomFloats(3 * h);
      for (float& scale : scales) scale = static_cast<float>(unit * (2 + std::fabs(scale)) / 127);
      builder.Positive("weight_scales", scales).Scale("output_scale", 0.03f, false);
    } else {
      builder.Positive("fc_amax", {static_cast<float>(4 * unit), 4});
    }
    builder.Scale("input_scale", 0.02f).Input(true, {kInt8}, hidden);
    cases.push_back(builder.Output(true, kInt8, 3 * hidden).Done());
  }

  cases.push_back(CaseBuilder("FFN", kFfn, "1")
                      .Int("out_dims", hidden, {0, -1, hidden + 8, 1 << 30})
                      .Int("type_id", kHalfId, {kFloatId, kInt8Id, -1})
                      .Weights("W1", RandomFloats(4 * h * h, unit))
                      .Weights("W2", RandomFloats(4 * h * h, unit / 2))
                      .Weights("B1", RandomFloats(4 * h, 0.1))
                      .Int("act_type", 3, {0, 1, 4, -1})
                      .Input(true, {kHalf}, hidden)
                      .Output(true, kHalf, hidden)
                      .Done());

  for (const bool int8 : {false, true}) {
    CaseBuilder builder(int8 ? "GELU, INT8" : "GELU", kGelu, "1");
    builder.Int("type_id", int8 ? kInt8Id : kHalfId, {kFloatId, -1, 99})
        .Int("ld", hidden, {0, -8, hidden + 1, hidden + 8})
        .Weights("bias", RandomFloats(h, 0.1), false);
    if (int8) builder.Scale("input_scale", 0.04f, false).Scale("output_scale", 0.03f);
    std::vector<fake::DataType> input_types{kHalf};
    if (int8) input_types.push_back(kInt8);
    cases.push_back(builder.Input(true, input_types, hidden)
                        .Output(true, int8 ? kInt8 : kHalf, hidden)
                        .Done());
  }
  // As upstream's builder has it: `ld` is the hidden size, the tensor has the inner size.
  cases.push_back(CaseBuilder("GELU without a bias", kGelu, "1")
                      .Int("type_id", kHalfId, {kFloatId, -1, 99})
                      .Int("ld", hidden, {0, -8})
                      .Input(true, {kHalf}, 4 * hidden)
                      .Output(true, kHalf, 4 * hidden)
                      .AnyChannels()
                      .Done());
  return cases;
}

#endif  // BERT_PLUGIN_TESTS_CASES_H
