// Drives every plugin of the library as a runtime would:
//
//   plugin_test [--rounds N] [--host] [--seed N]
//
// Creation, shapes, formats, workspace, clones, serialization and every refusal; with rounds also
// execution at N random shapes, compared to float64 on the host. --host where kernels run there.

#include <cstdlib>
#include <cstring>
#include <string>

#include "tensorrt/half.h"
#include "tests/cases.h"
#include "tests/check.h"
#include "tests/fake_runtime.h"
#include "tests/plugin_run.h"

namespace {

using fake::Collection;
using fake::Field;
using fake::FieldList;
using fake::Plugin;
using fake::PluginFieldType;
using fake::Tensor;

fake::Logger g_logger;

std::string Label(const Case& test, int32_t hidden) {
  return test.label + " v" + test.version + ", hidden " + std::to_string(hidden);
}

Plugin::Pointer Create(const Case& test, const FieldList& fields) {
  return Plugin::Create(test.name, test.version, Collection(fields).get());
}

// One error was logged since Clear(), with the plugin's name and `word` in it.
void CheckLogged(const Case& test, const std::string& what, const std::string& word = "") {
  const bool logged = g_logger.errors.size() == 1 &&
                      g_logger.errors[0].find(test.name) != std::string::npos &&
                      g_logger.errors[0].find(word) != std::string::npos;
  g_checks.That(logged, what + " logs one line with '" + word + "'" +
                            (g_logger.errors.empty() ? "" : ", not: " + g_logger.errors[0]));
}

void CheckRefused(const Case& test, const FieldList& fields, const std::string& what,
                  const std::string& word = "") {
  g_logger.Clear();
  g_checks.That(Create(test, fields) == nullptr, what + " is refused");
  CheckLogged(test, what, word);
}

void CheckSilent(const std::string& what) {
  g_checks.That(g_logger.errors.empty() && g_logger.others.empty(),
                what + " logs nothing" +
                    (g_logger.errors.empty() ? "" : ", but: " + g_logger.errors[0]));
  g_logger.Clear();
}

// FP16 on the host: every half comes back, and ties go to even.
void TestHalf() {
  g_checks.Begin("binary16 of binary32");
  bool back = true, ties = true;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const double value = reference::FromHalf(half);
    if (std::isnan(value)) continue;
    back = back && bert_plugin::HalfFromFloat(static_cast<float>(value)) == half &&
           reference::ToHalf(value) == half;
    if ((half & 0x7fff) >= 0x7bff) continue;  // the next one must be finite
    const double next = reference::FromHalf(static_cast<uint16_t>(half + 1));
    for (const double part : {0.25, 0.5, 0.75}) {
      const double between = value + (next - value) * part;  // exact in float
      ties = ties && bert_plugin::HalfFromFloat(static_cast<float>(between)) ==
                         reference::ToHalf(between);
    }
  }
  g_checks.That(back, "each half comes back");
  g_checks.That(ties, "values between halves round to the nearest, ties to even");
  g_checks.That(bert_plugin::HalfFromFloat(65520.0f) == 0x7c00, "65520 is too large");
  g_checks.That(bert_plugin::HalfFromFloat(65519.0f) == 0x7bff, "65519 is not");
  g_checks.That(!bert_plugin::IsFinite(bert_plugin::HalfFromFloat(NAN)), "NaN stays");
}

void TestRegistry() {
  g_checks.Begin("registry");
  g_checks.That(Plugin::CreatorCount() == 10, "ten creators");
  const char* const plugins[][2] = {
      {kEmbedding, "1"}, {kEmbedding, "2"}, {kAttention, "1"}, {kAttention, "3"}, {kSkipNorm, "1"},
      {kSkipNorm, "3"},  {kFc, "1"},        {kFc, "2"},        {kFfn, "1"},       {kGelu, "1"}};
  for (const auto& [name, version] : plugins) {
    auto* creator = Plugin::Creator(name, version);
    if (!g_checks.That(creator != nullptr, std::string(name) + " v" + version)) continue;
    g_checks.That(std::string(creator->getPluginNamespace()).empty(), "in the empty namespace");
    g_checks.That(creator->getFieldNames()->nbFields > 0, "names its fields");
  }
}

void TestFields(const Case& test, int32_t hidden) {
  g_checks.Begin(Label(test, hidden) + ": fields");
  g_logger.Clear();
  g_checks.That(Create(test, test.fields) != nullptr, "the fields make a plugin");
  CheckSilent("that");

  CheckRefused(test, {}, "no field at all", "is missing");
  g_logger.Clear();
  g_checks.That(Plugin::Create(test.name, test.version, nullptr) == nullptr, "no collection");
  CheckLogged(test, "no collection");
  const nvinfer1::PluginFieldCollection dangling{3, nullptr};
  g_logger.Clear();
  g_checks.That(Plugin::Create(test.name, test.version, &dangling) == nullptr, "null fields");
  CheckLogged(test, "null fields");
  const nvinfer1::PluginField nameless;
  const nvinfer1::PluginFieldCollection unnamed{1, &nameless};
  g_logger.Clear();
  g_checks.That(Plugin::Create(test.name, test.version, &unnamed) == nullptr, "a nameless field");
  CheckLogged(test, "a nameless field");

  FieldList extra = test.fields;
  const std::string unknown = "unknown at " + Label(test, hidden);
  extra.Int(unknown, 1);
  for (const size_t warnings : {1, 0}) {
    g_logger.Clear();
    g_checks.That(Create(test, extra) != nullptr, "an unknown field is ignored");
    g_checks.That(g_logger.others.size() == warnings, "with a warning, once");
  }

  constexpr PluginFieldType kEveryType[] = {
      PluginFieldType::kFLOAT16, PluginFieldType::kFLOAT32, PluginFieldType::kFLOAT64,
      PluginFieldType::kINT8,    PluginFieldType::kINT16,   PluginFieldType::kINT32,
      PluginFieldType::kCHAR,    PluginFieldType::kDIMS,    PluginFieldType::kUNKNOWN};
  const auto allowed = [](Kind kind, PluginFieldType type) {
    switch (kind) {
      case Kind::kInteger: return type == PluginFieldType::kINT32;
      case Kind::kPositive: return type == PluginFieldType::kFLOAT32;
      case Kind::kWeights:
        return type == PluginFieldType::kFLOAT32 || type == PluginFieldType::kFLOAT16;
      case Kind::kQuantizable:
        return type == PluginFieldType::kFLOAT32 || type == PluginFieldType::kINT8;
    }
    return false;
  };
  for (const FieldRule& rule : test.rules) {
    const auto changed = [&](auto&& change) {
      FieldList fields = test.fields;
      change(fields[rule.name]);
      return fields;
    };
    if (rule.required) {
      CheckRefused(test, test.fields.Without(rule.name), "without " + rule.name, rule.name);
    } else {
      g_checks.That(Create(test, test.fields.Without(rule.name)) != nullptr,
                    rule.name + " may be left out");
    }
    for (const PluginFieldType type : kEveryType) {
      if (allowed(rule.kind, type)) continue;
      CheckRefused(test, changed([&](Field& field) { field.type = type; }),
                   rule.name + " of type " + std::to_string(static_cast<int>(type)), rule.name);
    }
    CheckRefused(test, changed([](Field& field) { field.null_data = true; }),
                 rule.name + " without data", rule.name);
    for (const int32_t length : {0, -1}) {
      CheckRefused(test, changed([&](Field& field) { field.length = length; }),
                   rule.name + " of length " + std::to_string(length), rule.name);
    }
    // The complaint may be about another field that now does not fit this one.
    CheckRefused(test, changed([](Field& field) {
                   field.length += 1;
                   field.bytes.resize(field.bytes.size() + 8);
                   const float ones[] = {1, 1};
                   std::memcpy(field.bytes.data() + field.bytes.size() - 8, ones, sizeof(ones));
                 }),
                 rule.name + " with a value too many");
    if (rule.kind == Kind::kWeights || rule.kind == Kind::kQuantizable) {
      CheckRefused(test, changed([](Field& field) { field.length -= 1; }),
                   rule.name + " with a value too few");
    }
    FieldList doubled = test.fields;
    doubled.fields.push_back(doubled[rule.name]);
    CheckRefused(test, doubled, rule.name + " twice", rule.name);
    for (const int32_t value : rule.absurd) {
      CheckRefused(test, changed([&](Field& field) {
                     std::memcpy(field.bytes.data() + 1, &value, sizeof(value));
                   }),
                   rule.name + " = " + std::to_string(value));
    }
    std::vector<float> bad_values;
    if (rule.kind != Kind::kInteger) bad_values = {NAN, INFINITY};
    if (rule.kind == Kind::kWeights) bad_values.push_back(1e6f);  // infinite in FP16
    if (rule.kind == Kind::kPositive) bad_values.insert(bad_values.end(), {0.0f, -1.0f});
    for (const float value : bad_values) {
      CheckRefused(test, changed([&](Field& field) {
                     std::memcpy(field.bytes.data() + field.bytes.size() - sizeof(value), &value,
                                 sizeof(value));
                   }),
                   rule.name + " with " + std::to_string(value), rule.name);
    }
  }
  // Weights in FP16 serve as well, and make the same plugin.
  FieldList halves;
  for (const Field& field : test.fields.fields) {
    bool weights = false;
    for (const FieldRule& rule : test.rules) {
      weights = weights || (rule.name == field.name && rule.kind == Kind::kWeights);
    }
    if (!weights) {
      halves.fields.push_back(field);
      continue;
    }
    std::vector<uint16_t> values(static_cast<size_t>(field.length));
    for (size_t i = 0; i < values.size(); ++i) {
      float value;
      std::memcpy(&value, field.bytes.data() + 1 + i * sizeof(value), sizeof(value));
      values[i] = reference::ToHalf(value);
    }
    halves.Add(field.name, PluginFieldType::kFLOAT16, values);
  }
  g_logger.Clear();
  const Plugin::Pointer from_single = Create(test, test.fields), from_half = Create(test, halves);
  if (g_checks.That(from_half != nullptr && from_single != nullptr, "weights in FP16")) {
    g_checks.That(from_half->Serialize() == from_single->Serialize(), "make the same plugin");
  }
}

void TestShapes(const Case& test, int32_t hidden) {
  g_checks.Begin(Label(test, hidden) + ": shapes and formats");
  g_logger.Clear();
  const Plugin::Pointer plugin = Create(test, test.fields);
  if (!g_checks.That(plugin != nullptr, "created")) return;
  const int32_t input_count = static_cast<int32_t>(test.inputs.size());
  const int32_t output_count = static_cast<int32_t>(test.outputs.size());
  g_checks.That(plugin->Name() == test.name && plugin->Version() == test.version, "its name");
  g_checks.That(plugin->OutputCount() == output_count, "its number of outputs");
  for (int32_t i = 0; i < output_count; ++i) {
    g_checks.That(plugin->OutputType(i) == test.outputs[static_cast<size_t>(i)].types[0],
                  "type of output " + std::to_string(i));
  }

  std::vector<std::vector<int64_t>> shapes;
  for (const bool five_dims : {false, true}) {
    for (const int64_t length : {int64_t{-1}, int64_t{96}}) {
      const auto inputs = test.Tensors(test.inputs, 7, length, five_dims);
      const auto outputs =
          test.Tensors(test.outputs, 7, length, five_dims && test.inputs[0].hidden);
      if (!g_checks.That(plugin->OutputShapes(inputs, &shapes), "gives shapes")) continue;
      for (size_t i = 0; i < outputs.size(); ++i) {
        g_checks.That(shapes[i] == outputs[i].dims, "shape of output " + std::to_string(i));
      }
    }
  }
  CheckSilent("asking for shapes");

  const auto inputs = test.Tensors(test.inputs, 3, 64), outputs = test.Tensors(test.outputs, 3, 64);
  const auto refuse_shapes = [&](const std::vector<Tensor>& wrong, const std::string& what) {
    g_logger.Clear();
    g_checks.That(!plugin->OutputShapes(wrong, &shapes), what + ": no shapes");
    CheckLogged(test, what);
  };
  const auto refuse_network = [&](const std::vector<Tensor>& in, const std::vector<Tensor>& out,
                                  const std::string& what) {
    g_logger.Clear();
    g_checks.That(!plugin->Configure(in, out, g_logger), what + ": not configured");
    CheckLogged(test, what);
  };
  {
    auto wrong = inputs;
    wrong.push_back(inputs[0]);
    refuse_shapes(wrong, "an input too many");
    refuse_network(wrong, outputs, "an input too many");
    wrong = inputs;
    wrong.pop_back();
    if (!wrong.empty()) refuse_shapes(wrong, "an input too few");
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::string which = "input " + std::to_string(i);
    for (const size_t rank : {0, 1, 4, 6}) {
      auto wrong = inputs;
      wrong[i].dims.resize(rank, 1);
      refuse_shapes(wrong, which + " of rank " + std::to_string(rank));
      refuse_network(wrong, outputs, which + " of rank " + std::to_string(rank));
    }
    if (test.inputs[i].hidden) {
      auto wrong = inputs;
      wrong[i].dims[2] += test.any_channels != 0 ? 1 : 8;
      refuse_shapes(wrong, which + " with other channels");
      refuse_network(wrong, outputs, which + " with other channels");
      wrong = inputs;
      wrong[i].dims.insert(wrong[i].dims.end(), {1, 2});
      refuse_network(wrong, outputs, which + " with something in dimension 4");
    }
    auto wrong = inputs;
    wrong[i].type = fake::DataType::kBOOL;
    refuse_network(wrong, outputs, which + " of a wrong type");
    wrong = inputs;
    wrong[i].format = fake::TensorFormat::kCHW32;
    refuse_network(wrong, outputs, which + " in a wrong format");
  }
  g_logger.Clear();
  g_checks.That(plugin->Configure(inputs, outputs, g_logger), "configured");
  const auto longest = [&](int64_t length) {
    return plugin->Configure(test.Tensors(test.inputs, 3, length),
                             test.Tensors(test.outputs, 3, length), g_logger);
  };
  g_checks.That(longest(test.max_length), "configured at the greatest length");
  CheckSilent("configuring");
  g_checks.That(!longest(test.max_length + 1), "not beyond");
  CheckLogged(test, "too great a length", std::to_string(test.max_length + 1));

  // Formats: exactly what is listed, judged without a look at later positions.
  const fake::DataType types[] = {kFloat, kHalf, kInt8, kInt32, fake::DataType::kBOOL};
  const fake::TensorFormat formats[] = {fake::TensorFormat::kLINEAR, fake::TensorFormat::kCHW2,
                                        fake::TensorFormat::kCHW32, fake::TensorFormat::kHWC8};
  std::vector<TensorRule> rules = test.inputs;
  rules.insert(rules.end(), test.outputs.begin(), test.outputs.end());
  std::vector<Tensor> all = inputs;
  all.insert(all.end(), outputs.begin(), outputs.end());
  g_logger.Clear();
  for (size_t position = 0; position < all.size(); ++position) {
    auto tensors = all;
    for (size_t later = position + 1; later < all.size(); ++later) {
      tensors[later].type = fake::DataType::kBOOL;
    }
    for (const fake::DataType type : types) {
      for (const fake::TensorFormat format : formats) {
        tensors[position].type = type;
        tensors[position].format = format;
        bool want = false;
        for (const fake::DataType known : rules[position].types) want = want || known == type;
        want = want && format == fake::TensorFormat::kLINEAR;
        g_checks.That(plugin->Supports(static_cast<int32_t>(position), tensors, input_count,
                                       output_count) == want,
                      "position " + std::to_string(position) + ", type " +
                          std::to_string(static_cast<int>(type)) + ", format " +
                          std::to_string(static_cast<int>(format)));
      }
    }
  }
  CheckSilent("asking for formats");

  const auto workspace = [&](int64_t windows, int64_t length) {
    return plugin->WorkspaceBytes(test.Tensors(test.inputs, windows, length),
                                  test.Tensors(test.outputs, windows, length));
  };
  g_checks.That(workspace(1, 1) <= workspace(1, 64) && workspace(1, 64) <= workspace(32, 64),
                "the workspace grows with the problem");
  CheckSilent("asking for workspace");
}

void TestSerialization(const Case& test, int32_t hidden) {
  g_checks.Begin(Label(test, hidden) + ": clones and serialization");
  g_logger.Clear();
  Plugin::Pointer plugin = Create(test, test.fields);
  if (!g_checks.That(plugin != nullptr, "created")) return;
  const fake::Serialized data = plugin->Serialize();
  Plugin::Pointer clone = plugin->Clone();
  plugin.reset();  // a clone outlives its original
  if (g_checks.That(clone != nullptr, "cloned")) {
    g_checks.That(clone->Serialize() == data, "a clone serializes to the same");
    g_checks.That(clone->Name() == test.name && clone->Version() == test.version, "its name");
  }
  const Plugin::Pointer restored = Plugin::Restore(test.name, test.version, data);
  if (!g_checks.That(restored != nullptr, "restored")) return;
  g_checks.That(restored->Serialize() == data, "and serialized to the same");
  std::vector<std::vector<int64_t>> shapes;
  g_checks.That(restored->OutputShapes(test.Tensors(test.inputs, 2, 8), &shapes) &&
                    shapes[0] == test.Tensors(test.outputs, 2, 8)[0].dims,
                "and has the same shapes");
  CheckSilent("a round trip");
  for (const fake::Serialized& bad : fake::Corruptions(data, test.Required())) {
    g_logger.Clear();
    g_checks.That(Plugin::Restore(test.name, test.version, bad) == nullptr, "corrupt data");
    CheckLogged(test, "corrupt data");
  }
#if BERT_PLUGIN_API == 2
  g_logger.Clear();
  g_checks.That(Plugin::Creator(test.name, test.version)->deserializePlugin("", nullptr, 0) ==
                    nullptr,
                "no data");
  CheckLogged(test, "no data");
  // Whatever else may have happened to the data: a plugin or a message, and no crash.
  for (int i = 0; i < 100; ++i) {
    fake::Serialized noisy = data;
    const size_t reach = i % 2 == 0 ? std::min<size_t>(noisy.size(), 120) : noisy.size();
    noisy[static_cast<size_t>(RandomInt(0, static_cast<int32_t>(reach) - 1))] =
        static_cast<char>(RandomInt(0, 255));
    g_logger.Clear();
    const Plugin::Pointer made = Plugin::Restore(test.name, test.version, noisy);
    g_checks.That((made == nullptr) == (g_logger.errors.size() == 1), "noise in the data");
  }
#endif

  // Not initialized: refused, whatever the pointers are.
  g_logger.Clear();
  const void* inputs[3] = {};
  void* outputs[3] = {};
  g_checks.That(!restored->Enqueue(test.Tensors(test.inputs, 1, 8),
                                   test.Tensors(test.outputs, 1, 8), inputs, outputs, nullptr,
                                   nullptr),
                "does not run before it is initialized");
  CheckLogged(test, "running too early");
  g_logger.Clear();
  const bool attached = restored->Attached() != nullptr;
  g_checks.That(attached == g_logger.errors.empty(), "initialized, or says why not");
}

// Rules that single fields' checks do not show.
void TestSpecialCases() {
  g_checks.Begin("special cases");
  for (const Case& test : AllCases(HiddenSizes()[0])) {
    if (test.name == kFc && test.version == "2" && test.fields.Has("fc_amax")) {
      FieldList both = test.fields;
      both.Floats("weight_scales", {0.1f});
      g_checks.That(Create(test, both) != nullptr, "fc_amax beside weight_scales");
      for (const std::vector<float>& bad : {std::vector<float>{0.1f, 0.1f}, {-0.1f}}) {
        FieldList wrong = test.fields;
        wrong.Floats("weight_scales", bad);
        CheckRefused(test, wrong, "wrong weight_scales beside fc_amax", "weight_scales");
      }
      FieldList one = test.fields.Without("fc_amax");
      one.Floats("fc_amax", {0.1f});
      const Plugin::Pointer plugin = Create(test, one);
      if (g_checks.That(plugin != nullptr, "fc_amax of the weight alone")) {
        g_checks.That(plugin->OutputType(0) == (fake::kScalesInFields ? kHalf : kInt8),
                      "without a scale in fields or tensors the output is FP16");
      }
    }
    if (test.inputs[0].types.size() == 2 && fake::kScalesInFields) {
      const Plugin::Pointer plugin = Create(test, test.fields.Without("input_scale"));
      const int32_t inputs = static_cast<int32_t>(test.inputs.size());
      const int32_t outputs = static_cast<int32_t>(test.outputs.size());
      auto tensors = test.Tensors(test.inputs, 1, 8);
      for (const Tensor& output : test.Tensors(test.outputs, 1, 8)) tensors.push_back(output);
      if (g_checks.That(plugin != nullptr, test.label + " without an input scale")) {
        g_checks.That(!plugin->Supports(0, tensors, inputs, outputs), "takes no INT8");
        tensors[0].type = kHalf;
        g_checks.That(plugin->Supports(0, tensors, inputs, outputs), "takes FP16");
      }
    }
    // No finder, no logger, no runtime: standard error, and no crash.
    if (test.name == kFfn) {
      setLoggerFinder(nullptr);
      std::fflush(stderr);
      g_logger.Clear();
      g_checks.That(Create(test, {}) == nullptr && g_logger.errors.empty(), "without a logger");
      setLoggerFinder(&g_logger);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = 0;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--host") == 0) {
      g_on_host = true;
    } else if (std::strcmp(argv[i], "--rounds") == 0 && i + 1 < argc) {
      rounds = std::atoi(argv[++i]);
    } else if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      g_random.seed(static_cast<unsigned>(std::strtoul(argv[++i], nullptr, 10)));
    } else {
      std::fprintf(stderr, "usage: %s [--rounds N] [--host] [--seed N]\n", argv[0]);
      return 2;
    }
  }
  setLoggerFinder(&g_logger);
  TestHalf();
  TestRegistry();
  for (const int32_t hidden : HiddenSizes()) {
    for (const Case& test : AllCases(hidden)) {
      TestFields(test, hidden);
      TestShapes(test, hidden);
      TestSerialization(test, hidden);
    }
  }
  TestSpecialCases();
  if (rounds > 0) RunAll(&g_logger, rounds);
  setLoggerFinder(nullptr);
  return g_checks.Finish();
}
