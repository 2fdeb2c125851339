#include "status.h"

#include <array>
#include <atomic>

namespace bert {
namespace {

thread_local std::string last_error;
constexpr int kMostDevices = 64;

}  // namespace

BertStatus fail(BertStatus status, const std::string& message) {
  last_error = message;
  return status;
}

BertStatus checked(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return BERT_OK;
  return fail(BERT_DEVICE_ERROR, std::string(what) + ": " + cudaGetErrorString(error));
}

int compute_capability() {
  static std::array<std::atomic<int>, kMostDevices> known{};
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return -1;
  const bool cached = device < kMostDevices;
  if (cached && known[device] != 0) return known[device];
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    return -1;
  }
  const int found = 10 * major + minor;
  if (cached) known[device] = found;
  return found;
}

}  // namespace bert

const char* bert_last_error(void) { return bert::last_error.c_str(); }
