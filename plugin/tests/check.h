#ifndef BERT_PLUGIN_TESTS_CHECK_H
#define BERT_PLUGIN_TESTS_CHECK_H

#include <cstdio>
#include <string>

// Counts checks in named groups; prints a line a group and each check that failed.
class Checks {
 public:
  void Begin(const std::string& group) {
    End();
    group_ = group;
  }
  bool That(bool holds, const std::string& what) {
    ++checked_;
    if (!holds) {
      ++failed_;
      std::printf("  not so: %s: %s\n", group_.c_str(), what.c_str());
    }
    return holds;
  }
  // The exit status.
  int Finish() {
    End();
    std::printf("%d checks, %d failed\n", all_checked_, all_failed_);
    return all_failed_ == 0 && all_checked_ > 0 ? 0 : 1;
  }

 private:
  void End() {
    if (checked_ > 0) {
      std::printf("%s  %s (%d checks)\n", failed_ == 0 ? "ok  " : "FAIL", group_.c_str(), checked_);
    }
    all_checked_ += checked_;
    all_failed_ += failed_;
    checked_ = failed_ = 0;
  }

  std::string group_;
  int checked_ = 0, failed_ = 0, all_checked_ = 0, all_failed_ = 0;
};

inline Checks g_checks;

#endif  // BERT_PLUGIN_TESTS_CHECK_H
