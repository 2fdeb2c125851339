// What the attention kernels share. Each file holds one kernel for one kind of device.
#pragma once

#include <cuda_fp16.h>

#include "bert_kernels.h"

namespace bert {

// Where contexts go: FP16, or if `quantized` is not nullptr INT8 or E4M3 of `scale`.
struct ContextOutput {
  half* context;
  int8_t* quantized;
  float scale;
  bool e4m3;
};

struct AttentionShape {
  BertSequences sequences;
  int heads, head_size;
};

BertStatus attention_portable(const AttentionShape& shape, const half* qkv,
                              const ContextOutput& output, BertStream stream);
BertStatus attention_mma(const AttentionShape& shape, const half* qkv, const ContextOutput& output,
                         BertStream stream);
BertStatus attention_wgmma(const AttentionShape& shape, const half* qkv,
                           const ContextOutput& output, BertStream stream);

}  // namespace bert
