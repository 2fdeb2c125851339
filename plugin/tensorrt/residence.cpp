#include "tensorrt/residence.h"

#include "tensorrt/workspace.h"

namespace bert_plugin {
namespace {

size_t BlockBytes(const std::vector<HostArray>& arrays) {
  size_t bytes = 0;
  for (const HostArray& array : arrays) bytes += Aligned(array.device_bytes);
  return bytes;
}

}  // namespace

Residence::Residence(const std::vector<HostArray>& arrays, Gemm* gemm)
    : block_(BlockBytes(arrays), "memory for weights"), gemm_(gemm) {
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
