// The executor through its C interface:
//
//   executor_test FOLDER [--gpu] [--networks N] [--batches N] [--seed N] [--small]
//
// FOLDER takes engines. Without --gpu only what needs none: misuse of the interface. With it, N
// random networks against float64, graphs, poison, batches in flight, and N batches repeated.
// --small is for sanitizers, under which kernels run a hundred times slower.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "bert_executor.h"
#include "check.h"
#include "device.h"
#include "engine_file.h"
#include "model.h"
#include "reference.h"
#include "reference_network.cuh"

namespace {

using bert::executor::TensorSpec;
using bert::executor::tensors_of;
using bert::executor::Type;
using reference_network::Rounding;
using reference_network::Values;

std::mt19937_64 g_random;
std::string g_folder;
bool g_small = false;

int Between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(g_random); }

bool Succeeded(BertStatus status, const std::string& what) {
  return g_checks.That(status == BERT_OK, what + ": " + bert_executor_last_error());
}

void Refused(BertStatus status, BertStatus expected, const std::string& reason) {
  const std::string said = bert_executor_last_error();
  g_checks.That(status == expected && said.find(reason) != std::string::npos &&
                    said.find('\n') == std::string::npos,
                "wanted a refusal for " + reason + ", got status " + std::to_string(status) +
                    ": " + said);
}

bool EndsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

const char* NameOf(BertPrecision precision) {
  switch (precision) {
    case BERT_FP16:
      return "FP16";
    case BERT_FP8:
      return "FP8";
    case BERT_INT8:
      return "INT8";
    case BERT_INT8_HALF_HEAD:
      return "INT8 but for the QA head";
  }
  return "no precision";
}

// Weights that binary16 holds exactly, of sizes with which attention is far from uniform and
// hidden states stay apart; of a linear that is quantized, what is left of them then.
struct Weights {
  BertArchitecture architecture;
  BertPrecision precision;
  std::map<std::string, std::vector<uint16_t>> halves;
  std::map<std::string, Values> values;
  // Of quantized linears: weights in eight bits, scales, and how their inputs are rounded.
  std::map<std::string, std::vector<uint8_t>> quantized;
  std::map<std::string, std::vector<float>> scales;
  std::map<std::string, Rounding> inputs;

  explicit Weights(const BertArchitecture& a, BertPrecision precision = BERT_FP16)
      : architecture(a), precision(precision) {
    for (const TensorSpec& spec : tensors_of(a)) {
      const bool gamma = EndsWith(spec.name, ".gamma");
      const size_t in =
          static_cast<size_t>(EndsWith(spec.name, "ffn.out.weight") ? a.intermediate : a.hidden);
      const bool weight = EndsWith(spec.name, ".weight");
      const double size = weight ? 1.3 / std::sqrt(in) : 0.3;
      std::normal_distribution<double> normal(gamma ? 1.0 : 0.0, gamma ? 0.1 : size);
      auto& half = halves[spec.name];
      auto& value = values[spec.name];
      half.resize(spec.bytes / 2);
      value.resize(half.size());
      for (size_t i = 0; i < half.size(); ++i) {
        half[i] = reference::ToHalf(normal(g_random));
        value[i] = reference::FromHalf(half[i]);
      }
      const Type type = spec.name == "qa.weight" ? bert::executor::head_type(precision)
                                                 : bert::executor::layer_type(precision);
      if (weight && type != Type::kHalf) {
        Quantize(spec.name.substr(0, spec.name.size() - 7), type, in);
      }
    }
  }

  void Quantize(const std::string& linear, Type type, size_t in) {
    Values& weight = values[linear + ".weight"];
    auto& bits = quantized[linear + ".weight"];
    auto& scale = scales[linear + ".scales"];
    const bool integers = type == Type::kInt8;
    const size_t group = integers ? in : weight.size();  // that share a scale
    for (size_t begin = 0; begin < weight.size(); begin += group) {
      double most = 0;
      for (size_t i = begin; i < begin + group; ++i) most = std::max(most, std::fabs(weight[i]));
      scale.push_back(static_cast<float>(most / (integers ? 127 : 448)));
      const Rounding rounding{type, scale.back()};
      for (size_t i = begin; i < begin + group; ++i) {
        bits.push_back(integers ? static_cast<uint8_t>(static_cast<int8_t>(
                                      reference::Quantized(weight[i], rounding.scale)))
                                : reference::ToE4m3(weight[i] / rounding.scale));
        weight[i] = Rounded(weight[i], rounding);
      }
    }
    // Inputs reach about 8: norms of unit size, and sums of 1.3 times that after GELU. INT8 cuts
    // some of them off.
    scale.push_back(integers ? 4.0f / 127 : 8.0f / 448);
    inputs[linear] = {type, scale.back()};
    halves.erase(linear + ".weight");
  }

  reference_network::Network Reference() const { return {architecture, values, inputs}; }

  static double Rounded(double value, const Rounding& rounding) {
    return rounding.scale * (rounding.type == Type::kInt8
                                 ? reference::Quantized(value, rounding.scale)
                                 : reference::FromE4m3(reference::ToE4m3(value / rounding.scale)));
  }

  std::vector<BertTensor> Tensors() const {
    std::vector<BertTensor> tensors;
    for (const auto& [name, half] : halves) {
      tensors.push_back({name.c_str(), half.data(), half.size() * 2});
    }
    for (const auto& [name, bytes] : quantized) {
      tensors.push_back({name.c_str(), bytes.data(), bytes.size()});
    }
    for (const auto& [name, pair] : scales) {
      tensors.push_back({name.c_str(), pair.data(), pair.size() * sizeof(float)});
    }
    return tensors;
  }
};

BertArchitecture RandomArchitecture() {
  const int head = Between(0, 1) == 0 ? 32 : 64;
  const int hidden = g_small ? 2 * head : (Between(0, 1) == 0 ? 384 : 768);
  return {g_small ? 1 : Between(1, 4), hidden, hidden / head, g_small ? 128 : 4 * hidden, 500, 2,
          384, 1e-12f};
}

struct Batch {
  std::vector<int32_t> offsets, lengths, ids, segments;
  BertBatch View() const {
    return {static_cast<int32_t>(lengths.size()), offsets.data(), lengths.data(), ids.data(),
            segments.data()};
  }
  int Tokens() const { return std::accumulate(lengths.begin(), lengths.end(), 0); }
};

// Packed, or padded to the longest window.
Batch MakeBatch(const std::vector<int32_t>& lengths, bool padded) {
  Batch batch;
  batch.lengths = lengths;
  const int longest = *std::max_element(lengths.begin(), lengths.end());
  int end = 0;
  for (int length : lengths) {
    batch.offsets.push_back(end);
    end += padded ? longest : length;
  }
  batch.ids.resize(end);
  batch.segments.resize(end);
  for (int i = 0; i < end; ++i) {
    batch.ids[i] = Between(0, 499);
    batch.segments[i] = Between(0, 1);
  }
  return batch;
}

std::vector<int32_t> RandomLengths(int most_windows, int longest) {
  std::vector<int32_t> lengths(static_cast<size_t>(Between(1, most_windows)));
  for (int32_t& length : lengths) length = Between(1, longest);
  return lengths;
}

struct Logits {
  std::vector<float> start, end;
  float milliseconds = 0;

  explicit Logits(const Batch& batch)
      : start(batch.ids.size(), -7777.0f), end(batch.ids.size(), -7777.0f) {}
  bool SameBits(const Logits& other) const {
    return start.size() == other.start.size() &&
           std::memcmp(start.data(), other.start.data(), start.size() * 4) == 0 &&
           std::memcmp(end.data(), other.end.data(), end.size() * 4) == 0;
  }
};

struct EngineDeleter {
  void operator()(BertEngine* engine) const { bert_engine_destroy(engine); }
};
struct RunnerDeleter {
  void operator()(BertRunner* runner) const { bert_runner_destroy(runner); }
};
using Engine = std::unique_ptr<BertEngine, EngineDeleter>;
using Runner = std::unique_ptr<BertRunner, RunnerDeleter>;

[[noreturn]] void Stop() { throw std::runtime_error(bert_executor_last_error()); }

Engine Build(const Weights& weights, const std::string& name, int tuned_tokens) {
  const std::string path = g_folder + "/" + name;
  const std::vector<BertTensor> tensors = weights.Tensors();
  BertEngine* engine = nullptr;
  if (!Succeeded(bert_engine_build(&weights.architecture, weights.precision, tensors.data(),
                                   static_cast<int32_t>(tensors.size()), 0, tuned_tokens,
                                   path.c_str()),
                 "build") ||
      !Succeeded(bert_engine_load(path.c_str(), 0, &engine), "load")) {
    Stop();
  }
  return Engine(engine);
}

Runner MakeRunner(const Engine& engine, int windows, int tokens) {
  BertRunner* runner = nullptr;
  if (!Succeeded(bert_runner_create(engine.get(), windows, tokens, &runner), "runner")) Stop();
  return Runner(runner);
}

void Submit(const Runner& runner, const Batch& batch) {
  const BertBatch view = batch.View();
  if (!Succeeded(bert_runner_submit(runner.get(), &view), "submit")) Stop();
}

Logits Wait(const Runner& runner, const Batch& batch) {
  Logits logits(batch);
  if (!Succeeded(bert_runner_wait(runner.get(), logits.start.data(), logits.end.data(),
                                  &logits.milliseconds),
                 "wait")) {
    Stop();
  }
  return logits;
}

Logits Run(const Runner& runner, const Batch& batch) {
  Submit(runner, batch);
  return Wait(runner, batch);
}

// Of logits, over any number of batches.
struct Errors {
  double squares = 0, errors = 0, worst = 0;
  size_t logits = 0;

  void Add(const Errors& other) {
    squares += other.squares;
    errors += other.errors;
    worst = std::max(worst, other.worst);
    logits += other.logits;
  }
  // What errors are measured by: about 1.4 in these networks, but one token's may both be near 0.
  double Size() const { return std::max(1.0, std::sqrt(squares / logits)); }
  double Relative() const { return std::sqrt(errors / logits) / Size(); }
};

// As shares of the logits' size: of their errors' root mean square, and of any error.
struct Limits {
  double relative, worst;
};

// FP16 rounds at 5e-4 of a value; over some layers errors of this size add up at random. What FP8
// and INT8 round, the reference rounds as well, but a number that lies near the border between two
// of their steps may end a whole step away from its own.
Limits LimitsOf(BertPrecision precision) {
  switch (bert::executor::layer_type(precision)) {
    case Type::kHalf:
      return {5e-3, 0.06};
    case Type::kE4m3:
      return {0.1, 0.6};
    case Type::kInt8:
      return {0.05, 0.3};
  }
  return {};
}

// Checks what a single logit may be off by, and where logits were written.
Errors Compare(const Logits& found, const Values& expected, const Batch& batch,
               const std::string& what, BertPrecision precision = BERT_FP16) {
  Errors made;
  size_t written = 0;
  for (const std::vector<float>* side : {&found.start, &found.end}) {
    for (size_t w = 0; w < batch.lengths.size(); ++w) {
      for (int i = 0; i < batch.lengths[w]; ++i, ++made.logits) {
        const double logit = expected[made.logits];
        const double error = (*side)[batch.offsets[w] + i] - logit;
        made.squares += logit * logit;
        made.errors += error * error;
        made.worst = std::isnan(error) ? error : std::max(made.worst, std::fabs(error));
      }
    }
    for (float logit : *side) written += logit != -7777.0f;
  }
  g_checks.That(made.worst <= LimitsOf(precision).worst * made.Size(),
                what + ": a logit of size " + std::to_string(made.Size()) + " is off by " +
                    std::to_string(made.worst));
  g_checks.That(written == made.logits, what + ": wrote outside the windows");
  return made;
}

void CheckRelative(const Errors& made, const std::string& what,
                   BertPrecision precision = BERT_FP16) {
  g_checks.That(made.Relative() <= LimitsOf(precision).relative,
                what + ": relative error " + std::to_string(made.Relative()));
}

Values Expected(const reference_network::Network& network, const Batch& batch) {
  std::vector<int> ids, segments;
  for (size_t w = 0; w < batch.lengths.size(); ++w) {
    for (int i = 0; i < batch.lengths[w]; ++i) {
      ids.push_back(batch.ids[batch.offsets[w] + i]);
      segments.push_back(batch.segments[batch.offsets[w] + i]);
    }
  }
  return network.Logits(batch.lengths, ids, segments);
}

// The network on the host, of operations that the kernels' tests use: what the reference on the
// GPU is checked with.
Values OnHost(const Weights& weights, int length, const Batch& batch) {
  const BertArchitecture& a = weights.architecture;
  const auto& w = weights.values;
  const auto linear = [&](const std::string& name, Values x, int out) {
    const auto rounding = weights.inputs.find(name);
    if (rounding != weights.inputs.end()) {
      for (double& value : x) value = Weights::Rounded(value, rounding->second);
    }
    return reference::Linear(x, w.at(name + ".weight"), w.at(name + ".bias"), out);
  };
  const auto norm = [&](const std::string& name, Values x, const Values& residual) {
    for (size_t i = 0; i < residual.size(); ++i) x[i] += residual[i];
    return reference::LayerNorm(x, w.at(name + ".gamma"), w.at(name + ".beta"));
  };
  Values x;
  for (int p = 0; p < length; ++p) {
    for (int c = 0; c < a.hidden; ++c) {
      x.push_back(w.at("embeddings.word")[batch.ids[p] * size_t(a.hidden) + c] +
                  w.at("embeddings.segment")[batch.segments[p] * size_t(a.hidden) + c] +
                  w.at("embeddings.position")[p * size_t(a.hidden) + c]);
    }
  }
  x = norm("embeddings.norm", x, {});
  for (int i = 0; i < a.layers; ++i) {
    const std::string layer = "layer." + std::to_string(i);
    const Values context =
        reference::Attention(linear(layer + ".attention.qkv", x, 3 * a.hidden), {length}, length,
                             a.heads, a.hidden / a.heads);
    x = norm(layer + ".attention.norm", linear(layer + ".attention.output", context, a.hidden), x);
    Values inner = linear(layer + ".ffn.in", x, a.intermediate);
    for (double& value : inner) value = reference::Gelu(value);
    x = norm(layer + ".ffn.norm", linear(layer + ".ffn.out", inner, a.hidden), x);
  }
  const Values pairs = linear("qa", x, 2);
  Values logits(pairs.size());
  for (int t = 0; t < length; ++t) {
    logits[t] = pairs[2 * t];
    logits[length + t] = pairs[2 * t + 1];
  }
  return logits;
}

void TestReference(BertPrecision precision) {
  const Weights weights({2, 64, 2, 128, 500, 2, 384, 1e-12f}, precision);
  const Batch batch = MakeBatch({37}, false);
  const Values host = OnHost(weights, 37, batch);
  const Values device = Expected(weights.Reference(), batch);
  double worst = 0;
  for (size_t i = 0; i < host.size(); ++i) worst = std::max(worst, std::fabs(host[i] - device[i]));
  g_checks.That(host.size() == device.size() && worst < 1e-9,
                std::string(NameOf(precision)) + ": the references differ by " +
                    std::to_string(worst));
}

void TestNetwork(BertPrecision precision) {
  const Weights weights(RandomArchitecture(), precision);
  const reference_network::Network network = weights.Reference();
  const std::string title = std::string(NameOf(precision)) + ", " +
                            std::to_string(weights.architecture.hidden) + " channels, " +
                            std::to_string(weights.architecture.heads) + " heads, " +
                            std::to_string(weights.architecture.layers) + " layers";
  const int windows = g_small ? 3 : 40, longest = g_small ? 70 : 384;
  // Tuned for fewer tokens than the batches have, so that some run algorithms of other buckets.
  const Engine engine = Build(weights, "random.engine", g_small ? 64 : 700);
  const Runner runner = MakeRunner(engine, windows, windows * longest);
  Errors all;
  for (int i = 0; i < (g_small ? 2 : 6); ++i) {
    const std::vector<int32_t> lengths =
        i == 0   ? std::vector<int32_t>{1}
        : i == 1 ? std::vector<int32_t>(static_cast<size_t>(windows), longest)
                 : RandomLengths(windows, Between(0, 1) == 0 ? longest : 40);
    const Batch batch = MakeBatch(lengths, Between(0, 1) == 1);
    Succeeded(bert_runner_poison(runner.get()), "poison");
    const Logits first = Run(runner, batch);
    g_checks.That(first.milliseconds > 0, "a batch took no time");
    all.Add(Compare(first, Expected(network, batch), batch,
                    title + ", " + std::to_string(lengths.size()) + " windows, " +
                        std::to_string(batch.Tokens()) + " tokens",
                    precision));
    g_checks.That(Run(runner, batch).SameBits(first), "without poison it has other bits");
  }
  CheckRelative(all, title, precision);
  std::printf("  %s: relative error %.4f, a logit of size %.2f off by up to %.3f\n", title.c_str(),
              all.Relative(), all.Size(), all.worst);
}

// Batches of one bucket, whose graph is captured once: each against float64.
void TestReplays() {
  const Weights weights(RandomArchitecture());
  const reference_network::Network network = weights.Reference();
  const Engine engine = Build(weights, "replays.engine", 64);
  const Runner runner = MakeRunner(engine, 8, 1024);
  Succeeded(bert_runner_prepare(runner.get(), 4, 200, 60), "prepare");
  for (const std::vector<int32_t>& lengths : std::vector<std::vector<int32_t>>{
           {64, 63, 40, 26}, {50, 50, 50, 50}, {64, 64, 64, 64}, {1, 64, 64, 64}}) {
    const Batch batch = MakeBatch(lengths, false);
    const std::string what = "a replayed graph";
    CheckRelative(Compare(Run(runner, batch), Expected(network, batch), batch, what), what);
  }
}

void TestInFlight() {
  const Weights weights(RandomArchitecture());
  const Engine engine = Build(weights, "flight.engine", 64);
  const int longest = g_small ? 30 : 384, windows = g_small ? 3 : 12;
  const Runner alone = MakeRunner(engine, windows, windows * longest);
  const Runner pair[2] = {MakeRunner(engine, windows, windows * longest),
                          MakeRunner(engine, windows, windows * longest)};
  std::vector<Batch> batches;
  std::vector<Logits> expected;
  for (int i = 0; i < (g_small ? 4 : 24); ++i) {
    batches.push_back(MakeBatch(RandomLengths(windows, longest), i % 2 == 0));
    expected.push_back(Run(alone, batches.back()));
  }
  for (size_t i = 0; i < batches.size(); ++i) {
    Submit(pair[i % 2], batches[i]);
    if (i > 0) {
      const size_t before = i - 1;
      g_checks.That(Wait(pair[before % 2], batches[before]).SameBits(expected[before]),
                    "with another batch in flight it has other bits");
    }
  }
  const size_t last = batches.size() - 1;
  g_checks.That(Wait(pair[last % 2], batches[last]).SameBits(expected[last]), "the last batch");
}

// The same batches twice, in another order, bit for bit.
void TestRepeats(int batches) {
  const Weights weights(g_small ? RandomArchitecture()
                                : BertArchitecture{2, 384, 12, 1536, 500, 2, 384, 1e-12f});
  const Engine engine = Build(weights, "repeats.engine", 64);
  const int longest = g_small ? 30 : 384, windows = g_small ? 3 : 40;
  const Runner runner = MakeRunner(engine, windows, windows * longest);
  std::vector<Batch> made;
  std::vector<Logits> first;
  for (int i = 0; i < batches; ++i) {
    made.push_back(MakeBatch(RandomLengths(Between(1, windows), longest), false));
    first.push_back(Run(runner, made.back()));
    const auto finite = [](float logit) { return std::isfinite(logit); };
    g_checks.That(std::all_of(first.back().start.begin(), first.back().start.end(), finite) &&
                      std::all_of(first.back().end.begin(), first.back().end.end(), finite),
                  "a logit is not finite");
  }
  for (int i = batches - 1; i >= 0; --i) {
    g_checks.That(Run(runner, made[i]).SameBits(first[i]), "batch " + std::to_string(i));
  }
}

void TestMisuse() {
  const BertArchitecture good{1, 64, 2, 128, 500, 2, 384, 1e-12f};
  const Weights weights(good);
  std::vector<BertTensor> tensors = weights.Tensors();
  const int32_t count = static_cast<int32_t>(tensors.size());
  const std::string path = g_folder + "/misuse.engine";
  const auto build = [&](const BertArchitecture* a, const BertTensor* given, int32_t number,
                         int32_t tokens, const char* to) {
    return bert_engine_build(a, BERT_FP16, given, number, 0, tokens, to);
  };
  Refused(build(nullptr, tensors.data(), count, 64, path.c_str()), BERT_BAD_ARGUMENT, "NULL");
  Refused(build(&good, nullptr, count, 64, path.c_str()), BERT_BAD_ARGUMENT, "NULL");
  Refused(build(&good, tensors.data(), count, 64, nullptr), BERT_BAD_ARGUMENT, "NULL");
  Refused(build(&good, tensors.data(), count, 0, path.c_str()), BERT_BAD_ARGUMENT, "max_tokens");
  Refused(build(&good, tensors.data(), count - 1, 64, path.c_str()), BERT_BAD_ARGUMENT, "missing");
  BertArchitecture wide = good;
  wide.hidden = 2048;
  Refused(build(&wide, tensors.data(), count, 64, path.c_str()), BERT_BAD_ARGUMENT, "hidden");
  tensors[0].bytes += 2;
  Refused(build(&good, tensors.data(), count, 64, path.c_str()), BERT_BAD_ARGUMENT, "bytes");
  tensors[0].bytes -= 2;
  tensors.push_back({"layer.7.ffn.in.bias", tensors[0].data, 4});
  Refused(build(&good, tensors.data(), count + 1, 64, path.c_str()), BERT_BAD_ARGUMENT, "no place");

  BertEngine* engine = nullptr;
  BertArchitecture read;
  BertPrecision precision;
  Refused(bert_engine_load(nullptr, 0, &engine), BERT_BAD_ARGUMENT, "NULL");
  Refused(bert_engine_load(path.c_str(), 0, nullptr), BERT_BAD_ARGUMENT, "NULL");
  Refused(bert_engine_load((path + ".none").c_str(), 0, &engine), BERT_BAD_ARGUMENT, "opened");
  Refused(bert_engine_load(g_folder.c_str(), 0, &engine), BERT_BAD_ARGUMENT, "no engine");
  Refused(bert_engine_check(path.c_str(), nullptr, &precision), BERT_BAD_ARGUMENT, "NULL");
  Refused(bert_engine_check((path + ".none").c_str(), &read, &precision), BERT_BAD_ARGUMENT,
          "opened");
  BertRunner* runner = nullptr;
  Refused(bert_runner_create(nullptr, 1, 1, &runner), BERT_BAD_ARGUMENT, "NULL");
  Refused(bert_runner_prepare(nullptr, 1, 1, 1), BERT_BAD_ARGUMENT, "NULL");
  Refused(bert_runner_submit(nullptr, nullptr), BERT_BAD_ARGUMENT, "NULL");
  Refused(bert_runner_wait(nullptr, nullptr, nullptr, nullptr), BERT_BAD_ARGUMENT, "NULL");
  Refused(bert_runner_poison(nullptr), BERT_BAD_ARGUMENT, "NULL");
  bert_engine_destroy(nullptr);
  bert_runner_destroy(nullptr);
  g_checks.That(engine == nullptr && runner == nullptr, "a refusal made something");
}

// An engine's file with some of its facts changed, and sealed again.
std::string Changed(const std::string& path, void (*change)(bert::executor::FileFacts*)) {
  using namespace bert::executor;
  std::ifstream file(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(file), {}};
  FileHead head;
  FileFacts facts;
  std::memcpy(&head, bytes.data(), sizeof(head));
  std::memcpy(&facts, bytes.data() + sizeof(head), sizeof(facts));
  change(&facts);
  std::memcpy(bytes.data() + sizeof(head), &facts, sizeof(facts));
  head.checksum = checksum_of(bytes.data() + sizeof(head), bytes.size() - sizeof(head));
  std::memcpy(bytes.data(), &head, sizeof(head));
  const std::string changed = path + ".changed";
  std::ofstream(changed, std::ios::binary) << bytes;
  return changed;
}

void TestMisuseOnGpu() {
  using bert::executor::FileFacts;
  const Weights weights({1, 64, 2, 128, 500, 2, 100, 1e-12f});
  const Engine engine = Build(weights, "misuse.engine", 64);
  const std::string path = g_folder + "/misuse.engine";
  BertEngine* other = nullptr;
  const auto load = [&](void (*change)(FileFacts*)) {
    return bert_engine_load(Changed(path, change).c_str(), 0, &other);
  };
  Refused(load([](FileFacts* f) { f->compute_capability = 80; }), BERT_BAD_ARGUMENT,
          "compute capability 80");
  Refused(load([](FileFacts* f) { f->processors = 7; }), BERT_BAD_ARGUMENT, "7 processors");
  Refused(load([](FileFacts* f) { f->cublaslt += 1; }), BERT_BAD_ARGUMENT, "cuBLASLt");
  Refused(bert_engine_load(path.c_str(), 1000, &other), BERT_BAD_ARGUMENT, "device");
  Weights zero(weights.architecture, BERT_INT8);
  zero.scales["layer.0.ffn.in.scales"][5] = 0;
  const std::vector<BertTensor> tensors = zero.Tensors();
  Refused(bert_engine_build(&zero.architecture, BERT_INT8, tensors.data(),
                            static_cast<int32_t>(tensors.size()), 0, 64, path.c_str()),
          BERT_BAD_ARGUMENT, "layer.0.ffn.in.scales is not positive");
  BertArchitecture read{};
  BertPrecision precision{};
  Succeeded(bert_engine_check(path.c_str(), &read, &precision), "check");
  g_checks.That(std::memcmp(&read, &weights.architecture, sizeof(read)) == 0 &&
                    precision == BERT_FP16,
                "the engine's architecture is another");

  BertRunner* none = nullptr;
  Refused(bert_runner_create(engine.get(), 0, 64, &none), BERT_BAD_ARGUMENT, "windows");
  Refused(bert_runner_create(engine.get(), 1, 0, &none), BERT_BAD_ARGUMENT, "tokens");
  Refused(bert_runner_create(engine.get(), 1 << 20, 64, &none), BERT_BAD_ARGUMENT, "windows");
  Refused(bert_runner_create(engine.get(), 1, 64, nullptr), BERT_BAD_ARGUMENT, "NULL");
  const Runner runner = MakeRunner(engine, 2, 150);
  Refused(bert_runner_prepare(runner.get(), 3, 100, 50), BERT_BAD_ARGUMENT, "no such batch");
  Refused(bert_runner_prepare(runner.get(), 2, 151, 100), BERT_BAD_ARGUMENT, "no such batch");
  Refused(bert_runner_prepare(runner.get(), 1, 101, 101), BERT_BAD_ARGUMENT, "no such batch");
  Refused(bert_runner_prepare(runner.get(), 2, 21, 10), BERT_BAD_ARGUMENT, "no such batch");
  const auto submit = [&](const std::vector<int32_t>& lengths) {
    const Batch batch = MakeBatch(lengths, false);
    const BertBatch view = batch.View();
    return bert_runner_submit(runner.get(), &view);
  };
  float value, milliseconds;
  Refused(bert_runner_wait(runner.get(), &value, &value, &milliseconds), BERT_BAD_ARGUMENT,
          "no batch");
  Refused(submit({101}), BERT_BAD_ARGUMENT, "1 to 100 tokens");
  Refused(submit({100, 51}), BERT_BAD_ARGUMENT, "up to 150 tokens");
  Refused(submit({1, 1, 1}), BERT_BAD_ARGUMENT, "windows");
  Refused(bert_runner_submit(runner.get(), nullptr), BERT_BAD_ARGUMENT, "NULL");
  // After all of these it still works, and takes one batch at a time.
  const Batch batch = MakeBatch({100, 50}, false);
  Submit(runner, batch);
  Refused(submit({1}), BERT_BAD_ARGUMENT, "in flight");
  Refused(bert_runner_prepare(runner.get(), 1, 1, 1), BERT_BAD_ARGUMENT, "in flight");
  Refused(bert_runner_wait(runner.get(), nullptr, nullptr, &milliseconds), BERT_BAD_ARGUMENT,
          "NULL");
  const Logits logits = Wait(runner, batch);
  const std::string what = "after misuse";
  CheckRelative(Compare(logits, Expected(weights.Reference(), batch), batch, what), what);
  // A runner may go with a batch in flight.
  const Runner dropped = MakeRunner(engine, 2, 150);
  Submit(dropped, batch);
}

struct Options {
  bool gpu = false;
  int networks = 8, batches = 1000;
  unsigned long long seed = 1;
};

Options ReadOptions(int argc, char** argv) {
  if (argc < 2) throw std::invalid_argument("usage: executor_test FOLDER [--gpu] ...");
  g_folder = argv[1];
  Options options;
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--gpu") {
      options.gpu = true;
    } else if (word == "--small") {
      g_small = true;
    } else if (word == "--networks" && i + 1 < argc) {
      options.networks = std::atoi(argv[++i]);
    } else if (word == "--batches" && i + 1 < argc) {
      options.batches = std::atoi(argv[++i]);
    } else if (word == "--seed" && i + 1 < argc) {
      options.seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      throw std::invalid_argument("no option: " + word);
    }
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) try {
  const Options options = ReadOptions(argc, argv);
  g_random.seed(options.seed);
  g_checks.Begin("misuse");
  TestMisuse();
  if (options.gpu) {
    g_checks.Begin("misuse on a GPU");
    TestMisuseOnGpu();
    g_checks.Begin("reference");
    for (BertPrecision precision : {BERT_FP16, BERT_FP8, BERT_INT8, BERT_INT8_HALF_HEAD}) {
      TestReference(precision);
    }
    g_checks.Begin("networks");
    for (int i = 0; i < options.networks; ++i) TestNetwork(BERT_FP16);
    g_checks.Begin("networks in FP8");
    for (int i = 0; i < options.networks; ++i) TestNetwork(BERT_FP8);
    g_checks.Begin("networks in INT8");
    for (int i = 0; i < (options.networks + 1) / 2; ++i) {
      TestNetwork(BERT_INT8);
      TestNetwork(BERT_INT8_HALF_HEAD);
    }
    g_checks.Begin("replays");
    TestReplays();
    g_checks.Begin("in flight");
    TestInFlight();
    g_checks.Begin("repeats");
    TestRepeats(options.batches);
    Cuda(cudaDeviceSynchronize());
  }
  return g_checks.Finish();
} catch (const std::exception& error) {
  std::fprintf(stderr, "executor_test: %s\n", error.what());
  return 2;
}
