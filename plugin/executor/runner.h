// An engine on a device, and what executes its batches. NVIDIA only.
#pragma once

#include <list>
#include <map>
#include <string>

#include "batch.h"
#include "engine_file.h"
#include "network.h"

namespace bert::executor {

class Engine {
 public:
  // Throws where the file is for another kind of device or another cuBLASLt.
  Engine(const EngineFile& file, const std::string& path, int device);

  const Device device;
  const Network network;

  // The algorithm for a product: as tuned for its number of tokens, or else for the next number
  // of which the algorithm computes it; cuBLASLt's own choice where there is none.
  Algorithm algorithm(const Gemm& gemm, Linear linear, const Product& product) const;

 private:
  const Algorithms algorithms_;
};

class Runner {
 public:
  Runner(const Engine& engine, int32_t most_windows, int32_t most_tokens);
  ~Runner();

  void prepare(int32_t windows, int32_t tokens, int32_t longest);
  void submit(const BertBatch& batch);
  float wait(float* start, float* end);
  void poison();

 private:
  struct Prepared {
    ExecutableGraph graph;
    std::list<Bucket>::iterator used;
  };

  const ExecutableGraph& graph_of(const Bucket& bucket);

  const Engine& engine_;
  const int32_t most_windows_, most_tokens_, longest_;
  const Gemm gemm_;
  const Activations at_;
  const DeviceMemory block_;
  const PinnedMemory pinned_block_, pinned_logits_;
  const Stream stream_;
  const Event begin_, end_;
  // Graphs, and their buckets with the one used last in front.
  std::map<Bucket, Prepared> graphs_;
  std::list<Bucket> recent_;
  Packing packing_;
  bool in_flight_ = false;
};

}  // namespace bert::executor
