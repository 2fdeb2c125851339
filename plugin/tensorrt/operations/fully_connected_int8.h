#ifndef BERT_PLUGIN_OPERATIONS_FULLY_CONNECTED_INT8_H
#define BERT_PLUGIN_OPERATIONS_FULLY_CONNECTED_INT8_H

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "tensorrt/operation.h"

namespace bert_plugin {

// x W' + Bias, INT8 by INT8 with exact sums, to INT8, or to FP16 where nothing gives the output a
// scale.
//
// W's scale is upstream's `fc_amax` (the weight's largest magnitude and, if a second value
// follows, the output's), or `weight_scales`, one or one a row, which count where both are given:
// upstream's library does not know them, so one network suits both. W in FP32 is quantized here,
// and what is serialized is INT8.
class FullyConnectedInt8 {
  using DataType = nvinfer1::DataType;

 public:
  static constexpr const char* kName = "CustomFCPluginDynamic_IxRT";
  static constexpr const char* kVersion = "2";
  static constexpr bool kUsesGemm = true;
  static constexpr FieldSpec kFields[] = {
      {"out_dims", FieldKind::kInteger, kRequired},
      {"W", FieldKind::kQuantizable, kRequired},
      {"Bias", FieldKind::kWeights, kOptional},
      {"fc_amax", FieldKind::kFloats, kOptional},
      {"weight_scales", FieldKind::kFloats, kOptional},
      {"input_scale", FieldKind::kScale, kOptional},
      {"output_scale", FieldKind::kScale, kOptional},
  };

  explicit FullyConnectedInt8(Fields fields) : fields_(std::move(fields)) {
    out_ = fields_.IntegerIn("out_dims", 16, kMaxChannels);
    if (out_ % 16 != 0) RefuseField("out_dims", "must be a multiple of 16");
    in_ = static_cast<int32_t>(fields_.Count("W") / out_);
    if (in_ == 0 || in_ % 16 != 0) RefuseField("W", "must have rows of a multiple of 16 values");
    fields_.RequireCount("W", int64_t{out_} * in_);
    fields_.RequireCount("Bias", out_);
    fields_.RequireScale("input_scale");
    ReadScales();
    if (fields_.Holds<float>("W")) Quantize();

    const bool quantized = fields_.scale_source() == ScaleSource::kTensors ||
                           fields_.Has("output_scale") || amax_output_scale_ > 0;
    signature_.inputs = {{"input", Form::kHidden, {DataType::kINT8}, in_}};
    signature_.outputs = {
        {"output", Form::kHidden, {quantized ? DataType::kINT8 : DataType::kHALF}, out_}};
  }

  const Fields& fields() const { return fields_; }
  const Signature& signature() const { return signature_; }
  std::vector<HostArray> Weights() const {
    const size_t bytes = weight_scales_.size() * sizeof(float);
    return {fields_.Array("W"), {weight_scales_.data(), bytes, bytes}, fields_.Array("Bias")};
  }

  size_t WorkspaceBytes(const Problem& problem) const {
    Workspace workspace;
    Place(problem, &workspace);
    return workspace.bytes();
  }

  void Tune(const Problem& problem, const Residence& residence) const {
    residence.gemm().Tune(Linear(problem, residence), kName, kVersion);
  }

  void Enqueue(const Call& call) const {
    Workspace workspace(call.workspace);
    const Scratch scratch = Place(call.problem, &workspace);
    BertLinearInt8 linear = Linear(call.problem, *call.residence);
    linear.input = call.Input<int8_t>(0);
    linear.input_scale = call.InputScale();
    if (signature_.outputs[0].types.Contains(DataType::kINT8)) {
      linear.output_quantized = call.Output<int8_t>(0);
      const float scale = call.scales.output > 0 ? call.scales.output : amax_output_scale_;
      linear.output_scale = Positive(scale, "output");
    } else {
      linear.output_half = call.Output<BertHalf>(0);
    }
    linear.sums = scratch.sums;
    linear.workspace = scratch.gemm;
    linear.workspace_bytes = BERT_GEMM_WORKSPACE;
    call.residence->gemm().Run(linear, call.stream);
  }

 private:
  struct Scratch {
    char* gemm;
    int32_t* sums;
  };
  // The product, without scales and the memory that a call brings.
  BertLinearInt8 Linear(const Problem& problem, const Residence& residence) const {
    BertLinearInt8 linear{};
    linear.weight = residence.Weight<int8_t>(0);
    linear.weight_scales = residence.Weight<float>(1);
    linear.bias = residence.Weight<BertHalf>(2);
    linear.tokens = problem.tokens();
    linear.in = in_;
    linear.out = out_;
    return linear;
  }
  Scratch Place(const Problem& problem, Workspace* workspace) const {
    return {workspace->Take<char>(BERT_GEMM_WORKSPACE),
            workspace->Take<int32_t>(static_cast<size_t>(problem.tokens()) *
                                     static_cast<size_t>(out_))};
  }

  void ReadScales() {
    std::vector<float> amax;
    if (fields_.Has("fc_amax")) {
      amax = Positives("fc_amax");
      if (amax.size() > 2) RefuseField("fc_amax", "must have 1 or 2 values");
      if (amax.size() == 2) amax_output_scale_ = amax[1] / kLevels;
    }
    if (fields_.Has("weight_scales")) {
      weight_scales_ = Positives("weight_scales");
    } else {
      if (amax.empty()) RefuseField("weight_scales", "is missing, and so is fc_amax");
      weight_scales_ = {amax[0] / kLevels};
    }
    const size_t rows = static_cast<size_t>(out_);
    if (weight_scales_.size() == 1) weight_scales_.resize(rows, weight_scales_.front());
    if (weight_scales_.size() != rows) {
      RefuseField("weight_scales", "must have 1 value, or out_dims");
    }
  }

  std::vector<float> Positives(const char* name) const {
    std::vector<float> values = fields_.Values<float>(name);
    for (const float value : values) {
      if (value <= 0) RefuseField(name, "must be positive");
    }
    return values;
  }

  void Quantize() {
    const std::vector<float>& weight = fields_.Values<float>("W");
    std::vector<int8_t> quantized(weight.size());
    for (size_t i = 0; i < weight.size(); ++i) {
      const float level = std::nearbyint(weight[i] / weight_scales_[i / static_cast<size_t>(in_)]);
      quantized[i] = static_cast<int8_t>(std::clamp(level, -kLevels, kLevels));
    }
    fields_.Replace("W", std::move(quantized));
  }

  static constexpr float kLevels = 127;

  Fields fields_;
  Signature signature_;
  int32_t in_, out_;
  std::vector<float> weight_scales_;  // one a row
  float amax_output_scale_ = 0;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_OPERATIONS_FULLY_CONNECTED_INT8_H
