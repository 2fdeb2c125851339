#ifndef BERT_PLUGIN_V3_PLUGIN_H
#define BERT_PLUGIN_V3_PLUGIN_H

#include <memory>
#include <utility>
#include <vector>

#include "tensorrt/operation.h"

// The API of TensorRT 10 and 11.

namespace bert_plugin {

template <class Op>
class V3Plugin final : public nvinfer1::IPluginV3,
                       public nvinfer1::IPluginV3OneCore,
                       public nvinfer1::IPluginV3OneBuild,
                       public nvinfer1::IPluginV3OneRuntime {
  using DataType = nvinfer1::DataType;
  using DimsExprs = nvinfer1::DimsExprs;
  using TensorDesc = nvinfer1::PluginTensorDesc;
  using DynamicDesc = nvinfer1::DynamicPluginTensorDesc;

 public:
  explicit V3Plugin(Body<Op> body) : body_(std::move(body)) {}

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }

  nvinfer1::IPluginV3* clone() noexcept override {
    return Guarded<Op>(static_cast<V3Plugin*>(nullptr), [&] { return new V3Plugin(body_); });
  }

  const char* getPluginName() const noexcept override { return Op::kName; }
  const char* getPluginVersion() const noexcept override { return Op::kVersion; }
  const char* getPluginNamespace() const noexcept override { return ""; }

  // Build.

  int32_t getNbOutputs() const noexcept override { return body_.output_count(); }

  int32_t getOutputDataTypes(DataType* types, int32_t output_count, const DataType*,
                             int32_t) const noexcept override {
    return Guarded<Op>(1, [&] {
      for (int32_t i = 0; i < output_count; ++i) types[i] = body_.OutputType(i);
      return 0;
    });
  }

  int32_t getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t,
                          DimsExprs* outputs, int32_t output_count,
                          nvinfer1::IExprBuilder& builder) noexcept override {
    return Guarded<Op>(1, [&] {
      for (int32_t i = 0; i < output_count; ++i) {
        outputs[i] = OutputShape(body_.signature(), i, inputs, input_count, builder);
      }
      return 0;
    });
  }

  bool supportsFormatCombination(int32_t position, const DynamicDesc* tensors, int32_t input_count,
                                 int32_t output_count) noexcept override {
    return Guarded<Op>(false, [&] {
      const TensorDesc& tensor = tensors[position].desc;
      return SupportsFormat(body_.signature(), position, tensor.type, tensor.format, input_count,
                            output_count);
    });
  }

  int32_t configurePlugin(const DynamicDesc* inputs, int32_t input_count,
                          const DynamicDesc* outputs, int32_t output_count) noexcept override {
    return Guarded<Op>(1, [&] {
      CheckNetwork(body_.signature(), inputs, input_count, outputs, output_count);
      return 0;
    });
  }

  size_t getWorkspaceSize(const DynamicDesc* inputs, int32_t, const DynamicDesc*,
                          int32_t) const noexcept override {
    return Guarded<Op>(size_t{0},
                       [&] { return body_.WorkspaceBytes(inputs[0].max, inputs[0].desc.type); });
  }

  // Run.

  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
    return Guarded<Op>(static_cast<V3Plugin*>(nullptr), [&] {
      auto attached = std::make_unique<V3Plugin>(body_);
      attached->body_.Attach();
      return attached.release();
    });
  }

  // The builder times a plugin that it has never attached to a context, after this.
  int32_t onShapeChange(const TensorDesc* inputs, int32_t input_count, const TensorDesc* outputs,
                        int32_t output_count) noexcept override {
    return Guarded<Op>(1, [&] {
      const Problem problem =
          CheckShapes(body_.signature(), inputs, input_count, outputs, output_count);
      if (!body_.attached()) body_.Attach();
      body_.Tune(problem);
      return 0;
    });
  }

  int32_t enqueue(const TensorDesc* input_descs, const TensorDesc* output_descs,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override {
    return Guarded<Op>(1, [&] {
      const Fields& fields = body_.op().fields();
      const Scales scales{fields.Scale("input_scale"), fields.Scale("output_scale")};
      body_.Enqueue(input_descs, output_descs, inputs, outputs, workspace, stream, scales);
      return 0;
    });
  }

  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    return Guarded<Op>(static_cast<nvinfer1::PluginFieldCollection*>(nullptr), [&] {
      serialized_ = body_.op().fields().List();
      collection_ = {static_cast<int32_t>(serialized_.size()), serialized_.data()};
      return &collection_;
    });
  }

 private:
  Body<Op> body_;
  std::vector<nvinfer1::PluginField> serialized_;
  nvinfer1::PluginFieldCollection collection_;
};

template <class Op>
class V3Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  V3Creator()
      : spec_(SpecOf<Op>(ScaleSource::kFields)),
        advertised_(Advertise(spec_)),
        collection_{static_cast<int32_t>(advertised_.size()), advertised_.data()} {}

  const char* getPluginName() const noexcept override { return Op::kName; }
  const char* getPluginVersion() const noexcept override { return Op::kVersion; }
  const char* getPluginNamespace() const noexcept override { return ""; }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }

  // The runtime phase gets what getFieldsToSerialize() gave, and nothing else.
  nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* collection,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    return Guarded<Op>(static_cast<V3Plugin<Op>*>(nullptr), [&] {
      const bool strict = phase == nvinfer1::TensorRTPhase::kRUNTIME;
      return new V3Plugin<Op>(Body<Op>(Fields(spec_, collection, strict)));
    });
  }

 private:
  PluginSpec spec_;
  std::vector<nvinfer1::PluginField> advertised_;
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_V3_PLUGIN_H
