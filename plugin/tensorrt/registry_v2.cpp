#include "tensorrt/operations/all.h"
#include "tensorrt/v2_plugin.h"

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

#define BERT_EXPORT extern "C" __attribute__((visibility("default")))

BERT_EXPORT nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count) {
  return bert_plugin::Creators<nvinfer1::IPluginCreator, bert_plugin::V2Creator>(
      bert_plugin::AllOperations{}, &count);
}

BERT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  bert_plugin::SetLoggerFinder(finder);
}

#ifdef BERT_STATIC_REGISTRATION
// For loaders that only dlopen the library, as upstream's does, and for ixRT, which has no
// loadLibrary(). Off elsewhere: a creator registered here and through getPluginCreators() collides
// with itself.
namespace {

template <class... Ops>
std::tuple<nvinfer1::PluginRegistrar<bert_plugin::V2Creator<Ops>>...> Registrars(
    bert_plugin::OperationList<Ops...>);

[[maybe_unused]] const decltype(Registrars(bert_plugin::AllOperations{})) g_registrars;

}  // namespace
#endif
