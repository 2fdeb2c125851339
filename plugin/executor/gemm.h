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

// Sums are in FP32; of E4M3, in the fewer bits that tensor cores have for it; of INT8, exact.
struct Product {
  const void* input;   // (tokens, in), of `type`
  const void* weight;  // (out, in), of `type`
  const void* bias;    // FP16 (out), with an epilogue
  void* output;        // (tokens, out): FP16 or E4M3; of INT8, the sums in INT32
  int tokens, in, out;
  Epilogue epilogue;  // none with INT8
  Type type;
  // Of E4M3: what the product is multiplied by, and, where the output is E4M3 too, what that is
  // multiplied by before it is rounded (on the device).
  float scale = 1.0f;
  const float* output_scale = nullptr;
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
