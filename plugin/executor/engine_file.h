// The engine's file. No CUDA.
//
// Little-endian, in this order:
//
//   FileHead       what it is, and the checksum of all that follows it
//   FileFacts      what it was made from and for
//   TensorRecord   one a tensor, in the order of `tensors_of`
//   AlgorithmRecord
//   padding to a multiple of kAlignment, then the tensors' bytes, each padded likewise
//
// The checksum tells damage, not malice. Sizes and offsets are checked all the same.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "bert_executor.h"
#include "model.h"

namespace bert::executor {

constexpr uint32_t kFileVersion = 2;
constexpr uint64_t kAlignment = 256;  // of tensors, in the file and on the device

struct FileHead {
  char magic[8];
  uint32_t version;
  uint32_t zero;
  uint64_t bytes;     // of the file
  uint64_t checksum;  // of what follows
};

struct FileFacts {
  BertArchitecture architecture;
  int32_t precision;
  int32_t compute_capability;  // 10 * major + minor
  int32_t processors;          // multiprocessors of the device it was tuned on
  int32_t tuned_tokens;        // the most
  uint64_t cublaslt;           // version that the algorithms belong to
  uint32_t tensors, algorithms;
  uint64_t data;  // offset of the first tensor
};

struct TensorRecord {
  char name[48];
  uint64_t offset;  // into the tensors' bytes
  uint64_t bytes;
};

// cuBLASLt's algorithm, as opaque as it is there.
using Algorithm = std::array<uint64_t, 8>;

struct AlgorithmRecord {
  int32_t linear;
  int32_t tokens;
  Algorithm algorithm;
};

static_assert(sizeof(FileHead) == 32 && sizeof(FileFacts) == 72 && sizeof(TensorRecord) == 64 &&
              sizeof(AlgorithmRecord) == 72);

// By linear and number of tokens.
using Algorithms = std::map<std::pair<int32_t, int32_t>, Algorithm>;

uint64_t aligned(uint64_t bytes);

// Where each tensor lies behind the first, and how many bytes all of them take.
struct Placement {
  std::vector<uint64_t> offsets;
  uint64_t bytes = 0;
};
Placement place(const std::vector<TensorSpec>& tensors);

// What the checksum is of: 8-byte words, and at the end the bytes that are left.
uint64_t checksum_of(const void* data, uint64_t bytes);

// Writes an engine. `facts` lacks counts and offsets, `tensors` are those of `tensors_of`, in order.
void write_engine(const std::string& path, FileFacts facts, const Algorithms& algorithms,
                  const std::vector<const void*>& tensors);

// A file in memory. Throws, with the path and the reason, unless it is a whole engine.
class EngineFile {
 public:
  explicit EngineFile(const std::string& path);
  ~EngineFile();
  EngineFile(const EngineFile&) = delete;
  EngineFile& operator=(const EngineFile&) = delete;

  const FileFacts& facts() const { return facts_; }
  const Algorithms& algorithms() const { return algorithms_; }
  BertPrecision precision() const { return static_cast<BertPrecision>(facts_.precision); }
  // Each tensor's bytes, in order.
  std::vector<const void*> tensors() const;
  uint64_t tensor_bytes() const { return size_ - facts_.data; }

 private:
  void check_head() const;
  void read();

  const std::string path_;
  const unsigned char* data_ = nullptr;
  uint64_t size_ = 0;
  FileFacts facts_{};
  Algorithms algorithms_;
};

}  // namespace bert::executor
