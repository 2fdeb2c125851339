#include "tensorrt/operations/all.h"
#include "tensorrt/v3_plugin.h"

#define BERT_EXPORT extern "C" __attribute__((visibility("default")))

BERT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  return bert_plugin::Creators<nvinfer1::IPluginCreatorInterface, bert_plugin::V3Creator>(
      bert_plugin::AllOperations{}, &count);
}

BERT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  bert_plugin::SetLoggerFinder(finder);
}
