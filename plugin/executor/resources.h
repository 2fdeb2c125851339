// CUDA's resources, freed with their objects, and its errors as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <utility>

#include "error.h"

namespace bert::executor {

inline void cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  const std::string text = std::string(what) + ": " + cudaGetErrorString(error);
  cudaGetLastError();  // or the next launch would report it again
  throw Error(BERT_DEVICE_ERROR, text);
}

// bert_kernels' errors.
inline void kernels(BertStatus status) {
  if (status != BERT_OK) throw Error(status, bert_last_error());
}

// A resource that `Free` gives back.
template <class Handle, auto Free>
class Owned {
 public:
  Owned() = default;
  explicit Owned(Handle handle) : handle_(handle) {}
  Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Owned() {
    if (handle_ != nullptr) Free(handle_);
  }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

using DeviceMemory = Owned<void*, cudaFree>;
using PinnedMemory = Owned<void*, cudaFreeHost>;
using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Event = Owned<cudaEvent_t, cudaEventDestroy>;
using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;
using ExecutableGraph = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;

inline DeviceMemory device_memory(size_t bytes) {
  void* memory = nullptr;
  cuda(cudaMalloc(&memory, bytes), "device memory");
  return DeviceMemory(memory);
}

inline PinnedMemory pinned_memory(size_t bytes) {
  void* memory = nullptr;
  cuda(cudaMallocHost(&memory, bytes), "page-locked memory");
  return PinnedMemory(memory);
}

inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  return Stream(stream);
}

inline Event make_event() {
  cudaEvent_t event = nullptr;
  cuda(cudaEventCreate(&event), "event");
  return Event(event);
}

// What `work` queues on `stream`, as a graph. Other threads may allocate meanwhile.
template <class Work>
ExecutableGraph captured(cudaStream_t stream, Work work) {
  cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  cudaGraph_t raw = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream, &raw);
    const Graph broken(raw);
    cudaGetLastError();
    throw;
  }
  cuda(cudaStreamEndCapture(stream, &raw), "capture");
  const Graph graph(raw);
  cudaGraphExec_t executable = nullptr;
  cuda(cudaGraphInstantiate(&executable, graph.get(), 0), "CUDA graph");
  return ExecutableGraph(executable);
}

}  // namespace bert::executor
