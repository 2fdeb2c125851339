#ifndef BERT_PLUGIN_TESTS_FAKE_RUNTIME_V2_H
#define BERT_PLUGIN_TESTS_FAKE_RUNTIME_V2_H

#include "tests/fake_runtime.h"

extern "C" nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count);
extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

namespace fake {

inline constexpr bool kScalesInFields = false;

using Serialized = std::vector<char>;

class Plugin {
  using Interface = nvinfer1::IPluginV2DynamicExt;

 public:
  using Pointer = std::unique_ptr<Plugin>;

  static nvinfer1::IPluginCreator* Creator(const std::string& name, const std::string& version) {
    int32_t count = 0;
    nvinfer1::IPluginCreator* const* creators = getPluginCreators(count);
    for (int32_t i = 0; i < count; ++i) {
      if (name == creators[i]->getPluginName() && version == creators[i]->getPluginVersion()) {
        return creators[i];
      }
    }
    return nullptr;
  }
  static int32_t CreatorCount() {
    int32_t count = 0;
    getPluginCreators(count);
    return count;
  }
  static Pointer Create(const std::string& name, const std::string& version,
                        const nvinfer1::PluginFieldCollection* collection) {
    return Wrap(Creator(name, version)->createPlugin("a layer", collection));
  }
  static Pointer Restore(const std::string& name, const std::string& version,
                         const Serialized& data) {
    return Wrap(Creator(name, version)->deserializePlugin("a layer", data.data(), data.size()));
  }

  explicit Plugin(Interface* plugin) : plugin_(plugin) {}
  ~Plugin() { plugin_->destroy(); }

  std::string Name() const { return plugin_->getPluginType(); }
  std::string Version() const { return plugin_->getPluginVersion(); }
  int32_t OutputCount() const { return plugin_->getNbOutputs(); }
  DataType OutputType(int32_t index) const {
    const DataType inputs[] = {DataType::kFLOAT, DataType::kFLOAT, DataType::kFLOAT};
    return plugin_->getOutputDataType(index, inputs, 3);
  }
  bool OutputShapes(const std::vector<Tensor>& inputs, std::vector<std::vector<int64_t>>* shapes) {
    ExprBuilder builder;
    std::vector<nvinfer1::DimsExprs> exprs;
    for (const Tensor& input : inputs) exprs.push_back(builder.Exprs(input.dims));
    shapes->clear();
    for (int32_t i = 0; i < OutputCount(); ++i) {
      const nvinfer1::DimsExprs output = plugin_->getOutputDimensions(
          i, exprs.data(), static_cast<int32_t>(exprs.size()), builder);
      if (output.nbDims < 0) return false;
      shapes->push_back(ExprBuilder::Values(output));
    }
    return true;
  }
  bool Supports(int32_t position, const std::vector<Tensor>& tensors, int32_t inputs,
                int32_t outputs) {
    return plugin_->supportsFormatCombination(position, Descs(tensors).data(), inputs, outputs);
  }
  // Has no result: a mistake can only be logged.
  bool Configure(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs,
                 const Logger& logger) {
    const size_t before = logger.errors.size();
    plugin_->configurePlugin(DynamicDescs(inputs).data(), static_cast<int32_t>(inputs.size()),
                             DynamicDescs(outputs).data(), static_cast<int32_t>(outputs.size()));
    return logger.errors.size() == before;
  }
  size_t WorkspaceBytes(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs) {
    return plugin_->getWorkspaceSize(Descs(inputs).data(), static_cast<int32_t>(inputs.size()),
                                     Descs(outputs).data(), static_cast<int32_t>(outputs.size()));
  }
  Pointer Clone() const { return Wrap(plugin_->clone()); }
  // A clone ready to run, or nullptr.
  Pointer Attached() {
    if (plugin_->initialize() != 0) return nullptr;
    return Clone();
  }
  // As Configure(), with nothing open, and nobody to hear of a mistake.
  bool ChangeShapes(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs) {
    plugin_->configurePlugin(DynamicDescs(inputs, true).data(),
                             static_cast<int32_t>(inputs.size()),
                             DynamicDescs(outputs, true).data(),
                             static_cast<int32_t>(outputs.size()));
    return true;
  }
  bool Enqueue(const std::vector<Tensor>& input_tensors, const std::vector<Tensor>& output_tensors,
               const void* const* inputs, void* const* outputs, void* workspace,
               cudaStream_t stream) {
    return plugin_->enqueue(Descs(input_tensors).data(), Descs(output_tensors).data(), inputs,
                            outputs, workspace, stream) == 0;
  }
  Serialized Serialize() const {
    Serialized data(plugin_->getSerializationSize());
    plugin_->serialize(data.data());
    return data;
  }

 private:
  static Pointer Wrap(nvinfer1::IPluginV2* plugin) {
    if (plugin == nullptr) return nullptr;
    return std::make_unique<Plugin>(static_cast<Interface*>(plugin));
  }

  Interface* plugin_;
};

// Serialized data that no plugin may come of.
inline std::vector<Serialized> Corruptions(const Serialized& good,
                                           const std::vector<std::string>& /*required*/) {
  std::vector<Serialized> bad;
  const size_t step = good.size() / 64 + 1;
  for (size_t size = 0; size < good.size(); size += size < 200 ? 1 : step) {
    bad.emplace_back(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
  }
  bad.emplace_back(good.begin(), good.end() - 1);
  bad.push_back(good);
  bad.back().push_back(0);  // too long
  for (const size_t position : {0, 3, 7, 11, 15}) {  // magic, counts, lengths, name
    bad.push_back(good);
    bad.back()[position] = static_cast<char>(bad.back()[position] ^ 0x80);
  }
  bad.emplace_back(good.size(), '\xff');
  return bad;
}

}  // namespace fake

#endif  // BERT_PLUGIN_TESTS_FAKE_RUNTIME_V2_H
