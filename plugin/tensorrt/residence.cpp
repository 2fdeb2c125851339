#include "tensorrt/residence.h"

#include <map>

#include "tensorrt/workspace.h"

namespace bert_plugin {
namespace {

size_t BlockBytes(const std::vector<HostArray>& arrays) {
  size_t bytes = 0;
  for (const HostArray& array : arrays) bytes += Aligned(array.device_bytes);
  return bytes;
}

}  // namespace

std::shared_ptr<Gemm> Gemm::OfDevice(int device) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<Gemm>> gemms;
  std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Gemm> gemm = gemms[device].lock();
  if (gemm == nullptr) gemms[device] = gemm = std::make_shared<Gemm>();
  return gemm;
}

Residence::Residence(const std::vector<HostArray>& arrays, std::shared_ptr<Gemm> gemm)
    : block_(BlockBytes(arrays)), gemm_(std::move(gemm)) {
  char* next = block_.data();
  for (const HostArray& array : arrays) {
    arrays_.push_back(array.data != nullptr ? next : nullptr);
    if (array.data == nullptr) continue;
    CheckCuda(cudaMemcpy(next, array.data, array.bytes, cudaMemcpyHostToDevice), "weights");
    const size_t padding = array.device_bytes - array.bytes;
    if (padding > 0) CheckCuda(cudaMemset(next + array.bytes, 0, padding), "weights' padding");
    next += Aligned(array.device_bytes);
  }
  // Neither call above need have finished, and the runtime's streams may not wait for this one.
  CheckCuda(cudaStreamSynchronize(nullptr), "weights");
}

}  // namespace bert_plugin
