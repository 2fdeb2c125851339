// Batches on the host: which ones share a graph, and how one lies in the block that is copied to
// the device. No CUDA.
#pragma once

#include <cstdint>
#include <vector>

#include "bert_executor.h"

namespace bert::executor {

// What a graph is made for. A batch runs the graph of the least bucket that holds it.
struct Bucket {
  int32_t windows, tokens, longest;

  bool operator<(const Bucket& other) const;
};

// The least bucket of tokens for `tokens`: a multiple of 64, from 2,048 on 32 steps an octave, so
// that rows nobody wants are 1 % of the work on average.
int32_t token_bucket(int32_t tokens);
// All of them up to that of `most` tokens.
std::vector<int32_t> token_buckets(int32_t most);
Bucket bucket_of(int32_t windows, int32_t tokens, int32_t longest);

// A token in the block: its id, and its place in the window and its segment.
struct Token {
  int32_t id;
  uint16_t position, segment;
};

// Before the tokens a block has `windows` + 1 int32: where each window begins, and the last one's
// end. A bucket's windows beyond the batch's are empty. Tokens begin at a multiple of 16 bytes.
int64_t token_offset(int32_t windows);  // bytes
int64_t block_bytes(const Bucket& bucket);

// A batch's windows in the order in which they lie in the block: the longest first, so that
// attention's last blocks are short ones. Allocates only when it is made.
class Packing {
 public:
  Packing(int32_t most_windows, int32_t most_tokens, int32_t longest);

  // Throws where a length is not in [1, longest] or there are too many windows or tokens.
  void arrange(const BertBatch& batch);

  const Bucket& bucket() const { return bucket_; }
  int32_t tokens() const { return tokens_; }

  // Writes the block; returns how many bytes of it there are.
  int64_t pack(const BertBatch& batch, int32_t vocab, int32_t segments, void* block) const;
  // Writes the logits of packed tokens where the batch has them.
  void unpack(const float* packed, float* logits) const;

 private:
  struct Part {
    int32_t window, offset, length;
  };
  const int32_t most_windows_, most_tokens_, longest_;
  std::vector<Part> parts_;
  int32_t tokens_ = 0;
  Bucket bucket_{};
};

}  // namespace bert::executor
