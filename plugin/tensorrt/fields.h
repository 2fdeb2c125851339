#ifndef BERT_PLUGIN_FIELDS_H
#define BERT_PLUGIN_FIELDS_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "kernels/bert_kernels.h"
#include "tensorrt/log.h"
#include "tensorrt/nvinfer.h"

namespace bert_plugin {

enum class FieldKind {
  kInteger,      // one INT32
  kScale,        // one positive FLOAT32; unknown where INT8 tensors carry scales of their own
  kFloats,       // FLOAT32
  kWeights,      // FLOAT32 or FLOAT16; kept as FLOAT16
  kQuantizable,  // FLOAT32 or INT8
};

enum class Presence { kRequired, kOptional, kUnknown /* to this version of the plugin */ };
inline constexpr Presence kRequired = Presence::kRequired;
inline constexpr Presence kOptional = Presence::kOptional;
inline constexpr Presence kUnknown = Presence::kUnknown;

struct FieldSpec {
  const char* name;
  FieldKind kind;
  Presence presence;
};

// Where an INT8 tensor's scale is found: in its description, as V2 networks with dynamic ranges
// have it, or in the fields `input_scale` and `output_scale`, as typed networks need it.
enum class ScaleSource { kTensors, kFields };

// What a plugin is called and which fields it knows.
struct PluginSpec {
  const char* name;
  const char* version;
  std::vector<FieldSpec> fields;
  ScaleSource scale_source;
};

template <class Op>
PluginSpec SpecOf(ScaleSource scale_source) {
  PluginSpec spec{Op::kName, Op::kVersion, {}, scale_source};
  for (const FieldSpec& field : Op::kFields) {
    if (field.presence == kUnknown) continue;
    if (field.kind == FieldKind::kScale && scale_source == ScaleSource::kTensors) continue;
    spec.fields.push_back(field);
  }
  return spec;
}

struct HostArray {
  const void* data = nullptr;  // nullptr: there is none
  size_t bytes = 0;
  size_t device_bytes = 0;  // at least `bytes`; zeros follow
};

// A plugin's fields, checked and owned. They are also what is serialized, so that creation,
// deserialization and the runtime phase of V3 share one path, and a round trip is exact.
class Fields {
 public:
  // Throws Refused if a field is missing, doubled, of a wrong type or length, without data or not
  // finite. A field of unknown name is ignored with a warning, or refused if `strict`.
  Fields(const PluginSpec& spec, const nvinfer1::PluginFieldCollection* collection,
         bool strict = false);

  // The inverse of Serialize(). Throws Refused for anything else.
  static Fields Deserialize(const PluginSpec& spec, const void* data, size_t bytes);

  size_t SerializedBytes() const;
  void Serialize(void* buffer) const;

  // Views into this object.
  std::vector<nvinfer1::PluginField> List() const;

  bool Has(std::string_view name) const { return Find(name) != nullptr; }
  int32_t Integer(std::string_view name) const { return Values<int32_t>(name).front(); }
  int32_t Integer(std::string_view name, int32_t otherwise) const {
    return Has(name) ? Integer(name) : otherwise;
  }
  // As Integer(), refused outside [low, high].
  int32_t IntegerIn(std::string_view name, int32_t low, int32_t high) const;

  // 0 if the scale is not given here.
  float Scale(std::string_view name) const { return Has(name) ? Values<float>(name).front() : 0; }
  ScaleSource scale_source() const { return scale_source_; }
  // Throws Refused if a scale is neither given here nor carried by the tensor.
  void RequireScale(const char* name) const;

  // Throws Refused if `type_id` is not this type's number.
  void RequireType(nvinfer1::DataType type) const;

  // The values of a field that is there and of this type.
  template <class T>
  const std::vector<T>& Values(std::string_view name) const;
  template <class T>
  bool Holds(std::string_view name) const;

  int64_t Count(std::string_view name) const;  // 0 if absent
  // Throws Refused if the field is there and of another length.
  void RequireCount(std::string_view name, int64_t count) const;

  // For upload; at least `device_bytes` long there. Without data if absent.
  HostArray Array(std::string_view name, size_t device_bytes = 0) const;

  template <class T>
  void Replace(std::string_view name, std::vector<T> values);

 private:
  using Data = std::variant<std::vector<int32_t>, std::vector<float>, std::vector<BertHalf>,
                            std::vector<int8_t>>;
  struct Field {
    const char* name;  // the spec's
    Data data;
  };

  static Data Read(const FieldSpec& spec, const nvinfer1::PluginField& field);
  const Field* Find(std::string_view name) const;
  const Field& Get(std::string_view name) const;

  std::vector<Field> fields_;
  ScaleSource scale_source_;
};

// Throws Refused with the field's name before the text.
[[noreturn]] void RefuseField(std::string_view name, const std::string& text);

// What a creator advertises.
std::vector<nvinfer1::PluginField> Advertise(const PluginSpec& spec);

template <class T>
const std::vector<T>& Fields::Values(std::string_view name) const {
  return std::get<std::vector<T>>(Get(name).data);
}

template <class T>
bool Fields::Holds(std::string_view name) const {
  const Field* field = Find(name);
  return field != nullptr && std::holds_alternative<std::vector<T>>(field->data);
}

template <class T>
void Fields::Replace(std::string_view name, std::vector<T> values) {
  for (Field& field : fields_) {
    if (field.name == name) field.data = std::move(values);
  }
}

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_FIELDS_H
