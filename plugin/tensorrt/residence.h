#ifndef BERT_PLUGIN_RESIDENCE_H
#define BERT_PLUGIN_RESIDENCE_H

#include <vector>

#include "tensorrt/device_array.h"
#include "tensorrt/fields.h"
#include "tensorrt/gemm.h"

namespace bert_plugin {

// What an operation has on one device: its weights, in one block, and cuBLASLt if it needs it.
class Residence {
 public:
  Residence(const std::vector<HostArray>& arrays, Gemm* gemm);

  // nullptr where the host array had no data.
  template <class T>
  const T* Weight(int index) const {
    return static_cast<const T*>(arrays_[static_cast<size_t>(index)]);
  }
  Gemm& gemm() const { return *gemm_; }

 private:
  DeviceArray block_;
  std::vector<const void*> arrays_;
  Gemm* gemm_;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_RESIDENCE_H
