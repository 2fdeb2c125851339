/* BERT for question answering as a whole network on an NVIDIA GPU, without any inference runtime.
 *
 * An engine is a file: weights, and cuBLASLt's fastest algorithm for each GEMM and number of
 * tokens, as timed on one kind of device. A runner executes batches of it on a stream of its own.
 * Batches are ragged: no work is done on padding. Pointers are to host memory. Every function
 * returns BERT_OK or an error, of which bert_executor_last_error() has one line.
 */
#ifndef BERT_EXECUTOR_H
#define BERT_EXECUTOR_H

#include "bert_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One line on the last error of the calling thread; never NULL. */
BERT_API const char* bert_executor_last_error(void);

/* FP8: a layer's linears take E4M3, one scale a tensor, and add up as precisely as tensor cores do
 * for FP8. Compute capability 8.9 and later.
 * INT8: a layer's linears and the QA head take INT8, one scale for the input and one an output
 * channel for the weight; sums are exact. With HALF_HEAD the QA head is as in FP16.
 * In both all between the linears, attention's products too, is as in FP16. */
typedef enum BertPrecision {
  BERT_FP16 = 0,
  BERT_FP8 = 1,
  BERT_INT8 = 2,
  BERT_INT8_HALF_HEAD = 3
} BertPrecision;

/* Heads have 32 or 64 channels; `hidden` is a multiple of 8 and at most 1024, `intermediate` a
 * multiple of 8, both of 16 in FP8 and INT8; windows have up to `positions` tokens, and up to
 * BERT_MAX_LENGTH. */
typedef struct BertArchitecture {
  int32_t layers, hidden, heads, intermediate, vocab, segments, positions;
  float epsilon; /* added to the variance in layer norms */
} BertArchitecture;

/* A tensor of weights, row-major FP16; linears are (out, in). {i} counts layers from 0.
 *
 *   embeddings.{word (vocab, hidden), segment (segments, hidden), position (positions, hidden)}
 *   embeddings.norm.{gamma, beta} (hidden)
 *   layer.{i}.attention.qkv.{weight (3 * hidden, hidden), bias (3 * hidden)}  query, key, value
 *   layer.{i}.attention.output.{weight (hidden, hidden), bias (hidden)}
 *   layer.{i}.attention.norm.{gamma, beta} (hidden)
 *   layer.{i}.ffn.in.{weight (intermediate, hidden), bias (intermediate)}
 *   layer.{i}.ffn.out.{weight (hidden, intermediate), bias (hidden)}
 *   layer.{i}.ffn.norm.{gamma, beta} (hidden)
 *   qa.{weight (2, hidden), bias (2)}
 *
 * Linears in FP8 have weights in E4M3, those in INT8 in INT8, and beside weight and bias `scales`,
 * FP32: what the weight's values are to be multiplied by, which is one number in FP8 and one an
 * output channel in INT8, and last the same of the linear's input. What a linear takes is divided
 * by that and rounded, halves to even; it ends at +-448 in FP8, at -128 and 127 in INT8.
 */
typedef struct BertTensor {
  const char* name;
  const void* data;
  uint64_t bytes;
} BertTensor;

/* Writes the engine of these tensors to `path`, tuned on CUDA's device `device` for batches of up
 * to `max_tokens` tokens; larger ones run as well, with algorithms that were timed for fewer. */
BERT_API BertStatus bert_engine_build(const BertArchitecture* architecture,
                                      BertPrecision precision, const BertTensor* tensors,
                                      int32_t count, int32_t device, int32_t max_tokens,
                                      const char* path);

/* Checks a file without a device: BERT_BAD_ARGUMENT where it is no whole engine. */
BERT_API BertStatus bert_engine_check(const char* path, BertArchitecture* architecture,
                                      BertPrecision* precision);

/* An engine's weights on a device. Refuses a damaged file, and one that was built for another
 * kind of device or another cuBLASLt. */
typedef struct BertEngine BertEngine;
BERT_API BertStatus bert_engine_load(const char* path, int32_t device, BertEngine** engine);
/* After all its runners. */
BERT_API void bert_engine_destroy(BertEngine* engine);

/* A stream with memory for batches of up to `max_windows` windows and `max_tokens` tokens. For
 * one thread at a time; several runners of an engine run at the same time. */
typedef struct BertRunner BertRunner;
BERT_API BertStatus bert_runner_create(const BertEngine* engine, int32_t max_windows,
                                       int32_t max_tokens, BertRunner** runner);
BERT_API void bert_runner_destroy(BertRunner* runner);

/* Batches that are alike share a CUDA graph; this makes the one that a batch of `windows` windows
 * with `tokens` tokens, the longest with `longest`, will run. Submitting makes it otherwise. */
BERT_API BertStatus bert_runner_prepare(BertRunner* runner, int32_t windows, int32_t tokens,
                                        int32_t longest);

/* Window w has lengths[w] tokens, at least 1, from index offsets[w] on of `ids` and `segments`:
 * padded batches and packed ones alike. An id outside its table counts as 0. */
typedef struct BertBatch {
  int32_t windows;
  const int32_t* offsets;
  const int32_t* lengths;
  const int32_t* ids;
  const int32_t* segments;
} BertBatch;
/* Queues a batch, whose arrays have been read when this returns; one at a time. */
BERT_API BertStatus bert_runner_submit(BertRunner* runner, const BertBatch* batch);
/* Waits for it. Writes start and end logits to its tokens' indices and nowhere else, and the
 * milliseconds between the copies to and from the device. */
BERT_API BertStatus bert_runner_wait(BertRunner* runner, float* start, float* end,
                                     float* milliseconds);

/* For tests: fills the memory of activations and workspace with NaN. */
BERT_API BertStatus bert_runner_poison(BertRunner* runner);

#ifdef __cplusplus
}
#endif

#endif
