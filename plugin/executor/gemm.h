// Linears through cuBLASLt, whose algorithms are chosen by the caller: y = x W' with an epilogue.
// NVIDIA only.
#pragma once

#include <cublasLt.h>

#include <memory>
#include <vector>

#include "engine_file.h"
#include "resources.h"

namespace bert::executor {

constexpr size_t kWorkspace = 32 << 20;  // bytes a stream

enum class Epilogue { kNone, kBias, kBiasGelu };

struct Product {
  const void* input;   // FP16 (tokens, in)
  const void* weight;  // FP16 (out, in)
  const void* bias;    // FP16 (out), with an epilogue
  void* output;        // FP16 (tokens, out)
  int tokens, in, out;
  Epilogue epilogue;
};

// What cuBLASLt's algorithms belong to.
uint64_t cublaslt_version();

// For one thread at a time.
class Gemm {
 public:
  Gemm();

  // cuBLASLt's ranking, the best guess first; at least one.
  std::vector<Algorithm> candidates(const Product& product, int most) const;
  // Whether an algorithm computes this product.
  bool allows(const Product& product, const Algorithm& algorithm) const;
  void run(const Product& product, const Algorithm& algorithm, void* workspace,
           cudaStream_t stream) const;

 private:
  struct Destroy {
    void operator()(cublasLtHandle_t handle) const { cublasLtDestroy(handle); }
  };
  std::unique_ptr<cublasLtContext, Destroy> handle_;
};

}  // namespace bert::executor
