#ifndef BERT_PLUGIN_LOG_H
#define BERT_PLUGIN_LOG_H

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "tensorrt/nvinfer.h"

namespace bert_plugin {

// What is wrong with a field, a tensor or a call, in words for the user. The adapters catch it
// where the vendor's interface begins: no exception leaves the library.
class Refused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Where messages go: to the logger that `finder` finds, else to the runtime's global one, else, or
// if the runtime is of another major version than this library was built for, to standard error.
void SetLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

// One line "<plugin> v<version>: <text>", cut at 1 KiB so that reporting never allocates.
void LogError(const char* plugin, const char* version, const char* text) noexcept;

// The same as a warning, once in a process for the same line: a network has a dozen layers alike.
void WarnOnce(const char* plugin, const char* version, const std::string& text);

// For whoever listens to details: without a logger it goes nowhere.
void LogDetail(const char* plugin, const char* version, const std::string& text) noexcept;

// What `function` returns; if it throws, `fallback`, and a line in the log.
template <class Op, class Result, class Function>
Result Guarded(Result fallback, Function&& function) noexcept {
  try {
    return std::forward<Function>(function)();
  } catch (const std::exception& error) {
    LogError(Op::kName, Op::kVersion, error.what());
  } catch (...) {
    LogError(Op::kName, Op::kVersion, "an exception of unknown type");
  }
  return fallback;
}

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_LOG_H
