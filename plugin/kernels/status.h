// How a failure inside the library becomes a BertStatus and a line of text.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "bert_kernels.h"

namespace bert {

// Keeps `message` for bert_last_error() and returns `status`.
BertStatus fail(BertStatus status, const std::string& message);

// BERT_OK for cudaSuccess, else BERT_DEVICE_ERROR, with `what` in the message.
BertStatus checked(cudaError_t error, const char* what);

// The status of the launch just made; also clears CUDA's own last error.
inline BertStatus launched(const char* kernel) { return checked(cudaGetLastError(), kernel); }

// 10 * major + minor of the current device's compute capability, or -1 if there is none.
int compute_capability();

}  // namespace bert

// Returns from the calling function unless `condition` holds.
#define BERT_REQUIRE(condition, message) \
  if (!(condition)) return bert::fail(BERT_BAD_ARGUMENT, (message))
#define BERT_RETURN_IF_ERROR(expression) \
  if (BertStatus status_ = (expression); status_ != BERT_OK) return status_
