// GELU, quantization and masks: one pass over memory each.

#include <string>

#include "pack.cuh"
#include "status.h"
#include "warp.cuh"

namespace bert {
namespace {

constexpr int kThreads = 256;

__device__ inline float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }

struct Elements {
  float scale;         // of the input, if it is integers
  const half* bias;    // (channels), or nullptr
  const float* scales; // (channels) as well as `scale`, or nullptr
  int channels;
  bool activate;
  half* output_half; // one of the two
  int8_t* output_quantized;
  float output_scale;
  size_t count;
};

template <class Input>
__global__ void __launch_bounds__(kThreads) elementwise_kernel(const Input* input, Elements e) {
  // Of 32 bits: the remainder below takes many more instructions in 64.
  const unsigned pack = blockIdx.x * kThreads + threadIdx.x;
  const size_t at = static_cast<size_t>(pack) * kPack;
  if (at >= e.count) return;
  const int channel = pack % (e.channels / kPack) * kPack;
  float values[kPack], more[kPack];
  load(input + at, values);
#pragma unroll
  for (float& factor : more) factor = 1.0f;
  if (e.scales != nullptr) load(e.scales + channel, more);
#pragma unroll
  for (int j = 0; j < kPack; ++j) values[j] *= e.scale * more[j];
  if (e.bias != nullptr) {
    load(e.bias + channel, more);
#pragma unroll
    for (int j = 0; j < kPack; ++j) values[j] += more[j];
  }
  if (e.activate) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) values[j] = gelu(values[j]);
  }
  if (e.output_half != nullptr) {
    store(e.output_half + at, values);
  } else {
    store_quantized(e.output_quantized + at, values, e.output_scale);
  }
}

template <class Input>
BertStatus run(const Input* input, const Elements& elements, BertStream stream) {
  BERT_REQUIRE(input != nullptr, "an elementwise operation has no input");
  BERT_REQUIRE((elements.output_half != nullptr) != (elements.output_quantized != nullptr),
               "an elementwise operation has one output, FP16 or INT8");
  BERT_REQUIRE(elements.scale > 0 && (elements.output_half != nullptr || elements.output_scale > 0),
               "an INT8 tensor's scale is not positive");
  BERT_REQUIRE(elements.count > 0 && elements.channels > 0 && elements.channels % kPack == 0 &&
                   elements.count % elements.channels == 0,
               "channels are a multiple of 8, not " + std::to_string(elements.channels));
  const size_t blocks = (elements.count / kPack + kThreads - 1) / kThreads;
  BERT_REQUIRE(blocks <= (size_t{1} << 32) / kThreads,
               "an elementwise operation has too many elements");
  elementwise_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(input, elements);
  return launched("elementwise");
}

// One warp a window. A token that counts is one whose mask equals `counted`.
template <class Mask>
__global__ void lengths_kernel(const Mask* mask, int length, int counted, int32_t* lengths,
                               int32_t* padding, int8_t* padding_int8) {
  const size_t start = static_cast<size_t>(blockIdx.x) * length;
  float tokens = 0.0f;  // at most a window's length: exact
  for (int i = threadIdx.x; i < length; i += kWarp) {
    const bool token = (mask[start + i] != 0) == (counted != 0);
    tokens += token;
    if (padding != nullptr) padding[start + i] = !token;
    if (padding_int8 != nullptr) padding_int8[start + i] = !token;
  }
  tokens = warp_sum(tokens);
  if (threadIdx.x == 0) lengths[blockIdx.x] = static_cast<int>(tokens);
}

BertStatus check_mask(const void* mask, const void* lengths, int windows, int length) {
  BERT_REQUIRE(mask != nullptr && lengths != nullptr, "a mask or its lengths are NULL");
  BERT_REQUIRE(windows > 0 && length > 0, "a mask is empty");
  return BERT_OK;
}

}  // namespace

}  // namespace bert

BertStatus bert_linear_int8_finish(const BertLinearInt8* linear, BertStream stream) {
  using namespace bert;
  BERT_REQUIRE(linear != nullptr && linear->weight_scales != nullptr,
               "an INT8 linear's description or scales are NULL");
  return run(linear->sums,
             Elements{linear->input_scale, as_half(linear->bias), linear->weight_scales,
                      linear->out, linear->activation == BERT_GELU, as_half(linear->output_half),
                      linear->output_quantized, linear->output_scale,
                      static_cast<size_t>(linear->tokens) * linear->out},
             stream);
}

BertStatus bert_gelu(const BertGelu* gelu, BertStream stream) {
  using namespace bert;
  BERT_REQUIRE(gelu != nullptr && (gelu->half != nullptr) != (gelu->quantized != nullptr),
               "GELU takes one input, FP16 or INT8");
  Elements elements{1.0f, as_half(gelu->bias), nullptr, gelu->channels, true,
                    as_half(gelu->output_half), gelu->output_quantized, gelu->output_scale,
                    static_cast<size_t>(gelu->tokens) * gelu->channels};
  if (gelu->half != nullptr) return run(as_half(gelu->half), elements, stream);
  elements.scale = gelu->scale;
  return run(gelu->quantized, elements, stream);
}

BertStatus bert_quantize(const BertHalf* input, float scale, int8_t* output, size_t count,
                         BertStream stream) {
  using namespace bert;
  return run(as_half(input),
             Elements{1.0f, nullptr, nullptr, kPack, false, nullptr, output, scale, count}, stream);
}

BertStatus bert_dequantize(const int8_t* input, float scale, BertHalf* output, size_t count,
                           BertStream stream) {
  using namespace bert;
  return run(input,
             Elements{scale, nullptr, nullptr, kPack, false, as_half(output), nullptr, 0, count},
             stream);
}

BertStatus bert_mask_lengths(const int32_t* mask, int32_t windows, int32_t length,
                             int32_t* lengths, int32_t* padding, int8_t* padding_int8,
                             BertStream stream) {
  using namespace bert;
  BERT_RETURN_IF_ERROR(check_mask(mask, lengths, windows, length));
  lengths_kernel<<<windows, kWarp, 0, stream>>>(mask, length, 1, lengths, padding, padding_int8);
  return launched("mask lengths");
}

BertStatus bert_padding_lengths(const int32_t* padding, const int8_t* padding_int8,
                                int32_t windows, int32_t length, int32_t* lengths,
                                BertStream stream) {
  using namespace bert;
  BERT_REQUIRE((padding != nullptr) != (padding_int8 != nullptr),
               "a padding mask is INT32 or INT8");
  const void* mask = padding != nullptr ? static_cast<const void*>(padding) : padding_int8;
  BERT_RETURN_IF_ERROR(check_mask(mask, lengths, windows, length));
  if (padding != nullptr) {
    lengths_kernel<<<windows, kWarp, 0, stream>>>(padding, length, 0, lengths, nullptr, nullptr);
  } else {
    lengths_kernel<<<windows, kWarp, 0, stream>>>(padding_int8, length, 0, lengths, nullptr,
                                                  nullptr);
  }
  return launched("padding lengths");
}
