// Every kernel against float64 on the GPU, for random shapes:
//
//   kernels_test [--cases N] [--seed N] [--small] [FAMILY...]
//   kernels_test --list
//
// N cases of each family of kernels, or of those named; --list names them all. Small shapes are
// for sanitizers, under which a kernel runs a hundred times slower.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "bert_kernels.h"
#include "check.h"
#include "device.h"
#include "reference.h"

namespace {

using reference::Values;

std::mt19937_64 g_random;

bool g_small = false;

int Between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(g_random); }

// 1 to `most`, or to `small`.
int UpTo(int most, int small) { return Between(1, g_small ? small : most); }

bool Succeeded(BertStatus status, const std::string& what) {
  return g_checks.That(status == BERT_OK, what + ": " + bert_last_error());
}

// Values that binary16 holds exactly, and the same as halves.
struct Tensor {
  Values values;
  std::vector<BertHalf> halves;

  explicit Tensor(size_t count, double spread = 1.0, double mean = 0.0) : values(count), halves(count) {
    std::normal_distribution<double> normal(mean, spread);
    for (size_t i = 0; i < count; ++i) {
      halves[i] = reference::ToHalf(normal(g_random));
      values[i] = reference::FromHalf(halves[i]);
    }
  }
};

std::vector<int8_t> RandomIntegers(size_t count) {
  std::vector<int8_t> integers(count);
  for (int8_t& integer : integers) integer = static_cast<int8_t>(Between(-127, 127));
  return integers;
}

Values Real(const std::vector<int8_t>& integers, double scale) {
  Values values(integers.size());
  std::transform(integers.begin(), integers.end(), values.begin(),
                 [&](int8_t integer) { return integer * scale; });
  return values;
}

Values Real(const std::vector<BertHalf>& halves) {
  Values values(halves.size());
  std::transform(halves.begin(), halves.end(), values.begin(), reference::FromHalf);
  return values;
}

Values Real(const std::vector<float>& singles) { return Values(singles.begin(), singles.end()); }

// |found - expected| <= tolerance * (1 + |expected|) for every element; NaN never passes.
void Compare(const Values& found, const Values& expected, double tolerance, const std::string& what) {
  size_t worst = 0;
  double most = -1;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double error = std::fabs(found[i] - expected[i]) / (1 + std::fabs(expected[i]));
    if (!(error <= most)) {
      most = error;
      worst = i;
      if (std::isnan(error)) break;
    }
  }
  g_checks.That(most <= tolerance, what + ": element " + std::to_string(worst) + " is " +
                                       std::to_string(found[worst]) + ", not " +
                                       std::to_string(expected[worst]));
}

// INT8 outputs may be one step off where float64 and FP32 round differently, but seldom.
void CompareIntegers(const std::vector<int8_t>& found, const Values& expected, double scale,
                     double share_off, const std::string& what) {
  size_t off = 0;
  bool near = true;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::fabs(found[i] - reference::Quantized(expected[i], scale));
    off += difference != 0;
    near = near && difference <= 1;
  }
  g_checks.That(near, what + ": more than one step off");
  g_checks.That(off <= share_off * expected.size() + 1,
                what + ": " + std::to_string(off) + " of " + std::to_string(expected.size()) +
                    " off by a step");
}

// Windows of random lengths, padded or ragged, with everything on the device.
class RandomSequences {
 public:
  RandomSequences(bool ragged, int most_windows, int max_length)
      : lengths(Between(1, most_windows)), starts_{0} {
    for (int32_t& length : lengths) length = Between(1, max_length);
    lengths[Between(0, static_cast<int>(lengths.size()) - 1)] = max_length;
    for (int32_t length : lengths) starts_.push_back(starts_.back() + (ragged ? length : max_length));
    device_lengths_ = std::make_unique<DeviceBuffer<int32_t>>(lengths);
    device_starts_ = std::make_unique<DeviceBuffer<int32_t>>(starts_);
    sequences.windows = static_cast<int32_t>(lengths.size());
    sequences.max_length = max_length;
    sequences.tokens = starts_.back();
    sequences.starts = ragged ? device_starts_->get() : nullptr;
    sequences.lengths = ragged ? nullptr : device_lengths_->get();
  }

  int Start(size_t window) const { return starts_[window]; }
  int Rows(size_t window) const { return starts_[window + 1] - starts_[window]; }

  std::vector<int32_t> lengths;
  BertSequences sequences{};

 private:
  std::vector<int32_t> starts_;
  std::unique_ptr<DeviceBuffer<int32_t>> device_lengths_, device_starts_;
};

int RandomHidden() {
  const int usual[] = {384, 768, 1024};
  return Between(0, 1) == 0 ? usual[Between(0, 2)] : 8 * Between(1, 128);
}

// Where a normalization's outputs go, and what is wanted of them.
struct NormOutputs {
  DeviceBuffer<BertHalf> half;
  DeviceBuffer<float> single;
  DeviceBuffer<int8_t> quantized;
  float scale = 0.03f;

  explicit NormOutputs(size_t count) : half(count), single(count), quantized(count) {}

  BertNormOutputs Pointers() { return {half.get(), single.get(), quantized.get(), scale}; }

  void Compare(const Values& expected, const std::string& what) const {
    ::Compare(Real(single.Read()), expected, 2e-5, what + " FP32");
    ::Compare(Real(half.Read()), expected, 6e-4, what + " FP16");
    CompareIntegers(quantized.Read(), expected, scale, 2e-3, what + " INT8");
    g_checks.That(half.GuardHolds() && single.GuardHolds() && quantized.GuardHolds(),
                  what + ": wrote behind an output's end");
  }
};

void TestEmbedding() {
  const int hidden = RandomHidden(), vocab = 1 + UpTo(2000, 50), max_length = UpTo(512, 60);
  const RandomSequences random(Between(0, 1) == 1, 5, max_length);
  const size_t tokens = random.sequences.tokens;
  const Tensor word(static_cast<size_t>(vocab) * hidden), segment(2 * hidden), gamma(hidden),
      beta(hidden), position(512 * static_cast<size_t>(hidden));
  std::vector<int32_t> ids(tokens), segments(tokens);
  for (int32_t& id : ids) id = Between(0, vocab - 1);
  for (int32_t& id : segments) id = Between(0, 1);
  ids[0] = vocab;  // outside: row 0
  Values sum(tokens * hidden);
  for (size_t w = 0; w < random.lengths.size(); ++w) {
    for (int p = 0; p < random.Rows(w); ++p) {
      const size_t row = random.Start(w) + p;
      for (int c = 0; c < hidden; ++c) {
        sum[row * hidden + c] = word.values[(ids[row] == vocab ? 0 : ids[row]) * size_t(hidden) + c] +
                                segment.values[segments[row] * hidden + c] +
                                position.values[p * size_t(hidden) + c];
      }
    }
  }
  DeviceBuffer<BertHalf> d_word(word.halves), d_segment(segment.halves), d_position(position.halves),
      d_gamma(gamma.halves), d_beta(beta.halves);
  DeviceBuffer<int32_t> d_ids(ids), d_segments(segments);
  const BertEmbedding embedding{d_word.get(), d_segment.get(), d_position.get(), d_gamma.get(),
                                d_beta.get(), vocab,           2,                512,
                                hidden,       1e-12f};
  NormOutputs outputs(tokens * hidden);
  const BertNormOutputs pointers = outputs.Pointers();
  if (Succeeded(bert_embed(&random.sequences, d_ids.get(), d_segments.get(), &embedding, &pointers,
                           nullptr),
                "embedding")) {
    outputs.Compare(reference::LayerNorm(sum, gamma.values, beta.values),
                    "embedding of " + std::to_string(hidden));
  }
}

void TestAddNorm() {
  const int hidden = RandomHidden(), tokens = UpTo(700, 60);
  const size_t count = static_cast<size_t>(tokens) * hidden;
  const bool integers = Between(0, 1) == 1, single = Between(0, 1) == 1, biased = Between(0, 1) == 1;
  const Tensor input(count), residual(count), bias(hidden), gamma(hidden), beta(hidden);
  const std::vector<int8_t> quantized = RandomIntegers(count);
  const float scale = 0.02f;
  Values sum = integers ? Real(quantized, scale) : input.values;
  for (size_t i = 0; i < count; ++i) {
    sum[i] += residual.values[i] + (biased ? bias.values[i % hidden] : 0);
  }
  DeviceBuffer<BertHalf> d_input(input.halves), d_residual(residual.halves), d_bias(bias.halves),
      d_gamma(gamma.halves), d_beta(beta.halves);
  DeviceBuffer<int8_t> d_quantized(quantized);
  DeviceBuffer<float> d_single(std::vector<float>(residual.values.begin(), residual.values.end()));
  const BertNormInputs inputs{integers ? nullptr : d_input.get(),
                              integers ? d_quantized.get() : nullptr,
                              scale,
                              single ? nullptr : d_residual.get(),
                              single ? d_single.get() : nullptr,
                              biased ? d_bias.get() : nullptr,
                              d_gamma.get(),
                              d_beta.get(),
                              tokens,
                              hidden,
                              1e-12f};
  NormOutputs outputs(count);
  const BertNormOutputs pointers = outputs.Pointers();
  if (Succeeded(bert_add_norm(&inputs, &pointers, nullptr), "layer norm")) {
    outputs.Compare(reference::LayerNorm(sum, gamma.values, beta.values),
                    "layer norm of " + std::to_string(hidden));
  }
}

void TestAttention(BertAttentionKernel kernel, const std::string& name) {
  const int head_size = Between(0, 1) == 1 ? 64 : 32, heads = Between(1, 4);
  const int hidden = heads * head_size;
  const bool ragged = Between(0, 1) == 1;
  const RandomSequences random(ragged, 4, !g_small && Between(0, 3) == 0 ? 512 : UpTo(512, 200));
  const size_t tokens = random.sequences.tokens;
  const Tensor qkv(tokens * 3 * hidden, Between(0, 3) == 0 ? 4.0 : 1.0);
  Values expected(tokens * hidden);
  for (size_t w = 0; w < random.lengths.size(); ++w) {
    const auto first = qkv.values.begin() + random.Start(w) * size_t(3 * hidden);
    const Values window(first, first + random.Rows(w) * size_t(3 * hidden));
    const Values context = reference::Attention(window, {random.lengths[w]}, random.Rows(w), heads,
                                                head_size);
    std::copy(context.begin(), context.end(),
              expected.begin() + random.Start(w) * size_t(hidden));
  }
  DeviceBuffer<BertHalf> d_qkv(qkv.halves), d_context(tokens * hidden);
  DeviceBuffer<int8_t> d_quantized(tokens * hidden);
  const float scale = 0.03f;
  const std::string what = name + ", " + std::to_string(heads) + " heads of " +
                           std::to_string(head_size) + (ragged ? ", ragged" : ", padded") +
                           " up to " + std::to_string(random.sequences.max_length);
  if (!Succeeded(bert_attention_choose(kernel), what)) return;
  if (Succeeded(bert_attention(&random.sequences, heads, head_size, d_qkv.get(), d_context.get(),
                               nullptr, 0, nullptr),
                what)) {
    // Probabilities are FP16 for the second product: 2^-11 of the largest value, 4 or so.
    Compare(Real(d_context.Read()), expected, 4e-3, what);
    g_checks.That(d_context.GuardHolds(), what + ": wrote behind the context's end");
  }
  if (Succeeded(bert_attention(&random.sequences, heads, head_size, d_qkv.get(), nullptr,
                               d_quantized.get(), scale, nullptr),
                what)) {
    CompareIntegers(d_quantized.Read(), expected, scale, 0.05, what + ", INT8");
  }
  // Half a step of E4M3 is 1/16 of a value, or 2^-10 of the scale. A small scale saturates.
  const float e4m3_scale = Between(0, 3) == 0 ? 0.001f : 0.01f;
  DeviceBuffer<uint8_t> d_e4m3(tokens * hidden);
  if (Succeeded(bert_attention_e4m3(&random.sequences, heads, head_size, d_qkv.get(), d_e4m3.get(),
                                    e4m3_scale, nullptr),
                what)) {
    const std::vector<uint8_t> found = d_e4m3.Read();
    size_t wrong = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double most = 448 * e4m3_scale, value = std::clamp(expected[i], -most, most);
      const double error = std::fabs(reference::FromE4m3(found[i]) * e4m3_scale - value);
      // Not NaN either.
      wrong += !(error <= std::fabs(value) / 16 + std::ldexp(e4m3_scale, -10) + 4e-3);
    }
    g_checks.That(wrong == 0, what + ", E4M3: " + std::to_string(wrong) + " values are wrong");
    g_checks.That(d_e4m3.GuardHolds(), what + ", E4M3: wrote behind the context's end");
  }
  bert_attention_choose(BERT_ATTENTION_AUTO);
}

void TestGelu() {
  const int channels = 8 * Between(1, 512), tokens = UpTo(300, 30);
  const size_t count = static_cast<size_t>(channels) * tokens;
  const bool integers = Between(0, 1) == 1, to_integers = Between(0, 1) == 1;
  const bool biased = Between(0, 1) == 1;
  const Tensor input(count, 2.0), bias(channels);
  const std::vector<int8_t> quantized = RandomIntegers(count);
  const float scale = 0.04f, output_scale = 0.02f;
  Values expected = integers ? Real(quantized, scale) : input.values;
  for (size_t i = 0; i < count; ++i) {
    expected[i] = reference::Gelu(expected[i] + (biased ? bias.values[i % channels] : 0));
  }
  DeviceBuffer<BertHalf> d_input(input.halves), d_bias(bias.halves), d_half(count);
  DeviceBuffer<int8_t> d_quantized(quantized), d_integers(count);
  const BertGelu gelu{integers ? nullptr : d_input.get(),
                      integers ? d_quantized.get() : nullptr,
                      scale,
                      biased ? d_bias.get() : nullptr,
                      to_integers ? nullptr : d_half.get(),
                      to_integers ? d_integers.get() : nullptr,
                      output_scale,
                      tokens,
                      channels};
  if (!Succeeded(bert_gelu(&gelu, nullptr), "GELU")) return;
  if (to_integers) {
    CompareIntegers(d_integers.Read(), expected, output_scale, 2e-3, "GELU to INT8");
  } else {
    Compare(Real(d_half.Read()), expected, 6e-4, "GELU");
  }
  g_checks.That(d_half.GuardHolds() && d_integers.GuardHolds(), "GELU: wrote behind the end");
}

void TestQuantization() {
  const size_t count = 8 * static_cast<size_t>(UpTo(5000, 500));
  const Tensor input(count, 3.0);
  const float scale = 0.025f;
  DeviceBuffer<BertHalf> d_input(input.halves), d_back(count);
  DeviceBuffer<int8_t> d_integers(count);
  if (!Succeeded(bert_quantize(d_input.get(), scale, d_integers.get(), count, nullptr), "quantize") ||
      !Succeeded(bert_dequantize(d_integers.get(), scale, d_back.get(), count, nullptr),
                 "dequantize")) {
    return;
  }
  const std::vector<int8_t> integers = d_integers.Read();
  // Halves over a round scale often lie just between two steps.
  CompareIntegers(integers, input.values, scale, 8e-3, "quantize");
  Compare(Real(d_back.Read()), Real(integers, scale), 6e-4, "dequantize");
  g_checks.That(d_integers.GuardHolds() && d_back.GuardHolds(), "quantize: wrote behind the end");
}

void TestMasks() {
  const int windows = UpTo(40, 5), length = Between(1, 512);
  std::vector<int32_t> mask(windows * length), lengths(windows), inverted(windows * length);
  std::vector<int8_t> inverted_int8(windows * length);
  for (int w = 0; w < windows; ++w) {
    lengths[w] = Between(0, length);
    for (int i = 0; i < length; ++i) {
      mask[w * length + i] = i < lengths[w];
      inverted[w * length + i] = inverted_int8[w * length + i] = i >= lengths[w];
    }
  }
  DeviceBuffer<int32_t> d_mask(mask), d_lengths(windows), d_again(windows), d_third(windows),
      d_padding(mask.size());
  DeviceBuffer<int8_t> d_padding_int8(mask.size());
  Succeeded(bert_mask_lengths(d_mask.get(), windows, length, d_lengths.get(), d_padding.get(),
                              d_padding_int8.get(), nullptr),
            "mask");
  Succeeded(bert_padding_lengths(d_padding.get(), nullptr, windows, length, d_again.get(), nullptr),
            "padding");
  Succeeded(
      bert_padding_lengths(nullptr, d_padding_int8.get(), windows, length, d_third.get(), nullptr),
      "padding INT8");
  g_checks.That(d_lengths.Read() == lengths && d_again.Read() == lengths && d_third.Read() == lengths,
                "lengths of masks");
  g_checks.That(d_padding.Read() == inverted && d_padding_int8.Read() == inverted_int8,
                "inverted masks");
}

void TestQaHead() {
  const int hidden = RandomHidden(), tokens = UpTo(900, 60);
  const Tensor input(static_cast<size_t>(tokens) * hidden), weight(2 * hidden, 0.05), bias(2);
  const Values logits = reference::Linear(input.values, weight.values, bias.values, 2);
  DeviceBuffer<BertHalf> d_input(input.halves), d_weight(weight.halves), d_bias(bias.halves);
  DeviceBuffer<float> d_start(tokens), d_end(tokens);
  if (!Succeeded(bert_qa_head(d_input.get(), tokens, hidden, d_weight.get(), d_bias.get(),
                              d_start.get(), d_end.get(), nullptr),
                 "QA head")) {
    return;
  }
  Values start(tokens), end(tokens);
  for (int t = 0; t < tokens; ++t) {
    start[t] = logits[2 * t];
    end[t] = logits[2 * t + 1];
  }
  Compare(Real(d_start.Read()), start, 1e-4, "start logits");
  Compare(Real(d_end.Read()), end, 1e-4, "end logits");
  g_checks.That(d_start.GuardHolds() && d_end.GuardHolds(), "QA head: wrote behind the end");
}

// What linears work with: made for the first one, and gone before CUDA is.
struct Gemm {
  BertGemm* gemm = nullptr;
  DeviceBuffer<char> workspace{BERT_GEMM_WORKSPACE};

  Gemm() { Succeeded(bert_gemm_create(&gemm), "cuBLASLt"); }
  ~Gemm() { bert_gemm_destroy(gemm); }
};
std::unique_ptr<Gemm> g_gemm;

Gemm& TheGemm() {
  if (g_gemm == nullptr) g_gemm = std::make_unique<Gemm>();
  return *g_gemm;
}

// A number of tokens, and as many as must fit where it is tuned.
struct Tokens {
  int count = Between(1, 130), most = bert_linear_bucket(count);
  bool tuned = Between(0, 1) == 1;
};

void TestLinear() {
  Gemm& gemm = TheGemm();
  const Tokens tokens;
  const int in = 8 * Between(1, 48), out = 8 * Between(1, 48);
  const bool biased = Between(0, 2) > 0, activated = biased && Between(0, 1) == 1;
  const Tensor input(static_cast<size_t>(tokens.most) * in),
      weight(static_cast<size_t>(out) * in, 0.1), bias(out);
  Values expected =
      reference::Linear(input.values, weight.values, biased ? bias.values : Values{}, out);
  if (activated) std::transform(expected.begin(), expected.end(), expected.begin(), reference::Gelu);
  DeviceBuffer<BertHalf> d_input(input.halves), d_weight(weight.halves), d_bias(bias.halves);
  BertLinear linear{d_input.get(),
                    d_weight.get(),
                    biased ? d_bias.get() : nullptr,
                    nullptr,
                    tokens.most,
                    in,
                    out,
                    activated ? BERT_GELU : BERT_NO_ACTIVATION,
                    gemm.workspace.get(),
                    BERT_GEMM_WORKSPACE};
  // The algorithm that is tuned for the bucket's end serves every number of tokens in it.
  for (const int count : {tokens.count, tokens.most}) {
    const std::string what = "linear " + std::to_string(count) + "x" + std::to_string(in) + "x" +
                             std::to_string(out) + (tokens.tuned ? ", tuned" : "");
    DeviceBuffer<BertHalf> d_output(static_cast<size_t>(count) * out);
    if (tokens.tuned && count == tokens.count) {
      DeviceBuffer<BertHalf> d_most(static_cast<size_t>(tokens.most) * out);
      linear.output = d_most.get();
      Succeeded(bert_linear_tune(gemm.gemm, &linear, nullptr), what);
    }
    linear.output = d_output.get();
    linear.tokens = count;
    if (!Succeeded(bert_linear(gemm.gemm, &linear, nullptr), what)) return;
    // FP16's rounding, and with GELU the tanh form's 5e-4.
    Compare(Real(d_output.Read()), {expected.begin(), expected.begin() + count * out},
            activated ? 1.5e-3 : 6e-4, what);
    g_checks.That(d_output.GuardHolds(), what + ": wrote behind the output's end");
  }
  g_checks.That(gemm.workspace.GuardHolds(), "a linear wrote behind the workspace's end");
}

void TestLinearInt8() {
  Gemm& gemm = TheGemm();
  const Tokens tokens;
  const int in = 16 * Between(1, 24), out = 16 * Between(1, 24);
  const size_t most = static_cast<size_t>(tokens.most) * out;
  const bool biased = Between(0, 1) == 1, activated = Between(0, 1) == 1;
  const bool to_integers = Between(0, 1) == 1;
  const std::vector<int8_t> input = RandomIntegers(static_cast<size_t>(tokens.most) * in);
  const std::vector<int8_t> weight = RandomIntegers(static_cast<size_t>(out) * in);
  const Tensor bias(out);
  std::vector<float> scales(out);
  for (float& scale : scales) scale = 0.0005f * Between(1, 10);
  const float input_scale = 0.02f, output_scale = 0.02f;
  Values expected = reference::Linear(Real(input, 1), Real(weight, 1), {}, out);
  for (size_t i = 0; i < most; ++i) {
    expected[i] *= static_cast<double>(input_scale) * scales[i % out];
    if (biased) expected[i] += bias.values[i % out];
    if (activated) expected[i] = reference::Gelu(expected[i]);
  }
  DeviceBuffer<int8_t> d_input(input), d_weight(weight);
  DeviceBuffer<float> d_scales(scales);
  DeviceBuffer<BertHalf> d_bias(bias.halves);
  BertLinearInt8 linear{d_input.get(),
                        input_scale,
                        d_weight.get(),
                        d_scales.get(),
                        biased ? d_bias.get() : nullptr,
                        nullptr,
                        nullptr,
                        output_scale,
                        nullptr,
                        tokens.most,
                        in,
                        out,
                        activated ? BERT_GELU : BERT_NO_ACTIVATION,
                        gemm.workspace.get(),
                        BERT_GEMM_WORKSPACE};
  for (const int rows : {tokens.count, tokens.most}) {
    const std::string what = "INT8 linear " + std::to_string(rows) + "x" + std::to_string(in) +
                             "x" + std::to_string(out) + (tokens.tuned ? ", tuned" : "");
    const size_t count = static_cast<size_t>(rows) * out;
    DeviceBuffer<int8_t> d_integers(count);
    DeviceBuffer<BertHalf> d_half(count);
    DeviceBuffer<int32_t> d_sums(count);
    if (tokens.tuned && rows == tokens.count) {
      DeviceBuffer<int32_t> d_most(most);
      linear.sums = d_most.get();
      Succeeded(bert_linear_int8_tune(gemm.gemm, &linear, nullptr), what);
    }
    linear.output_half = to_integers ? nullptr : d_half.get();
    linear.output_quantized = to_integers ? d_integers.get() : nullptr;
    linear.sums = d_sums.get();
    linear.tokens = rows;
    if (!Succeeded(bert_linear_int8(gemm.gemm, &linear, nullptr), what)) return;
    const Values wanted(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(count));
    if (to_integers) {
      CompareIntegers(d_integers.Read(), wanted, output_scale, 2e-3, what);
    } else {
      Compare(Real(d_half.Read()), wanted, 6e-4, what);
    }
    g_checks.That(d_half.GuardHolds() && d_integers.GuardHolds() && d_sums.GuardHolds() &&
                      gemm.workspace.GuardHolds(),
                  what + ": wrote behind an end");
  }
}

// Buckets are at most a quarter of their tokens too long, and each ends with a member of its own.
void TestBuckets() {
  int last = 0;
  bool fit = true;
  for (int tokens = 1; tokens < 40000; ++tokens) {
    const int end = bert_linear_bucket(tokens);
    fit = fit && end >= tokens && end >= last && bert_linear_bucket(end) == end &&
          (end == 64 || end < 1.25 * tokens);
    last = end;
  }
  g_checks.That(fit, "buckets");
  g_checks.That(bert_linear_bucket(INT32_MAX) == INT32_MAX, "the last bucket");
}

// Wrong arguments are refused with a line of text, before any launch.
void TestRefusals() {
  DeviceBuffer<BertHalf> half(8 * 192);
  BertSequences sequences{1, 8, 8, nullptr, nullptr};
  const auto refused = [&](BertStatus status, const std::string& what) {
    g_checks.That(status == BERT_BAD_ARGUMENT && *bert_last_error() != '\0', what);
  };
  const auto attend = [&](int heads, int head_size) {
    return bert_attention(&sequences, heads, head_size, half.get(), half.get(), nullptr, 0, nullptr);
  };
  refused(attend(1, 48), "a head size of 48");
  refused(attend(0, 64), "no heads");
  refused(attend(17, 64), "too many heads");
  sequences.max_length = 513;
  refused(attend(1, 64), "513 tokens a window");
  sequences = {2, 8, 8, nullptr, nullptr};
  refused(attend(1, 64), "tokens that do not fit the windows");
  refused(bert_quantize(half.get(), 0.0f, nullptr, 8, nullptr), "no output");
  refused(bert_qa_head(half.get(), 1, 12, half.get(), half.get(), nullptr, nullptr, nullptr),
          "hidden of 12");
}

struct Family {
  const char* name;
  std::function<void()> test;
  BertAttentionKernel needs = BERT_ATTENTION_AUTO;
};

const Family kFamilies[] = {
    {"embedding", TestEmbedding},
    {"layer-norm", TestAddNorm},
    {"attention-portable",
     [] { TestAttention(BERT_ATTENTION_PORTABLE, "portable attention"); }},
    {"attention-mma", [] { TestAttention(BERT_ATTENTION_MMA, "mma attention"); },
     BERT_ATTENTION_MMA},
    {"attention-wgmma", [] { TestAttention(BERT_ATTENTION_WGMMA, "wgmma attention"); },
     BERT_ATTENTION_WGMMA},
    {"gelu", TestGelu},
    {"quantization", TestQuantization},
    {"masks", TestMasks},
    {"qa-head", TestQaHead},
    {"linear", TestLinear},
    {"linear-int8", TestLinearInt8},
};

struct Options {
  int cases = 20;
  unsigned long long seed = std::random_device{}();
  bool list = false;
  std::vector<const Family*> families;
};

Options ReadOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto family = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                     [&](const Family& known) { return known.name == word; });
    if (word == "--list") {
      options.list = true;
    } else if (word == "--small") {
      g_small = true;
    } else if (word == "--cases" && i + 1 < argc) {
      options.cases = std::atoi(argv[++i]);
    } else if (word == "--seed" && i + 1 < argc) {
      options.seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (family != std::end(kFamilies)) {
      options.families.push_back(family);
    } else {
      throw std::invalid_argument("neither an option nor a family of kernels: " + word);
    }
  }
  if (options.families.empty()) {
    for (const Family& family : kFamilies) options.families.push_back(&family);
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) try {
  const Options options = ReadOptions(argc, argv);
  if (options.list) {
    for (const Family* family : options.families) std::printf("%s\n", family->name);
    return 0;
  }
  cudaDeviceProp device;
  Cuda(cudaGetDeviceProperties(&device, 0));
  std::printf("%s, %d cases a family, seed %llu\n", device.name, options.cases, options.seed);
  g_random.seed(options.seed);
  for (const Family* family : options.families) {
    if (bert_attention_choose(family->needs) != BERT_OK) {
      std::printf("none  %s: %s\n", family->name, bert_last_error());
      continue;
    }
    g_checks.Begin(family->name);
    for (int i = 0; i < options.cases; ++i) family->test();
  }
  g_checks.Begin("refusals and buckets");
  TestRefusals();
  TestBuckets();
  g_gemm.reset();
  Cuda(cudaDeviceSynchronize());
  return g_checks.Finish();
} catch (const std::exception& error) {
  std::fprintf(stderr, "kernels_test: %s\n", error.what());
  return 2;
}
