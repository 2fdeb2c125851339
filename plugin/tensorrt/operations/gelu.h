#ifndef BERT_PLUGIN_OPERATIONS_GELU_H
#define BERT_PLUGIN_OPERATIONS_GELU_H

#include <utility>
#include <vector>

#include "tensorrt/operation.h"

namespace bert_plugin {

// GELU of input + bias, by its type_id: FP16 to FP16, or FP16 or INT8 to INT8.
class Gelu {
  using DataType = nvinfer1::DataType;

 public:
  static constexpr const char* kName = "CustomGeluPluginDynamic_IxRT";
  static constexpr const char* kVersion = "1";
  static constexpr bool kUsesGemm = false;
  static constexpr FieldSpec kFields[] = {
      {"type_id", FieldKind::kInteger, kRequired},
      {"ld", FieldKind::kInteger, kRequired},
      {"bias", FieldKind::kWeights, kOptional},
      {"input_scale", FieldKind::kScale, kOptional},
      {"output_scale", FieldKind::kScale, kOptional},
  };

  explicit Gelu(Fields fields) : fields_(std::move(fields)) {
    int8_ = fields_.Integer("type_id") == static_cast<int32_t>(DataType::kINT8);
    if (int8_) {
      fields_.RequireScale("output_scale");
    } else {
      fields_.RequireType(DataType::kHALF);
    }
    // Without a bias `ld` says nothing: upstream gives the hidden size there, while the tensor has
    // the inner size. The channels are then the tensor's.
    const int32_t ld = fields_.IntegerIn("ld", 1, 1 << 20);
    const int32_t channels = fields_.Has("bias") ? ld : 0;
    if (channels % 8 != 0) RefuseField("ld", "must be a multiple of 8");
    fields_.RequireCount("bias", ld);

    const TypeSet half{DataType::kHALF}, int8{DataType::kINT8};
    signature_.inputs = {{"input", Form::kHidden, int8_ ? HalfOrInt8(fields_) : half, channels}};
    signature_.outputs = {{"output", Form::kHidden, int8_ ? int8 : half, channels}};
  }

  const Fields& fields() const { return fields_; }
  const Signature& signature() const { return signature_; }
  std::vector<HostArray> Weights() const { return {fields_.Array("bias")}; }
  size_t WorkspaceBytes(const Problem&) const { return 0; }

  void Enqueue(const Call& call) const {
    BertGelu gelu{};
    gelu.bias = call.Weight<BertHalf>(0);
    gelu.tokens = call.problem.tokens();
    gelu.channels = call.problem.channels;
    if (call.problem.type == DataType::kINT8) {
      gelu.quantized = call.Input<int8_t>(0);
      gelu.scale = call.InputScale();
    } else {
      gelu.half = call.Input<BertHalf>(0);
    }
    if (int8_) {
      gelu.output_quantized = call.Output<int8_t>(0);
      gelu.output_scale = call.OutputScale();
    } else {
      gelu.output_half = call.Output<BertHalf>(0);
    }
    Check(bert_gelu(&gelu, call.stream));
  }

 private:
  Fields fields_;
  Signature signature_;
  bool int8_;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_OPERATIONS_GELU_H
