#ifndef BERT_PLUGIN_TESTS_DEVICE_H
#define BERT_PLUGIN_TESTS_DEVICE_H

// Device memory for tests: freed with its object, poisoned, and guarded behind its end.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

inline void Cuda(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

// Set where kernels run on the host, under sanitizers that see what a guard would hide and slow
// all else down.
inline bool g_on_host = false;

template <class T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t count) : count_(count) {
    Cuda(cudaMalloc(reinterpret_cast<void**>(&data_), bytes() + guard_));
    Poison();
  }
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) {
    Write(values);
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  T* get() const { return data_; }

  // Every byte is 0xFF, which is NaN in FP16 and FP32; the guard's too.
  void Poison() {
    Cuda(cudaMemset(data_, 0xFF, bytes() + guard_));
    Cuda(cudaDeviceSynchronize());
  }
  void Write(const std::vector<T>& values) {
    Cuda(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> Read() const {
    std::vector<T> values(count_);
    Cuda(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost));
    return values;
  }

  // Nothing was written behind the end.
  bool GuardHolds() const {
    if (guard_ == 0) return true;
    std::vector<char> guard(guard_);
    Cuda(cudaMemcpy(guard.data(), reinterpret_cast<const char*>(data_) + bytes(), guard_,
                    cudaMemcpyDeviceToHost));
    return std::all_of(guard.begin(), guard.end(), [](char byte) { return byte == '\xff'; });
  }

 private:
  size_t bytes() const { return count_ * sizeof(T); }

  const size_t guard_ = g_on_host ? 0 : 4096;
  const size_t count_;
  T* data_ = nullptr;
};

#endif  // BERT_PLUGIN_TESTS_DEVICE_H
