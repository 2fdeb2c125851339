// Linears through cuBLASLt. NVIDIA's: elsewhere the vendor's library of the same interface.
//
// cuBLASLt is column-major: y (tokens, out) is its (out, tokens) matrix, and W (out, in) its
// transposed (in, out) one, so y' = W x' is one product with the bias along its rows.

#include <cublasLt.h>

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "status.h"

namespace bert {

static BertStatus checked(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return BERT_OK;
  return fail(BERT_DEVICE_ERROR, std::string(what) + ": " + cublasLtGetStatusString(status));
}

namespace {

constexpr int kCandidates = 32;  // of cuBLASLt's own ranking, when tuning
constexpr int kTimedTurns = 7;
constexpr int kRunsATurn = 8;  // back to back, so that the gap between launches does not count
constexpr float kHopeless = 1.25f;  // times the fastest of the first turn

// What is multiplied, from which a product's descriptions follow.
struct Product {
  int tokens, in, out;
  bool integers;
  BertActivation activation;
  const void* bias;
  size_t workspace_bytes;

  // Products with the same key share what was tuned.
  auto key() const {
    return std::make_tuple(bert_linear_bucket(tokens), in, out, integers, activation,
                           bias != nullptr, workspace_bytes);
  }
};
using Key = decltype(std::declval<Product>().key());

struct Bucket {
  std::optional<cublasLtMatmulAlgo_t> tuned;
  std::map<int, cublasLtMatmulAlgo_t> chosen;  // by tokens
};

// cuBLASLt's descriptions of one product; freed when they go.
class Description {
 public:
  ~Description() {
    if (preference_ != nullptr) cublasLtMatmulPreferenceDestroy(preference_);
    for (cublasLtMatrixLayout_t layout : {weight, input, output}) {
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    }
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
  }

  BertStatus describe(const Product& product) {
    const cudaDataType_t operand = product.integers ? CUDA_R_8I : CUDA_R_16F;
    const cudaDataType_t result = product.integers ? CUDA_R_32I : CUDA_R_16F;
    BERT_RETURN_IF_ERROR(checked(
        cublasLtMatmulDescCreate(&operation,
                                 product.integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                 product.integers ? CUDA_R_32I : CUDA_R_32F),
        "cuBLASLt product"));
    BERT_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T));
    if (product.bias != nullptr) {
      BERT_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_DESC_EPILOGUE,
                               product.activation == BERT_GELU ? CUBLASLT_EPILOGUE_GELU_BIAS
                                                               : CUBLASLT_EPILOGUE_BIAS));
      BERT_RETURN_IF_ERROR(set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias));
    }
    BERT_RETURN_IF_ERROR(layout(&weight, operand, product.in, product.out));
    BERT_RETURN_IF_ERROR(layout(&input, operand, product.in, product.tokens));
    BERT_RETURN_IF_ERROR(layout(&output, result, product.out, product.tokens));
    BERT_RETURN_IF_ERROR(
        checked(cublasLtMatmulPreferenceCreate(&preference_), "cuBLASLt preference"));
    return checked(cublasLtMatmulPreferenceSetAttribute(
                       preference_, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                       &product.workspace_bytes, sizeof(product.workspace_bytes)),
                   "cuBLASLt preference");
  }

  // Up to `most` algorithms, the best guess first.
  BertStatus candidates(cublasLtHandle_t handle, int most,
                        std::vector<cublasLtMatmulAlgo_t>* found) const {
    std::vector<cublasLtMatmulHeuristicResult_t> results(most);
    int count = 0;
    BERT_RETURN_IF_ERROR(
        checked(cublasLtMatmulAlgoGetHeuristic(handle, operation, weight, input, output, output,
                                               preference_, most, results.data(), &count),
                "cuBLASLt's choice of an algorithm"));
    for (int i = 0; i < count; ++i) {
      if (results[i].state == CUBLAS_STATUS_SUCCESS) found->push_back(results[i].algo);
    }
    if (!found->empty()) return BERT_OK;
    return fail(BERT_UNSUPPORTED, "cuBLASLt has no algorithm for this linear");
  }

  // Whether an algorithm of another product computes this one within its workspace.
  bool allows(cublasLtHandle_t handle, const cublasLtMatmulAlgo_t& algorithm,
              size_t workspace_bytes) const {
    cublasLtMatmulHeuristicResult_t result{};
    return cublasLtMatmulAlgoCheck(handle, operation, weight, input, output, output, &algorithm,
                                   &result) == CUBLAS_STATUS_SUCCESS &&
           result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= workspace_bytes;
  }

  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, input = nullptr, output = nullptr;

 private:
  template <class Value>
  BertStatus set(cublasLtMatmulDescAttributes_t attribute, const Value& value) {
    return checked(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)),
                   "cuBLASLt product");
  }

  static BertStatus layout(cublasLtMatrixLayout_t* layout, cudaDataType_t type, int rows,
                           int columns) {
    return checked(cublasLtMatrixLayoutCreate(layout, type, rows, columns, rows),
                   "cuBLASLt layout");
  }

  cublasLtMatmulPreference_t preference_ = nullptr;
};

struct Pointers {
  const void* weight;
  const void* input;
  void* output;
  void* workspace;
};

class Events {
 public:
  Events() { created_ = cudaEventCreate(&start) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess; }
  ~Events() {
    if (start != nullptr) cudaEventDestroy(start);
    if (end != nullptr) cudaEventDestroy(end);
  }
  bool created() const { return created_; }
  cudaEvent_t start = nullptr, end = nullptr;

 private:
  bool created_;
};

}  // namespace
}  // namespace bert

struct BertGemm {
  cublasLtHandle_t handle = nullptr;
  std::map<bert::Key, bert::Bucket> buckets;

  BertStatus multiply(const bert::Description& description, const cublasLtMatmulAlgo_t& algorithm,
                      const bert::Product& product, const bert::Pointers& at, BertStream stream) {
    const float one = 1.0f, zero = 0.0f;
    const int32_t whole_one = 1, whole_zero = 0;
    const void* alpha = product.integers ? static_cast<const void*>(&whole_one) : &one;
    const void* beta = product.integers ? static_cast<const void*>(&whole_zero) : &zero;
    return bert::checked(
        cublasLtMatmul(handle, description.operation, alpha, at.weight, description.weight,
                       at.input, description.input, beta, at.output, description.output, at.output,
                       description.output, &algorithm, at.workspace, product.workspace_bytes,
                       stream),
        "cuBLASLt product");
  }

  BertStatus run(const bert::Product& product, const bert::Pointers& at, BertStream stream) {
    bert::Description description;
    BERT_RETURN_IF_ERROR(description.describe(product));
    bert::Bucket& bucket = buckets[product.key()];
    auto known = bucket.chosen.find(product.tokens);
    if (known == bucket.chosen.end()) {
      std::vector<cublasLtMatmulAlgo_t> found;
      if (bucket.tuned && description.allows(handle, *bucket.tuned, product.workspace_bytes)) {
        found = {*bucket.tuned};
      } else {
        BERT_RETURN_IF_ERROR(description.candidates(handle, 1, &found));
      }
      known = bucket.chosen.emplace(product.tokens, found.front()).first;
    }
    return multiply(description, known->second, product, at, stream);
  }

  // Milliseconds of some runs.
  BertStatus time(const bert::Description& description, const cublasLtMatmulAlgo_t& algorithm,
                  const bert::Product& product, const bert::Pointers& at,
                  const bert::Events& events, BertStream stream, float* milliseconds) {
    BERT_RETURN_IF_ERROR(bert::checked(cudaEventRecord(events.start, stream), "tuning"));
    for (int run = 0; run < bert::kRunsATurn; ++run) {
      BERT_RETURN_IF_ERROR(multiply(description, algorithm, product, at, stream));
    }
    BERT_RETURN_IF_ERROR(bert::checked(cudaEventRecord(events.end, stream), "tuning"));
    BERT_RETURN_IF_ERROR(bert::checked(cudaEventSynchronize(events.end), "tuning"));
    return bert::checked(cudaEventElapsedTime(milliseconds, events.start, events.end), "tuning");
  }

  BertStatus tune(const bert::Product& product, const bert::Pointers& at, BertStream stream) {
    bert::Description description;
    BERT_RETURN_IF_ERROR(description.describe(product));
    std::vector<cublasLtMatmulAlgo_t> found;
    BERT_RETURN_IF_ERROR(description.candidates(handle, bert::kCandidates, &found));
    const bert::Events events;
    if (!events.created()) return bert::fail(BERT_DEVICE_ERROR, "no CUDA events for tuning");
    // Candidates take turns, so that a change of clocks meets all of them; medians decide. One turn
    // warms up, and the next leaves those that may win: most are far behind.
    std::vector<std::vector<float>> times(found.size());
    float fastest = std::numeric_limits<float>::infinity();
    for (int turn = -1; turn < bert::kTimedTurns; ++turn) {
      for (size_t i = 0; i < found.size(); ++i) {
        if (turn > 0 && times[i][0] > bert::kHopeless * fastest) continue;
        float milliseconds = 0.0f;
        BERT_RETURN_IF_ERROR(
            time(description, found[i], product, at, events, stream, &milliseconds));
        if (turn >= 0) times[i].push_back(milliseconds);
        if (turn == 0) fastest = std::min(fastest, milliseconds);
      }
    }
    size_t best = 0;
    float best_median = std::numeric_limits<float>::infinity();
    for (size_t i = 0; i < times.size(); ++i) {
      if (times[i].size() < bert::kTimedTurns) continue;
      const auto middle = times[i].begin() + bert::kTimedTurns / 2;
      std::nth_element(times[i].begin(), middle, times[i].end());
      if (*middle < best_median) {
        best_median = *middle;
        best = i;
      }
    }
    // Whatever the bucket's numbers of tokens had until now, they choose again.
    buckets[product.key()] = {found[best], {}};
    return BERT_OK;
  }
};

namespace bert {
namespace {

BertStatus prepare(BertGemm* gemm, const BertLinear* linear, Product* product, Pointers* at) {
  BERT_REQUIRE(gemm != nullptr && linear != nullptr, "a linear has no BertGemm or description");
  BERT_REQUIRE(linear->input != nullptr && linear->weight != nullptr && linear->output != nullptr,
               "a linear's input, weight or output is NULL");
  BERT_REQUIRE(linear->tokens > 0 && linear->in > 0 && linear->out > 0 && linear->in % 8 == 0 &&
                   linear->out % 8 == 0,
               "a linear's channels are multiples of 8, not " + std::to_string(linear->in) +
                   " and " + std::to_string(linear->out));
  BERT_REQUIRE(linear->activation == BERT_NO_ACTIVATION || linear->bias != nullptr,
               "a linear with GELU has a bias");
  BERT_REQUIRE(linear->workspace != nullptr || linear->workspace_bytes == 0,
               "a linear's workspace is NULL");
  *product = {linear->tokens, linear->in,   linear->out,           false,
              linear->activation, linear->bias, linear->workspace_bytes};
  *at = {linear->weight, linear->input, linear->output, linear->workspace};
  return BERT_OK;
}

BertStatus prepare(BertGemm* gemm, const BertLinearInt8* linear, Product* product, Pointers* at) {
  BERT_REQUIRE(gemm != nullptr && linear != nullptr, "a linear has no BertGemm or description");
  BERT_REQUIRE(linear->input != nullptr && linear->weight != nullptr && linear->sums != nullptr &&
                   linear->weight_scales != nullptr,
               "an INT8 linear's input, weight, scales or sums are NULL");
  BERT_REQUIRE(linear->tokens > 0 && linear->in > 0 && linear->out > 0 && linear->in % 16 == 0 &&
                   linear->out % 16 == 0,
               "an INT8 linear's channels are multiples of 16, not " + std::to_string(linear->in) +
                   " and " + std::to_string(linear->out));
  // A sum of `in` products of INT8 numbers must fit INT32.
  BERT_REQUIRE(linear->in <= (1 << 17), "an INT8 linear has too many channels for INT32 sums");
  *product = {linear->tokens, linear->in, linear->out,           true,
              BERT_NO_ACTIVATION, nullptr, linear->workspace_bytes};
  *at = {linear->weight, linear->input, linear->sums, linear->workspace};
  return BERT_OK;
}

}  // namespace
}  // namespace bert

BertStatus bert_gemm_create(BertGemm** gemm) {
  BERT_REQUIRE(gemm != nullptr, "gemm is NULL");
  // A thread that has not used the device yet has no context, and cuBLASLt asks for one.
  BERT_RETURN_IF_ERROR(bert::checked(cudaFree(nullptr), "CUDA context"));
  auto created = new BertGemm;
  const BertStatus status = bert::checked(cublasLtCreate(&created->handle), "cuBLASLt");
  if (status != BERT_OK) {
    delete created;
    return status;
  }
  *gemm = created;
  return BERT_OK;
}

void bert_gemm_destroy(BertGemm* gemm) {
  if (gemm == nullptr) return;
  cublasLtDestroy(gemm->handle);
  delete gemm;
}

BertStatus bert_linear(BertGemm* gemm, const BertLinear* linear, BertStream stream) {
  bert::Product product;
  bert::Pointers at;
  BERT_RETURN_IF_ERROR(bert::prepare(gemm, linear, &product, &at));
  return gemm->run(product, at, stream);
}

BertStatus bert_linear_tune(BertGemm* gemm, const BertLinear* linear, BertStream stream) {
  bert::Product product;
  bert::Pointers at;
  BERT_RETURN_IF_ERROR(bert::prepare(gemm, linear, &product, &at));
  return gemm->tune(product, at, stream);
}

BertStatus bert_linear_int8(BertGemm* gemm, const BertLinearInt8* linear, BertStream stream) {
  bert::Product product;
  bert::Pointers at;
  BERT_RETURN_IF_ERROR(bert::prepare(gemm, linear, &product, &at));
  BERT_RETURN_IF_ERROR(gemm->run(product, at, stream));
  return bert_linear_int8_finish(linear, stream);
}

BertStatus bert_linear_int8_tune(BertGemm* gemm, const BertLinearInt8* linear,
                                 BertStream stream) {
  bert::Product product;
  bert::Pointers at;
  BERT_RETURN_IF_ERROR(bert::prepare(gemm, linear, &product, &at));
  return gemm->tune(product, at, stream);
}
