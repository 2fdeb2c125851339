// The kernels that go row by row: embedding, and the layer norms that follow a GEMM.
#pragma once

#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "batch.h"

namespace bert::executor {

struct NormWeights {
  const half* gamma;  // (hidden)
  const half* beta;
};

// Where a row is stored as E4M3 as well, as value * inverse; nullptr for nowhere.
struct E4m3Output {
  __nv_fp8_storage_t* rows;
  float inverse;
};

// Layer norm of the sum of three embeddings.
struct Embedding {
  const half* word;      // (vocab, hidden)
  const half* segment;   // (segments, hidden)
  const half* position;  // (positions, hidden)
  NormWeights norm;
  const Token* tokens;   // (rows); only those that count are read
  const int32_t* count;  // one number, the rows that count
  half* output;          // (rows, hidden); rows that do not count get finite values
  // (rows, hidden), one of them, of which rows that do not count become zeros.
  half* context;
  __nv_fp8_storage_t* context_quantized;
  int rows, hidden;
  float epsilon;
  E4m3Output quantized;
};
void embed(const Embedding& embedding, cudaStream_t stream);

// Layer norm of product + bias + residual. Either the rows are stored, or only what the QA head
// makes of them.
struct AddNorm {
  const half* product;   // (rows, hidden)
  const half* residual;  // (rows, hidden)
  const half* bias;      // (hidden)
  NormWeights norm;
  half* output;             // (rows, hidden), or nullptr and
  const half* head_weight;  // (2, hidden)
  const half* head_bias;    // (2)
  float* start;             // (rows)
  float* end;               // (rows)
  int rows, hidden;
  float epsilon;
  E4m3Output quantized;  // of rows that are stored
};
// `overlapped`: the kernel is launched before the one ahead of it has ended, and waits for it
// itself. Compute capability 9.0 and later.
void add_norm(const AddNorm& task, bool overlapped, cudaStream_t stream);

// Values that look random, for timing: FP16 in (-1, 1), E4M3 in [-64, 64].
void fill(half* values, size_t count, cudaStream_t stream);
void fill(__nv_fp8_storage_t* values, size_t count, cudaStream_t stream);

}  // namespace bert::executor
