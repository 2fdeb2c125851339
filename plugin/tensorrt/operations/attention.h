#ifndef BERT_PLUGIN_OPERATIONS_ATTENTION_H
#define BERT_PLUGIN_OPERATIONS_ATTENTION_H

#include <algorithm>
#include <utility>
#include <vector>

#include "tensorrt/operation.h"

namespace bert_plugin {

// (queries, keys and values, padding mask) -> context.
//
// The INT8 version takes INT8 or FP16, computes in FP16 and writes INT8. Upstream's quantizes the
// scores and the probabilities as well, with the ranges in `dq_probs`; this one does not, which
// is nearer to the exact result. The ranges are kept all the same.
template <Precision kPrecision>
class Attention {
  static constexpr bool kInt8 = kPrecision == Precision::kInt8;
  using DataType = nvinfer1::DataType;

 public:
  static constexpr const char* kName = "CustomQKVToContextPluginDynamic_IxRT";
  static constexpr const char* kVersion = kInt8 ? "3" : "1";
  static constexpr bool kUsesGemm = false;
  // Upstream's INT8 network gives neither type nor has_mask: there is always one.
  static constexpr FieldSpec kFields[] = {
      {"type_id", FieldKind::kInteger, kInt8 ? kOptional : kRequired},
      {"hidden_size", FieldKind::kInteger, kRequired},
      {"num_heads", FieldKind::kInteger, kRequired},
      {"has_mask", FieldKind::kInteger, kInt8 ? kOptional : kRequired},
      {"dq_probs", FieldKind::kFloats, kInt8 ? kRequired : kUnknown},
      {"input_scale", FieldKind::kScale, kInt8 ? kOptional : kUnknown},
      {"output_scale", FieldKind::kScale, kInt8 ? kOptional : kUnknown},
  };

  explicit Attention(Fields fields) : fields_(std::move(fields)) {
    if (fields_.Has("type_id")) fields_.RequireType(kInt8 ? DataType::kINT8 : DataType::kHALF);
    hidden_ = fields_.IntegerIn("hidden_size", 1, BERT_MAX_HIDDEN);
    heads_ = fields_.IntegerIn("num_heads", 1, hidden_);
    if (hidden_ % heads_ != 0 || (head_size() != 32 && head_size() != 64)) {
      RefuseField("num_heads", "must make heads of size 32 or 64");
    }
    if (fields_.Has("has_mask")) has_mask_ = fields_.IntegerIn("has_mask", 0, 1) == 1;
    if (kInt8) {
      fields_.RequireCount("dq_probs", 3);
      for (const float amax : fields_.Values<float>("dq_probs")) {
        if (amax <= 0) RefuseField("dq_probs", "must be positive");
      }
      fields_.RequireScale("output_scale");
    }

    const TypeSet input_types = kInt8 ? HalfOrInt8(fields_) : TypeSet{DataType::kHALF};
    signature_.inputs = {{"queries, keys and values", Form::kHidden, input_types, 3 * hidden_}};
    if (has_mask_) {
      const DataType mask = kInt8 ? DataType::kINT8 : DataType::kINT32;
      signature_.inputs.push_back({"padding mask", Form::kTokens, {mask}});
    }
    signature_.outputs = {
        {"context", Form::kHidden, {kInt8 ? DataType::kINT8 : DataType::kHALF}, hidden_}};
  }

  const Fields& fields() const { return fields_; }
  const Signature& signature() const { return signature_; }
  std::vector<HostArray> Weights() const { return {}; }

  size_t WorkspaceBytes(const Problem& problem) const {
    Workspace workspace;
    Place(problem, &workspace);
    return workspace.bytes();
  }

  void Enqueue(const Call& call) const {
    Workspace workspace(call.workspace);
    const Problem& problem = call.problem;
    const Scratch scratch = Place(problem, &workspace);
    if (has_mask_) {
      Check(bert_padding_lengths(kInt8 ? nullptr : call.Input<int32_t>(1),
                                 kInt8 ? call.Input<int8_t>(1) : nullptr, problem.windows,
                                 problem.length, scratch.lengths, call.stream));
    }
    const BertHalf* qkv = call.Input<BertHalf>(0);
    if (problem.type == DataType::kINT8) {
      Check(bert_dequantize(call.Input<int8_t>(0), call.InputScale(), scratch.qkv,
                            QkvCount(problem), call.stream));
      qkv = scratch.qkv;
    }
    const BertSequences sequences = problem.Padded(has_mask_ ? scratch.lengths : nullptr);
    Check(bert_attention(&sequences, heads_, head_size(), qkv,
                         kInt8 ? nullptr : call.Output<BertHalf>(0),
                         kInt8 ? call.Output<int8_t>(0) : nullptr,
                         kInt8 ? call.OutputScale() : 0, call.stream));
  }

 private:
  struct Scratch {
    int32_t* lengths;
    BertHalf* qkv;
  };

  int32_t head_size() const { return hidden_ / heads_; }
  size_t QkvCount(const Problem& problem) const {
    return static_cast<size_t>(problem.tokens()) * 3 * static_cast<size_t>(hidden_);
  }
  Scratch Place(const Problem& problem, Workspace* workspace) const {
    const bool int8_input = problem.type == DataType::kINT8;
    return {workspace->Take<int32_t>(has_mask_ ? static_cast<size_t>(problem.windows) : 0),
            workspace->Take<BertHalf>(int8_input ? QkvCount(problem) : 0)};
  }

  Fields fields_;
  Signature signature_;
  int32_t hidden_;
  int32_t heads_;
  bool has_mask_ = true;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_OPERATIONS_ATTENTION_H
