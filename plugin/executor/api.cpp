// The C interface: exceptions end here.

#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "bert_executor.h"
#include "engine_file.h"
#include "error.h"
#include "runner.h"
#include "tuner.h"

struct BertEngine : bert::executor::Engine {
  using Engine::Engine;
};
struct BertRunner {
  const bert::executor::Device& device;
  bert::executor::Runner runner;
};

namespace bert::executor {
namespace {

thread_local std::string last_error;

template <class Work>
BertStatus guarded(Work work) noexcept {
  try {
    work();
    return BERT_OK;
  } catch (const Error& error) {
    last_error = error.what();
    return error.status;
  } catch (const std::bad_alloc&) {
    last_error = "the host is out of memory";
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  return BERT_DEVICE_ERROR;
}

template <class Work>
BertStatus on_device(BertRunner* runner, Work work) noexcept {
  return guarded([&] {
    require(runner != nullptr, "runner is NULL");
    runner->device.use();
    work(&runner->runner);
  });
}

// The data of every tensor of the network, in order.
std::vector<const void*> matched(const BertArchitecture& architecture, BertPrecision precision,
                                 const BertTensor* tensors, int32_t count) {
  std::vector<const void*> found;
  for (const TensorSpec& spec : tensors_of(architecture, precision)) {
    const BertTensor* match = nullptr;
    for (int32_t i = 0; i < count; ++i) {
      if (tensors[i].name != nullptr && spec.name == tensors[i].name) match = tensors + i;
    }
    require(match != nullptr && match->data != nullptr, "tensor " + spec.name + " is missing");
    require(match->bytes == spec.bytes, "tensor " + spec.name + " has " +
                                            std::to_string(match->bytes) + " bytes, not " +
                                            std::to_string(spec.bytes));
    found.push_back(match->data);
  }
  require(found.size() == static_cast<size_t>(count), "a tensor has no place in the network");
  return found;
}

}  // namespace
}  // namespace bert::executor

using namespace bert::executor;

const char* bert_executor_last_error(void) { return last_error.c_str(); }

BertStatus bert_engine_build(const BertArchitecture* architecture, BertPrecision precision,
                             const BertTensor* tensors, int32_t count, int32_t device,
                             int32_t max_tokens, const char* path) {
  return guarded([&] {
    require(architecture != nullptr && tensors != nullptr && path != nullptr,
            "an engine's architecture, tensors or path are NULL");
    check(*architecture, precision);
    require(max_tokens >= 1 && max_tokens <= 1 << 20,
            "max_tokens is 1 to 1048576, not " + std::to_string(max_tokens));
    const std::vector<const void*> found = matched(*architecture, precision, tensors, count);
    const Device built_for(device);
    require_capable(built_for, precision);
    const Network network(*architecture, precision, found);
    FileFacts facts{};
    facts.architecture = *architecture;
    facts.precision = precision;
    facts.compute_capability = built_for.compute_capability;
    facts.processors = built_for.processors;
    facts.tuned_tokens = max_tokens;
    facts.cublaslt = cublaslt_version();
    write_engine(path, facts, tune(network, max_tokens), found);
  });
}

BertStatus bert_engine_check(const char* path, BertArchitecture* architecture,
                             BertPrecision* precision) {
  return guarded([&] {
    require(path != nullptr && architecture != nullptr && precision != nullptr,
            "the path of an engine or what is to be filled in is NULL");
    const EngineFile file(path);
    *architecture = file.facts().architecture;
    *precision = static_cast<BertPrecision>(file.facts().precision);
  });
}

BertStatus bert_engine_load(const char* path, int32_t device, BertEngine** engine) {
  return guarded([&] {
    require(path != nullptr && engine != nullptr, "the path of an engine or `engine` is NULL");
    const EngineFile file(path);
    *engine = new BertEngine(file, path, device);
  });
}

void bert_engine_destroy(BertEngine* engine) { delete engine; }

BertStatus bert_runner_create(const BertEngine* engine, int32_t max_windows, int32_t max_tokens,
                              BertRunner** runner) {
  return guarded([&] {
    require(engine != nullptr && runner != nullptr, "engine or `runner` is NULL");
    engine->device.use();
    *runner = new BertRunner{engine->device, {*engine, max_windows, max_tokens}};
  });
}

void bert_runner_destroy(BertRunner* runner) { delete runner; }

BertStatus bert_runner_prepare(BertRunner* runner, int32_t windows, int32_t tokens,
                               int32_t longest) {
  return on_device(runner, [&](Runner* on) { on->prepare(windows, tokens, longest); });
}

BertStatus bert_runner_submit(BertRunner* runner, const BertBatch* batch) {
  return on_device(runner, [&](Runner* on) {
    require(batch != nullptr, "batch is NULL");
    on->submit(*batch);
  });
}

BertStatus bert_runner_wait(BertRunner* runner, float* start, float* end, float* milliseconds) {
  return on_device(runner, [&](Runner* on) {
    require(milliseconds != nullptr, "an output is NULL");
    *milliseconds = on->wait(start, end);
  });
}

BertStatus bert_runner_poison(BertRunner* runner) {
  return on_device(runner, [&](Runner* on) { on->poison(); });
}
