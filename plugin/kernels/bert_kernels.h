/* BERT's operations on a GPU, as a C interface without any dependency on TensorRT.
 *
 * Activations are row-major (tokens, channels); a row is one token of one window. FP16 is IEEE
 * binary16; sums, softmax and normalization are in FP32. Every pointer but those in structs'
 * comments marked host is to device memory, aligned to 16 bytes, and every function queues its
 * work on `stream` and returns: nothing is allocated or synchronized, so that a CUDA graph can
 * capture it. Each returns BERT_OK or an error, of which bert_last_error() has one line.
 */
#ifndef BERT_KERNELS_H
#define BERT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BERT_API __attribute__((visibility("default")))

typedef enum BertStatus {
  BERT_OK = 0,
  BERT_BAD_ARGUMENT = 1, /* a shape, pointer or value outside what is documented */
  BERT_UNSUPPORTED = 2,  /* this device or library cannot */
  BERT_DEVICE_ERROR = 3  /* CUDA or cuBLASLt has failed */
} BertStatus;

/* One line on the last error of the calling thread; never NULL. */
BERT_API const char* bert_last_error(void);

typedef uint16_t BertHalf;          /* binary16 */
typedef struct CUstream_st* BertStream; /* cudaStream_t */

/* How the windows of a batch lie in its rows.
 * Padded: `starts` is NULL, window w begins at row w * max_length.
 * Ragged: `starts` (windows + 1) are cumulative lengths, window w begins at row starts[w].
 * `lengths` (windows), NULL for none, are the tokens that count; by default all of a window's
 * rows. Attention does not see a row beyond its window's length, and writes zeros to it. */
typedef struct BertSequences {
  int32_t windows;
  int32_t max_length; /* at most 512 */
  int32_t tokens;     /* rows in all */
  const int32_t* starts;
  const int32_t* lengths;
} BertSequences;

enum { BERT_MAX_LENGTH = 512, BERT_MAX_HIDDEN = 1024 };

/* The outputs of a normalization, each NULL if not wanted: FP16; FP32; INT8 of the given scale
 * (clip(round(value / scale), -128, 127), halves to even). */
typedef struct BertNormOutputs {
  BertHalf* half;
  float* single;
  int8_t* quantized;
  float scale;
} BertNormOutputs;

/* Embedding tables (vocab, hidden), (segments, hidden), (positions, hidden) and the layer norm's
 * gamma and beta (hidden). `hidden` is a multiple of 8, at most 1024. */
typedef struct BertEmbedding {
  const BertHalf* word;
  const BertHalf* segment;
  const BertHalf* position;
  const BertHalf* gamma;
  const BertHalf* beta;
  int32_t vocab, segments, positions, hidden;
  float epsilon;
} BertEmbedding;

/* Layer norm of the sum of three embeddings, for ids and segments int32 (tokens). An id outside
 * its table reads row 0. */
BERT_API BertStatus bert_embed(const BertSequences* sequences, const int32_t* ids,
                               const int32_t* segments, const BertEmbedding* embedding,
                               const BertNormOutputs* outputs, BertStream stream);

/* Layer norm of input + bias + residual over `hidden` channels. The input is FP16, or INT8 with
 * a scale; the residual FP16 or FP32. An output may be the residual's own memory. */
typedef struct BertNormInputs {
  const BertHalf* half;   /* this one, or */
  const int8_t* quantized; /* this one */
  float scale;
  const BertHalf* residual_half; /* this one, or */
  const float* residual_single;  /* this one */
  const BertHalf* bias;          /* (hidden), or NULL */
  const BertHalf* gamma;         /* (hidden) */
  const BertHalf* beta;          /* (hidden) */
  int32_t tokens, hidden;
  float epsilon;
} BertNormInputs;

BERT_API BertStatus bert_add_norm(const BertNormInputs* inputs, const BertNormOutputs* outputs,
                                  BertStream stream);

/* Attention: qkv FP16 (tokens, 3 * heads * head_size), in a row all queries, all keys, all
 * values, head by head; writes the context (tokens, heads * head_size) as FP16, or as INT8 of
 * `scale` if `quantized` is not NULL. softmax(q k' / sqrt(head_size)) in FP32. Scores are never
 * written to memory. head_size is 32 or 64. qkv's rows of padding hold
 * finite numbers, any. */
BERT_API BertStatus bert_attention(const BertSequences* sequences, int32_t heads,
                                   int32_t head_size, const BertHalf* qkv, BertHalf* context,
                                   int8_t* quantized, float scale, BertStream stream);

/* The same with the context in FP8 (E4M3): value / scale rounded to even, at most +-448. Toolkits
 * before CUDA 11.8 have no such type: BERT_UNSUPPORTED. */
BERT_API BertStatus bert_attention_e4m3(const BertSequences* sequences, int32_t heads,
                                        int32_t head_size, const BertHalf* qkv, uint8_t* context,
                                        float scale, BertStream stream);

/* What bert_attention runs on this device; for tests, `choose` names another one. */
typedef enum BertAttentionKernel {
  BERT_ATTENTION_AUTO = 0,
  BERT_ATTENTION_PORTABLE = 1, /* any device, any warp size */
  BERT_ATTENTION_MMA = 2,      /* NVIDIA 7.5 and later */
  BERT_ATTENTION_WGMMA = 3     /* NVIDIA 9.0 */
} BertAttentionKernel;
BERT_API BertStatus bert_attention_choose(BertAttentionKernel kernel);
BERT_API BertStatus bert_attention_chosen(BertAttentionKernel* kernel);

/* GELU in its exact form, x (1 + erf(x / sqrt 2)) / 2, of input + bias. One input, one output;
 * INT8 with the given scales. `channels` is a multiple of 8. In place is allowed where input and
 * output have one type. */
typedef struct BertGelu {
  const BertHalf* half;
  const int8_t* quantized;
  float scale;
  const BertHalf* bias; /* (channels), or NULL */
  BertHalf* output_half;
  int8_t* output_quantized;
  float output_scale;
  int32_t tokens, channels;
} BertGelu;
BERT_API BertStatus bert_gelu(const BertGelu* gelu, BertStream stream);

/* INT8 (count) of FP16 (count) and back; count is a multiple of 8. */
BERT_API BertStatus bert_quantize(const BertHalf* input, float scale, int8_t* output, size_t count,
                                  BertStream stream);
BERT_API BertStatus bert_dequantize(const int8_t* input, float scale, BertHalf* output,
                                    size_t count, BertStream stream);

/* Where padding begins: from a mask (windows, length), in which 1 marks a token and 0 padding,
 * each window's tokens int32 (windows), and, if not NULL, the inverted mask as INT32 or INT8. */
BERT_API BertStatus bert_mask_lengths(const int32_t* mask, int32_t windows, int32_t length,
                                      int32_t* lengths, int32_t* padding, int8_t* padding_int8,
                                      BertStream stream);
/* The same from the inverted mask, in which 1 marks padding: INT32, or INT8. */
BERT_API BertStatus bert_padding_lengths(const int32_t* padding, const int8_t* padding_int8,
                                         int32_t windows, int32_t length, int32_t* lengths,
                                         BertStream stream);

/* The QA head: start and end logits FP32 (tokens) of input FP16 (tokens, hidden) with weight
 * FP16 (2, hidden) and bias FP16 (2). */
BERT_API BertStatus bert_qa_head(const BertHalf* input, int32_t tokens, int32_t hidden,
                                 const BertHalf* weight, const BertHalf* bias, float* start,
                                 float* end, BertStream stream);

/* cuBLASLt's handle and the algorithms chosen so far. For one thread at a time. */
typedef struct BertGemm BertGemm;
BERT_API BertStatus bert_gemm_create(BertGemm** gemm);
BERT_API void bert_gemm_destroy(BertGemm* gemm);
/* Bytes of workspace that bert_linear may use: the more, the freer is its choice. */
enum { BERT_GEMM_WORKSPACE = 32 << 20 };

typedef enum BertActivation { BERT_NO_ACTIVATION = 0, BERT_GELU = 1 } BertActivation;

/* y = activation(x W' + bias), x FP16 (tokens, in), W FP16 (out, in) as PyTorch keeps it, bias
 * FP16 (out) or NULL, y FP16 (tokens, out); sums in FP32. GELU here is cuBLASLt's, the tanh
 * form, which differs from the exact one by less than 5e-4, and wants a bias. `in` and `out` are
 * multiples of 8. */
typedef struct BertLinear {
  const BertHalf* input;
  const BertHalf* weight;
  const BertHalf* bias;
  BertHalf* output;
  int32_t tokens, in, out;
  BertActivation activation;
  void* workspace;
  size_t workspace_bytes;
} BertLinear;
BERT_API BertStatus bert_linear(BertGemm* gemm, const BertLinear* linear, BertStream stream);

/* Times cuBLASLt's algorithms for this linear and keeps the fastest, for all numbers of tokens in
 * one bucket: where another number's own shape does not allow it, that one gets cuBLASLt's choice,
 * as all do without tuning. Writes the output; synchronizes `stream`, which nobody may be
 * capturing. */
BERT_API BertStatus bert_linear_tune(BertGemm* gemm, const BertLinear* linear, BertStream stream);
/* The most tokens in the bucket that `tokens` is in: 64, and from there four an octave. */
BERT_API int32_t bert_linear_bucket(int32_t tokens);

/* y = activation(x W' scale + bias), x INT8 (tokens, in) of `input_scale`, W INT8 (out, in) of
 * `weight_scales` FP32 (out), sums exact in INT32. Output FP16, or INT8 of `output_scale`; GELU
 * here is exact. `sums` holds tokens * out int32. `in` and `out` are multiples of 16. */
typedef struct BertLinearInt8 {
  const int8_t* input;
  float input_scale;
  const int8_t* weight;
  const float* weight_scales;
  const BertHalf* bias; /* or NULL */
  BertHalf* output_half;
  int8_t* output_quantized;
  float output_scale;
  int32_t* sums;
  int32_t tokens, in, out;
  BertActivation activation;
  void* workspace;
  size_t workspace_bytes;
} BertLinearInt8;
BERT_API BertStatus bert_linear_int8(BertGemm* gemm, const BertLinearInt8* linear,
                                     BertStream stream);
/* Its second half, for `sums` that are there: it reads neither input, weight nor workspace. */
BERT_API BertStatus bert_linear_int8_finish(const BertLinearInt8* linear, BertStream stream);
/* As bert_linear_tune; writes `sums`, and no output need be given. */
BERT_API BertStatus bert_linear_int8_tune(BertGemm* gemm, const BertLinearInt8* linear,
                                          BertStream stream);

#ifdef __cplusplus
}
#endif

#endif
