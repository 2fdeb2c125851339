#ifndef BERT_PLUGIN_TESTS_FAKE_RUNTIME_V3_H
#define BERT_PLUGIN_TESTS_FAKE_RUNTIME_V3_H

#include "tests/fake_runtime.h"

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

namespace fake {

inline constexpr bool kScalesInFields = true;

using Serialized = FieldList;

class Plugin {
 public:
  using Pointer = std::unique_ptr<Plugin>;

  static nvinfer1::IPluginCreatorV3One* Creator(const std::string& name,
                                                const std::string& version) {
    int32_t count = 0;
    nvinfer1::IPluginCreatorInterface* const* creators = getCreators(count);
    for (int32_t i = 0; i < count; ++i) {
      auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i]);
      if (name == creator->getPluginName() && version == creator->getPluginVersion()) {
        return creator;
      }
    }
    return nullptr;
  }
  static int32_t CreatorCount() {
    int32_t count = 0;
    getCreators(count);
    return count;
  }
  static Pointer Create(const std::string& name, const std::string& version,
                        const nvinfer1::PluginFieldCollection* collection) {
    return Wrap(Creator(name, version)
                    ->createPlugin("a layer", collection, nvinfer1::TensorRTPhase::kBUILD));
  }
  static Pointer Restore(const std::string& name, const std::string& version,
                         const Serialized& data) {
    return Wrap(Creator(name, version)
                    ->createPlugin("a layer", Collection(data).get(),
                                   nvinfer1::TensorRTPhase::kRUNTIME));
  }

  explicit Plugin(nvinfer1::IPluginV3* plugin) : plugin_(plugin) {
    using Type = nvinfer1::PluginCapabilityType;
    core_ = static_cast<nvinfer1::IPluginV3OneCore*>(plugin->getCapabilityInterface(Type::kCORE));
    build_ =
        static_cast<nvinfer1::IPluginV3OneBuild*>(plugin->getCapabilityInterface(Type::kBUILD));
    runtime_ =
        static_cast<nvinfer1::IPluginV3OneRuntime*>(plugin->getCapabilityInterface(Type::kRUNTIME));
  }

  std::string Name() const { return core_->getPluginName(); }
  std::string Version() const { return core_->getPluginVersion(); }
  int32_t OutputCount() const { return build_->getNbOutputs(); }
  DataType OutputType(int32_t index) const {
    std::vector<DataType> types(static_cast<size_t>(OutputCount()));
    const DataType inputs[] = {DataType::kHALF, DataType::kHALF, DataType::kHALF};
    if (build_->getOutputDataTypes(types.data(), OutputCount(), inputs, 3) != 0) {
      return DataType::kBOOL;
    }
    return types[static_cast<size_t>(index)];
  }
  bool OutputShapes(const std::vector<Tensor>& inputs, std::vector<std::vector<int64_t>>* shapes) {
    ExprBuilder builder;
    std::vector<nvinfer1::DimsExprs> exprs;
    for (const Tensor& input : inputs) exprs.push_back(builder.Exprs(input.dims));
    std::vector<nvinfer1::DimsExprs> outputs(static_cast<size_t>(OutputCount()));
    if (build_->getOutputShapes(exprs.data(), static_cast<int32_t>(exprs.size()), nullptr, 0,
                                outputs.data(), OutputCount(), builder) != 0) {
      return false;
    }
    shapes->clear();
    for (const nvinfer1::DimsExprs& output : outputs) {
      shapes->push_back(ExprBuilder::Values(output));
    }
    return true;
  }
  bool Supports(int32_t position, const std::vector<Tensor>& tensors, int32_t inputs,
                int32_t outputs) {
    return build_->supportsFormatCombination(position, DynamicDescs(tensors).data(), inputs,
                                             outputs);
  }
  bool Configure(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
                 const Logger&) {
    return build_->configurePlugin(
               DynamicDescs(inputs).data(), static_cast<int32_t>(inputs.size()),
               DynamicDescs(outputs).data(), static_cast<int32_t>(outputs.size())) == 0;
  }
  size_t WorkspaceBytes(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs) {
    return build_->getWorkspaceSize(
        DynamicDescs(inputs).data(), static_cast<int32_t>(inputs.size()),
        DynamicDescs(outputs).data(), static_cast<int32_t>(outputs.size()));
  }
  Pointer Clone() const { return Wrap(plugin_->clone()); }
  Pointer Attached() { return Wrap(runtime_->attachToContext(nullptr)); }
  bool ChangeShapes(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs) {
    return runtime_->onShapeChange(Descs(inputs).data(), static_cast<int32_t>(inputs.size()),
                                   Descs(outputs).data(),
                                   static_cast<int32_t>(outputs.size())) == 0;
  }
  bool Enqueue(const std::vector<Tensor>& input_tensors, const std::vector<Tensor>& output_tensors,
               const void* const* inputs, void* const* outputs, void* workspace,
               cudaStream_t stream) {
    return runtime_->enqueue(Descs(input_tensors).data(), Descs(output_tensors).data(), inputs,
                             outputs, workspace, stream) == 0;
  }
  Serialized Serialize() const {
    Serialized list;
    const nvinfer1::PluginFieldCollection* collection = runtime_->getFieldsToSerialize();
    for (int32_t i = 0; i < collection->nbFields; ++i) {
      const PluginField& field = collection->fields[i];
      const size_t bytes = static_cast<size_t>(field.length) * SizeOf(field.type);
      Field copy{field.name, field.type, field.length, std::vector<char>(1 + bytes)};
      std::memcpy(copy.bytes.data() + 1, field.data, bytes);
      list.fields.push_back(copy);
    }
    return list;
  }

 private:
  static Pointer Wrap(nvinfer1::IPluginV3* plugin) {
    return plugin != nullptr ? std::make_unique<Plugin>(plugin) : nullptr;
  }

  std::unique_ptr<nvinfer1::IPluginV3> plugin_;
  nvinfer1::IPluginV3OneCore* core_;
  nvinfer1::IPluginV3OneBuild* build_;
  nvinfer1::IPluginV3OneRuntime* runtime_;
};

// Serialized data that no plugin may come of.
inline std::vector<Serialized> Corruptions(const Serialized& good,
                                           const std::vector<std::string>& required) {
  std::vector<Serialized> bad;
  for (const std::string& name : required) bad.push_back(good.Without(name));
  for (const Field& field : good.fields) {
    Serialized changed = good;
    changed[field.name].type = PluginFieldType::kUNKNOWN;
    bad.push_back(changed);
    changed = good;
    changed[field.name].length = 0;
    bad.push_back(changed);
    changed = good;
    changed[field.name].null_data = true;
    bad.push_back(changed);
    changed = good;
    changed.fields.push_back(field);
    bad.push_back(changed);
  }
  bad.push_back(good);
  bad.back().Int("of another release", 1);  // strict here: the library wrote these fields itself
  return bad;
}

}  // namespace fake

#endif  // BERT_PLUGIN_TESTS_FAKE_RUNTIME_V3_H
