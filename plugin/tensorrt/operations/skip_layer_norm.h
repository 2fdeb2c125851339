#ifndef BERT_PLUGIN_OPERATIONS_SKIP_LAYER_NORM_H
#define BERT_PLUGIN_OPERATIONS_SKIP_LAYER_NORM_H

#include <utility>
#include <vector>

#include "tensorrt/operation.h"

namespace bert_plugin {

// FP16: (input, skip) -> layer norm of input + bias + skip.
// INT8: (input, skip, residual) -> (the same of input + bias + residual, in INT8 or FP32; and in
// FP32, the next residual). As upstream, the sum takes the residual, which has not been through
// INT8; `skip`, the same tensor quantized, only holds its place among the inputs.
template <Precision kPrecision>
class SkipLayerNorm {
  static constexpr bool kInt8 = kPrecision == Precision::kInt8;
  using DataType = nvinfer1::DataType;

 public:
  static constexpr const char* kName = "CustomSkipLayerNormPluginDynamic_IxRT";
  static constexpr const char* kVersion = kInt8 ? "3" : "1";
  static constexpr bool kUsesGemm = false;
  static constexpr FieldSpec kFields[] = {
      {"ld", FieldKind::kInteger, kRequired},
      {"type_id", FieldKind::kInteger, kRequired},
      {"gamma", FieldKind::kWeights, kRequired},
      {"beta", FieldKind::kWeights, kRequired},
      {"bias", FieldKind::kWeights, kOptional},
      {"output_fp32", FieldKind::kInteger, kInt8 ? kOptional : kUnknown},
      {"input_scale", FieldKind::kScale, kInt8 ? kOptional : kUnknown},
      {"output_scale", FieldKind::kScale, kInt8 ? kOptional : kUnknown},
  };

  explicit SkipLayerNorm(Fields fields) : fields_(std::move(fields)) {
    fields_.RequireType(kInt8 ? DataType::kINT8 : DataType::kHALF);
    hidden_ = fields_.IntegerIn("ld", 8, BERT_MAX_HIDDEN);
    if (hidden_ % 8 != 0) RefuseField("ld", "must be a multiple of 8");
    for (const char* name : {"gamma", "beta", "bias"}) fields_.RequireCount(name, hidden_);

    if (!kInt8) {
      const TypeSet half{DataType::kHALF};
      signature_.inputs = {{"input", Form::kHidden, half, hidden_},
                           {"skip", Form::kHidden, half, hidden_}};
      signature_.outputs = {{"output", Form::kHidden, half, hidden_}};
      return;
    }
    if (fields_.Has("output_fp32")) single_ = fields_.IntegerIn("output_fp32", 0, 1) == 1;
    if (!single_) fields_.RequireScale("output_scale");
    signature_.inputs = {{"input", Form::kHidden, HalfOrInt8(fields_), hidden_},
                         {"skip", Form::kHidden, {DataType::kINT8}, hidden_},
                         {"residual", Form::kHidden, {DataType::kFLOAT}, hidden_}};
    signature_.outputs = {
        {"output", Form::kHidden, {single_ ? DataType::kFLOAT : DataType::kINT8}, hidden_},
        {"next residual", Form::kHidden, {DataType::kFLOAT}, hidden_}};
  }

  const Fields& fields() const { return fields_; }
  const Signature& signature() const { return signature_; }
  std::vector<HostArray> Weights() const {
    return {fields_.Array("gamma"), fields_.Array("beta"), fields_.Array("bias")};
  }
  size_t WorkspaceBytes(const Problem&) const { return 0; }

  void Enqueue(const Call& call) const {
    BertNormInputs inputs{};
    inputs.gamma = call.Weight<BertHalf>(0);
    inputs.beta = call.Weight<BertHalf>(1);
    inputs.bias = call.Weight<BertHalf>(2);
    inputs.tokens = call.problem.tokens();
    inputs.hidden = hidden_;
    inputs.epsilon = kLayerNormEpsilon;
    if (call.problem.type == DataType::kINT8) {
      inputs.quantized = call.Input<int8_t>(0);
      inputs.scale = call.InputScale();
    } else {
      inputs.half = call.Input<BertHalf>(0);
    }
    BertNormOutputs outputs{};
    if (kInt8) {
      inputs.residual_single = call.Input<float>(2);
      outputs.single = call.Output<float>(1);
      if (!single_) {
        outputs.quantized = call.Output<int8_t>(0);
        outputs.scale = call.OutputScale();
      }
    } else {
      inputs.residual_half = call.Input<BertHalf>(1);
      outputs.half = call.Output<BertHalf>(0);
    }
    Check(bert_add_norm(&inputs, &outputs, call.stream));
    if (single_) {  // only after a network's last layer, so a copy will do
      const size_t count = static_cast<size_t>(inputs.tokens) * static_cast<size_t>(hidden_);
      CheckCuda(cudaMemcpyAsync(call.Output<float>(0), call.Output<float>(1),
                                count * sizeof(float), cudaMemcpyDeviceToDevice, call.stream),
                "copy of the residual");
    }
  }

 private:
  Fields fields_;
  Signature signature_;
  int32_t hidden_;
  bool single_ = false;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_OPERATIONS_SKIP_LAYER_NORM_H
