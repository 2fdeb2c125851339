// Where a window lies: BertSequences on the device.
#pragma once

#include <string>

#include "bert_kernels.h"
#include "status.h"

namespace bert {

// Rows [start, start + rows) are the window's; its first `length` rows are tokens that count.
struct Window {
  int start, rows, length;
};

__device__ inline Window window_of(const BertSequences& sequences, int window) {
  Window found;
  if (sequences.starts != nullptr) {
    found.start = sequences.starts[window];
    found.rows = sequences.starts[window + 1] - found.start;
  } else {
    found.start = window * sequences.max_length;
    found.rows = sequences.max_length;
  }
  found.length = found.rows;
  if (sequences.lengths != nullptr) found.length = min(found.rows, sequences.lengths[window]);
  return found;
}

inline BertStatus check(const BertSequences* sequences) {
  BERT_REQUIRE(sequences != nullptr, "sequences is NULL");
  BERT_REQUIRE(sequences->windows > 0 && sequences->windows <= 65535,
               "a batch has 1 to 65535 windows, not " + std::to_string(sequences->windows));
  BERT_REQUIRE(sequences->max_length > 0 && sequences->max_length <= BERT_MAX_LENGTH,
               "a window has 1 to 512 tokens, not " + std::to_string(sequences->max_length));
  const long long padded = 1LL * sequences->windows * sequences->max_length;
  BERT_REQUIRE(sequences->starts != nullptr ? sequences->tokens > 0 && sequences->tokens <= padded
                                            : sequences->tokens == padded,
               "tokens is " + std::to_string(sequences->tokens) + ", which does not fit " +
                   std::to_string(sequences->windows) + " windows of at most " +
                   std::to_string(sequences->max_length));
  return BERT_OK;
}

}  // namespace bert
