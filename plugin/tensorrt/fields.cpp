#include "tensorrt/fields.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensorrt/half.h"

namespace bert_plugin {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

// In the order of Fields::Data; its index is what Serialize() writes, since the vendors number
// field types differently.
constexpr PluginFieldType kTypes[] = {PluginFieldType::kINT32, PluginFieldType::kFLOAT32,
                                      PluginFieldType::kFLOAT16, PluginFieldType::kINT8};
constexpr size_t kSizes[] = {sizeof(int32_t), sizeof(float), sizeof(BertHalf), sizeof(int8_t)};

constexpr uint32_t kMagic = 0x31504c42;  // "BLP1"; changes with the layout

// memcpy, since nothing promises that a field's data or a serialized buffer is aligned.
template <class T>
std::vector<T> Copy(const PluginField& field) {
  std::vector<T> values(static_cast<size_t>(field.length));
  std::memcpy(values.data(), field.data, values.size() * sizeof(T));
  return values;
}

template <class T>
void RequireFinite(const char* name, const std::vector<T>& values) {
  const bool finite = std::all_of(values.begin(), values.end(), [](T value) {
    if constexpr (std::is_same_v<T, float>) {
      return std::isfinite(value);
    } else {
      return IsFinite(value);
    }
  });
  if (!finite) RefuseField(name, "has a value that is not finite or too large for half");
}

std::vector<BertHalf> Halves(const std::vector<float>& values) {
  std::vector<BertHalf> halves(values.size());
  std::transform(values.begin(), values.end(), halves.begin(), HalfFromFloat);
  return halves;
}

// Reads from a buffer that may end anywhere.
class Reader {
 public:
  Reader(const void* data, size_t bytes)
      : next_(static_cast<const unsigned char*>(data)), left_(bytes) {}

  const void* Take(size_t bytes) {
    if (bytes > left_) throw Refused("serialized data: ends too early");
    const void* taken = next_;
    next_ += bytes;
    left_ -= bytes;
    return taken;
  }
  int32_t Integer() {
    int32_t value;
    std::memcpy(&value, Take(sizeof(value)), sizeof(value));
    return value;
  }
  size_t Size() {
    const int32_t value = Integer();
    if (value < 0) throw Refused("serialized data: a negative size");
    return static_cast<size_t>(value);
  }
  size_t left() const { return left_; }

 private:
  const unsigned char* next_;
  size_t left_;
};

class Writer {
 public:
  explicit Writer(void* buffer) : next_(static_cast<unsigned char*>(buffer)) {}
  void Bytes(const void* data, size_t bytes) {
    std::memcpy(next_, data, bytes);
    next_ += bytes;
  }
  void Integer(size_t value) {
    const int32_t narrow = static_cast<int32_t>(value);
    Bytes(&narrow, sizeof(narrow));
  }

 private:
  unsigned char* next_;
};

}  // namespace

void RefuseField(std::string_view name, const std::string& text) {
  throw Refused("field " + std::string(name) + ": " + text);
}

std::vector<PluginField> Advertise(const PluginSpec& spec) {
  std::vector<PluginField> list;
  for (const FieldSpec& field : spec.fields) {
    const bool integer = field.kind == FieldKind::kInteger;
    list.emplace_back(field.name, nullptr,
                      integer ? PluginFieldType::kINT32 : PluginFieldType::kFLOAT32, 1);
  }
  return list;
}

Fields::Fields(const PluginSpec& spec, const nvinfer1::PluginFieldCollection* collection,
               bool strict)
    : scale_source_(spec.scale_source) {
  if (collection == nullptr || collection->nbFields < 0 ||
      (collection->nbFields > 0 && collection->fields == nullptr)) {
    throw Refused("no field collection");
  }
  const auto known = [&](const char* name) -> const FieldSpec* {
    for (const FieldSpec& field : spec.fields) {
      if (std::strcmp(field.name, name) == 0) return &field;
    }
    return nullptr;
  };
  for (int32_t i = 0; i < collection->nbFields; ++i) {
    const PluginField& field = collection->fields[i];
    if (field.name == nullptr) throw Refused("a field has no name");
    const FieldSpec* known_field = known(field.name);
    if (known_field == nullptr) {
      if (strict) RefuseField(field.name, "is unknown");
      WarnOnce(spec.name, spec.version, std::string("ignores the unknown field ") + field.name);
      continue;
    }
    if (Has(field.name)) RefuseField(field.name, "is given twice");
    fields_.push_back({known_field->name, Read(*known_field, field)});
  }
  for (const FieldSpec& field : spec.fields) {
    if (field.presence == kRequired && !Has(field.name)) RefuseField(field.name, "is missing");
  }
}

Fields::Data Fields::Read(const FieldSpec& spec, const PluginField& field) {
  const auto is = [&](PluginFieldType type) { return field.type == type; };
  if (field.length <= 0) RefuseField(spec.name, "is empty");
  if (field.data == nullptr) RefuseField(spec.name, "has no data");
  switch (spec.kind) {
    case FieldKind::kInteger:
      if (!is(PluginFieldType::kINT32)) RefuseField(spec.name, "must be INT32");
      if (field.length != 1) RefuseField(spec.name, "must be one value");
      return Copy<int32_t>(field);
    case FieldKind::kScale: {
      if (!is(PluginFieldType::kFLOAT32)) RefuseField(spec.name, "must be FLOAT32");
      if (field.length != 1) RefuseField(spec.name, "must be one value");
      auto values = Copy<float>(field);
      RequireFinite(spec.name, values);
      if (values[0] <= 0) RefuseField(spec.name, "must be positive");
      return values;
    }
    case FieldKind::kFloats: {
      if (!is(PluginFieldType::kFLOAT32)) RefuseField(spec.name, "must be FLOAT32");
      auto values = Copy<float>(field);
      RequireFinite(spec.name, values);
      return values;
    }
    case FieldKind::kWeights: {
      if (!is(PluginFieldType::kFLOAT32) && !is(PluginFieldType::kFLOAT16)) {
        RefuseField(spec.name, "must be FLOAT32 or FLOAT16");
      }
      auto values = is(PluginFieldType::kFLOAT16) ? Copy<BertHalf>(field)
                                                  : Halves(Copy<float>(field));
      RequireFinite(spec.name, values);
      return values;
    }
    case FieldKind::kQuantizable: {
      if (is(PluginFieldType::kINT8)) return Copy<int8_t>(field);
      if (!is(PluginFieldType::kFLOAT32)) RefuseField(spec.name, "must be FLOAT32 or INT8");
      auto values = Copy<float>(field);
      RequireFinite(spec.name, values);
      return values;
    }
  }
  throw Refused("a field of unknown kind");
}

// Layout: magic, number of fields, and of each field its name's length and name, the index of its
// type, its length and data; integers of 32 bits.
size_t Fields::SerializedBytes() const {
  size_t bytes = sizeof(kMagic) + sizeof(int32_t);
  for (const Field& field : fields_) {
    bytes += 3 * sizeof(int32_t) + std::strlen(field.name) + Array(field.name).bytes;
  }
  return bytes;
}

void Fields::Serialize(void* buffer) const {
  Writer writer(buffer);
  writer.Bytes(&kMagic, sizeof(kMagic));
  writer.Integer(fields_.size());
  for (const Field& field : fields_) {
    const HostArray array = Array(field.name);
    const size_t type = field.data.index();
    writer.Integer(std::strlen(field.name));
    writer.Bytes(field.name, std::strlen(field.name));
    writer.Integer(type);
    writer.Integer(array.bytes / kSizes[type]);
    writer.Bytes(array.data, array.bytes);
  }
}

Fields Fields::Deserialize(const PluginSpec& spec, const void* data, size_t bytes) {
  if (data == nullptr) throw Refused("serialized data: there is none");
  Reader reader(data, bytes);
  if (reader.Integer() != static_cast<int32_t>(kMagic)) {
    throw Refused("serialized data: not this library's, or another release's");
  }
  std::vector<std::string> names;
  std::vector<PluginField> list;
  for (size_t left = reader.Size(); left > 0; --left) {
    const size_t name_length = reader.Size();
    names.emplace_back(static_cast<const char*>(reader.Take(name_length)), name_length);
    const size_t type = reader.Size();
    if (type >= std::size(kTypes)) throw Refused("serialized data: an unknown type");
    const size_t length = reader.Size();
    list.emplace_back(nullptr, reader.Take(length * kSizes[type]), kTypes[type],
                      static_cast<int32_t>(length));
  }
  if (reader.left() > 0) throw Refused("serialized data: too long");
  for (size_t i = 0; i < list.size(); ++i) list[i].name = names[i].c_str();
  const nvinfer1::PluginFieldCollection collection{static_cast<int32_t>(list.size()), list.data()};
  return Fields(spec, &collection, true);
}

std::vector<PluginField> Fields::List() const {
  std::vector<PluginField> list;
  for (const Field& field : fields_) {
    const HostArray array = Array(field.name);
    const size_t type = field.data.index();
    list.emplace_back(field.name, array.data, kTypes[type],
                      static_cast<int32_t>(array.bytes / kSizes[type]));
  }
  return list;
}

int32_t Fields::IntegerIn(std::string_view name, int32_t low, int32_t high) const {
  const int32_t value = Integer(name);
  if (value < low || value > high) {
    RefuseField(name, "is " + std::to_string(value) + ", not from " + std::to_string(low) + " to " +
                          std::to_string(high));
  }
  return value;
}

void Fields::RequireScale(const char* name) const {
  if (scale_source_ == ScaleSource::kFields && !Has(name)) RefuseField(name, "is missing");
}

void Fields::RequireType(nvinfer1::DataType type) const {
  if (Integer("type_id") == static_cast<int32_t>(type)) return;
  const char* name = type == nvinfer1::DataType::kHALF ? "half" : "int8";
  RefuseField("type_id", "is " + std::to_string(Integer("type_id")) + ", but only " + name + " (" +
                             std::to_string(static_cast<int32_t>(type)) + ") is supported");
}

int64_t Fields::Count(std::string_view name) const {
  const Field* field = Find(name);
  if (field == nullptr) return 0;
  return std::visit([](const auto& values) { return static_cast<int64_t>(values.size()); },
                    field->data);
}

void Fields::RequireCount(std::string_view name, int64_t count) const {
  if (!Has(name) || Count(name) == count) return;
  RefuseField(name, "has " + std::to_string(Count(name)) + " values, not " + std::to_string(count));
}

HostArray Fields::Array(std::string_view name, size_t device_bytes) const {
  const Field* field = Find(name);
  if (field == nullptr) return {};
  return std::visit(
      [&](const auto& values) -> HostArray {
        const size_t bytes = values.size() * sizeof(values[0]);
        return {values.data(), bytes, std::max(bytes, device_bytes)};
      },
      field->data);
}

const Fields::Field* Fields::Find(std::string_view name) const {
  const auto found = std::find_if(fields_.begin(), fields_.end(),
                                  [&](const Field& field) { return field.name == name; });
  return found == fields_.end() ? nullptr : &*found;
}

const Fields::Field& Fields::Get(std::string_view name) const {
  const Field* field = Find(name);
  if (field == nullptr) RefuseField(name, "is missing");
  return *field;
}

}  // namespace bert_plugin
