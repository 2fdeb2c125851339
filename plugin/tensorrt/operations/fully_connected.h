#ifndef BERT_PLUGIN_OPERATIONS_FULLY_CONNECTED_H
#define BERT_PLUGIN_OPERATIONS_FULLY_CONNECTED_H

#include <utility>
#include <vector>

#include "tensorrt/operation.h"

namespace bert_plugin {

// x W' + B in FP16.
class FullyConnected {
  using DataType = nvinfer1::DataType;

 public:
  static constexpr const char* kName = "CustomFCPluginDynamic_IxRT";
  static constexpr const char* kVersion = "1";
  static constexpr bool kUsesGemm = true;
  static constexpr FieldSpec kFields[] = {
      {"out_dims", FieldKind::kInteger, kRequired},
      {"type_id", FieldKind::kInteger, kRequired},
      {"W", FieldKind::kWeights, kRequired},
      {"B", FieldKind::kWeights, kOptional},
  };

  explicit FullyConnected(Fields fields) : fields_(std::move(fields)) {
    fields_.RequireType(DataType::kHALF);
    out_ = fields_.IntegerIn("out_dims", 1, kMaxChannels);
    padded_out_ = (out_ + 7) / 8 * 8;
    in_ = static_cast<int32_t>(fields_.Count("W") / out_);
    if (in_ == 0 || in_ % 8 != 0) RefuseField("W", "must have rows of a multiple of 8 values");
    fields_.RequireCount("W", int64_t{out_} * in_);
    fields_.RequireCount("B", out_);

    signature_.inputs = {{"input", Form::kHidden, {DataType::kHALF}, in_}};
    signature_.outputs = {{"output", Form::kHidden, {DataType::kHALF}, out_}};
  }

  const Fields& fields() const { return fields_; }
  const Signature& signature() const { return signature_; }
  std::vector<HostArray> Weights() const {
    const size_t rows = static_cast<size_t>(padded_out_), columns = static_cast<size_t>(in_);
    return {fields_.Array("W", rows * columns * sizeof(BertHalf)),
            fields_.Array("B", rows * sizeof(BertHalf))};
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
    BertLinear linear = Linear(call.problem, *call.residence);
    linear.input = call.Input<BertHalf>(0);
    linear.output = padded() ? scratch.padded : call.Output<BertHalf>(0);
    linear.workspace = scratch.gemm;
    linear.workspace_bytes = BERT_GEMM_WORKSPACE;
    call.residence->gemm().Run(linear, call.stream);
    if (padded()) {
      const size_t width = static_cast<size_t>(out_) * sizeof(BertHalf);
      CheckCuda(cudaMemcpy2DAsync(call.outputs[0], width, scratch.padded,
                                  static_cast<size_t>(padded_out_) * sizeof(BertHalf), width,
                                  static_cast<size_t>(linear.tokens), cudaMemcpyDeviceToDevice,
                                  call.stream),
                "copy of the output");
    }
  }

 private:
  struct Scratch {
    char* gemm;
    BertHalf* padded;
  };

  // cuBLASLt's rows are multiples of 8 channels; the QA head has 2. Rows of zeros follow in the
  // weight, and the channels that they make are left behind.
  bool padded() const { return padded_out_ != out_; }
  // The product, without the memory that a call brings.
  BertLinear Linear(const Problem& problem, const Residence& residence) const {
    BertLinear linear{};
    linear.weight = residence.Weight<BertHalf>(0);
    linear.bias = residence.Weight<BertHalf>(1);
    linear.tokens = problem.tokens();
    linear.in = in_;
    linear.out = padded_out_;
    return linear;
  }
  Scratch Place(const Problem& problem, Workspace* workspace) const {
    const size_t channels = padded() ? static_cast<size_t>(padded_out_) : 0;
    return {workspace->Take<char>(BERT_GEMM_WORKSPACE),
            workspace->Take<BertHalf>(static_cast<size_t>(problem.tokens()) * channels)};
  }

  Fields fields_;
  Signature signature_;
  int32_t in_, out_, padded_out_;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_OPERATIONS_FULLY_CONNECTED_H
