#ifndef BERT_PLUGIN_OPERATIONS_FFN_H
#define BERT_PLUGIN_OPERATIONS_FFN_H

#include <array>
#include <utility>
#include <vector>

#include "tensorrt/operation.h"

namespace bert_plugin {

// GELU(x W1' + B1) W2' in FP16. The second bias is the layer norm's behind it, as upstream.
class Ffn {
  using DataType = nvinfer1::DataType;

 public:
  static constexpr const char* kName = "CustomFFNPluginDynamic_IxRT";
  static constexpr const char* kVersion = "1";
  static constexpr bool kUsesGemm = true;
  static constexpr FieldSpec kFields[] = {
      {"out_dims", FieldKind::kInteger, kRequired}, {"type_id", FieldKind::kInteger, kRequired},
      {"W1", FieldKind::kWeights, kRequired},       {"W2", FieldKind::kWeights, kRequired},
      {"B1", FieldKind::kWeights, kRequired},       {"act_type", FieldKind::kInteger, kRequired},
  };

  explicit Ffn(Fields fields) : fields_(std::move(fields)) {
    fields_.RequireType(DataType::kHALF);
    if (fields_.Integer("act_type") != kGeluType) {
      RefuseField("act_type", "must be " + std::to_string(kGeluType) + " (GELU)");
    }
    out_ = fields_.IntegerIn("out_dims", 8, kMaxChannels);
    if (out_ % 8 != 0) RefuseField("out_dims", "must be a multiple of 8");
    inner_ = static_cast<int32_t>(fields_.Count("B1"));
    if (inner_ % 8 != 0) RefuseField("B1", "must have a multiple of 8 values");
    fields_.RequireCount("W2", int64_t{out_} * inner_);
    in_ = static_cast<int32_t>(fields_.Count("W1") / inner_);
    if (in_ == 0 || in_ % 8 != 0) RefuseField("W1", "must have rows of a multiple of 8 values");
    fields_.RequireCount("W1", int64_t{inner_} * in_);

    signature_.inputs = {{"input", Form::kHidden, {DataType::kHALF}, in_}};
    signature_.outputs = {{"output", Form::kHidden, {DataType::kHALF}, out_}};
  }

  const Fields& fields() const { return fields_; }
  const Signature& signature() const { return signature_; }
  std::vector<HostArray> Weights() const {
    return {fields_.Array("W1"), fields_.Array("B1"), fields_.Array("W2")};
  }

  size_t WorkspaceBytes(const Problem& problem) const {
    Workspace workspace;
    Place(problem, &workspace);
    return workspace.bytes();
  }

  void Tune(const Problem& problem, const Residence& residence) const {
    for (const BertLinear& linear : Linears(problem, residence)) {
      residence.gemm().Tune(linear, kName, kVersion);
    }
  }

  void Enqueue(const Call& call) const {
    Workspace workspace(call.workspace);
    const Scratch scratch = Place(call.problem, &workspace);
    auto [first, second] = Linears(call.problem, *call.residence);
    first.input = call.Input<BertHalf>(0);
    first.output = scratch.inner;
    second.input = scratch.inner;
    second.output = call.Output<BertHalf>(0);
    for (BertLinear* linear : {&first, &second}) {
      linear->workspace = scratch.gemm;
      linear->workspace_bytes = BERT_GEMM_WORKSPACE;
      call.residence->gemm().Run(*linear, call.stream);
    }
  }

 private:
  static constexpr int32_t kGeluType = 3;  // upstream's number

  struct Scratch {
    char* gemm;
    BertHalf* inner;
  };
  // Both products, without the memory that a call brings.
  std::array<BertLinear, 2> Linears(const Problem& problem, const Residence& residence) const {
    BertLinear first{}, second{};
    first.weight = residence.Weight<BertHalf>(0);
    first.bias = residence.Weight<BertHalf>(1);
    first.in = in_;
    first.out = inner_;
    first.activation = BERT_GELU;
    second.weight = residence.Weight<BertHalf>(2);
    second.in = inner_;
    second.out = out_;
    first.tokens = second.tokens = problem.tokens();
    return {first, second};
  }
  Scratch Place(const Problem& problem, Workspace* workspace) const {
    return {workspace->Take<char>(BERT_GEMM_WORKSPACE),
            workspace->Take<BertHalf>(static_cast<size_t>(problem.tokens()) *
                                      static_cast<size_t>(inner_))};
  }

  Fields fields_;
  Signature signature_;
  int32_t in_, inner_, out_;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_OPERATIONS_FFN_H
