#ifndef BERT_PLUGIN_GEMM_H
#define BERT_PLUGIN_GEMM_H

#include <mutex>
#include <set>
#include <string>

#include "kernels/bert_kernels.h"
#include "tensorrt/log.h"

namespace bert_plugin {

// Throws Refused with the kernels' last error.
inline void Check(BertStatus status) {
  if (status != BERT_OK) throw Refused(bert_last_error());
}

// cuBLASLt on one device, shared by all plugins there, so that an algorithm is chosen once for
// the dozen layers of one shape. Contexts may run in threads of their own: only queueing is locked.
class Gemm {
 public:
  // That of the current device. It outlives all plugins: the process's next engine finds what the
  // last one has tuned.
  static Gemm& OfCurrentDevice();

  Gemm() { Check(bert_gemm_create(&gemm_)); }
  ~Gemm() { bert_gemm_destroy(gemm_); }
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  void Run(const BertLinear& linear, BertStream stream);
  void Run(const BertLinearInt8& linear, BertStream stream);

  // Finds the fastest algorithm for the bucket of `linear`, of which only weights and shape are
  // looked at, in memory and on a stream that are there for this alone. Once a bucket and process;
  // up to tens of milliseconds, in which other threads' Run() waits: it would disturb the timing.
  // Where it fails a warning says why, and Run() goes by cuBLASLt's own choice.
  //
  // Safe while streams are captured, by whichever thread: a runtime announces shapes when a call
  // begins, which may be one that its user captures.
  void Tune(const BertLinear& linear, const char* plugin, const char* version);
  void Tune(const BertLinearInt8& linear, const char* plugin, const char* version);

 private:
  template <class Linear>
  void TuneOnce(Linear linear, const std::string& name, const char* plugin, const char* version);

  std::mutex mutex_;
  BertGemm* gemm_ = nullptr;
  std::set<std::string> tuned_;  // or tried in vain, by what TuneOnce() calls it
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_GEMM_H
