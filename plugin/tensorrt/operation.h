#ifndef BERT_PLUGIN_OPERATION_H
#define BERT_PLUGIN_OPERATION_H

#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "tensorrt/fields.h"
#include "tensorrt/log.h"
#include "tensorrt/residence.h"
#include "tensorrt/tensors.h"
#include "tensorrt/workspace.h"

namespace bert_plugin {

// An operation is a plain class, which knows neither plugin interface:
//
//   static constexpr const char* kName, *kVersion;
//   static constexpr FieldSpec kFields[];            // what is kUnknown is left out
//   static constexpr bool kUsesGemm;
//   explicit Op(Fields fields);                      // checks them; touches no GPU
//   const Fields& fields() const;                    // what is serialized
//   const Signature& signature() const;
//   std::vector<HostArray> Weights() const;          // what Call::Weight() counts
//   size_t WorkspaceBytes(const Problem&) const;     // grows with the problem
//   void Tune(const Problem&, const Residence&) const;  // where it uses GEMMs: see Gemm::Tune()
//   void Enqueue(const Call&) const;                 // allocates nothing
//
// All of them throw Refused.

inline constexpr float kLayerNormEpsilon = 1e-12f;  // BERT's
inline constexpr int32_t kMaxChannels = 1 << 16;

// The FP16 and the INT8 version of an operation are one class template.
enum class Precision { kHalf, kInt8 };

// Real value = INT8 value * scale, of input 0 and output 0; 0 where the tensor has none. No
// operation has a second quantized tensor: masks are INT8 without a scale.
struct Scales {
  float input = 0;
  float output = 0;
};

// What an INT8 operation's input 0 may be: FP16, or INT8 where something can give its scale.
inline TypeSet HalfOrInt8(const Fields& fields) {
  using nvinfer1::DataType;
  if (fields.scale_source() == ScaleSource::kTensors || fields.Has("input_scale")) {
    return {DataType::kHALF, DataType::kINT8};
  }
  return {DataType::kHALF};
}

inline float Positive(float scale, const char* tensor) {
  if (scale > 0 && std::isfinite(scale)) return scale;
  throw Refused(std::string(tensor) + ": an INT8 tensor without a scale");
}

// One execution.
struct Call {
  Problem problem;
  Scales scales;
  const void* const* inputs;
  void* const* outputs;
  void* workspace;
  BertStream stream;
  const Residence* residence;

  template <class T>
  const T* Input(int index) const {
    return static_cast<const T*>(inputs[index]);
  }
  template <class T>
  T* Output(int index) const {
    return static_cast<T*>(outputs[index]);
  }
  template <class T>
  const T* Weight(int index) const {
    return residence->Weight<T>(index);
  }
  float InputScale() const { return Positive(scales.input, "input"); }
  float OutputScale() const { return Positive(scales.output, "output"); }
};

// An operation with its weights on each device that has asked for them. Clones of a plugin share
// one; the weights are uploaded once a device and freed with the last clone.
template <class Op>
class SharedOperation {
 public:
  explicit SharedOperation(Fields fields) : op(std::move(fields)) {}

  const Op op;

  std::shared_ptr<const Residence> OnCurrentDevice() {
    int device = 0;
    CheckCuda(cudaGetDevice(&device), "device");
    std::lock_guard<std::mutex> lock(mutex_);
    std::shared_ptr<const Residence>& residence = residences_[device];
    if (residence == nullptr) {
      residence = std::make_shared<Residence>(op.Weights(),
                                              Op::kUsesGemm ? &Gemm::OfCurrentDevice() : nullptr);
    }
    return residence;
  }

  // What OnCurrentDevice() would return if that allocates nothing, else nullptr.
  std::shared_ptr<const Residence> Loaded() {
    int device = 0;
    CheckCuda(cudaGetDevice(&device), "device");
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = residences_.find(device);
    return found != residences_.end() ? found->second : nullptr;
  }

 private:
  std::mutex mutex_;
  std::map<int, std::shared_ptr<const Residence>> residences_;
};

// What both adapters do with an operation. Copies share it.
template <class Op>
class Body {
 public:
  explicit Body(Fields fields)
      : shared_(std::make_shared<SharedOperation<Op>>(std::move(fields))) {}

  const Op& op() const { return shared_->op; }
  const Signature& signature() const { return op().signature(); }
  int32_t input_count() const { return static_cast<int32_t>(signature().inputs.size()); }
  int32_t output_count() const { return static_cast<int32_t>(signature().outputs.size()); }
  nvinfer1::DataType OutputType(int32_t index) const {
    if (index < 0 || index >= output_count()) throw Refused("there is no such output");
    return signature().outputs[index].types.First();
  }

  bool attached() const { return residence_ != nullptr; }
  void Attach() { residence_ = shared_->OnCurrentDevice(); }

  size_t WorkspaceBytes(const nvinfer1::Dims& largest, nvinfer1::DataType type) const {
    return op().WorkspaceBytes(ProblemOf(signature(), largest, type));
  }

  // Prepares for calls of this size, as far as there are weights on the device yet: an untuned call
  // runs too. Runtimes ask for it before a call, outside of Enqueue().
  void Tune(const Problem& problem) const {
    if constexpr (Op::kUsesGemm) {
      if (const auto residence = Loaded()) op().Tune(problem, *residence);
    }
  }

  void Enqueue(const nvinfer1::PluginTensorDesc* input_descs,
               const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
               void* const* outputs, void* workspace, BertStream stream, Scales scales) const {
    const auto residence = Loaded();
    if (residence == nullptr) throw Refused("runs without having been initialized");
    const Problem problem =
        CheckShapes(signature(), input_descs, input_count(), output_descs, output_count());
    op().Enqueue({problem, scales, inputs, outputs, workspace, stream, residence.get()});
  }

 private:
  // A clone may be older than its original's initialization.
  std::shared_ptr<const Residence> Loaded() const {
    return residence_ != nullptr ? residence_ : shared_->Loaded();
  }

  std::shared_ptr<SharedOperation<Op>> shared_;
  std::shared_ptr<const Residence> residence_;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_OPERATION_H
