// Engine files and batches on the host, under sanitizers:
//
//   executor_test_host FOLDER
//
// FOLDER takes its files.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "batch.h"
#include "check.h"
#include "engine_file.h"
#include "error.h"

namespace {

using namespace bert::executor;

std::mt19937_64 g_random(1);
std::string g_folder;

int Between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(g_random); }

const BertArchitecture kSmall{2, 64, 2, 96, 50, 2, 40, 1e-12f};

std::string Bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void Write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

struct Made {
  FileFacts facts{};
  Algorithms algorithms;
  std::vector<std::string> tensors;
  std::string path;
};

Made MakeEngine(BertPrecision precision = BERT_FP16) {
  Made made;
  made.path = g_folder + "/made.engine";
  made.facts.architecture = kSmall;
  made.facts.precision = precision;
  made.facts.compute_capability = 90;
  made.facts.processors = 132;
  made.facts.tuned_tokens = 128;
  made.facts.cublaslt = 130100;
  for (int32_t linear = 0; linear < kLinears; ++linear) {
    for (int32_t tokens : {64, 128}) {
      Algorithm algorithm;
      for (uint64_t& word : algorithm) word = g_random();
      made.algorithms[{linear, tokens}] = algorithm;
    }
  }
  std::vector<const void*> data;
  for (const TensorSpec& spec : tensors_of(kSmall, precision)) {
    std::string bytes(spec.bytes, '\0');
    for (char& byte : bytes) byte = static_cast<char>(g_random());
    made.tensors.push_back(bytes);
  }
  for (const std::string& bytes : made.tensors) data.push_back(bytes.data());
  write_engine(made.path, made.facts, made.algorithms, data);
  return made;
}

// Why an engine of these bytes is refused; empty if it is not.
std::string Refusal(const std::string& bytes) {
  const std::string path = g_folder + "/changed.engine";
  Write(path, bytes);
  try {
    const EngineFile file(path);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

bool Says(const std::string& refusal, const std::string& reason) {
  return refusal.find(reason) != std::string::npos && refusal.find('\n') == std::string::npos;
}

// With the size and the checksum that belong to the bytes, as only a program would change them.
std::string Resealed(std::string bytes) {
  FileHead head;
  std::memcpy(&head, bytes.data(), sizeof(head));
  head.bytes = bytes.size();
  head.checksum = checksum_of(bytes.data() + sizeof(head), bytes.size() - sizeof(head));
  std::memcpy(bytes.data(), &head, sizeof(head));
  return bytes;
}

void TestRoundTrip(BertPrecision precision) {
  const Made made = MakeEngine(precision);
  const EngineFile file(made.path);
  const BertArchitecture& read = file.facts().architecture;
  g_checks.That(std::memcmp(&read, &kSmall, sizeof(read)) == 0, "the architecture is another");
  g_checks.That(file.facts().compute_capability == 90 && file.facts().processors == 132 &&
                    file.facts().cublaslt == 130100 && file.precision() == precision,
                "the facts are others");
  g_checks.That(file.algorithms() == made.algorithms, "the algorithms are others");
  const std::vector<TensorSpec> specs = tensors_of(kSmall, precision);
  const Placement placed = place(specs);
  g_checks.That(file.tensor_bytes() == placed.bytes, "the tensors take other room");
  for (size_t i = 0; i < specs.size(); ++i) {
    g_checks.That(std::memcmp(file.tensors()[i], made.tensors[i].data(), specs[i].bytes) == 0,
                  specs[i].name + " is another");
    g_checks.That(placed.offsets[i] % kAlignment == 0, specs[i].name + " is not aligned");
  }
}

void TestDamage() {
  const std::string whole = Bytes(MakeEngine().path);
  g_checks.That(Refusal(whole).empty(), "an engine is refused");
  for (int i = 0; i < 300; ++i) {
    std::string changed = whole;
    const size_t at = static_cast<size_t>(Between(0, static_cast<int>(whole.size()) - 1));
    changed[at] = static_cast<char>(changed[at] ^ 1 << Between(0, 7));
    g_checks.That(!Refusal(changed).empty(), "a bit of byte " + std::to_string(at) + " changed");
  }
  std::vector<size_t> lengths(sizeof(FileHead) + sizeof(FileFacts));
  std::iota(lengths.begin(), lengths.end(), 0);
  for (int i = 0; i < 50; ++i) {
    lengths.push_back(static_cast<size_t>(Between(0, static_cast<int>(whole.size()) - 1)));
  }
  for (size_t length : lengths) {
    const std::string reason = length < sizeof(FileHead) ? "is no engine" : "bytes of";
    g_checks.That(Says(Refusal(whole.substr(0, length)), reason),
                  "cut to " + std::to_string(length) + " bytes");
  }
  g_checks.That(Says(Refusal(whole + "x"), "bytes of"), "a byte too many");
  g_checks.That(Says(Refusal(std::string(5000, '\0')), "is no engine"), "zeros");
  std::string newer = whole;
  newer[8] = 9;
  g_checks.That(Says(Refusal(newer), "format 9"), "another format");
  try {
    const EngineFile file(g_folder + "/none.engine");
    g_checks.That(false, "a missing file is read");
  } catch (const Error& error) {
    g_checks.That(Says(error.what(), "cannot be opened"), "a missing file");
  }
}

// Files whose checksum holds, but not what they say: refused or whole, and nothing is read
// outside, which the sanitizers see.
void TestContradictions() {
  const std::string whole = Bytes(MakeEngine().path);
  FileFacts facts;
  std::memcpy(&facts, whole.data() + sizeof(FileHead), sizeof(facts));
  const auto with = [&](auto change) {
    FileFacts changed = facts;
    change(&changed);
    std::string bytes = whole;
    std::memcpy(bytes.data() + sizeof(FileHead), &changed, sizeof(changed));
    return Refusal(Resealed(bytes));
  };
  g_checks.That(with([](FileFacts*) {}).empty(), "a resealed engine is refused");
  g_checks.That(Says(with([](FileFacts* f) { f->architecture.hidden = 72; }), "heads have"),
                "hidden 72");
  g_checks.That(Says(with([](FileFacts* f) { f->architecture.layers = 3; }), "contradicts"),
                "three layers");
  g_checks.That(Says(with([](FileFacts* f) { f->architecture.layers = -1; }), "layers"),
                "no layers");
  g_checks.That(Says(with([](FileFacts* f) { f->precision = 77; }), "precision"), "precision");
  g_checks.That(Says(with([](FileFacts* f) { f->data += kAlignment; }), "contradicts"), "data");
  g_checks.That(Says(with([](FileFacts* f) { f->data = ~uint64_t{0} - 255; }), "contradicts"),
                "data far outside");
  g_checks.That(Says(with([](FileFacts* f) { f->algorithms = 1u << 31; }), "contradicts"),
                "algorithms");
  const size_t records = static_cast<size_t>(facts.data);
  for (int i = 0; i < 500; ++i) {
    std::string changed = whole;
    const size_t at = static_cast<size_t>(
        Between(sizeof(FileHead), static_cast<int>(records) - 1));
    changed[at] = static_cast<char>(g_random());
    const std::string refusal = Refusal(Resealed(changed));
    g_checks.That(refusal.find('\n') == std::string::npos, "a refusal has several lines");
  }
  g_checks.That(Says(Refusal(Resealed(whole.substr(0, records))), "contradicts"), "no tensors");
  g_checks.That(Says(Refusal(Resealed(whole.substr(0, sizeof(FileHead) + 8))), "contradicts"),
                "no facts");
}

void TestArchitectures() {
  const auto refused = [](auto change, const std::string& reason,
                          BertPrecision precision = BERT_FP16) {
    BertArchitecture changed{12, 768, 12, 3072, 30522, 2, 512, 1e-12f};
    check(changed, precision);
    change(&changed);
    try {
      check(changed, precision);
      g_checks.That(false, "taken in spite of " + reason);
    } catch (const Error& error) {
      g_checks.That(Says(error.what(), reason), std::string("refused, but for: ") + error.what());
    }
  };
  refused([](BertArchitecture* a) { a->layers = 0; }, "layers");
  refused([](BertArchitecture* a) { a->hidden = 1032; }, "hidden");
  refused([](BertArchitecture* a) { a->heads = 0; }, "heads");
  refused([](BertArchitecture* a) { a->heads = 8; }, "heads have");
  refused([](BertArchitecture* a) { a->intermediate = 100; }, "multiples of 8");
  for (BertPrecision precision : {BERT_FP8, BERT_INT8, BERT_INT8_HALF_HEAD}) {
    refused([](BertArchitecture* a) { a->intermediate = 88; }, "multiples of 16", precision);
  }
  refused([](BertArchitecture* a) { a->vocab = -5; }, "vocab");
  refused([](BertArchitecture* a) { a->positions = 0; }, "positions");
  refused([](BertArchitecture* a) { a->epsilon = -1; }, "epsilon");
  refused([](BertArchitecture* a) { a->epsilon = NAN; }, "epsilon");
  // BERT-base without its pooler has 108,893,186 weights, 84,934,656 of them in its layers' linears
  // and 1,536 in the QA head.
  constexpr uint64_t kAll = 108893186, kLinear = 84934656, kHead = 1536;
  // Output channels of a layer's linears.
  constexpr uint64_t kChannels = 3 * 768 + 768 + 3072 + 768;
  const std::pair<BertPrecision, uint64_t> expected[] = {
      {BERT_FP16, 2 * kAll},
      {BERT_FP8, 2 * kAll - kLinear + 12 * 4 * 2 * 4},
      {BERT_INT8, 2 * kAll - kLinear - kHead + (12 * (kChannels + 4) + 3) * 4},
      {BERT_INT8_HALF_HEAD, 2 * kAll - kLinear + 12 * (kChannels + 4) * 4}};
  for (const auto& [precision, total] : expected) {
    const auto specs = tensors_of({12, 768, 12, 3072, 30522, 2, 512, 1e-12f}, precision);
    std::set<std::string> names;
    uint64_t bytes = 0;
    for (const TensorSpec& spec : specs) {
      names.insert(spec.name);
      bytes += spec.bytes;
    }
    g_checks.That(names.size() == specs.size() && bytes == total,
                  "BERT-base in precision " + std::to_string(precision) + " has " +
                      std::to_string(bytes) + " bytes, not " + std::to_string(total));
  }
}

void TestBuckets() {
  int32_t before = 0;
  double waste = 0;
  for (int32_t tokens = 1; tokens <= 70000; ++tokens) {
    const int32_t bucket = token_bucket(tokens);
    const bool fits = bucket >= tokens && bucket % 64 == 0 && bucket >= before &&
                      token_bucket(bucket) == bucket && bucket - tokens < std::max(64, tokens / 32);
    if (!fits) g_checks.That(false, std::to_string(tokens) + " is in " + std::to_string(bucket));
    if (tokens > 2048) waste = std::max(waste, static_cast<double>(bucket) / tokens - 1);
    before = bucket;
  }
  g_checks.That(waste < 1.0 / 31, "a bucket wastes " + std::to_string(waste));
  for (int32_t size : {1, 8, 32, 128, 512}) {
    g_checks.That(bucket_of(size, 384 * size, 384).windows == size,
                  std::to_string(size) + " windows have no bucket of their own");
  }
  g_checks.That(token_bucket(32 * 384) == 32 * 384 && token_bucket(384) == 384,
                "a full batch's bucket has rows too many");
  for (int32_t most : {1, 64, 65, 5000, 12288, 49152}) {
    const std::vector<int32_t> all = token_buckets(most);
    std::set<int32_t> expected;
    for (int32_t tokens = 1; tokens <= most; ++tokens) expected.insert(token_bucket(tokens));
    g_checks.That(std::vector<int32_t>(expected.begin(), expected.end()) == all,
                  "the buckets up to " + std::to_string(most));
  }
}

void TestPacking() {
  for (int round = 0; round < 200; ++round) {
    const int windows = Between(1, 40), longest = Between(1, 384);
    std::vector<int32_t> lengths(windows), offsets(windows);
    int end = 0;
    for (int w = 0; w < windows; ++w) {
      lengths[w] = Between(1, longest);
      offsets[w] = end + Between(0, 3);
      end = offsets[w] + lengths[w];
    }
    // Windows need not lie in order.
    for (int w = windows - 1; w > 0; --w) {
      const int other = Between(0, w);
      std::swap(offsets[w], offsets[other]);
      std::swap(lengths[w], lengths[other]);
    }
    std::vector<int32_t> ids(end), segments(end);
    for (int i = 0; i < end; ++i) {
      ids[i] = Between(-2, 101);
      segments[i] = Between(-1, 2);
    }
    const BertBatch batch{windows, offsets.data(), lengths.data(), ids.data(), segments.data()};
    const int tokens = std::accumulate(lengths.begin(), lengths.end(), 0);
    Packing packing(40, tokens, longest);
    // What was arranged before is forgotten.
    if (round % 2 == 0) packing.arrange({1, offsets.data(), lengths.data(), ids.data(), segments.data()});
    packing.arrange(batch);
    const Bucket bucket = packing.bucket();
    std::vector<char> block(static_cast<size_t>(block_bytes(bucket)));
    const int64_t bytes = packing.pack(batch, 100, 2, block.data());
    g_checks.That(bytes <= block_bytes(bucket) && packing.tokens() == tokens, "sizes");
    std::vector<int32_t> starts(static_cast<size_t>(bucket.windows) + 1);
    std::memcpy(starts.data(), block.data(), starts.size() * sizeof(int32_t));
    std::vector<Token> packed(static_cast<size_t>(tokens));
    std::memcpy(packed.data(), block.data() + token_offset(bucket.windows),
                packed.size() * sizeof(Token));
    g_checks.That(starts.front() == 0 && starts.back() == tokens, "the ends of the windows");
    bool falling = true, longest_fits = bucket.longest >= starts[1];
    for (int32_t w = 1; w < bucket.windows; ++w) {
      falling = falling && starts[w + 1] - starts[w] <= starts[w] - starts[w - 1] &&
                starts[w + 1] >= starts[w];
    }
    g_checks.That(falling && longest_fits, "windows are not the longest first");
    // A token's logit is its place in the batch: it has to come back there.
    std::vector<float> logits(static_cast<size_t>(tokens)), found(static_cast<size_t>(end), -1.0f);
    std::iota(logits.begin(), logits.end(), 0.0f);
    packing.unpack(logits.data(), found.data());
    int32_t at_home = 0, written = 0;
    for (int w = 0; w < windows; ++w) {
      for (int i = 0; i < lengths[w]; ++i) {
        const int at = offsets[w] + i;
        const Token token = packed[static_cast<size_t>(found[at])];
        const bool known = ids[at] >= 0 && ids[at] < 100, kind = segments[at] >= 0 && segments[at] < 2;
        at_home += token.id == (known ? ids[at] : 0) && token.position == i &&
                   token.segment == (kind ? segments[at] : 0);
      }
    }
    for (float logit : found) written += logit >= 0;
    g_checks.That(at_home == tokens && written == tokens, "tokens or logits are elsewhere");
  }
}

void TestBadBatches() {
  const int32_t offsets[] = {0, 5}, lengths[] = {5, 7}, ids[12] = {}, segments[12] = {};
  const BertBatch good{2, offsets, lengths, ids, segments};
  const auto refused = [&](auto change, const std::string& reason, int32_t windows = 4,
                           int32_t tokens = 100, int32_t longest = 10) {
    BertBatch batch = good;
    change(&batch);
    try {
      Packing(windows, tokens, longest).arrange(batch);
      g_checks.That(false, "taken in spite of " + reason);
    } catch (const Error& error) {
      g_checks.That(Says(error.what(), reason), std::string("refused, but for: ") + error.what());
    }
  };
  const int32_t empty[] = {5, 0}, negative[] = {5, -1}, before[] = {0, -5};
  const auto same = [](BertBatch*) {};
  refused([](BertBatch* b) { b->windows = 0; }, "windows");
  refused(same, "windows", 1);
  refused(same, "up to 11 tokens", 4, 11);
  refused(same, "1 to 6 tokens", 4, 100, 6);
  refused([&](BertBatch* b) { b->lengths = empty; }, "not 0");
  refused([&](BertBatch* b) { b->lengths = negative; }, "not -1");
  refused([&](BertBatch* b) { b->offsets = before; }, "negative offset");
  refused([](BertBatch* b) { b->offsets = nullptr; }, "NULL");
  refused([](BertBatch* b) { b->lengths = nullptr; }, "NULL");
  refused([](BertBatch* b) { b->ids = nullptr; }, "NULL");
  refused([](BertBatch* b) { b->segments = nullptr; }, "NULL");
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) throw std::invalid_argument("usage: executor_test_host FOLDER");
  g_folder = argv[1];
  g_checks.Begin("round trip");
  for (BertPrecision precision : {BERT_FP16, BERT_FP8, BERT_INT8, BERT_INT8_HALF_HEAD}) {
    TestRoundTrip(precision);
  }
  g_checks.Begin("damage");
  TestDamage();
  g_checks.Begin("contradictions");
  TestContradictions();
  g_checks.Begin("architectures");
  TestArchitectures();
  g_checks.Begin("buckets");
  TestBuckets();
  g_checks.Begin("packing");
  TestPacking();
  g_checks.Begin("bad batches");
  TestBadBatches();
  return g_checks.Finish();
} catch (const std::exception& error) {
  std::fprintf(stderr, "executor_test_host: %s\n", error.what());
  return 2;
}
