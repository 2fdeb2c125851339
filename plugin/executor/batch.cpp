#include "batch.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <tuple>

#include "error.h"

namespace bert::executor {
namespace {

constexpr int64_t kLeastStep = 64, kStepsAnOctave = 32;
constexpr int64_t kLengthStep = 64;  // a tile of attention's kernels
constexpr int64_t kWindowStepsAnOctave = 4;

int64_t rounded_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// `value` rounded up to a step that doubles with each octave.
int64_t stepped(int64_t value, int64_t least_step, int64_t steps) {
  int64_t octave = least_step * steps;
  while (2 * octave < value) octave *= 2;
  return rounded_up(value, std::max(least_step, octave / steps));
}

}  // namespace

bool Bucket::operator<(const Bucket& other) const {
  return std::tie(windows, tokens, longest) <
         std::tie(other.windows, other.tokens, other.longest);
}

int32_t token_bucket(int32_t tokens) {
  return static_cast<int32_t>(stepped(tokens, kLeastStep, kStepsAnOctave));
}

std::vector<int32_t> token_buckets(int32_t most) {
  std::vector<int32_t> buckets;
  for (int32_t tokens = 1; tokens <= token_bucket(most); tokens = buckets.back() + 1) {
    buckets.push_back(token_bucket(tokens));
  }
  return buckets;
}

Bucket bucket_of(int32_t windows, int32_t tokens, int32_t longest) {
  return {static_cast<int32_t>(stepped(windows, 1, kWindowStepsAnOctave)), token_bucket(tokens),
          static_cast<int32_t>(rounded_up(longest, kLengthStep))};
}

int64_t token_offset(int32_t windows) {
  return rounded_up((static_cast<int64_t>(windows) + 1) * sizeof(int32_t), 16);
}

int64_t block_bytes(const Bucket& bucket) {
  return token_offset(bucket.windows) + static_cast<int64_t>(bucket.tokens) * sizeof(Token);
}

Packing::Packing(int32_t most_windows, int32_t most_tokens, int32_t longest)
    : most_windows_(most_windows), most_tokens_(most_tokens), longest_(longest) {
  parts_.reserve(static_cast<size_t>(most_windows));
}

void Packing::arrange(const BertBatch& batch) {
  require(batch.windows >= 1 && batch.windows <= most_windows_,
          "a batch has 1 to " + std::to_string(most_windows_) + " windows here, not " +
              std::to_string(batch.windows));
  require(batch.offsets != nullptr && batch.lengths != nullptr && batch.ids != nullptr &&
              batch.segments != nullptr,
          "an array of a batch is NULL");
  parts_.clear();
  int64_t tokens = 0;
  for (int32_t w = 0; w < batch.windows; ++w) {
    const int32_t length = batch.lengths[w], offset = batch.offsets[w];
    if (length < 1 || length > longest_) {
      throw Error(BERT_BAD_ARGUMENT, "a window has 1 to " + std::to_string(longest_) +
                                         " tokens, not " + std::to_string(length));
    }
    if (offset < 0) throw Error(BERT_BAD_ARGUMENT, "a window begins at a negative offset");
    parts_.push_back({w, offset, length});
    tokens += length;
  }
  require(tokens <= most_tokens_, "a batch has up to " + std::to_string(most_tokens_) +
                                      " tokens here, not " + std::to_string(tokens));
  tokens_ = static_cast<int32_t>(tokens);
  std::sort(parts_.begin(), parts_.end(), [](const Part& a, const Part& b) {
    return std::tie(b.length, a.window) < std::tie(a.length, b.window);
  });
  bucket_ = bucket_of(batch.windows, tokens_, parts_.front().length);
}

int64_t Packing::pack(const BertBatch& batch, int32_t vocab, int32_t segments, void* block) const {
  auto* starts = static_cast<int32_t*>(block);
  auto* token = reinterpret_cast<Token*>(static_cast<char*>(block) + token_offset(bucket_.windows));
  int32_t start = 0;
  for (const Part& part : parts_) {
    *starts++ = start;
    start += part.length;
    const int32_t* ids = batch.ids + part.offset;
    const int32_t* kinds = batch.segments + part.offset;
    for (int32_t i = 0; i < part.length; ++i) {
      const bool known = ids[i] >= 0 && ids[i] < vocab;
      const bool kind = kinds[i] >= 0 && kinds[i] < segments;
      *token++ = {known ? ids[i] : 0, static_cast<uint16_t>(i),
                  static_cast<uint16_t>(kind ? kinds[i] : 0)};
    }
  }
  std::fill_n(starts, static_cast<size_t>(bucket_.windows) + 1 - parts_.size(), tokens_);
  return token_offset(bucket_.windows) + static_cast<int64_t>(tokens_) * sizeof(Token);
}

void Packing::unpack(const float* packed, float* logits) const {
  for (const Part& part : parts_) {
    std::memcpy(logits + part.offset, packed, static_cast<size_t>(part.length) * sizeof(float));
    packed += part.length;
  }
}

}  // namespace bert::executor
