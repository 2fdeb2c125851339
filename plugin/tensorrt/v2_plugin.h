#ifndef BERT_PLUGIN_V2_PLUGIN_H
#define BERT_PLUGIN_V2_PLUGIN_H

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tensorrt/operation.h"

// The API of TensorRT 8.6 and ixRT. TensorRT 10 still has it, but warns.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace bert_plugin {

template <class Op>
class V2Plugin final : public nvinfer1::IPluginV2DynamicExt {
  using DataType = nvinfer1::DataType;
  using Dims = nvinfer1::Dims;
  using DimsExprs = nvinfer1::DimsExprs;
  using TensorDesc = nvinfer1::PluginTensorDesc;
  using DynamicDesc = nvinfer1::DynamicPluginTensorDesc;

 public:
  V2Plugin(Fields fields, std::string plugin_namespace)
      : body_(std::move(fields)), namespace_(std::move(plugin_namespace)) {}

  const char* getPluginType() const noexcept override { return Op::kName; }
  const char* getPluginVersion() const noexcept override { return Op::kVersion; }
  const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }
  void setPluginNamespace(const char* plugin_namespace) noexcept override {
    Guarded<Op>(false, [&] {
      namespace_ = plugin_namespace != nullptr ? plugin_namespace : "";
      return true;
    });
  }

  IPluginV2DynamicExt* clone() const noexcept override {
    return Guarded<Op>(static_cast<V2Plugin*>(nullptr), [&] { return new V2Plugin(*this); });
  }
  void destroy() noexcept override { delete this; }

  int32_t getNbOutputs() const noexcept override { return body_.output_count(); }

  DataType getOutputDataType(int32_t index, const DataType*, int32_t) const noexcept override {
    return Guarded<Op>(DataType::kFLOAT, [&] { return body_.OutputType(index); });
  }

  DimsExprs getOutputDimensions(int32_t index, const DimsExprs* inputs, int32_t input_count,
                                nvinfer1::IExprBuilder& builder) noexcept override {
    DimsExprs invalid{};
    invalid.nbDims = -1;
    return Guarded<Op>(invalid, [&] {
      return OutputShape(body_.signature(), index, inputs, input_count, builder);
    });
  }

  bool supportsFormatCombination(int32_t position, const TensorDesc* tensors, int32_t input_count,
                                 int32_t output_count) noexcept override {
    return Guarded<Op>(false, [&] {
      return SupportsFormat(body_.signature(), position, tensors[position].type,
                            tensors[position].format, input_count, output_count);
    });
  }

  // Cannot fail but by a message; what is wrong here stops enqueue(). Comes with open extents when
  // an engine is built, and, once initialized, with a call's before the first one of these shapes.
  void configurePlugin(const DynamicDesc* inputs, int32_t input_count, const DynamicDesc* outputs,
                       int32_t output_count) noexcept override {
    Guarded<Op>(false, [&] {
      CheckNetwork(body_.signature(), inputs, input_count, outputs, output_count);
      const TensorDesc& input = inputs[0].desc;
      if (!IsOpen(input.dims)) body_.Tune(ProblemOf(body_.signature(), input.dims, input.type));
      return true;
    });
  }

  size_t getWorkspaceSize(const TensorDesc* inputs, int32_t, const TensorDesc*,
                          int32_t) const noexcept override {
    return Guarded<Op>(size_t{0},
                       [&] { return body_.WorkspaceBytes(inputs[0].dims, inputs[0].type); });
  }

  int32_t initialize() noexcept override {
    return Guarded<Op>(1, [&] { return body_.Attach(), 0; });
  }
  // The clones may go on; the weights leave with the last of them.
  void terminate() noexcept override {}

  int32_t enqueue(const TensorDesc* input_descs, const TensorDesc* output_descs,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override {
    return Guarded<Op>(1, [&] {
      const Scales scales{ScaleOf(input_descs[0]), ScaleOf(output_descs[0])};
      body_.Enqueue(input_descs, output_descs, inputs, outputs, workspace, stream, scales);
      return 0;
    });
  }

  size_t getSerializationSize() const noexcept override {
    return Guarded<Op>(size_t{0}, [&] { return body_.op().fields().SerializedBytes(); });
  }
  void serialize(void* buffer) const noexcept override {
    Guarded<Op>(false, [&] { return body_.op().fields().Serialize(buffer), true; });
  }

 private:
  static float ScaleOf(const TensorDesc& tensor) {
    return tensor.type == DataType::kINT8 ? tensor.scale : 0;
  }

  Body<Op> body_;
  std::string namespace_;
};

template <class Op>
class V2Creator final : public nvinfer1::IPluginCreator {
 public:
  V2Creator()
      : spec_(SpecOf<Op>(ScaleSource::kTensors)),
        advertised_(Advertise(spec_)),
        collection_{static_cast<int32_t>(advertised_.size()), advertised_.data()} {}

  const char* getPluginName() const noexcept override { return Op::kName; }
  const char* getPluginVersion() const noexcept override { return Op::kVersion; }
  const char* getPluginNamespace() const noexcept override { return namespace_.c_str(); }
  void setPluginNamespace(const char* plugin_namespace) noexcept override {
    Guarded<Op>(false, [&] {
      namespace_ = plugin_namespace != nullptr ? plugin_namespace : "";
      return true;
    });
  }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

  nvinfer1::IPluginV2* createPlugin(
      const char*, const nvinfer1::PluginFieldCollection* collection) noexcept override {
    return Make([&] { return Fields(spec_, collection); });
  }
  nvinfer1::IPluginV2* deserializePlugin(const char*, const void* data,
                                         size_t bytes) noexcept override {
    return Make([&] { return Fields::Deserialize(spec_, data, bytes); });
  }

 private:
  template <class Read>
  nvinfer1::IPluginV2* Make(Read&& read) noexcept {
    return Guarded<Op>(static_cast<V2Plugin<Op>*>(nullptr),
                       [&] { return new V2Plugin<Op>(read(), namespace_); });
  }

  PluginSpec spec_;
  std::vector<nvinfer1::PluginField> advertised_;
  nvinfer1::PluginFieldCollection collection_;
  std::string namespace_;
};

}  // namespace bert_plugin

#pragma GCC diagnostic pop

#endif  // BERT_PLUGIN_V2_PLUGIN_H
