#ifndef BERT_PLUGIN_TENSORS_H
#define BERT_PLUGIN_TENSORS_H

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "kernels/bert_kernels.h"
#include "tensorrt/nvinfer.h"

namespace bert_plugin {

class TypeSet {
 public:
  constexpr TypeSet(std::initializer_list<nvinfer1::DataType> types) {
    for (const nvinfer1::DataType type : types) bits_ |= Bit(type);
  }
  constexpr bool Contains(nvinfer1::DataType type) const { return (bits_ & Bit(type)) != 0; }
  // The only one, or the lowest in number.
  nvinfer1::DataType First() const {
    return static_cast<nvinfer1::DataType>(__builtin_ctz(bits_));
  }

 private:
  static constexpr uint32_t Bit(nvinfer1::DataType type) {
    return uint32_t{1} << static_cast<uint32_t>(type);
  }
  uint32_t bits_ = 0;
};

enum class Form {
  kTokens,  // (B, S)
  kHidden,  // (B, S, channels), or upstream's (B, S, channels, 1, 1)
};

struct TensorSpec {
  const char* name;  // for messages
  Form form;
  TypeSet types;
  // 0, as an input: any multiple of 8; as an output: as many as input 0 has.
  int32_t channels = 0;
};

// Which tensors an operation takes and makes. An output has one type only, and the rank of the
// first input unless that holds token ids.
struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  int32_t max_length = BERT_MAX_LENGTH;
};

// The extents of input 0, which all tensors share but for their channels, and its type.
struct Problem {
  int32_t windows;
  int32_t length;
  int32_t channels;  // 0 where it holds token ids
  nvinfer1::DataType type;

  int32_t tokens() const { return windows * length; }
  BertSequences Padded(const int32_t* lengths) const {
    return {windows, length, tokens(), nullptr, lengths};
  }
};

// The functions below throw Refused, naming the tensor, where something does not fit.

nvinfer1::DimsExprs OutputShape(const Signature& signature, int32_t output,
                                const nvinfer1::DimsExprs* inputs, int32_t input_count,
                                nvinfer1::IExprBuilder& builder);

// Whether tensor `position`, of inputs and outputs counted through, may be of this type and format.
bool SupportsFormat(const Signature& signature, int32_t position, nvinfer1::DataType type,
                    nvinfer1::TensorFormat format, int32_t input_count, int32_t output_count);

// For the shapes of a profile: an extent may be open (-1), but the longest must be allowed.
void CheckNetwork(const Signature& signature, const nvinfer1::DynamicPluginTensorDesc* inputs,
                  int32_t input_count, const nvinfer1::DynamicPluginTensorDesc* outputs,
                  int32_t output_count);

// For a call's shapes. Allocates nothing unless it refuses.
Problem CheckShapes(const Signature& signature, const nvinfer1::PluginTensorDesc* inputs,
                    int32_t input_count, const nvinfer1::PluginTensorDesc* outputs,
                    int32_t output_count);

// Whether an extent is left open.
bool IsOpen(const nvinfer1::Dims& dims);

// Of input 0 alone.
Problem ProblemOf(const Signature& signature, const nvinfer1::Dims& dims, nvinfer1::DataType type);

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_TENSORS_H
