#ifndef BERT_PLUGIN_DEVICE_ARRAY_H
#define BERT_PLUGIN_DEVICE_ARRAY_H

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <utility>

#include "tensorrt/log.h"

namespace bert_plugin {

inline void CheckCuda(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw Refused(std::string(what) + ": " + cudaGetErrorString(error));
}

// Memory of the current device.
class DeviceArray {
 public:
  DeviceArray(size_t bytes, const char* what) {
    if (bytes > 0) CheckCuda(cudaMalloc(&data_, bytes), what);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  char* data() const { return static_cast<char*>(data_); }

 private:
  void* data_ = nullptr;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_DEVICE_ARRAY_H
