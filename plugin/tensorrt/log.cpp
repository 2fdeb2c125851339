#include "tensorrt/log.h"

#include <atomic>
#include <cstdio>
#include <mutex>
#include <set>

// Weak: the plugin library is not linked to the runtime. Whichever is already in the process may
// have them; ixRT has no getLogger().
extern "C" __attribute__((weak)) nvinfer1::ILogger* getLogger() noexcept;
extern "C" __attribute__((weak)) int32_t getInferLibVersion() noexcept;

namespace bert_plugin {
namespace {

using Severity = nvinfer1::ILogger::Severity;

std::atomic<nvinfer1::ILoggerFinder*> g_finder{nullptr};

// TensorRT 11 moved log() to another place in ILogger's table than 10 has it, TensorRT-RTX too.
// A call to the wrong place loses the message at best.
bool LoggersAreAsCompiled() noexcept {
  const auto major = [](int64_t version) { return version / (version < 10000 ? 1000 : 10000); };
  return getInferLibVersion == nullptr || major(getInferLibVersion()) == major(NV_TENSORRT_VERSION);
}

nvinfer1::ILogger* FindLogger() noexcept {
  if (!LoggersAreAsCompiled()) return nullptr;
  try {
    nvinfer1::ILoggerFinder* finder = g_finder.load();
    nvinfer1::ILogger* logger = finder != nullptr ? finder->findLogger() : nullptr;
    if (logger != nullptr) return logger;
  } catch (...) {  // findLogger() is not noexcept
  }
  return getLogger != nullptr ? getLogger() : nullptr;
}

void Log(Severity severity, const char* plugin, const char* version, const char* text) noexcept {
  char line[1024];
  std::snprintf(line, sizeof(line), "%s v%s: %s", plugin, version, text);
  if (nvinfer1::ILogger* logger = FindLogger()) {
    logger->log(severity, line);
  } else if (severity <= Severity::kWARNING) {
    std::fprintf(stderr, "%s\n", line);
  }
}

}  // namespace

void SetLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept { g_finder = finder; }

void LogError(const char* plugin, const char* version, const char* text) noexcept {
  Log(Severity::kERROR, plugin, version, text);
}

void LogDetail(const char* plugin, const char* version, const std::string& text) noexcept {
  Log(Severity::kVERBOSE, plugin, version, text.c_str());
}

void WarnOnce(const char* plugin, const char* version, const std::string& text) {
  static std::mutex mutex;
  static std::set<std::string> seen;
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (!seen.insert(std::string(plugin) + version + text).second) return;
  }
  Log(Severity::kWARNING, plugin, version, text.c_str());
}

}  // namespace bert_plugin
