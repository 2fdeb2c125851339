// Executes a recorded network of plugins, one after the other as a runtime would, on a GPU:
//
//   plugin_stack NETWORK BATCHES OUTPUT
//
// NETWORK is a line of text for each part, and field data after the line "data":
//   input ID                     input_ids, segment_ids and input_mask, in this order
//   plugin NAME VERSION FIELDS INPUTS OUTPUTS, then their lines
//   field NAME TYPE STORED LENGTH OFFSET     types are PluginFieldType's numbers; OFFSET into data
//   in ID, out ID
//   half ID ID                   a cast of FLOAT to HALF
//   output ID
// BATCHES is, for each batch, int32 windows and length, then the three inputs. OUTPUT gets the
// bytes of the output of every batch.

#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tests/device.h"
#include "tests/fake_runtime.h"

namespace {

using fake::BytesOf;
using fake::DataType;
using fake::Plugin;
using fake::Tensor;

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "plugin_stack: %s\n", what.c_str());
  std::exit(2);
}

struct Step {
  Plugin::Pointer plugin; // null: a cast
  std::string name;
  std::vector<int> inputs, outputs;
};

struct Network {
  std::vector<int> inputs;
  std::vector<Step> steps;
  int output = -1;
};

template <class T>
T Read(std::istream& from) {
  T value;
  if (!(from >> value)) Die("the network's text ends early");
  return value;
}

// FP16 to FP32, both unaligned.
void Widen(const char* halves, int count, char* singles) {
  for (int i = 0; i < count; ++i) {
    __half half;
    std::memcpy(&half, halves + i * sizeof(half), sizeof(half));
    const float single = __half2float(half);
    std::memcpy(singles + i * sizeof(single), &single, sizeof(single));
  }
}

Network ReadNetwork(const std::string& path, fake::Logger* logger) {
  std::ifstream file(path, std::ios::binary);
  const std::string all{std::istreambuf_iterator<char>(file), {}};
  const std::string mark = "\ndata\n";
  const size_t end = all.find(mark);
  if (end == std::string::npos) Die(path + " holds no network");
  const char* data = all.data() + end + mark.size();
  std::istringstream text(all.substr(0, end));
  Network network;
  for (std::string word; text >> word;) {
    if (word == "input") network.inputs.push_back(Read<int>(text));
    if (word == "output") network.output = Read<int>(text);
    if (word == "half") {
      const int from = Read<int>(text), to = Read<int>(text);
      network.steps.push_back({nullptr, "half", {from}, {to}});
    }
    if (word != "plugin") continue;
    const auto name = Read<std::string>(text), version = Read<std::string>(text);
    const int fields = Read<int>(text), inputs = Read<int>(text), outputs = Read<int>(text);
    fake::FieldList list;
    Step step;
    step.name = name + " " + version;
    for (int i = 0; i < fields; ++i) {
      Read<std::string>(text);
      fake::Field field;
      field.name = Read<std::string>(text);
      field.type = static_cast<fake::PluginFieldType>(Read<int>(text));
      const auto stored = static_cast<fake::PluginFieldType>(Read<int>(text));
      field.length = Read<int>(text);
      const char* from = data + Read<size_t>(text);
      field.bytes.resize(1 + field.length * fake::SizeOf(field.type)); // see Field
      if (stored == field.type) {
        std::memcpy(field.bytes.data() + 1, from, field.bytes.size() - 1);
      } else {
        Widen(from, field.length, field.bytes.data() + 1);
      }
      list.fields.push_back(std::move(field));
    }
    for (int i = 0; i < inputs + outputs; ++i) {
      Read<std::string>(text);
      (i < inputs ? step.inputs : step.outputs).push_back(Read<int>(text));
    }
    step.plugin = Plugin::Create(name, version, fake::Collection(list).get());
    if (step.plugin == nullptr) {
      Die(step.name + " was refused: " + (logger->errors.empty() ? "" : logger->errors.back()));
    }
    network.steps.push_back(std::move(step));
  }
  return network;
}

struct Value {
  Tensor tensor;
  std::unique_ptr<DeviceBuffer<char>> memory;
};

using Values = std::map<int, Value>;

void Store(Values* values, int id, Tensor tensor) {
  const size_t bytes = BytesOf(tensor);
  (*values)[id] = {std::move(tensor), std::make_unique<DeviceBuffer<char>>(bytes)};
}

// The one operation between plugins that is none. On the host: nothing here is timed.
void CastToHalf(const Value& from, const Value& to) {
  const std::vector<char> bytes = from.memory->Read();
  const float* singles = reinterpret_cast<const float*>(bytes.data());
  std::vector<__half> halves(bytes.size() / sizeof(float));
  std::transform(singles, singles + halves.size(), halves.begin(),
                 [](float single) { return __float2half(single); });
  const char* begin = reinterpret_cast<const char*>(halves.data());
  to.memory->Write({begin, begin + halves.size() * sizeof(__half)});
}

void Execute(Step& step, Values* values, fake::Logger* logger) {
  std::vector<Tensor> inputs, outputs;
  for (int id : step.inputs) inputs.push_back(values->at(id).tensor);
  if (step.plugin == nullptr) {
    Store(values, step.outputs[0], {inputs[0].dims, DataType::kHALF});
    CastToHalf(values->at(step.inputs[0]), values->at(step.outputs[0]));
    return;
  }
  std::vector<std::vector<int64_t>> shapes;
  if (!step.plugin->OutputShapes(inputs, &shapes)) Die(step.name + " has no output shapes");
  for (size_t i = 0; i < shapes.size(); ++i) {
    outputs.push_back({shapes[i], step.plugin->OutputType(static_cast<int32_t>(i))});
    Store(values, step.outputs[i], outputs.back());
  }
  std::vector<Tensor> both = inputs;
  both.insert(both.end(), outputs.begin(), outputs.end());
  const auto input_count = static_cast<int32_t>(inputs.size());
  const auto output_count = static_cast<int32_t>(outputs.size());
  for (int32_t i = 0; i < input_count + output_count; ++i) {
    if (!step.plugin->Supports(i, both, input_count, output_count)) {
      Die(step.name + " does not take the type of tensor " + std::to_string(i));
    }
  }
  if (!step.plugin->Configure(inputs, outputs, *logger)) Die(step.name + " was not configured");
  DeviceBuffer<char> workspace(std::max<size_t>(1, step.plugin->WorkspaceBytes(inputs, outputs)));
  std::vector<const void*> from;
  std::vector<void*> to;
  for (int id : step.inputs) from.push_back(values->at(id).memory->get());
  for (int id : step.outputs) to.push_back(values->at(id).memory->get());
  if (!step.plugin->ChangeShapes(inputs, outputs) ||
      !step.plugin->Enqueue(inputs, outputs, from.data(), to.data(), workspace.get(), nullptr)) {
    Die(step.name + " failed: " + (logger->errors.empty() ? "" : logger->errors.back()));
  }
  Cuda(cudaDeviceSynchronize());
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4) Die("usage: plugin_stack NETWORK BATCHES OUTPUT");
  fake::Logger logger;
  setLoggerFinder(&logger);
  Network network = ReadNetwork(argv[1], &logger);
  // As a runtime does: what executes is a copy attached to a context.
  for (Step& step : network.steps) {
    if (step.plugin != nullptr) step.plugin = step.plugin->Attached();
  }
  std::ifstream batches(argv[2], std::ios::binary);
  std::ofstream output(argv[3], std::ios::binary);
  int count = 0;
  for (int32_t shape[2]; batches.read(reinterpret_cast<char*>(shape), sizeof(shape)); ++count) {
    Values values;
    for (int id : network.inputs) {
      Store(&values, id, {{shape[0], shape[1]}, DataType::kINT32});
      std::vector<char> bytes(BytesOf(values[id].tensor));
      if (!batches.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
        Die("the batches end early");
      }
      values[id].memory->Write(bytes);
    }
    for (Step& step : network.steps) Execute(step, &values, &logger);
    const std::vector<char> bytes = values.at(network.output).memory->Read();
    output.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  if (!output.flush()) Die(std::string(argv[3]) + " could not be written");
  std::printf("%d batches, %zu steps each\n", count, network.steps.size());
  return 0;
} catch (const std::exception& error) {
  Die(error.what());
}
