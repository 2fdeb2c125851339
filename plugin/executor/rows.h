// The kernels that go row by row: embedding, and the layer norms that follow a GEMM.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "batch.h"
#include "model.h"

namespace bert::executor {

struct NormWeights {
  const half* gamma;  // (hidden)
  const half* beta;
};

// Where a row is stored as E4M3 or INT8 as well, as value / scale; nullptr for nowhere.
struct QuantizedOutput {
  uint8_t* rows;
  Type type;
  float scale;
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
  uint8_t* context_quantized;
  int rows, hidden;
  float epsilon;
  QuantizedOutput quantized;
};
void embed(const Embedding& embedding, cudaStream_t stream);

// A product of INT8, of which channel c is to be multiplied by input_scale * weight_scales[c].
struct Sums {
  const int32_t* rows;         // (rows, hidden)
  const float* weight_scales;  // (hidden)
  float input_scale;
};

// The QA head in FP16, or in INT8, to which a row is rounded then.
struct Head {
  Type type;
  const void* weight;          // (2, hidden)
  const half* bias;            // (2)
  const float* weight_scales;  // (2), of INT8
  float input_scale;           // of INT8
  float* start;                // (rows)
  float* end;                  // (rows)
};

// Layer norm of product + bias + residual. Either the rows are stored, or only what the QA head
// makes of them.
struct AddNorm {
  const half* product;  // (rows, hidden), or nullptr and
  Sums sums;
  const half* residual;  // (rows, hidden)
  const half* bias;      // (hidden)
  NormWeights norm;
  half* output;  // (rows, hidden), or nullptr and
  Head head;
  int rows, hidden;
  float epsilon;
  QuantizedOutput quantized;  // of rows that are stored
};
// `overlapped`: the kernel is launched before the one ahead of it has ended, and waits for it
// itself. Compute capability 9.0 and later.
void add_norm(const AddNorm& task, bool overlapped, cudaStream_t stream);

// Values that look random, for timing: FP16 in (-1, 1), E4M3 in [-64, 64], INT8 in [-127, 127].
void fill(void* values, Type type, size_t count, cudaStream_t stream);

}  // namespace bert::executor
