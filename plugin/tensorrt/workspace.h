#ifndef BERT_PLUGIN_WORKSPACE_H
#define BERT_PLUGIN_WORKSPACE_H

#include <cstddef>
#include <cstdint>

namespace bert_plugin {

constexpr size_t Aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Hands out parts of a workspace. Without a base it only counts, so that the size an operation
// asks for and the parts it takes come from the same lines.
class Workspace {
 public:
  explicit Workspace(void* base = nullptr) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* Take(size_t count) {
    char* part = base_ != nullptr ? base_ + bytes_ : nullptr;
    bytes_ += Aligned(count * sizeof(T));
    return reinterpret_cast<T*>(part);
  }
  size_t bytes() const { return bytes_; }

 private:
  char* base_;
  size_t bytes_ = 0;
};

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_WORKSPACE_H
