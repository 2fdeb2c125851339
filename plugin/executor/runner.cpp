#include "runner.h"

#include <algorithm>

namespace bert::executor {
namespace {

// A graph takes about 100 KB. SQuAD's sorted batches have some 100 buckets.
constexpr size_t kMostGraphs = 512;
constexpr int32_t kMostTokens = 1 << 22, kMostWindows = 65535;

// A block's and the logits' sizes, at most.
Bucket largest(int32_t windows, int32_t tokens) {
  require(windows >= 1 && windows <= kMostWindows,
          "a runner has 1 to 65535 windows, not " + std::to_string(windows));
  require(tokens >= 1 && tokens <= kMostTokens,
          "a runner has 1 to 4194304 tokens, not " + std::to_string(tokens));
  return bucket_of(windows, tokens, 1);
}

// Throws unless `file` is for this kind of device and this cuBLASLt.
const EngineFile& fitting(const EngineFile& file, const std::string& path, const Device& device) {
  const FileFacts& facts = file.facts();
  const auto described = [](int capability, int processors) {
    return "compute capability " + std::to_string(capability) + " with " +
           std::to_string(processors) + " processors";
  };
  require(facts.compute_capability == device.compute_capability &&
              facts.processors == device.processors,
          path + " is for a device of " +
              described(facts.compute_capability, facts.processors) + ", and this one has " +
              described(device.compute_capability, device.processors) + "; build it here");
  require(facts.cublaslt == cublaslt_version(),
          path + " is for cuBLASLt " + std::to_string(facts.cublaslt) + ", and here is " +
              std::to_string(cublaslt_version()) + "; build it again");
  return file;
}

}  // namespace

Engine::Engine(const EngineFile& file, const std::string& path, int index)
    : device(index),
      network(file.facts().architecture, fitting(file, path, device).precision(),
              file.tensors()),
      algorithms_(file.algorithms()) {}

Algorithm Engine::algorithm(const Gemm& gemm, Linear linear, const Product& product) const {
  auto found = algorithms_.lower_bound({linear, product.tokens});
  // More tokens than were tuned for: the most.
  const bool beyond = found == algorithms_.end() || found->first.first != linear;
  if (beyond && found != algorithms_.begin()) --found;
  if (found != algorithms_.end() && found->first.first == linear &&
      (found->first.second == product.tokens || gemm.allows(product, found->second))) {
    return found->second;
  }
  return gemm.candidates(product, 1).front();
}

Runner::Runner(const Engine& engine, int32_t most_windows, int32_t most_tokens)
    : engine_(engine),
      most_windows_(most_windows),
      most_tokens_(most_tokens),
      longest_(std::min<int32_t>(BERT_MAX_LENGTH, engine.network.architecture.positions)),
      at_(engine.network, largest(most_windows, most_tokens).tokens),
      block_(device_memory(block_bytes(largest(most_windows, most_tokens)))),
      pinned_block_(pinned_memory(block_bytes(largest(most_windows, most_tokens)))),
      pinned_logits_(pinned_memory(2 * sizeof(float) * token_bucket(most_tokens))),
      stream_(make_stream()),
      begin_(make_event()),
      end_(make_event()),
      packing_(most_windows, most_tokens, longest_) {}

Runner::~Runner() {
  // Nothing may be in use when it is freed.
  cudaStreamSynchronize(stream_.get());
}

const ExecutableGraph& Runner::graph_of(const Bucket& bucket) {
  auto found = graphs_.find(bucket);
  if (found != graphs_.end()) {
    recent_.splice(recent_.begin(), recent_, found->second.used);
    return found->second.graph;
  }
  const auto work = [&] {
    queue(
        engine_.network, gemm_,
        [&](Linear linear, const Product& product) {
          return engine_.algorithm(gemm_, linear, product);
        },
        at_, bucket, block_.get(), engine_.device.overlaps, stream_.get());
  };
  // Once without a graph, so that every kernel is loaded: no window has tokens.
  cuda(cudaMemsetAsync(block_.get(), 0, static_cast<size_t>(token_offset(bucket.windows)),
                       stream_.get()),
       "first run");
  work();
  cuda(cudaStreamSynchronize(stream_.get()), "first run");
  ExecutableGraph graph = captured(stream_.get(), work);
  cuda(cudaGraphUpload(graph.get(), stream_.get()), "CUDA graph");
  if (graphs_.size() == kMostGraphs) {
    cuda(cudaStreamSynchronize(stream_.get()), "CUDA graph");
    graphs_.erase(recent_.back());
    recent_.pop_back();
  }
  recent_.push_front(bucket);
  return graphs_.emplace(bucket, Prepared{std::move(graph), recent_.begin()}).first->second.graph;
}

void Runner::prepare(int32_t windows, int32_t tokens, int32_t longest) {
  require(!in_flight_, "a batch is in flight; wait for it first");
  require(windows >= 1 && windows <= most_windows_ && tokens >= windows &&
              tokens <= most_tokens_ && longest >= 1 && longest <= longest_ &&
              int64_t{windows} * longest >= tokens,
          "there is no such batch for this runner: " + std::to_string(windows) + " windows, " +
              std::to_string(tokens) + " tokens, the longest window " +
              std::to_string(longest));
  graph_of(bucket_of(windows, tokens, longest));
  cuda(cudaStreamSynchronize(stream_.get()), "CUDA graph");
}

void Runner::submit(const BertBatch& batch) {
  require(!in_flight_, "a batch is in flight; wait for it first");
  const BertArchitecture& a = engine_.network.architecture;
  packing_.arrange(batch);
  const ExecutableGraph& graph = graph_of(packing_.bucket());
  const int64_t bytes = packing_.pack(batch, a.vocab, a.segments, pinned_block_.get());
  in_flight_ = true;
  cuda(cudaMemcpyAsync(block_.get(), pinned_block_.get(), static_cast<size_t>(bytes),
                       cudaMemcpyHostToDevice, stream_.get()),
       "inputs");
  cuda(cudaEventRecord(begin_.get(), stream_.get()), "execution");
  cuda(cudaGraphLaunch(graph.get(), stream_.get()), "execution");
  cuda(cudaEventRecord(end_.get(), stream_.get()), "execution");
  cuda(cudaMemcpyAsync(pinned_logits_.get(), at_.logits,
                       2 * sizeof(float) * static_cast<size_t>(packing_.bucket().tokens),
                       cudaMemcpyDeviceToHost, stream_.get()),
       "outputs");
}

float Runner::wait(float* start, float* end) {
  require(in_flight_, "no batch is in flight");
  require(start != nullptr && end != nullptr, "an output is NULL");
  in_flight_ = false;
  cuda(cudaStreamSynchronize(stream_.get()), "execution");
  const float* logits = static_cast<const float*>(pinned_logits_.get());
  packing_.unpack(logits, start);
  packing_.unpack(logits + packing_.bucket().tokens, end);
  float milliseconds = 0.0f;
  cuda(cudaEventElapsedTime(&milliseconds, begin_.get(), end_.get()), "execution");
  return milliseconds;
}

void Runner::poison() {
  require(!in_flight_, "a batch is in flight; wait for it first");
  at_.poison(stream_.get());
  cuda(cudaStreamSynchronize(stream_.get()), "poison");
}

}  // namespace bert::executor
