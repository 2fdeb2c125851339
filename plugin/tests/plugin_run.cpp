#include "tests/plugin_run.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "tests/cases.h"
#include "tests/check.h"
#include "tests/device.h"
#include "tests/reference.h"

namespace {

using fake::BytesOf;
using fake::Collection;
using fake::CountOf;
using fake::DataType;
using fake::FieldList;
using fake::Plugin;
using fake::SizeOf;
using fake::Tensor;
using reference::Values;

fake::Logger* g_log;

// A tensor with what it holds: INT8 as integers, without its scale.
struct Filled {
  Tensor tensor;
  Values values;

  std::vector<char> Bytes() const {
    std::vector<char> bytes(values.size() * SizeOf(tensor.type));
    for (size_t i = 0; i < values.size(); ++i) {
      const auto put = [&](auto value) {
        std::memcpy(bytes.data() + i * sizeof(value), &value, sizeof(value));
      };
      if (tensor.type == kInt8) put(static_cast<int8_t>(values[i]));
      if (tensor.type == kHalf) put(reference::ToHalf(values[i]));
      if (tensor.type == kFloat) put(static_cast<float>(values[i]));
      if (tensor.type == kInt32) put(static_cast<int32_t>(values[i]));
    }
    return bytes;
  }
  static Filled FromBytes(const Tensor& tensor, const char* bytes) {
    Filled filled{tensor, Values(CountOf(tensor))};
    for (size_t i = 0; i < filled.values.size(); ++i) {
      const auto get = [&](auto value) {
        std::memcpy(&value, bytes + i * sizeof(value), sizeof(value));
        return value;
      };
      double& value = filled.values[i];
      if (tensor.type == kInt8) value = get(int8_t{});
      if (tensor.type == kHalf) value = reference::FromHalf(get(uint16_t{}));
      if (tensor.type == kFloat) value = static_cast<double>(get(float{}));
      if (tensor.type == kInt32) value = get(int32_t{});
    }
    return filled;
  }
  // Real values.
  Values Real() const {
    Values real = values;
    if (tensor.type == kInt8) {
      for (double& value : real) value *= static_cast<double>(tensor.scale);
    }
    return real;
  }
};

Tensor Shaped(std::vector<int64_t> dims, DataType type, float scale = -1) {
  return {std::move(dims), type, scale};
}

Filled Random(const Tensor& tensor, double spread = 1) {
  Filled filled{tensor, Values(CountOf(tensor))};
  std::normal_distribution<double> normal(0, spread);
  for (double& value : filled.values) {
    value = normal(g_random);
    value = tensor.type == kInt8   ? reference::Quantized(value, static_cast<double>(tensor.scale))
            : tensor.type == kHalf ? reference::Half(value)
                                   : static_cast<double>(static_cast<float>(value));
  }
  return filled;
}

using Buffer = DeviceBuffer<char>;

using CheckOutputs = std::function<void(const std::vector<Filled>&)>;

// Runs a plugin twice, the second time in a CUDA graph, since whatever a runtime may capture a
// plugin must let it; `check` sees the outputs of both.
void Execute(const std::string& name, const std::string& version, const FieldList& fields,
             const std::vector<Filled>& inputs, const std::vector<Tensor>& outputs,
             const CheckOutputs& check) {
  g_log->Clear();
  const auto complain = [&](const std::string& what) {
    g_checks.That(false, what + (g_log->errors.empty() ? "" : ": " + g_log->errors[0]));
  };
  const Plugin::Pointer made = Plugin::Create(name, version, Collection(fields).get());
  if (made == nullptr) return complain("not created");
  const Plugin::Pointer restored = Plugin::Restore(name, version, made->Serialize());
  if (restored == nullptr) return complain("not restored");
  const Plugin::Pointer plugin = restored->Attached();
  if (plugin == nullptr) return complain("not initialized");

  std::vector<Tensor> input_tensors;
  std::vector<std::unique_ptr<Buffer>> input_buffers, output_buffers;
  std::vector<const void*> input_data;
  std::vector<void*> output_data;
  for (const Filled& input : inputs) {
    const std::vector<char> bytes = input.Bytes();
    input_tensors.push_back(input.tensor);
    input_buffers.push_back(std::make_unique<Buffer>(bytes.size()));
    input_buffers.back()->Write(bytes);
    input_data.push_back(input_buffers.back()->get());
  }
  for (const Tensor& output : outputs) {
    output_buffers.push_back(std::make_unique<Buffer>(BytesOf(output)));
    output_data.push_back(output_buffers.back()->get());
  }
  if (!plugin->Configure(input_tensors, outputs, *g_log)) return complain("not configured");
  if (!plugin->ChangeShapes(input_tensors, outputs)) return complain("shapes refused");
  Buffer workspace(std::max<size_t>(1, plugin->WorkspaceBytes(input_tensors, outputs)));

  cudaStream_t stream;
  Cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const auto enqueue = [&] {
    return plugin->Enqueue(input_tensors, outputs, input_data.data(), output_data.data(),
                           workspace.get(), stream);
  };
  const auto results = [&] {
    Cuda(cudaStreamSynchronize(stream));
    std::vector<Filled> filled;
    for (size_t i = 0; i < outputs.size(); ++i) {
      filled.push_back(Filled::FromBytes(outputs[i], output_buffers[i]->Read().data()));
      g_checks.That(output_buffers[i]->GuardHolds(), "nothing is written behind an output");
    }
    g_checks.That(workspace.GuardHolds(), "nothing is written behind the workspace");
    for (size_t i = 0; i < inputs.size(); ++i) {
      g_checks.That(input_buffers[i]->Read() == inputs[i].Bytes(), "inputs stay as they are");
    }
    return filled;
  };
  if (!enqueue()) {
    complain("not run");
  } else {
    check(results());

    for (const auto& buffer : output_buffers) buffer->Poison();
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    Cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    const bool captured = enqueue();
    Cuda(cudaStreamEndCapture(stream, &graph));
    if (!captured) {
      complain("not captured");
    } else {
      Cuda(cudaGraphInstantiateWithFlags(&executable, graph, 0));
      Cuda(cudaGraphLaunch(executable, stream));
      check(results());
      Cuda(cudaGraphExecDestroy(executable));
      Cuda(cudaGraphDestroy(graph));
    }
  }
  Cuda(cudaStreamDestroy(stream));
  g_checks.That(g_log->errors.empty() && g_log->others.empty(), "nothing was logged");
}

// INT8 may differ by one step, where the exact value lies near the middle of two.
void Near(const Filled& got, const Values& want_real, double tolerance, const std::string& what) {
  double worst = 0;
  for (size_t i = 0; i < want_real.size(); ++i) {
    double error;
    if (got.tensor.type == kInt8) {
      const double scale = static_cast<double>(got.tensor.scale);
      const double steps = std::fabs(got.values[i] - reference::Quantized(want_real[i], scale));
      error = steps <= 1 ? 0 : steps;
    } else {
      error = std::fabs(got.values[i] - want_real[i]) / (1 + std::fabs(want_real[i]));
    }
    if (!(error <= worst)) worst = error;  // NaN too
  }
  g_checks.That(worst <= (got.tensor.type == kInt8 ? 0 : tolerance),
                what + " is off by " + std::to_string(worst));
}

// The scale with which values fit into INT8.
float ScaleFor(const Values& values) {
  double largest = 0;
  for (const double value : values) largest = std::max(largest, std::fabs(value));
  return static_cast<float>(std::max(largest, 1e-3) / 127);
}

Values HalfFloats(const std::vector<float>& values) {
  Values halves(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    halves[i] = reference::Half(static_cast<double>(values[i]));
  }
  return halves;
}

std::vector<int64_t> HiddenDims(int64_t windows, int64_t length, int64_t channels, bool five) {
  std::vector<int64_t> dims{windows, length, channels};
  if (five) dims.insert(dims.end(), {1, 1});
  return dims;
}

FieldList WithScales(FieldList fields, float input, float output) {
  if (fake::kScalesInFields) {
    if (input > 0) fields.Floats("input_scale", {input});
    if (output > 0) fields.Floats("output_scale", {output});
  }
  return fields;
}

// A batch's shape and what lies in it.
struct Batch {
  int64_t windows, length;
  std::vector<int32_t> lengths;
  bool five_dims;

  explicit Batch(int32_t max_tokens, int32_t max_length = 512) {
    length = RandomInt(1, std::min(max_length, max_tokens));
    if (RandomInt(0, 3) == 0) length = std::min(max_length, max_tokens);
    windows = RandomInt(1, std::max<int32_t>(1, std::min<int32_t>(
                                                    5, max_tokens / static_cast<int32_t>(length))));
    for (int64_t w = 0; w < windows; ++w) {
      lengths.push_back(RandomInt(1, static_cast<int32_t>(length)));
    }
    lengths[0] = static_cast<int32_t>(length);
    five_dims = RandomInt(0, 1) == 1;
  }
  size_t tokens() const { return static_cast<size_t>(windows * length); }
  Tensor Ids(DataType type) const { return Shaped({windows, length}, type); }
  Tensor Hidden(int64_t channels, DataType type, float scale = -1) const {
    return Shaped(HiddenDims(windows, length, channels, five_dims), type, scale);
  }
  Values Mask(double token, double padding) const {
    Values mask;
    for (int64_t w = 0; w < windows; ++w) {
      for (int64_t i = 0; i < length; ++i) {
        mask.push_back(i < lengths[static_cast<size_t>(w)] ? token : padding);
      }
    }
    return mask;
  }
  std::string Name() const {
    return std::to_string(windows) + " x " + std::to_string(length) + (five_dims ? ", 5-D" : "");
  }
};

void RunEmbedding(int32_t hidden, bool int8) {
  Batch batch(900);
  batch.five_dims = false;
  const size_t h = static_cast<size_t>(hidden);
  const auto word = RandomFloats(kVocab * h), segment = RandomFloats(kSegments * h),
             position = RandomFloats(512 * h), gamma = RandomFloats(h, 0.2, 1),
             beta = RandomFloats(h, 0.2);
  FieldList fields;
  fields.Floats("bert_embeddings_layernorm_beta", beta)
      .Floats("bert_embeddings_layernorm_gamma", gamma)
      .Floats("bert_embeddings_word_embeddings", word)
      .Floats("bert_embeddings_token_type_embeddings", segment)
      .Floats("bert_embeddings_position_embeddings", position)
      .Int("output_fp16", 1)
      .Int("mha_type_id", int8 ? kInt8Id : kHalfId);

  Filled ids{batch.Ids(kInt32), Values(batch.tokens())}, segments = ids;
  const Values words = HalfFloats(word), kinds = HalfFloats(segment), places = HalfFloats(position);
  Values sums;
  for (size_t t = 0; t < batch.tokens(); ++t) {
    const size_t id = static_cast<size_t>(RandomInt(0, kVocab - 1));
    const size_t kind = static_cast<size_t>(RandomInt(0, kSegments - 1));
    const size_t place = t % static_cast<size_t>(batch.length);
    ids.values[t] = static_cast<double>(id);
    segments.values[t] = static_cast<double>(kind);
    for (size_t c = 0; c < h; ++c) {
      sums.push_back(words[id * h + c] + kinds[kind * h + c] + places[place * h + c]);
    }
  }
  const Values want = reference::LayerNorm(sums, HalfFloats(gamma), HalfFloats(beta));
  const Filled mask{batch.Ids(kInt32), batch.Mask(1, 0)};
  const float scale = ScaleFor(want);
  std::vector<Tensor> outputs{batch.Hidden(hidden, int8 ? kInt8 : kHalf, scale),
                              batch.Ids(int8 ? kInt8 : kInt32)};
  if (int8) outputs.push_back(batch.Hidden(hidden, kFloat));
  Execute(kEmbedding, int8 ? "2" : "1", WithScales(fields, 0, int8 ? scale : 0),
          {ids, segments, mask}, outputs, [&](const std::vector<Filled>& got) {
            Near(got[0], want, 3e-3, "embedding");
            g_checks.That(got[1].values == batch.Mask(0, 1), "padding mask");
            if (int8) Near(got[2], want, 1e-4, "residual");
          });
}

void RunAttention(int32_t hidden, bool int8_output, DataType input_type, bool has_mask) {
  const Batch batch(700);
  const size_t h = static_cast<size_t>(hidden);
  const float input_scale = input_type == kInt8 ? 0.03f : 0;
  const Filled qkv = Random(batch.Hidden(3 * hidden, input_type, input_scale), 1.2);
  std::vector<int32_t> lengths = batch.lengths;
  if (!has_mask) lengths.assign(lengths.size(), static_cast<int32_t>(batch.length));
  Values real = qkv.Real();
  for (double& value : real) value = reference::Half(value);  // INT8 becomes FP16 first
  const Values want = reference::Attention(real, lengths, static_cast<size_t>(batch.length),
                                           static_cast<size_t>(HeadsOf(hidden)),
                                           h / static_cast<size_t>(HeadsOf(hidden)));
  const float scale = int8_output ? ScaleFor(want) : 0;

  FieldList fields;
  fields.Int("hidden_size", hidden).Int("num_heads", HeadsOf(hidden));
  if (int8_output) {
    fields.Floats("dq_probs", {3, 10, 1});
  } else {
    fields.Int("type_id", kHalfId).Int("has_mask", has_mask);
  }
  std::vector<Filled> inputs{qkv};
  if (has_mask) {
    inputs.push_back({batch.Ids(int8_output ? kInt8 : kInt32), batch.Mask(0, 1)});
  }
  Execute(kAttention, int8_output ? "3" : "1", WithScales(fields, input_scale, scale), inputs,
          {batch.Hidden(hidden, int8_output ? kInt8 : kHalf, scale)},
          [&](const std::vector<Filled>& got) {
            Near(got[0], want, 4e-3, "context of " + batch.Name());
          });
}

void RunSkipNorm(int32_t hidden, bool int8, DataType input_type, bool single, bool has_bias) {
  const Batch batch(900);
  const size_t h = static_cast<size_t>(hidden);
  const float input_scale = input_type == kInt8 ? 0.03f : 0;
  const auto gamma = RandomFloats(h, 0.2, 1), beta = RandomFloats(h, 0.2), bias = RandomFloats(h);
  FieldList fields;
  fields.Int("ld", hidden)
      .Int("type_id", int8 ? kInt8Id : kHalfId)
      .Floats("beta", beta)
      .Floats("gamma", gamma);
  if (has_bias) fields.Floats("bias", bias);
  if (single) fields.Int("output_fp32", 1);

  const Filled input = Random(batch.Hidden(hidden, input_type, input_scale));
  const Filled skip = Random(batch.Hidden(hidden, int8 ? kInt8 : kHalf, 0.03f));
  const Filled residual = Random(batch.Hidden(hidden, kFloat));
  Values sums = input.Real();
  const Values added = int8 ? residual.Real() : skip.Real(), biases = HalfFloats(bias);
  for (size_t i = 0; i < sums.size(); ++i) sums[i] += added[i] + (has_bias ? biases[i % h] : 0);
  const Values want = reference::LayerNorm(sums, HalfFloats(gamma), HalfFloats(beta));
  const float scale = int8 && !single ? ScaleFor(want) : 0;

  std::vector<Filled> inputs{input, skip};
  if (int8) inputs.push_back(residual);
  const DataType output_type = !int8 ? kHalf : single ? kFloat : kInt8;
  std::vector<Tensor> outputs{batch.Hidden(hidden, output_type, scale)};
  if (int8) outputs.push_back(batch.Hidden(hidden, kFloat));
  Execute(kSkipNorm, int8 ? "3" : "1", WithScales(fields, input_scale, scale), inputs, outputs,
          [&](const std::vector<Filled>& got) {
            Near(got[0], want, output_type == kFloat ? 1e-4 : 3e-3, "norm of " + batch.Name());
            if (int8) Near(got[1], want, 1e-4, "next residual");
          });
}

void RunFc(int32_t in, int32_t out, bool has_bias) {
  const Batch batch(150);
  const auto weight = RandomFloats(static_cast<size_t>(in) * static_cast<size_t>(out),
                                   1 / std::sqrt(static_cast<double>(in)));
  const auto bias = RandomFloats(static_cast<size_t>(out));
  FieldList fields;
  fields.Int("out_dims", out).Int("type_id", kHalfId).Floats("W", weight);
  if (has_bias) fields.Floats("B", bias);
  const Filled input = Random(batch.Hidden(in, kHalf));
  const Values want = reference::Linear(input.values, HalfFloats(weight),
                                        has_bias ? HalfFloats(bias) : Values{},
                                        static_cast<size_t>(out));
  Execute(kFc, "1", fields, {input}, {batch.Hidden(out, kHalf)},
          [&](const std::vector<Filled>& got) {
            Near(got[0], want, 2e-3, "product of " + batch.Name());
          });
}

enum class WeightForm { kAmax, kBothAmax, kOneScale, kRowScales, kRowScalesAndAmax, kInt8 };

void RunFcInt8(int32_t in, int32_t out, WeightForm form, bool has_bias, bool half_output) {
  const Batch batch(150);
  const size_t rows = static_cast<size_t>(out), columns = static_cast<size_t>(in);
  const auto weight = RandomFloats(rows * columns, 1 / std::sqrt(static_cast<double>(in)));
  const auto bias = RandomFloats(rows);
  std::vector<float> scales(rows, 0);
  for (size_t i = 0; i < weight.size(); ++i) {  // a little clipping, as an amax from QAT has it
    scales[i / columns] = std::max(scales[i / columns], 0.9f * std::fabs(weight[i]) / 127);
  }
  const float amax = *std::max_element(scales.begin(), scales.end()) * 127;
  const bool by_row = form == WeightForm::kRowScales || form == WeightForm::kRowScalesAndAmax;
  if (!by_row) scales.assign(rows, amax / 127);
  std::vector<int8_t> quantized(weight.size());
  Values real_weight(weight.size());
  for (size_t i = 0; i < weight.size(); ++i) {
    const float scale = scales[i / columns], level = std::nearbyint(weight[i] / scale);
    quantized[i] = static_cast<int8_t>(std::clamp(level, -127.f, 127.f));
    real_weight[i] = static_cast<double>(quantized[i]) * static_cast<double>(scale);
  }
  const float input_scale = 0.025f;
  const Filled input = Random(batch.Hidden(in, kInt8, input_scale));
  const Values want = reference::Linear(input.Real(), real_weight,
                                        has_bias ? HalfFloats(bias) : Values{}, rows);
  const float scale = half_output ? 0 : ScaleFor(want);

  FieldList fields;
  fields.Int("out_dims", out);
  if (form == WeightForm::kInt8) {
    fields.Add("W", fake::PluginFieldType::kINT8, quantized);
  } else {
    fields.Floats("W", weight);
  }
  if (form == WeightForm::kAmax || form == WeightForm::kInt8) fields.Floats("fc_amax", {amax});
  const bool from_amax =  // then the output needs no scale
      form == WeightForm::kBothAmax || form == WeightForm::kRowScalesAndAmax;
  if (from_amax) fields.Floats("fc_amax", {amax, scale * 127});
  if (form == WeightForm::kOneScale) fields.Floats("weight_scales", {amax / 127});
  if (by_row) fields.Floats("weight_scales", scales);
  if (has_bias) fields.Floats("Bias", bias);
  Execute(kFc, "2", WithScales(fields, input_scale, from_amax ? 0 : scale), {input},
          {batch.Hidden(out, half_output ? kHalf : kInt8, scale)},
          [&](const std::vector<Filled>& got) {
            Near(got[0], want, 2e-3, "INT8 product of " + batch.Name());
          });
}

void RunFfn(int32_t hidden) {
  const Batch batch(60);
  const size_t h = static_cast<size_t>(hidden), inner = 4 * h;
  const double unit = 1 / std::sqrt(static_cast<double>(hidden));
  const auto w1 = RandomFloats(inner * h, unit), w2 = RandomFloats(inner * h, unit / 2),
             b1 = RandomFloats(inner, 0.3);
  FieldList fields;
  fields.Int("out_dims", hidden)
      .Int("type_id", kHalfId)
      .Floats("W1", w1)
      .Floats("W2", w2)
      .Floats("B1", b1)
      .Int("act_type", 3);
  const Filled input = Random(batch.Hidden(hidden, kHalf));
  Values middle = reference::Linear(input.values, HalfFloats(w1), HalfFloats(b1), inner);
  for (double& value : middle) value = reference::Gelu(value);
  const Values want = reference::Linear(middle, HalfFloats(w2), {}, h);
  Execute(kFfn, "1", fields, {input}, {batch.Hidden(hidden, kHalf)},
          [&](const std::vector<Filled>& got) {
            Near(got[0], want, 4e-3, "FFN of " + batch.Name());
          });
}

void RunGelu(int32_t channels, bool int8, DataType input_type, bool has_bias) {
  const Batch batch(400);
  const float input_scale = input_type == kInt8 ? 0.03f : 0;
  const auto bias = RandomFloats(static_cast<size_t>(channels));
  FieldList fields;
  fields.Int("type_id", int8 ? kInt8Id : kHalfId).Int("ld", has_bias ? channels : channels / 4);
  if (has_bias) fields.Floats("bias", bias);
  const Filled input = Random(batch.Hidden(channels, input_type, input_scale), 2);
  Values want = input.Real();
  const Values biases = HalfFloats(bias);
  for (size_t i = 0; i < want.size(); ++i) {
    want[i] = reference::Gelu(want[i] + (has_bias ? biases[i % biases.size()] : 0));
  }
  const float scale = int8 ? ScaleFor(want) : 0;
  Execute(kGelu, "1", WithScales(fields, input_scale, scale), {input},
          {batch.Hidden(channels, int8 ? kInt8 : kHalf, scale)},
          [&](const std::vector<Filled>& got) {
            Near(got[0], want, 2e-3, "GELU of " + batch.Name());
          });
}

// Contexts run in threads of their own, with clones of one plugin.
void RunThreads() {
  const int32_t hidden = HiddenSizes()[0];
  constexpr size_t kThreads = 4, kRuns = 20;
  FieldList fields;
  const auto weight = RandomFloats(static_cast<size_t>(hidden) * hidden, 0.05);
  fields.Int("out_dims", hidden).Int("type_id", kHalfId).Floats("W", weight);
  const Plugin::Pointer original = Plugin::Create(kFc, "1", Collection(fields).get());
  const Batch batch(100);
  const Filled input = Random(batch.Hidden(hidden, kHalf));
  const Values want = reference::Linear(input.values, HalfFloats(weight), {}, hidden);
  std::vector<Filled> results(kThreads);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i]() noexcept {
      const Plugin::Pointer plugin = original->Attached();
      const std::vector<Tensor> inputs{input.tensor}, outputs{input.tensor};
      const size_t bytes = CountOf(input.tensor) * sizeof(uint16_t);
      Buffer from(bytes), to(bytes), workspace(plugin->WorkspaceBytes(inputs, outputs));
      from.Write(input.Bytes());
      cudaStream_t stream;
      Cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
      const void* input_data[] = {from.get()};
      void* output_data[] = {to.get()};
      for (size_t run = 0; run < kRuns; ++run) {
        plugin->Enqueue(inputs, outputs, input_data, output_data, workspace.get(), stream);
      }
      Cuda(cudaStreamSynchronize(stream));
      Cuda(cudaStreamDestroy(stream));
      results[i] = Filled::FromBytes(input.tensor, to.Read().data());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Filled& result : results) Near(result, want, 2e-3, "product in a thread");
}

// A product of sizes that no other test has, so that its buckets are new to the process.
struct Product {
  static constexpr int32_t kIn = 272, kOut = 304;

  std::vector<float> weight = RandomFloats(kIn * kOut, 0.05);
  Plugin::Pointer original;

  Product() {
    FieldList fields;
    fields.Int("out_dims", kOut).Int("type_id", kHalfId).Floats("W", weight);
    original = Plugin::Create(kFc, "1", Collection(fields).get());
  }
  static std::vector<Tensor> Inputs(int64_t windows, int64_t length) {
    return {Shaped({windows, length, kIn}, kHalf)};
  }
  static std::vector<Tensor> Outputs(int64_t windows, int64_t length) {
    return {Shaped({windows, length, kOut}, kHalf)};
  }
  static bool Announce(Plugin& plugin, int64_t windows, int64_t length) {
    return plugin.ChangeShapes(Inputs(windows, length), Outputs(windows, length));
  }
};

// One window through a product, on a stream of its own; `announced` before the call, in a capture
// of the strictest kind if `captured`.
void RunProduct(const Product& product, Plugin& plugin, int64_t length, bool announced,
                bool captured) {
  const auto inputs = Product::Inputs(1, length), outputs = Product::Outputs(1, length);
  const Filled input = Random(inputs[0]);
  Buffer from(BytesOf(inputs[0])), to(BytesOf(outputs[0])),
      workspace(plugin.WorkspaceBytes(inputs, outputs));
  from.Write(input.Bytes());
  const void* input_data[] = {from.get()};
  void* output_data[] = {to.get()};
  cudaStream_t stream;
  Cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  if (captured) Cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  const bool ran =
      (!announced || plugin.ChangeShapes(inputs, outputs)) &&
      plugin.Enqueue(inputs, outputs, input_data, output_data, workspace.get(), stream);
  if (captured) {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    Cuda(cudaStreamEndCapture(stream, &graph));
    Cuda(cudaGraphInstantiateWithFlags(&executable, graph, 0));
    Cuda(cudaGraphLaunch(executable, stream));
    Cuda(cudaStreamSynchronize(stream));
    Cuda(cudaGraphExecDestroy(executable));
    Cuda(cudaGraphDestroy(graph));
  }
  Cuda(cudaStreamSynchronize(stream));
  Cuda(cudaStreamDestroy(stream));
  g_checks.That(ran, "ran");
  Near(Filled::FromBytes(outputs[0], to.Read().data()),
       reference::Linear(input.values, HalfFloats(product.weight), {}, Product::kOut), 2e-3,
       "product of " + std::to_string(length) + " tokens");
  g_checks.That(to.GuardHolds() && workspace.GuardHolds(), "nothing is written behind an end");
}

// GEMMs are tuned when shapes are announced, once a bucket and process, and serve the whole bucket.
void RunTuning() {
  const auto tunings = [](size_t want, const std::string& what) {
    g_checks.That(g_log->details.size() == want,
                  what + ": " + std::to_string(g_log->details.size()) + " tunings");
    g_checks.That(g_log->errors.empty() && g_log->others.empty(), what + ": and nothing else");
    g_log->Clear();
  };
  g_log->Clear();
  const Product product;
  if (!fake::kScalesInFields) {
    // V3 loads the weights then; V2 has the network's shapes before it is to load them.
    g_checks.That(Product::Announce(*product.original, 1, 70), "announced early");
    tunings(0, "before it is initialized");
  }
  {
    const Plugin::Pointer plugin = product.original->Attached();
    RunProduct(product, *plugin, 90, false, false);
    tunings(0, "a call that nobody announced");
    g_checks.That(Product::Announce(*plugin, 2, 35), "announced");
    tunings(1, "70 tokens");
    for (const int64_t length : {65, 77, 80}) RunProduct(product, *plugin, length, true, false);
    tunings(0, "65 to 80 tokens");
    RunProduct(product, *plugin, 90, true, false);
    tunings(1, "90 tokens, once announced");
  }
  {
    const Plugin::Pointer plugin = Product().original->Attached();
    g_checks.That(Product::Announce(*plugin, 1, 72), "announced");
    tunings(0, "another plugin of the same sizes");
    // Half a terabyte: cannot be had, and is not asked for twice.
    for (const size_t warnings : {1, 0}) {
      g_log->Clear();
      g_checks.That(Product::Announce(*plugin, 1 << 21, 512), "announced");
      g_checks.That(g_log->errors.empty() && g_log->details.empty() &&
                        g_log->others.size() == warnings,
                    "without memory a warning, once");
    }
    g_log->Clear();
  }
  const Plugin::Pointer plugin = product.original->Attached();
  RunProduct(product, *plugin, 100, true, true);
  tunings(1, "in the middle of a capture");
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&]() noexcept {
      Product::Announce(*product.original->Attached(), 1, 120);
    });
  }
  for (std::thread& thread : threads) thread.join();
  tunings(1, "four threads at once");

  // The FFN has two products; an INT8 one is another than an FP16 one of its sizes.
  FieldList ffn, int8;
  const auto wide = RandomFloats(Product::kIn * Product::kOut, 0.05);
  ffn.Int("out_dims", Product::kIn)
      .Int("type_id", kHalfId)
      .Floats("W1", wide)
      .Floats("W2", wide)
      .Floats("B1", RandomFloats(Product::kOut))
      .Int("act_type", 3);
  int8.Int("out_dims", Product::kOut).Floats("W", wide).Floats("fc_amax", {1, 1});
  const Plugin::Pointer pair = Plugin::Create(kFfn, "1", Collection(ffn).get())->Attached();
  g_checks.That(pair->ChangeShapes(Product::Inputs(1, 70), Product::Inputs(1, 70)), "announced");
  tunings(2, "an FFN");
  const Plugin::Pointer quantized =
      Plugin::Create(kFc, "2", Collection(WithScales(int8, 0.02f, 0)).get())->Attached();
  g_checks.That(quantized->ChangeShapes({Shaped({1, 70, Product::kIn}, kInt8, 0.02f)},
                                        {Shaped({1, 70, Product::kOut}, kInt8, 0.02f)}),
                "announced");
  tunings(1, "INT8");
}

// A clone that is older than its original's initialization runs all the same.
void RunEarlyClone() {
  FieldList fields;
  fields.Int("type_id", kHalfId).Int("ld", 64).Floats("bias", RandomFloats(64));
  const Plugin::Pointer original = Plugin::Create(kGelu, "1", Collection(fields).get());
  const Plugin::Pointer clone = original->Clone();
  const Plugin::Pointer attached = original->Attached();
  Buffer data(64 * sizeof(uint16_t)), workspace(1);
  Cuda(cudaMemset(data.get(), 0, 64 * sizeof(uint16_t)));
  Cuda(cudaDeviceSynchronize());
  const void* inputs[] = {data.get()};
  void* outputs[] = {data.get()};
  const std::vector<Tensor> tensors{Shaped({1, 1, 64}, kHalf)};
  g_checks.That(
      clone->Enqueue(tensors, tensors, inputs, outputs, workspace.get(), nullptr), "ran");
  Cuda(cudaDeviceSynchronize());
}

// On V2 an INT8 tensor may come without a scale. That is an error, not a division by zero.
void RunWithoutScale() {
  if (fake::kScalesInFields) return;
  FieldList fields;
  fields.Int("type_id", kInt8Id).Int("ld", 384);
  const Plugin::Pointer plugin = Plugin::Create(kGelu, "1", Collection(fields).get())->Attached();
  Buffer data(384), workspace(1);
  const void* inputs[] = {data.get()};
  void* outputs[] = {data.get()};
  const float bad_scales[] = {-1, 0, NAN, INFINITY};
  for (const float scale : bad_scales) {
    const std::vector<Tensor> good{Shaped({1, 1, 384}, kInt8, 0.1f)};
    const std::vector<Tensor> bad{Shaped({1, 1, 384}, kInt8, scale)};
    for (const bool input : {true, false}) {
      g_log->Clear();
      g_checks.That(!plugin->Enqueue(input ? bad : good, input ? good : bad, inputs, outputs,
                                     workspace.get(), nullptr),
                    "refused");
      g_checks.That(g_log->errors.size() == 1, "with a message");
    }
  }
  g_log->Clear();
}

// Execution with shapes that the network never had.
void RunWithWrongShapes() {
  FieldList fields;
  fields.Int("type_id", kHalfId).Int("ld", 384).Floats("bias", RandomFloats(384));
  const Plugin::Pointer plugin = Plugin::Create(kGelu, "1", Collection(fields).get())->Attached();
  const void* inputs[] = {nullptr};
  void* outputs[] = {nullptr};
  for (const Tensor& wrong :
       {Shaped({2, 3, 392}, kHalf), Shaped({2, 3}, kHalf), Shaped({2, 3, 384}, kFloat),
        Shaped({2, 513, 384}, kHalf), Shaped({2, -1, 384}, kHalf), Shaped({0, 3, 384}, kHalf),
        Shaped({1 << 23, 512, 384}, kHalf)}) {
    g_log->Clear();
    g_checks.That(!plugin->Enqueue({wrong}, {wrong}, inputs, outputs, nullptr, nullptr), "refused");
    g_checks.That(g_log->errors.size() == 1, "with a message");
  }
  g_log->Clear();
}

}  // namespace

void RunAll(fake::Logger* logger, int rounds) try {
  g_log = logger;
  g_checks.Begin("a device");
  Cuda(cudaDeviceSynchronize());
  for (const int32_t hidden : HiddenSizes()) {
    const std::string size = ", hidden " + std::to_string(hidden);
    for (int round = 0; round < rounds; ++round) {
      g_checks.Begin("run embedding" + size);
      RunEmbedding(hidden, false);
      RunEmbedding(hidden, true);
      g_checks.Begin("run attention" + size);
      RunAttention(hidden, false, kHalf, true);
      RunAttention(hidden, false, kHalf, false);
      RunAttention(hidden, true, kInt8, true);
      RunAttention(hidden, true, kHalf, true);
      g_checks.Begin("run skip layer norm" + size);
      for (const bool bias : {false, true}) {
        RunSkipNorm(hidden, false, kHalf, false, bias);
        for (const bool single : {false, true}) {
          RunSkipNorm(hidden, true, kHalf, single, bias);
          RunSkipNorm(hidden, true, kInt8, single, bias);
        }
      }
      g_checks.Begin("run fully connected" + size);
      for (const bool bias : {false, true}) {
        RunFc(hidden, hidden, bias);
        for (const int32_t out : {1, 2, 8, 13}) RunFc(hidden, out, bias);
      }
      g_checks.Begin("run fully connected, INT8" + size);
      for (const WeightForm form :
           {WeightForm::kAmax, WeightForm::kBothAmax, WeightForm::kOneScale, WeightForm::kRowScales,
            WeightForm::kRowScalesAndAmax, WeightForm::kInt8}) {
        RunFcInt8(hidden, hidden, form, RandomInt(0, 1) == 1, false);
        if (fake::kScalesInFields && form != WeightForm::kBothAmax &&
            form != WeightForm::kRowScalesAndAmax) {
          RunFcInt8(hidden, 48, form, RandomInt(0, 1) == 1, true);
        }
      }
      g_checks.Begin("run FFN" + size);
      RunFfn(hidden);
      g_checks.Begin("run GELU" + size);
      for (const bool bias : {false, true}) {
        RunGelu(4 * hidden, false, kHalf, bias);
        RunGelu(4 * hidden, true, kHalf, bias);
        RunGelu(4 * hidden, true, kInt8, bias);
      }
    }
  }
  g_checks.Begin("run in threads");
  RunThreads();
  g_checks.Begin("run tuned");
  RunTuning();
  g_checks.Begin("run a clone older than the weights");
  RunEarlyClone();
  g_checks.Begin("run without scales");
  RunWithoutScale();
  g_checks.Begin("run with wrong shapes");
  RunWithWrongShapes();
} catch (const std::exception& error) {
  g_checks.That(false, std::string("the device: ") + error.what());
}
