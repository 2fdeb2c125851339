#ifndef BERT_PLUGIN_TESTS_DEVICE_H
#define BERT_PLUGIN_TESTS_DEVICE_H

// Device memory for tests: freed with its object, poisoned, and guarded behind its end.

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

inline void MustSucceed(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

template <class T>
class DeviceBuffer {
 public:
  // Poisoned: every byte is 0xFF, which is NaN in FP16 and FP32.
  explicit DeviceBuffer(size_t count) : count_(count) {
    MustSucceed(cudaMalloc(reinterpret_cast<void**>(&data_), bytes() + kGuard), "cudaMalloc");
    MustSucceed(cudaMemset(data_, 0xFF, bytes() + kGuard), "cudaMemset");
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) {
    MustSucceed(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  T* get() const { return data_; }

  std::vector<T> Read() const {
    std::vector<T> values(count_);
    MustSucceed(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return values;
  }

  // Nothing was written behind the end.
  bool GuardHolds() const {
    unsigned char guard[kGuard];
    MustSucceed(cudaMemcpy(guard, reinterpret_cast<const char*>(data_) + bytes(), kGuard,
                           cudaMemcpyDeviceToHost),
                "cudaMemcpy");
    for (unsigned char byte : guard) {
      if (byte != 0xFF) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 256;
  size_t bytes() const { return count_ * sizeof(T); }

  size_t count_;
  T* data_ = nullptr;
};

#endif  // BERT_PLUGIN_TESTS_DEVICE_H
