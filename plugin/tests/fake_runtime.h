#ifndef BERT_PLUGIN_TESTS_FAKE_RUNTIME_H
#define BERT_PLUGIN_TESTS_FAKE_RUNTIME_H

// As much of a runtime as a plugin sees: a logger, dimension expressions, field collections, and
// one face for the two plugin interfaces, so that every check is written once. The library is
// reached through its exported functions only.

#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tensorrt/nvinfer.h"

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

namespace fake {

using nvinfer1::DataType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using nvinfer1::TensorFormat;

// Keeps what is logged, and is its own finder.
class Logger : public nvinfer1::ILogger, public nvinfer1::ILoggerFinder {
 public:
  void log(Severity severity, const char* message) noexcept override {
    auto& lines = severity <= Severity::kERROR     ? errors
                  : severity < Severity::kVERBOSE ? others
                                                   : details;
    lines.push_back(message);
  }
  nvinfer1::ILogger* findLogger() override { return this; }
  void Clear() { errors.clear(), others.clear(), details.clear(); }

  std::vector<std::string> errors, others, details;
};

// Dimension expressions: constants, and open extents, which stand for themselves.
using Extent = std::remove_reference_t<decltype(nvinfer1::Dims{}.d[0])>;

class Expr : public nvinfer1::IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
 public:
  explicit Expr(Extent value) : value_(value) { mImpl = this; }
  Extent value() const { return value_; }

 private:
  bool isConstant() const override { return value_ >= 0; }
  Extent getConstantValue() const override { return value_; }
  virtual bool isSizeTensor() const { return false; }

  Extent value_;
};

class ExprBuilder : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
 public:
  ExprBuilder() { mImpl = this; }

  nvinfer1::DimsExprs Exprs(const std::vector<int64_t>& dims) {
    nvinfer1::DimsExprs exprs{};
    exprs.nbDims = static_cast<int32_t>(dims.size());
    for (size_t i = 0; i < dims.size(); ++i) exprs.d[i] = constant(static_cast<Extent>(dims[i]));
    return exprs;
  }
  static std::vector<int64_t> Values(const nvinfer1::DimsExprs& exprs) {
    std::vector<int64_t> dims;
    for (int32_t i = 0; i < exprs.nbDims; ++i) {
      dims.push_back(static_cast<const Expr*>(exprs.d[i])->value());
    }
    return dims;
  }

 private:
  const nvinfer1::IDimensionExpr* constant(Extent value) override {
    return &exprs_.emplace_back(value);
  }
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation,
                                            const nvinfer1::IDimensionExpr&,
                                            const nvinfer1::IDimensionExpr&) override {
    return nullptr;  // no plugin needs one
  }
  virtual const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t,
                                                            const nvinfer1::IDimensionExpr&,
                                                            const nvinfer1::IDimensionExpr&) {
    return nullptr;
  }

  std::deque<Expr> exprs_;
};

// A field with data of its own, which begins at an odd address: nothing promises alignment.
struct Field {
  std::string name;
  PluginFieldType type;
  int32_t length;
  std::vector<char> bytes;
  bool null_data = false;

  bool operator==(const Field& other) const {
    return name == other.name && type == other.type && length == other.length &&
           bytes == other.bytes;
  }
};

inline size_t SizeOf(PluginFieldType type) {
  switch (type) {
    case PluginFieldType::kINT8: return 1;
    case PluginFieldType::kFLOAT16: return 2;
    default: return 4;
  }
}

class FieldList {
 public:
  template <class T>
  FieldList& Add(const std::string& name, PluginFieldType type, const std::vector<T>& values) {
    const size_t bytes = values.size() * sizeof(T);
    Field field{name, type, static_cast<int32_t>(values.size()), std::vector<char>(1 + bytes)};
    std::memcpy(field.bytes.data() + 1, values.data(), bytes);
    fields.push_back(field);
    return *this;
  }
  FieldList& Int(const std::string& name, int32_t value) {
    return Add<int32_t>(name, PluginFieldType::kINT32, {value});
  }
  FieldList& Floats(const std::string& name, const std::vector<float>& values) {
    return Add(name, PluginFieldType::kFLOAT32, values);
  }
  Field& operator[](const std::string& name) {
    for (Field& field : fields) {
      if (field.name == name) return field;
    }
    return fields.emplace_back(Field{name, PluginFieldType::kUNKNOWN, 0, {0}});
  }
  bool Has(const std::string& name) const { return !(Without(name) == *this); }
  FieldList Without(const std::string& name) const {
    FieldList list;
    for (const Field& field : fields) {
      if (field.name != name) list.fields.push_back(field);
    }
    return list;
  }
  bool operator==(const FieldList& other) const { return fields == other.fields; }

  std::vector<Field> fields;
};

// A FieldList as the interface has it.
class Collection {
 public:
  explicit Collection(const FieldList& list) {
    for (const Field& field : list.fields) {
      const void* data = field.null_data ? nullptr : field.bytes.data() + 1;
      fields_.emplace_back(field.name.c_str(), data, field.type, field.length);
    }
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  }
  const nvinfer1::PluginFieldCollection* get() const { return &collection_; }

 private:
  std::vector<PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

struct Tensor {
  std::vector<int64_t> dims;
  DataType type;
  float scale = -1;
  TensorFormat format = TensorFormat::kLINEAR;
};

inline size_t SizeOf(DataType type) {
  switch (type) {
    case DataType::kINT8: return 1;
    case DataType::kHALF: return 2;
    default: return 4;
  }
}

inline size_t CountOf(const Tensor& tensor) {
  size_t count = 1;
  for (const int64_t extent : tensor.dims) count *= static_cast<size_t>(extent);
  return count;
}

inline size_t BytesOf(const Tensor& tensor) { return CountOf(tensor) * SizeOf(tensor.type); }

inline nvinfer1::Dims DimsOf(const std::vector<int64_t>& dims) {
  nvinfer1::Dims result{};
  result.nbDims = static_cast<int32_t>(dims.size());
  for (size_t i = 0; i < dims.size(); ++i) result.d[i] = static_cast<Extent>(dims[i]);
  return result;
}

inline std::vector<nvinfer1::PluginTensorDesc> Descs(const std::vector<Tensor>& tensors) {
  std::vector<nvinfer1::PluginTensorDesc> descs;
  for (const Tensor& tensor : tensors) {
    descs.push_back({DimsOf(tensor.dims), tensor.type, tensor.format, tensor.scale});
  }
  return descs;
}

// With the extents of `tensors` as the largest, and batch and length open unless they are `fixed`.
inline std::vector<nvinfer1::DynamicPluginTensorDesc> DynamicDescs(
    const std::vector<Tensor>& tensors, bool fixed = false) {
  std::vector<nvinfer1::DynamicPluginTensorDesc> descs;
  for (const nvinfer1::PluginTensorDesc& desc : Descs(tensors)) {
    nvinfer1::DynamicPluginTensorDesc dynamic{};
    dynamic.desc = desc;
    for (int i = 0; i < 2 && i < desc.dims.nbDims && !fixed; ++i) dynamic.desc.dims.d[i] = -1;
    dynamic.min = dynamic.max = desc.dims;
    descs.push_back(dynamic);
  }
  return descs;
}

}  // namespace fake

#if BERT_PLUGIN_API == 2
#include "tests/fake_runtime_v2.h"
#else
#include "tests/fake_runtime_v3.h"
#endif

#endif  // BERT_PLUGIN_TESTS_FAKE_RUNTIME_H
