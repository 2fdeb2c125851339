// Failures inside the executor are exceptions; the C interface turns them into a BertStatus.
#pragma once

#include <stdexcept>
#include <string>

#include "bert_kernels.h"

namespace bert::executor {

class Error : public std::runtime_error {
 public:
  Error(BertStatus status, const std::string& message)
      : std::runtime_error(message), status(status) {}
  const BertStatus status;
};

inline void require(bool holds, const std::string& message) {
  if (!holds) throw Error(BERT_BAD_ARGUMENT, message);
}

}  // namespace bert::executor
