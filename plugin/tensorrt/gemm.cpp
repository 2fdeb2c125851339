#include "tensorrt/gemm.h"

#include <cuda_runtime_api.h>

#include <map>
#include <type_traits>

#include "tensorrt/device_array.h"
#include "tensorrt/workspace.h"

namespace bert_plugin {
namespace {

// What a thread allocates ends captures, its own and those in global mode of any thread, unless the
// thread is in relaxed mode.
class RelaxedMode {
 public:
  RelaxedMode() { CheckCuda(cudaThreadExchangeStreamCaptureMode(&mode_), "capture mode"); }
  ~RelaxedMode() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedMode(const RelaxedMode&) = delete;
  RelaxedMode& operator=(const RelaxedMode&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// A stream that waits for no other.
class OwnStream {
 public:
  OwnStream() { CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  ~OwnStream() { cudaStreamDestroy(stream_); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

BertStatus TuneIt(BertGemm* gemm, const BertLinear& linear, BertStream stream) {
  return bert_linear_tune(gemm, &linear, stream);
}
BertStatus TuneIt(BertGemm* gemm, const BertLinearInt8& linear, BertStream stream) {
  return bert_linear_int8_tune(gemm, &linear, stream);
}

// What cuBLASLt writes.
BertHalf*& ResultOf(BertLinear& linear) { return linear.output; }
int32_t*& ResultOf(BertLinearInt8& linear) { return linear.sums; }

// Gives `linear` its input, result and workspace at `base`; returns how many bytes they take.
template <class Linear>
size_t Place(char* base, Linear* linear) {
  using Input = std::remove_cv_t<std::remove_reference_t<decltype(*linear->input)>>;
  using Result = std::remove_reference_t<decltype(*ResultOf(*linear))>;
  const size_t tokens = static_cast<size_t>(linear->tokens);
  Workspace scratch(base);
  linear->input = scratch.Take<Input>(tokens * static_cast<size_t>(linear->in));
  ResultOf(*linear) = scratch.Take<Result>(tokens * static_cast<size_t>(linear->out));
  linear->workspace = scratch.Take<char>(BERT_GEMM_WORKSPACE);
  linear->workspace_bytes = BERT_GEMM_WORKSPACE;
  return scratch.bytes();
}

template <class Linear>
std::string NameOf(const char* type, const Linear& linear) {
  return std::string(type) + " GEMM of " + std::to_string(linear.in) + " to " +
         std::to_string(linear.out) + " channels and up to " +
         std::to_string(bert_linear_bucket(linear.tokens)) + " tokens";
}

// Bytes of an ordinary number in FP16, 0.06, and in INT8, 43.
constexpr int kOrdinary = 0x2b;

}  // namespace

Gemm& Gemm::OfCurrentDevice() {
  static std::mutex mutex;
  // Never destroyed: at the process's end the driver may be gone before this library's variables.
  static auto& gemms = *new std::map<int, Gemm>;
  int device = 0;
  CheckCuda(cudaGetDevice(&device), "device");
  std::lock_guard<std::mutex> lock(mutex);
  return gemms[device];
}

void Gemm::Run(const BertLinear& linear, BertStream stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  Check(bert_linear(gemm_, &linear, stream));
}

void Gemm::Run(const BertLinearInt8& linear, BertStream stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  Check(bert_linear_int8(gemm_, &linear, stream));
}

void Gemm::Tune(const BertLinear& linear, const char* plugin, const char* version) {
  std::string name = NameOf("FP16", linear);
  if (linear.bias != nullptr) name += linear.activation == BERT_GELU ? ", bias, GELU" : ", bias";
  TuneOnce(linear, name, plugin, version);
}

// Bias and GELU are no part of an INT8 GEMM: they follow its sums.
void Gemm::Tune(const BertLinearInt8& linear, const char* plugin, const char* version) {
  TuneOnce(linear, NameOf("INT8", linear), plugin, version);
}

template <class Linear>
void Gemm::TuneOnce(Linear linear, const std::string& name, const char* plugin,
                    const char* version) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!tuned_.insert(name).second) return;
  // At the bucket's end, which takes the largest workspace, whoever of the bucket comes first.
  linear.tokens = bert_linear_bucket(linear.tokens);
  try {
    const RelaxedMode mode;
    const OwnStream stream;
    const size_t bytes = Place(nullptr, &linear);
    const DeviceArray scratch(bytes, "memory to tune in");
    Place(scratch.data(), &linear);
    CheckCuda(cudaMemsetAsync(scratch.data(), kOrdinary, bytes, stream.get()), "memory to tune in");
    Check(TuneIt(gemm_, linear, stream.get()));
    LogDetail(plugin, version, "tuned: " + name);
  } catch (const Refused& error) {
    cudaGetLastError();  // the next kernel's launch would be blamed for it
    WarnOnce(plugin, version, "not tuned, and maybe slower for it: " + name + ": " + error.what());
  }
}

}  // namespace bert_plugin
