// Embedding and residual layer norms: one warp a row, the row in registers between its only read
// and its only write. Both are bound by memory: 768 channels are 1.5 KB a tensor and row in FP16,
// against about 10 operations a channel.

#include "pack.cuh"
#include "sequences.cuh"
#include "warp.cuh"

namespace bert {
namespace {

constexpr int kRowsPerBlock = 4;

struct Norm {
  const half* gamma;
  const half* beta;
  int hidden;
  float epsilon;
};

// Normalizes one row, of which `source.load(channel, values)` gives eight channels.
template <int kPacks, class Source>
__device__ void normalize(const Source& source, const Norm& norm, const BertNormOutputs& outputs,
                          size_t row) {
  const int lane = threadIdx.x % kWarp;
  float values[kPacks][kPack];
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int channel = (lane + i * kWarp) * kPack;
    if (channel < norm.hidden) {
      source.load(channel, values[i]);
#pragma unroll
      for (int j = 0; j < kPack; ++j) sum += values[i][j];
    }
  }
  const float mean = warp_sum(sum) / norm.hidden;
  // The variance about the mean, not E[x^2] - E[x]^2, which cancels in FP32.
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if ((lane + i * kWarp) * kPack < norm.hidden) {
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        values[i][j] -= mean;
        squares += values[i][j] * values[i][j];
      }
    }
  }
  const float inverse = rsqrtf(warp_sum(squares) / norm.hidden + norm.epsilon);
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int channel = (lane + i * kWarp) * kPack;
    if (channel < norm.hidden) {
      float gamma[kPack], beta[kPack];
      load(norm.gamma + channel, gamma);
      load(norm.beta + channel, beta);
#pragma unroll
      for (int j = 0; j < kPack; ++j) values[i][j] = values[i][j] * inverse * gamma[j] + beta[j];
      const size_t at = row * norm.hidden + channel;
      if (outputs.half != nullptr) store(as_half(outputs.half) + at, values[i]);
      if (outputs.single != nullptr) store(outputs.single + at, values[i]);
      if (outputs.quantized != nullptr) {
        store_quantized(outputs.quantized + at, values[i], outputs.scale);
      }
    }
  }
}

struct EmbeddedRow {
  const half* word;
  const half* segment;
  const half* position;

  __device__ void load(int channel, float (&values)[kPack]) const {
    float more[kPack];
    bert::load(word + channel, values);
    bert::load(segment + channel, more);
#pragma unroll
    for (int j = 0; j < kPack; ++j) values[j] += more[j];
    bert::load(position + channel, more);
#pragma unroll
    for (int j = 0; j < kPack; ++j) values[j] += more[j];
  }
};

__device__ inline const half* table_row(const BertHalf* table, int row, int rows, int hidden) {
  const bool inside = row >= 0 && row < rows;
  return as_half(table) + static_cast<size_t>(inside ? row : 0) * hidden;
}

template <int kPacks>
__global__ void __launch_bounds__(kRowsPerBlock* kWarp)
    embed_kernel(BertSequences sequences, const int32_t* ids, const int32_t* segments,
                 BertEmbedding embedding, BertNormOutputs outputs) {
  const Window window = window_of(sequences, blockIdx.y);
  const int position = blockIdx.x * kRowsPerBlock + threadIdx.x / kWarp;
  if (position >= window.rows) return;
  const size_t row = window.start + position;
  const int hidden = embedding.hidden;
  const EmbeddedRow source{
      table_row(embedding.word, ids[row], embedding.vocab, hidden),
      table_row(embedding.segment, segments[row], embedding.segments, hidden),
      table_row(embedding.position, position, embedding.positions, hidden)};
  normalize<kPacks>(
      source, Norm{as_half(embedding.gamma), as_half(embedding.beta), hidden, embedding.epsilon},
      outputs, row);
}

template <class Input, class Residual>
struct SummedRow {
  const Input* input;
  const Residual* residual;
  const half* bias;
  float scale;

  __device__ void load(int channel, float (&values)[kPack]) const {
    float more[kPack];
    bert::load(input + channel, values);
    bert::load(residual + channel, more);
#pragma unroll
    for (int j = 0; j < kPack; ++j) values[j] = values[j] * scale + more[j];
    if (bias != nullptr) {
      bert::load(bias + channel, more);
#pragma unroll
      for (int j = 0; j < kPack; ++j) values[j] += more[j];
    }
  }
};

template <int kPacks, class Input, class Residual>
__global__ void __launch_bounds__(kRowsPerBlock* kWarp)
    add_norm_kernel(const Input* input, const Residual* residual, const half* bias, float scale,
                    int rows, Norm norm, BertNormOutputs outputs) {
  const int row = blockIdx.x * kRowsPerBlock + threadIdx.x / kWarp;
  if (row >= rows) return;
  const size_t offset = static_cast<size_t>(row) * norm.hidden;
  normalize<kPacks>(
      SummedRow<Input, Residual>{input + offset, residual + offset, bias, scale}, norm, outputs,
      row);
}

// Calls `launch` with the number of packs a lane holds, as a compile-time constant.
template <class Launch>
void with_packs(int hidden, Launch launch) {
  constexpr int kMost = (BERT_MAX_HIDDEN / kPack + kWarp - 1) / kWarp;
  const int packs = (hidden / kPack + kWarp - 1) / kWarp;
  static_assert(kMost <= 4);
  if (packs == 1) launch(std::integral_constant<int, 1>{});
  if (packs == 2) launch(std::integral_constant<int, 2>{});
  if constexpr (kMost > 2) {
    if (packs == 3) launch(std::integral_constant<int, 3>{});
    if (packs == 4) launch(std::integral_constant<int, 4>{});
  }
}

BertStatus check_norm(int hidden, const void* gamma, const void* beta,
                      const BertNormOutputs* outputs) {
  BERT_REQUIRE(hidden > 0 && hidden <= BERT_MAX_HIDDEN && hidden % kPack == 0,
               "hidden is a multiple of 8 up to 1024, not " + std::to_string(hidden));
  BERT_REQUIRE(gamma != nullptr && beta != nullptr, "a layer norm has no gamma or beta");
  BERT_REQUIRE(outputs != nullptr && (outputs->half != nullptr || outputs->single != nullptr ||
                                      outputs->quantized != nullptr),
               "a layer norm has no output");
  BERT_REQUIRE(outputs->quantized == nullptr || outputs->scale > 0,
               "an INT8 output's scale is not positive");
  return BERT_OK;
}

int blocks_for(int rows) { return (rows + kRowsPerBlock - 1) / kRowsPerBlock; }

}  // namespace
}  // namespace bert

BertStatus bert_embed(const BertSequences* sequences, const int32_t* ids, const int32_t* segments,
                      const BertEmbedding* embedding, const BertNormOutputs* outputs,
                      BertStream stream) {
  using namespace bert;
  BERT_RETURN_IF_ERROR(check(sequences));
  BERT_REQUIRE(ids != nullptr && segments != nullptr && embedding != nullptr &&
                   embedding->word != nullptr && embedding->segment != nullptr &&
                   embedding->position != nullptr,
               "an embedding's ids, segments or tables are NULL");
  BERT_REQUIRE(embedding->vocab > 0 && embedding->segments > 0 &&
                   embedding->positions >= sequences->max_length,
               "the embedding has " + std::to_string(embedding->positions) +
                   " positions, the windows up to " + std::to_string(sequences->max_length));
  BERT_RETURN_IF_ERROR(check_norm(embedding->hidden, embedding->gamma, embedding->beta, outputs));
  const dim3 grid(blocks_for(sequences->max_length), sequences->windows);
  with_packs(embedding->hidden, [&](auto packs) {
    embed_kernel<packs.value><<<grid, kRowsPerBlock * kWarp, 0, stream>>>(
        *sequences, ids, segments, *embedding, *outputs);
  });
  return launched("embedding");
}

BertStatus bert_add_norm(const BertNormInputs* inputs, const BertNormOutputs* outputs,
                         BertStream stream) {
  using namespace bert;
  BERT_REQUIRE(inputs != nullptr && inputs->tokens > 0, "a layer norm has no rows");
  BERT_REQUIRE((inputs->half != nullptr) != (inputs->quantized != nullptr),
               "a layer norm takes one input, FP16 or INT8");
  BERT_REQUIRE((inputs->residual_half != nullptr) != (inputs->residual_single != nullptr),
               "a layer norm takes one residual, FP16 or FP32");
  BERT_REQUIRE(inputs->quantized == nullptr || inputs->scale > 0,
               "an INT8 input's scale is not positive");
  BERT_RETURN_IF_ERROR(check_norm(inputs->hidden, inputs->gamma, inputs->beta, outputs));
  const Norm norm{as_half(inputs->gamma), as_half(inputs->beta), inputs->hidden, inputs->epsilon};
  const auto run = [&](auto* input, auto* residual, float scale) {
    with_packs(inputs->hidden, [&](auto packs) {
      add_norm_kernel<packs.value>
          <<<blocks_for(inputs->tokens), kRowsPerBlock * kWarp, 0, stream>>>(
              input, residual, as_half(inputs->bias), scale, inputs->tokens, norm, *outputs);
    });
  };
  const auto with_residual = [&](auto* input, float scale) {
    if (inputs->residual_half != nullptr) {
      run(input, as_half(inputs->residual_half), scale);
    } else {
      run(input, inputs->residual_single, scale);
    }
  };
  if (inputs->half != nullptr) {
    with_residual(as_half(inputs->half), 1.0f);
  } else {
    with_residual(inputs->quantized, inputs->scale);
  }
  return launched("layer norm");
}
