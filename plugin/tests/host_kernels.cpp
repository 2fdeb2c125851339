// bert_kernels.h and what the plugins use of the CUDA runtime, on the host: "device" memory is
// ordinary memory, so that sanitizers see every byte that a plugin hands to a kernel. Linked in
// place of the real ones where there is no GPU.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/bert_kernels.h"
#include "tests/reference.h"

namespace {

using reference::FromHalf;
using reference::ToHalf;
using reference::Values;

thread_local std::string g_error = "no error";

BertStatus Bad(const char* what) {
  g_error = what;
  return BERT_BAD_ARGUMENT;
}

Values Halves(const BertHalf* values, size_t count) {
  Values result(count);
  if (values != nullptr) {
    for (size_t i = 0; i < count; ++i) result[i] = FromHalf(values[i]);
  }
  return result;
}

Values Int8s(const int8_t* values, float scale, size_t count) {
  Values result(count);
  for (size_t i = 0; i < count; ++i) result[i] = static_cast<double>(values[i]) * scale;
  return result;
}

void Store(const Values& values, BertHalf* half, float* single, int8_t* quantized, float scale) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (half != nullptr) half[i] = ToHalf(values[i]);
    if (single != nullptr) single[i] = static_cast<float>(values[i]);
    if (quantized != nullptr) {
      quantized[i] = static_cast<int8_t>(reference::Quantized(values[i], scale));
    }
  }
}

bool Readable(const BertHalf* values, size_t count) {
  return std::none_of(values, values + count,
                      [](BertHalf value) { return std::isnan(FromHalf(value)); });
}

// So that no compiler leaves out what only reads.
volatile int g_sink;

constexpr size_t kDeviceBytes = size_t{1} << 32;
std::atomic<bool> g_capturing{false}, g_capture_ended{false};
thread_local cudaStreamCaptureMode g_mode = cudaStreamCaptureModeGlobal;

}  // namespace

extern "C" {

const char* bert_last_error(void) { return g_error.c_str(); }

BertStatus bert_embed(const BertSequences* sequences, const int32_t* ids, const int32_t* segments,
                      const BertEmbedding* e, const BertNormOutputs* outputs, BertStream) {
  if (sequences->starts != nullptr || sequences->max_length > e->positions) return Bad("embed");
  const size_t hidden = static_cast<size_t>(e->hidden);
  Values rows;
  for (int32_t t = 0; t < sequences->tokens; ++t) {
    const auto row = [&](const BertHalf* table, int32_t id, int32_t count) {
      return Halves(table + (id >= 0 && id < count ? static_cast<size_t>(id) : 0) * hidden, hidden);
    };
    const Values word = row(e->word, ids[t], e->vocab);
    const Values segment = row(e->segment, segments[t], e->segments);
    const Values position = row(e->position, t % sequences->max_length, e->positions);
    for (size_t c = 0; c < hidden; ++c) rows.push_back(word[c] + segment[c] + position[c]);
  }
  Store(reference::LayerNorm(rows, Halves(e->gamma, hidden), Halves(e->beta, hidden)),
        outputs->half, outputs->single, outputs->quantized, outputs->scale);
  return BERT_OK;
}

BertStatus bert_add_norm(const BertNormInputs* inputs, const BertNormOutputs* outputs, BertStream) {
  const size_t hidden = static_cast<size_t>(inputs->hidden);
  const size_t count = static_cast<size_t>(inputs->tokens) * hidden;
  Values rows = inputs->half != nullptr ? Halves(inputs->half, count)
                                        : Int8s(inputs->quantized, inputs->scale, count);
  const Values bias = Halves(inputs->bias, hidden);
  for (size_t i = 0; i < count; ++i) {
    rows[i] += bias[i % hidden] + (inputs->residual_half != nullptr
                                       ? FromHalf(inputs->residual_half[i])
                                       : static_cast<double>(inputs->residual_single[i]));
  }
  Store(reference::LayerNorm(rows, Halves(inputs->gamma, hidden), Halves(inputs->beta, hidden)),
        outputs->half, outputs->single, outputs->quantized, outputs->scale);
  return BERT_OK;
}

BertStatus bert_attention(const BertSequences* sequences, int32_t heads, int32_t head_size,
                          const BertHalf* qkv, BertHalf* context, int8_t* quantized, float scale,
                          BertStream) {
  if (head_size != 32 && head_size != 64) return Bad("head size");
  if (quantized != nullptr && !(scale > 0)) return Bad("scale");
  std::vector<int32_t> lengths(static_cast<size_t>(sequences->windows), sequences->max_length);
  for (size_t w = 0; w < lengths.size(); ++w) {
    if (sequences->lengths != nullptr) lengths[w] = sequences->lengths[w];
  }
  const size_t row = 3 * static_cast<size_t>(heads) * static_cast<size_t>(head_size);
  Store(reference::Attention(Halves(qkv, static_cast<size_t>(sequences->tokens) * row), lengths,
                             static_cast<size_t>(sequences->max_length),
                             static_cast<size_t>(heads), static_cast<size_t>(head_size)),
        context, nullptr, quantized, scale);
  return BERT_OK;
}

BertStatus bert_gelu(const BertGelu* gelu, BertStream) {
  const size_t channels = static_cast<size_t>(gelu->channels);
  const size_t count = static_cast<size_t>(gelu->tokens) * channels;
  Values values = gelu->half != nullptr ? Halves(gelu->half, count)
                                        : Int8s(gelu->quantized, gelu->scale, count);
  const Values bias = Halves(gelu->bias, channels);
  for (size_t i = 0; i < count; ++i) values[i] = reference::Gelu(values[i] + bias[i % channels]);
  Store(values, gelu->output_half, nullptr, gelu->output_quantized, gelu->output_scale);
  return BERT_OK;
}

BertStatus bert_dequantize(const int8_t* input, float scale, BertHalf* output, size_t count,
                           BertStream) {
  Store(Int8s(input, scale, count), output, nullptr, nullptr, 0);
  return BERT_OK;
}

BertStatus bert_mask_lengths(const int32_t* mask, int32_t windows, int32_t length,
                             int32_t* lengths, int32_t* padding, int8_t* padding_int8, BertStream) {
  for (int32_t w = 0; w < windows; ++w) {
    lengths[w] = 0;
    for (int32_t i = 0; i < length; ++i) {
      const int32_t at = w * length + i;
      lengths[w] += mask[at] != 0;
      if (padding != nullptr) padding[at] = mask[at] == 0;
      if (padding_int8 != nullptr) padding_int8[at] = mask[at] == 0;
    }
  }
  return BERT_OK;
}

BertStatus bert_padding_lengths(const int32_t* padding, const int8_t* padding_int8, int32_t windows,
                                int32_t length, int32_t* lengths, BertStream) {
  for (int32_t w = 0; w < windows; ++w) {
    lengths[w] = 0;
    for (int32_t i = w * length; i < (w + 1) * length; ++i) {
      lengths[w] += (padding != nullptr ? padding[i] : padding_int8[i]) == 0;
    }
  }
  return BERT_OK;
}

struct BertGemm {};
BertStatus bert_gemm_create(BertGemm** gemm) {
  *gemm = new BertGemm;
  return BERT_OK;
}
void bert_gemm_destroy(BertGemm* gemm) { delete gemm; }

BertStatus bert_linear(BertGemm*, const BertLinear* linear, BertStream) {
  if (linear->in % 8 != 0 || linear->out % 8 != 0) return Bad("multiples of 8");
  const size_t tokens = static_cast<size_t>(linear->tokens), in = static_cast<size_t>(linear->in);
  const size_t out = static_cast<size_t>(linear->out);
  Values y = reference::Linear(Halves(linear->input, tokens * in), Halves(linear->weight, out * in),
                               Halves(linear->bias, out), out);
  if (linear->activation == BERT_GELU) {
    for (double& value : y) value = reference::Gelu(value);
  }
  std::memset(linear->workspace, 0xff, linear->workspace_bytes);
  Store(y, linear->output, nullptr, nullptr, 0);
  return BERT_OK;
}

BertStatus bert_linear_int8(BertGemm*, const BertLinearInt8* linear, BertStream) {
  if (linear->in % 16 != 0 || linear->out % 16 != 0) return Bad("multiples of 16");
  const size_t tokens = static_cast<size_t>(linear->tokens), in = static_cast<size_t>(linear->in);
  const size_t out = static_cast<size_t>(linear->out);
  Values y = reference::Linear(Int8s(linear->input, 1, tokens * in),
                               Int8s(linear->weight, 1, out * in), {}, out);
  const Values bias = Halves(linear->bias, out);
  for (size_t i = 0; i < y.size(); ++i) {
    linear->sums[i] = static_cast<int32_t>(y[i]);
    y[i] = y[i] * linear->input_scale * linear->weight_scales[i % out] + bias[i % out];
  }
  std::memset(linear->workspace, 0xff, linear->workspace_bytes);
  Store(y, linear->output_half, nullptr, linear->output_quantized, linear->output_scale);
  return BERT_OK;
}

// Touches all that tuning is given, and chooses nothing.
BertStatus bert_linear_tune(BertGemm*, const BertLinear* linear, BertStream) {
  const size_t tokens = static_cast<size_t>(linear->tokens), in = static_cast<size_t>(linear->in);
  const size_t out = static_cast<size_t>(linear->out);
  if (!Readable(linear->input, tokens * in) || !Readable(linear->weight, out * in)) {
    return Bad("not a number");
  }
  std::memset(linear->output, 0xff, tokens * out * sizeof(BertHalf));
  std::memset(linear->workspace, 0xff, linear->workspace_bytes);
  return BERT_OK;
}

BertStatus bert_linear_int8_tune(BertGemm*, const BertLinearInt8* linear, BertStream) {
  const size_t tokens = static_cast<size_t>(linear->tokens), in = static_cast<size_t>(linear->in);
  const size_t out = static_cast<size_t>(linear->out);
  g_sink = std::accumulate(linear->input, linear->input + tokens * in, 0) +
           std::accumulate(linear->weight, linear->weight + out * in, 0);
  std::memset(linear->sums, 0xff, tokens * out * sizeof(int32_t));
  std::memset(linear->workspace, 0xff, linear->workspace_bytes);
  return BERT_OK;
}

// The CUDA runtime. A graph's "capture" runs at once, and its launch does nothing more; but as in
// CUDA, an allocation ends it unless the thread is in relaxed mode.

cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "an error"; }
cudaError_t cudaMalloc(void** data, size_t bytes) {
  if (g_capturing && g_mode != cudaStreamCaptureModeRelaxed) {
    g_capture_ended = true;
    return cudaErrorStreamCaptureUnsupported;
  }
  if (bytes > kDeviceBytes) return cudaErrorMemoryAllocation;
  *data = std::malloc(bytes);
  return *data != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* data) { return std::free(data), cudaSuccess; }
cudaError_t cudaMemset(void* data, int value, size_t bytes) {
  return std::memset(data, value, bytes), cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(data, value, bytes);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind, cudaStream_t) {
  for (size_t row = 0; row < height; ++row) {
    std::memcpy(static_cast<char*>(to) + row * to_pitch,
                static_cast<const char*>(from) + row * from_pitch, width);
  }
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  return *stream = nullptr, cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  g_capturing = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  g_capturing = false;
  *graph = nullptr;
  return g_capture_ended.exchange(false) ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  return std::swap(g_mode, *mode), cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t, unsigned long long) {
  return *exec = nullptr, cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }
cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }

}  // extern "C"
