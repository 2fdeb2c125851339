#include "tuner.h"

#include <algorithm>
#include <optional>
#include <vector>

namespace bert::executor {
namespace {

constexpr int kCandidates = 32;  // of cuBLASLt's own ranking
constexpr size_t kFinalists = 6;
constexpr int kFinalTurns = 7;
// Runs in a turn go through as many layers, so that weights come from where they come from in the
// network; where a run is long, fewer will do.
constexpr size_t kLongRuns = 4, kShortRuns = 12;
constexpr int32_t kShort = 2048;  // tokens

struct Candidate {
  Algorithm algorithm;
  ExecutableGraph turn;
  std::vector<float> milliseconds;

  float median() const {
    std::vector<float> sorted = milliseconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

class Tuner {
 public:
  Tuner(const Network& network, int32_t most_tokens)
      : network_(network),
        at_(network, token_bucket(most_tokens)),
        stream_(make_stream()),
        begin_(make_event()),
        end_(make_event()) {
    const size_t rows = static_cast<size_t>(token_bucket(most_tokens));
    const BertArchitecture& a = network.architecture;
    for (half* narrow : {at_.hidden, at_.middle, at_.context}) {
      fill(narrow, Type::kHalf, rows * a.hidden, stream_.get());
    }
    fill(at_.wide, Type::kHalf, rows * std::max(3 * a.hidden, a.intermediate), stream_.get());
    if (network.type == Type::kHalf) return;
    for (uint8_t* narrow : {at_.narrow_quantized, at_.context_quantized}) {
      fill(narrow, network.type, rows * a.hidden, stream_.get());
    }
    fill(at_.inner_quantized, network.type, rows * a.intermediate, stream_.get());
  }

  Algorithm fastest(Linear linear, int32_t tokens) {
    const Product first = product_of(network_, at_, 0, linear, tokens);
    std::vector<Candidate> candidates;
    for (const Algorithm& algorithm : gemm_.candidates(first, kCandidates)) {
      if (auto candidate = prepared(linear, tokens, algorithm)) {
        candidates.push_back(std::move(*candidate));
      }
    }
    if (candidates.empty()) throw Error(BERT_UNSUPPORTED, "no algorithm of cuBLASLt's runs");
    // Candidates take turns, so that a change of clocks meets all of them. The first turn leaves
    // those that may win: most are far behind.
    time(&candidates);
    std::stable_sort(candidates.begin(), candidates.end(), faster);
    if (candidates.size() > kFinalists) {
      candidates.erase(candidates.begin() + kFinalists, candidates.end());
    }
    for (int turn = 0; turn < kFinalTurns; ++turn) time(&candidates);
    return std::min_element(candidates.begin(), candidates.end(), faster)->algorithm;
  }

 private:
  static bool faster(const Candidate& a, const Candidate& b) { return a.median() < b.median(); }

  // None where an algorithm that cuBLASLt offers does not run after all.
  std::optional<Candidate> prepared(Linear linear, int32_t tokens, const Algorithm& algorithm) {
    const auto run = [&](size_t layer) {
      gemm_.run(product_of(network_, at_, layer, linear, tokens), algorithm, at_.workspace,
                stream_.get());
    };
    const size_t runs = tokens <= kShort ? kShortRuns : kLongRuns;
    try {
      run(0);  // loads the kernel, which capturing would not allow
      ExecutableGraph turn = captured(stream_.get(), [&] {
        for (size_t i = 0; i < runs; ++i) run(i % network_.layers.size());
      });
      return Candidate{algorithm, std::move(turn), {}};
    } catch (const Error&) {
      return std::nullopt;
    }
  }

  void time(std::vector<Candidate>* candidates) {
    for (Candidate& candidate : *candidates) {
      cuda(cudaEventRecord(begin_.get(), stream_.get()), "tuning");
      cuda(cudaGraphLaunch(candidate.turn.get(), stream_.get()), "tuning");
      cuda(cudaEventRecord(end_.get(), stream_.get()), "tuning");
      cuda(cudaEventSynchronize(end_.get()), "tuning");
      float milliseconds = 0.0f;
      cuda(cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()), "tuning");
      candidate.milliseconds.push_back(milliseconds);
    }
  }

  const Network& network_;
  const Gemm gemm_;
  const Activations at_;
  const Stream stream_;
  const Event begin_, end_;
};

}  // namespace

Algorithms tune(const Network& network, int32_t most_tokens) {
  Tuner tuner(network, most_tokens);
  Algorithms found;
  // From the most on, so that the device is at its working clock when the short ones come.
  std::vector<int32_t> buckets = token_buckets(most_tokens);
  for (auto tokens = buckets.rbegin(); tokens != buckets.rend(); ++tokens) {
    for (int32_t linear = 0; linear < kLinears; ++linear) {
      found[{linear, *tokens}] = tuner.fastest(static_cast<Linear>(linear), *tokens);
    }
  }
  return found;
}

}  // namespace bert::executor
