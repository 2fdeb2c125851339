// cuBLASLt is column-major: y (tokens, out) is its (out, tokens) matrix, and W (out, in) its
// transposed (in, out) one, so y' = W x' is one product with the bias along its rows.

#include "gemm.h"

#include <cstring>
#include <string>

namespace bert::executor {
namespace {

void cublas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(BERT_DEVICE_ERROR, std::string(what) + ": " + cublasLtGetStatusString(status));
}

cublasLtMatmulAlgo_t to_cublas(const Algorithm& algorithm) {
  cublasLtMatmulAlgo_t converted;
  static_assert(sizeof(converted) == sizeof(algorithm));
  std::memcpy(&converted, algorithm.data(), sizeof(converted));
  return converted;
}

const char* name_of(Type type) {
  return type == Type::kHalf ? "FP16" : type == Type::kE4m3 ? "FP8" : "INT8";
}

Algorithm from_cublas(const cublasLtMatmulAlgo_t& algorithm) {
  Algorithm converted;
  std::memcpy(converted.data(), &algorithm, sizeof(algorithm));
  return converted;
}

class Layout {
 public:
  Layout(cudaDataType type, int rows, int columns) {
    cublas(cublasLtMatrixLayoutCreate(&layout_, type, rows, columns, rows), "cuBLASLt layout");
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(layout_); }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  cublasLtMatrixLayout_t get() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

// cuBLASLt's descriptions of a product.
class Description {
 public:
  explicit Description(const Product& product)
      : weight(operand(product.type), product.in, product.out),
        input(operand(product.type), product.in, product.tokens),
        unread(wide(product.type), product.out, product.tokens),
        output(product.output_scale != nullptr ? CUDA_R_8F_E4M3 : wide(product.type), product.out,
               product.tokens) {
    const bool integers = product.type == Type::kInt8;
    cublas(cublasLtMatmulDescInit(&storage_, integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                  integers ? CUDA_R_32I : CUDA_R_32F),
           "cuBLASLt product");
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (product.type == Type::kE4m3) {
      // Tensor cores add E4M3's products with 14 bits. Without this, FP32 registers take over each
      // few of them, which takes longer.
      set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, int8_t{1});
    }
    if (product.output_scale != nullptr) {
      set(CUBLASLT_MATMUL_DESC_D_SCALE_POINTER, product.output_scale);
    }
    if (product.epilogue == Epilogue::kNone) return;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, product.epilogue == Epilogue::kBiasGelu
                                           ? CUBLASLT_EPILOGUE_GELU_BIAS
                                           : CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(CUDA_R_16F));
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias);
  }

  cublasLtMatmulDesc_t operation() { return &storage_; }
  // `unread` is what cuBLASLt could add. FP16 even where the output is E4M3: it knows no other.
  const Layout weight, input, unread, output;

 private:
  static cudaDataType operand(Type type) {
    return type == Type::kHalf ? CUDA_R_16F : type == Type::kE4m3 ? CUDA_R_8F_E4M3 : CUDA_R_8I;
  }
  static cudaDataType wide(Type type) { return type == Type::kInt8 ? CUDA_R_32I : CUDA_R_16F; }
  template <class Value>
  void set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    cublas(cublasLtMatmulDescSetAttribute(&storage_, attribute, &value, sizeof(value)),
           "cuBLASLt product");
  }
  cublasLtMatmulDescOpaque_t storage_{};
};

class Preference {
 public:
  explicit Preference(Type type) {
    cublas(cublasLtMatmulPreferenceInit(&storage_), "cuBLASLt preference");
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
    if (type == Type::kInt8) return;  // whose sums are the same in any order
    // Where a sum is split, its parts are added in FP32, and always in the same order.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  }
  cublasLtMatmulPreference_t get() { return &storage_; }

 private:
  template <class Value>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, const Value& value) {
    cublas(cublasLtMatmulPreferenceSetAttribute(&storage_, attribute, &value, sizeof(value)),
           "cuBLASLt preference");
  }
  cublasLtMatmulPreferenceOpaque_t storage_{};
};

}  // namespace

uint64_t cublaslt_version() { return cublasLtGetVersion(); }

Gemm::Gemm() {
  // A thread that has not used the device yet has no context, and cuBLASLt asks for one.
  cuda(cudaFree(nullptr), "CUDA context");
  cublasLtHandle_t handle = nullptr;
  cublas(cublasLtCreate(&handle), "cuBLASLt");
  handle_.reset(handle);
}

std::vector<Algorithm> Gemm::candidates(const Product& product, int most) const {
  Description description(product);
  Preference preference(product.type);
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(most));
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_.get(), description.operation(), description.weight.get(), description.input.get(),
      description.unread.get(), description.output.get(), preference.get(), most, results.data(),
      &count);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) cublas(status, "cuBLASLt's choice of an algorithm");
  std::vector<Algorithm> found;
  for (int i = 0; i < count; ++i) {
    const auto& result = results[static_cast<size_t>(i)];
    if (result.state == CUBLAS_STATUS_SUCCESS) found.push_back(from_cublas(result.algo));
  }
  if (found.empty()) {
    // Such as GELU with an output in E4M3, which not every device need have.
    throw Error(BERT_UNSUPPORTED, "cuBLASLt has no algorithm for a linear of " +
                                      std::to_string(product.in) + " to " +
                                      std::to_string(product.out) + " channels in " +
                                      name_of(product.type) + " on this device");
  }
  return found;
}

bool Gemm::allows(const Product& product, const Algorithm& algorithm) const {
  Description description(product);
  const cublasLtMatmulAlgo_t algo = to_cublas(algorithm);
  cublasLtMatmulHeuristicResult_t result{};
  return cublasLtMatmulAlgoCheck(handle_.get(), description.operation(), description.weight.get(),
                                 description.input.get(), description.unread.get(),
                                 description.output.get(), &algo,
                                 &result) == CUBLAS_STATUS_SUCCESS &&
         result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kWorkspace;
}

void Gemm::run(const Product& product, const Algorithm& algorithm, void* workspace,
               cudaStream_t stream) const {
  Description description(product);
  const cublasLtMatmulAlgo_t algo = to_cublas(algorithm);
  const float zero = 0.0f;
  const int32_t whole_one = 1, whole_zero = 0;
  const bool integers = product.type == Type::kInt8;
  const void* alpha = integers ? static_cast<const void*>(&whole_one) : &product.scale;
  const void* beta = integers ? static_cast<const void*>(&whole_zero) : &zero;
  // Nothing is read there, but cuBLASLt wants a pointer, and the output's own only where both have
  // one type.
  const void* unread = product.output_scale == nullptr ? product.output : workspace;
  cublas(cublasLtMatmul(handle_.get(), description.operation(), alpha, product.weight,
                        description.weight.get(), product.input, description.input.get(), beta,
                        unread, description.unread.get(), product.output,
                        description.output.get(), &algo, workspace, kWorkspace, stream),
         "cuBLASLt product");
}

}  // namespace bert::executor
