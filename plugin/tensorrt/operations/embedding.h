#ifndef BERT_PLUGIN_OPERATIONS_EMBEDDING_H
#define BERT_PLUGIN_OPERATIONS_EMBEDDING_H

#include <algorithm>
#include <utility>
#include <vector>

#include "tensorrt/operation.h"

namespace bert_plugin {

// (input_ids, segment_ids, input_mask) -> (embedding, padding mask), INT8 also the residual.
// Layer norm of the sum of the word's, the segment's and the position's embedding. The network's
// input mask has 1 at a token; the padding mask that goes on to attention has 1 at padding.
template <Precision kPrecision>
class Embedding {
  static constexpr bool kInt8 = kPrecision == Precision::kInt8;
  using DataType = nvinfer1::DataType;

 public:
  static constexpr const char* kName = "CustomEmbLayerNormPluginDynamic_IxRT";
  static constexpr const char* kVersion = kInt8 ? "2" : "1";
  static constexpr bool kUsesGemm = false;
  static constexpr FieldSpec kFields[] = {
      {"bert_embeddings_word_embeddings", FieldKind::kWeights, kRequired},
      {"bert_embeddings_token_type_embeddings", FieldKind::kWeights, kRequired},
      {"bert_embeddings_position_embeddings", FieldKind::kWeights, kRequired},
      {"bert_embeddings_layernorm_gamma", FieldKind::kWeights, kRequired},
      {"bert_embeddings_layernorm_beta", FieldKind::kWeights, kRequired},
      {"output_fp16", FieldKind::kInteger, kRequired},
      {"full_mask", FieldKind::kInteger, kOptional},  // this one and the next two: kept, not used
      {"mha_type_id", FieldKind::kInteger, kOptional},
      {"pad_id", FieldKind::kInteger, kOptional},
      {"output_scale", FieldKind::kScale, kInt8 ? kOptional : kUnknown},
  };

  explicit Embedding(Fields fields) : fields_(std::move(fields)) {
    const int64_t hidden = fields_.Count(Name(kGamma));
    if (hidden % 8 != 0 || hidden > BERT_MAX_HIDDEN) {
      RefuseField(Name(kGamma), "must have a multiple of 8 values, at most " +
                                    std::to_string(BERT_MAX_HIDDEN));
    }
    fields_.RequireCount(Name(kBeta), hidden);
    hidden_ = static_cast<int32_t>(hidden);
    for (const int table : {kWord, kSegment, kPosition}) {
      if (fields_.Count(Name(table)) % hidden != 0) {
        RefuseField(Name(table), "is no table of rows as long as gamma");
      }
    }
    if (fields_.Integer("output_fp16") != 1) RefuseField("output_fp16", "must be 1");
    if (fields_.Has("mha_type_id")) {
      const int32_t type = fields_.Integer("mha_type_id");
      if (type != static_cast<int32_t>(DataType::kHALF) &&
          type != static_cast<int32_t>(DataType::kINT8)) {
        RefuseField("mha_type_id", "must be half or int8");
      }
    }
    if (kInt8) fields_.RequireScale("output_scale");

    const TypeSet ids{DataType::kINT32};
    signature_.inputs = {{"input_ids", Form::kTokens, ids},
                         {"segment_ids", Form::kTokens, ids},
                         {"input_mask", Form::kTokens, ids}};
    if (kInt8) {
      signature_.outputs = {{"embedding", Form::kHidden, {DataType::kINT8}, hidden_},
                            {"padding mask", Form::kTokens, {DataType::kINT8}},
                            {"residual", Form::kHidden, {DataType::kFLOAT}, hidden_}};
    } else {
      signature_.outputs = {{"embedding", Form::kHidden, {DataType::kHALF}, hidden_},
                            {"padding mask", Form::kTokens, ids}};
    }
    signature_.max_length = std::min(signature_.max_length, Rows(kPosition));
  }

  const Fields& fields() const { return fields_; }
  const Signature& signature() const { return signature_; }

  std::vector<HostArray> Weights() const {
    std::vector<HostArray> arrays;
    for (int i = kWord; i <= kBeta; ++i) arrays.push_back(fields_.Array(Name(i)));
    return arrays;
  }

  size_t WorkspaceBytes(const Problem& problem) const {
    Workspace workspace;
    Lengths(problem, &workspace);
    return workspace.bytes();
  }

  void Enqueue(const Call& call) const {
    Workspace workspace(call.workspace);
    const Problem& problem = call.problem;
    Check(bert_mask_lengths(call.Input<int32_t>(2), problem.windows, problem.length,
                            Lengths(problem, &workspace),
                            kInt8 ? nullptr : call.Output<int32_t>(1),
                            kInt8 ? call.Output<int8_t>(1) : nullptr, call.stream));

    const BertSequences sequences = problem.Padded(nullptr);
    const BertEmbedding embedding{
        call.Weight<BertHalf>(kWord), call.Weight<BertHalf>(kSegment),
        call.Weight<BertHalf>(kPosition), call.Weight<BertHalf>(kGamma),
        call.Weight<BertHalf>(kBeta), Rows(kWord), Rows(kSegment), Rows(kPosition), hidden_,
        kLayerNormEpsilon};
    BertNormOutputs outputs{};
    if (kInt8) {
      outputs.quantized = call.Output<int8_t>(0);
      outputs.scale = call.OutputScale();
      outputs.single = call.Output<float>(2);
    } else {
      outputs.half = call.Output<BertHalf>(0);
    }
    Check(bert_embed(&sequences, call.Input<int32_t>(0), call.Input<int32_t>(1), &embedding,
                     &outputs, call.stream));
  }

 private:
  enum { kWord, kSegment, kPosition, kGamma, kBeta };  // the order of kFields

  static const char* Name(int weight) { return kFields[weight].name; }
  int32_t Rows(int table) const {
    return static_cast<int32_t>(fields_.Count(Name(table)) / hidden_);
  }
  static int32_t* Lengths(const Problem& problem, Workspace* workspace) {
    return workspace->Take<int32_t>(static_cast<size_t>(problem.windows));
  }

  Fields fields_;
  Signature signature_;
  int32_t hidden_;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_OPERATIONS_EMBEDDING_H
