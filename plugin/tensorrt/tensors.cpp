#include "tensorrt/tensors.h"

#include <algorithm>
#include <limits>
#include <string>

#include "tensorrt/log.h"

namespace bert_plugin {
namespace {

constexpr int64_t kOpen = -1;

[[noreturn]] void RefuseTensor(const char* name, const std::string& text) {
  throw Refused(std::string(name) + ": " + text);
}

void CheckCounts(const Signature& signature, int64_t inputs, int64_t outputs) {
  const auto check = [](const char* what, int64_t have, size_t want) {
    if (have == static_cast<int64_t>(want)) return;
    throw Refused(std::string(what) + ": " + std::to_string(have) + " instead of " +
                  std::to_string(want));
  };
  check("number of inputs", inputs, signature.inputs.size());
  check("number of outputs", outputs, signature.outputs.size());
}

bool RankFits(const TensorSpec& spec, int32_t rank) {
  return spec.form == Form::kTokens ? rank == 2 : rank == 3 || rank == 5;
}

const char* RankWanted(const TensorSpec& spec) {
  return spec.form == Form::kTokens ? "must be (B, S)" : "must be (B, S, C) or (B, S, C, 1, 1)";
}

void CheckChannels(const TensorSpec& spec, int64_t channels) {
  if (channels == kOpen) return;
  const bool fits = spec.channels != 0 ? channels == spec.channels
                                       : channels > 0 && channels % 8 == 0;
  if (fits) return;
  RefuseTensor(spec.name, "has " + std::to_string(channels) + " channels, not " +
                              (spec.channels != 0 ? std::to_string(spec.channels)
                                                  : std::string("a multiple of 8")));
}

struct Extents {
  int64_t windows = kOpen;
  int64_t length = kOpen;
  int64_t channels = kOpen;
};

void CheckSame(const char* name, const char* what, int64_t* known, int64_t extent) {
  if (extent == kOpen) return;
  if (*known == kOpen) *known = extent;
  if (*known != extent) {
    RefuseTensor(name, std::string(what) + " is " + std::to_string(extent) + ", not " +
                           std::to_string(*known));
  }
}

void CheckDims(const TensorSpec& spec, const nvinfer1::Dims& dims, Extents* extents) {
  if (!RankFits(spec, dims.nbDims)) RefuseTensor(spec.name, RankWanted(spec));
  CheckSame(spec.name, "its batch", &extents->windows, dims.d[0]);
  CheckSame(spec.name, "its length", &extents->length, dims.d[1]);
  if (spec.form == Form::kTokens) return;
  CheckChannels(spec, dims.d[2]);
  for (int32_t i = 3; i < dims.nbDims; ++i) {
    if (dims.d[i] != 1 && dims.d[i] != kOpen) RefuseTensor(spec.name, RankWanted(spec));
  }
}

void CheckType(const TensorSpec& spec, nvinfer1::DataType type, nvinfer1::TensorFormat format) {
  if (!spec.types.Contains(type)) {
    RefuseTensor(spec.name, "cannot be of type " + std::to_string(static_cast<int32_t>(type)));
  }
  if (format != nvinfer1::TensorFormat::kLINEAR) RefuseTensor(spec.name, "must be linear");
}

void CheckLength(const Signature& signature, int64_t length) {
  if (length <= signature.max_length) return;
  throw Refused("a length of " + std::to_string(length) + ", but at most " +
                std::to_string(signature.max_length) + " are supported");
}

// Calls visit(spec, description) for every tensor.
template <class Desc, class Visit>
void ForEach(const Signature& signature, const Desc* inputs, const Desc* outputs, Visit&& visit) {
  for (size_t i = 0; i < signature.inputs.size(); ++i) visit(signature.inputs[i], inputs[i]);
  for (size_t i = 0; i < signature.outputs.size(); ++i) visit(signature.outputs[i], outputs[i]);
}

}  // namespace

nvinfer1::DimsExprs OutputShape(const Signature& signature, int32_t output,
                                const nvinfer1::DimsExprs* inputs, int32_t input_count,
                                nvinfer1::IExprBuilder& builder) {
  CheckCounts(signature, input_count, static_cast<int64_t>(signature.outputs.size()));
  if (output < 0 || output >= static_cast<int32_t>(signature.outputs.size())) {
    throw Refused("there is no output " + std::to_string(output));
  }
  for (int32_t i = 0; i < input_count; ++i) {
    const TensorSpec& spec = signature.inputs[i];
    if (!RankFits(spec, inputs[i].nbDims)) RefuseTensor(spec.name, RankWanted(spec));
    if (spec.form == Form::kHidden && inputs[i].d[2]->isConstant()) {
      CheckChannels(spec, inputs[i].d[2]->getConstantValue());
    }
  }
  const TensorSpec& spec = signature.outputs[output];
  nvinfer1::DimsExprs shape = inputs[0];
  if (spec.form == Form::kTokens) {
    shape.nbDims = 2;
  } else {
    if (signature.inputs[0].form == Form::kTokens) shape.nbDims = 3;
    if (spec.channels != 0) shape.d[2] = builder.constant(spec.channels);
  }
  return shape;
}

bool SupportsFormat(const Signature& signature, int32_t position, nvinfer1::DataType type,
                    nvinfer1::TensorFormat format, int32_t input_count, int32_t output_count) {
  CheckCounts(signature, input_count, output_count);
  if (position < 0 || position >= input_count + output_count) return false;
  const TensorSpec& spec = position < input_count ? signature.inputs[position]
                                                  : signature.outputs[position - input_count];
  return spec.types.Contains(type) && format == nvinfer1::TensorFormat::kLINEAR;
}

void CheckNetwork(const Signature& signature, const nvinfer1::DynamicPluginTensorDesc* inputs,
                  int32_t input_count, const nvinfer1::DynamicPluginTensorDesc* outputs,
                  int32_t output_count) {
  CheckCounts(signature, input_count, output_count);
  Extents extents;
  ForEach(signature, inputs, outputs,
          [&](const TensorSpec& spec, const nvinfer1::DynamicPluginTensorDesc& tensor) {
            CheckType(spec, tensor.desc.type, tensor.desc.format);
            CheckDims(spec, tensor.desc.dims, &extents);
          });
  CheckLength(signature, extents.length);
  if (inputs[0].max.nbDims >= 2) CheckLength(signature, inputs[0].max.d[1]);
}

Problem CheckShapes(const Signature& signature, const nvinfer1::PluginTensorDesc* inputs,
                    int32_t input_count, const nvinfer1::PluginTensorDesc* outputs,
                    int32_t output_count) {
  CheckCounts(signature, input_count, output_count);
  Extents extents;
  ForEach(signature, inputs, outputs,
          [&](const TensorSpec& spec, const nvinfer1::PluginTensorDesc& tensor) {
            CheckType(spec, tensor.type, tensor.format);
            CheckDims(spec, tensor.dims, &extents);
          });
  const Problem problem = ProblemOf(signature, inputs[0].dims, inputs[0].type);
  for (size_t i = 0; i < signature.outputs.size(); ++i) {
    const TensorSpec& spec = signature.outputs[i];
    if (spec.form == Form::kHidden && spec.channels == 0 &&
        outputs[i].dims.d[2] != problem.channels) {
      RefuseTensor(spec.name, "must have as many channels as the input");
    }
  }
  return problem;
}

bool IsOpen(const nvinfer1::Dims& dims) {
  return std::any_of(dims.d, dims.d + dims.nbDims, [](auto extent) { return extent < 0; });
}

Problem ProblemOf(const Signature& signature, const nvinfer1::Dims& dims, nvinfer1::DataType type) {
  const TensorSpec& spec = signature.inputs[0];
  Extents extents;
  CheckDims(spec, dims, &extents);
  const int64_t channels = spec.form == Form::kHidden ? dims.d[2] : 0;
  if (extents.windows <= 0 || extents.length <= 0 || channels < 0) {
    RefuseTensor(spec.name, "has an extent that is not positive");
  }
  CheckLength(signature, extents.length);
  if (extents.windows > std::numeric_limits<int32_t>::max() / extents.length) {
    RefuseTensor(spec.name, "has too many tokens");
  }
  return {static_cast<int32_t>(extents.windows), static_cast<int32_t>(extents.length),
          static_cast<int32_t>(channels), type};
}

}  // namespace bert_plugin
