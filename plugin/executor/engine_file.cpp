#include "engine_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "error.h"

namespace bert::executor {
namespace {

constexpr char kMagic[8] = {'B', 'E', 'R', 'T', 'e', 'n', 'g', '\n'};
constexpr const char* kAdvice = "; delete it and build it again";

struct Closer {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

uint64_t mixed(uint64_t state, uint64_t word) {
  state = (state ^ word) * 0x9E3779B97F4A7C15u;
  return state ^ state >> 32;
}

class Writer {
 public:
  explicit Writer(const std::string& path) : path_(path), file_(std::fopen(path.c_str(), "wb")) {
    if (file_ == nullptr) fail();
  }
  void write(const void* data, uint64_t bytes) {
    if (bytes > 0 && std::fwrite(data, 1, bytes, file_.get()) != bytes) fail();
  }
  void close() {
    if (std::fclose(file_.release()) != 0) fail();
  }

 private:
  [[noreturn]] void fail() const {
    throw Error(BERT_BAD_ARGUMENT, path_ + " cannot be written: " + std::strerror(errno));
  }
  const std::string path_;
  std::unique_ptr<std::FILE, Closer> file_;
};

}  // namespace

uint64_t aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

Placement place(const std::vector<TensorSpec>& tensors) {
  Placement placed;
  for (const TensorSpec& tensor : tensors) {
    placed.offsets.push_back(placed.bytes);
    placed.bytes += aligned(tensor.bytes);
  }
  return placed;
}

uint64_t checksum_of(const void* data, uint64_t bytes) {
  // Four sums side by side: one would wait for each multiplication.
  constexpr int kLanes = 4;
  uint64_t lanes[kLanes] = {1, 2, 3, 4};
  const unsigned char* at = static_cast<const unsigned char*>(data);
  uint64_t left = bytes;
  for (; left >= sizeof(lanes); left -= sizeof(lanes), at += sizeof(lanes)) {
    uint64_t words[kLanes];
    std::memcpy(words, at, sizeof(words));
    for (int i = 0; i < kLanes; ++i) lanes[i] = mixed(lanes[i], words[i]);
  }
  uint64_t sum = bytes;
  for (; left > 0; --left) sum = mixed(sum, *at++);
  for (uint64_t lane : lanes) sum = mixed(sum, lane);
  return sum;
}

void write_engine(const std::string& path, FileFacts facts, const Algorithms& algorithms,
                  const std::vector<const void*>& tensors) {
  const auto precision = static_cast<BertPrecision>(facts.precision);
  check(facts.architecture, precision);
  const std::vector<TensorSpec> specs = tensors_of(facts.architecture, precision);
  require(specs.size() == tensors.size(), "an engine has other tensors than its architecture");
  const Placement placed = place(specs);
  facts.tensors = static_cast<uint32_t>(specs.size());
  facts.algorithms = static_cast<uint32_t>(algorithms.size());
  const uint64_t records = sizeof(FileHead) + sizeof(FileFacts) +
                           specs.size() * sizeof(TensorRecord) +
                           algorithms.size() * sizeof(AlgorithmRecord);
  facts.data = aligned(records);

  std::vector<unsigned char> whole(facts.data + placed.bytes);
  unsigned char* at = whole.data() + sizeof(FileHead);
  const auto put = [&](const auto& value) {
    std::memcpy(at, &value, sizeof(value));
    at += sizeof(value);
  };
  put(facts);
  for (size_t i = 0; i < specs.size(); ++i) {
    TensorRecord record{};
    require(specs[i].name.size() < sizeof(record.name), "the tensor's name is too long");
    specs[i].name.copy(record.name, sizeof(record.name) - 1);
    record.offset = placed.offsets[i];
    record.bytes = specs[i].bytes;
    put(record);
    std::memcpy(whole.data() + facts.data + record.offset, tensors[i], record.bytes);
  }
  for (const auto& [key, algorithm] : algorithms) {
    put(AlgorithmRecord{key.first, key.second, algorithm});
  }
  FileHead head{};
  std::memcpy(head.magic, kMagic, sizeof(kMagic));
  head.version = kFileVersion;
  head.bytes = whole.size();
  head.checksum = checksum_of(whole.data() + sizeof(head), whole.size() - sizeof(head));
  std::memcpy(whole.data(), &head, sizeof(head));
  Writer writer(path);
  writer.write(whole.data(), whole.size());
  writer.close();
}

EngineFile::EngineFile(const std::string& path) : path_(path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(file >= 0, path + " cannot be opened: " + std::strerror(errno));
  struct stat status {};
  if (fstat(file, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
    size_ = static_cast<uint64_t>(status.st_size);
    void* mapped = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    if (mapped != MAP_FAILED) data_ = static_cast<const unsigned char*>(mapped);
  }
  close(file);
  try {
    require(data_ != nullptr, path_ + " is no engine" + kAdvice);
    check_head();
    read();
  } catch (...) {
    if (data_ != nullptr) munmap(const_cast<unsigned char*>(data_), size_);
    throw;
  }
}

EngineFile::~EngineFile() { munmap(const_cast<unsigned char*>(data_), size_); }

void EngineFile::check_head() const {
  FileHead head;
  require(size_ >= sizeof(head) && std::memcmp(data_, kMagic, sizeof(kMagic)) == 0,
          path_ + " is no engine" + kAdvice);
  std::memcpy(&head, data_, sizeof(head));
  require(head.version == kFileVersion && head.zero == 0,
          path_ + " is an engine of format " + std::to_string(head.version) + ", not " +
              std::to_string(kFileVersion) + kAdvice);
  require(head.bytes == size_, path_ + " has " + std::to_string(size_) + " bytes of " +
                                   std::to_string(head.bytes) + kAdvice);
  require(head.checksum == checksum_of(data_ + sizeof(head), size_ - sizeof(head)),
          path_ + " is damaged" + kAdvice);
}

std::vector<const void*> EngineFile::tensors() const {
  std::vector<const void*> found;
  for (const uint64_t offset : place(tensors_of(facts_.architecture, precision())).offsets) {
    found.push_back(data_ + facts_.data + offset);
  }
  return found;
}

void EngineFile::read() {
  const auto consistent = [&](bool holds) {
    require(holds, path_ + " contradicts itself" + kAdvice);
  };
  uint64_t at = sizeof(FileHead);
  const auto get = [&](auto* value) {
    consistent(size_ - at >= sizeof(*value));
    std::memcpy(value, data_ + at, sizeof(*value));
    at += sizeof(*value);
  };
  get(&facts_);
  try {
    check(facts_.architecture, precision());
  } catch (const Error& error) {
    throw Error(error.status, path_ + ": " + error.what() + kAdvice);
  }
  const std::vector<TensorSpec> specs = tensors_of(facts_.architecture, precision());
  const Placement placed = place(specs);
  consistent(facts_.tensors == specs.size() && facts_.data % kAlignment == 0 &&
             facts_.data <= size_ && size_ - facts_.data == placed.bytes);
  for (size_t i = 0; i < specs.size(); ++i) {
    TensorRecord record;
    get(&record);
    consistent(std::strncmp(record.name, specs[i].name.c_str(), sizeof(record.name)) == 0 &&
               record.offset == placed.offsets[i] && record.bytes == specs[i].bytes);
  }
  for (uint32_t i = 0; i < facts_.algorithms; ++i) {
    AlgorithmRecord record;
    get(&record);
    consistent(record.linear >= 0 && record.linear < kLinears && record.tokens > 0);
    algorithms_[{record.linear, record.tokens}] = record.algorithm;
  }
  consistent(aligned(at) == facts_.data);
}

}  // namespace bert::executor
