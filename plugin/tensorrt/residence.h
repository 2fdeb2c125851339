#ifndef BERT_PLUGIN_RESIDENCE_H
#define BERT_PLUGIN_RESIDENCE_H

#include <memory>
#include <mutex>
#include <vector>

#include "kernels/bert_kernels.h"
#include "tensorrt/device_array.h"
#include "tensorrt/fields.h"

namespace bert_plugin {

// Throws Refused with the kernels' last error.
inline void Check(BertStatus status) {
  if (status != BERT_OK) throw Refused(bert_last_error());
}

// cuBLASLt on one device, shared by all plugins there, so that an algorithm is chosen once for
// the dozen layers of one shape. Contexts may run in threads of their own: only queueing is locked.
class Gemm {
 public:
  // That of the current device; lives as long as somebody holds it.
  static std::shared_ptr<Gemm> OfDevice(int device);

  Gemm() { Check(bert_gemm_create(&gemm_)); }
  ~Gemm() { bert_gemm_destroy(gemm_); }
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  void Run(const BertLinear& linear, BertStream stream) {
    std::lock_guard<std::mutex> lock(mutex_);
    Check(bert_linear(gemm_, &linear, stream));
  }
  void Run(const BertLinearInt8& linear, BertStream stream) {
    std::lock_guard<std::mutex> lock(mutex_);
    Check(bert_linear_int8(gemm_, &linear, stream));
  }

 private:
  std::mutex mutex_;
  BertGemm* gemm_ = nullptr;
};

// What an operation has on one device: its weights, in one block, and cuBLASLt if it needs it.
class Residence {
 public:
  Residence(const std::vector<HostArray>& arrays, std::shared_ptr<Gemm> gemm);

  // nullptr where the host array had no data.
  const void* array(size_t index) const { return arrays_[index]; }
  Gemm& gemm() const { return *gemm_; }

 private:
  DeviceArray block_;
  std::vector<const void*> arrays_;
  std::shared_ptr<Gemm> gemm_;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_RESIDENCE_H
