#ifndef BERT_PLUGIN_OPERATIONS_ALL_H
#define BERT_PLUGIN_OPERATIONS_ALL_H

#include <tuple>

#include "tensorrt/operations/attention.h"
#include "tensorrt/operations/embedding.h"
#include "tensorrt/operations/ffn.h"
#include "tensorrt/operations/fully_connected.h"
#include "tensorrt/operations/fully_connected_int8.h"
#include "tensorrt/operations/gelu.h"
#include "tensorrt/operations/skip_layer_norm.h"

namespace bert_plugin {

template <class... Ops>
struct OperationList {};

using AllOperations =
    OperationList<Embedding<Precision::kHalf>, Embedding<Precision::kInt8>,
                  Attention<Precision::kHalf>, Attention<Precision::kInt8>,
                  SkipLayerNorm<Precision::kHalf>, SkipLayerNorm<Precision::kInt8>, FullyConnected,
                  FullyConnectedInt8, Ffn, Gelu>;

// One creator of each operation, as the runtimes ask a library for them.
template <class Interface, template <class> class Creator, class... Ops>
Interface* const* Creators(OperationList<Ops...>, int32_t* count) {
  static std::tuple<Creator<Ops>...> creators;
  static Interface* const list[] = {&std::get<Creator<Ops>>(creators)...};
  *count = sizeof...(Ops);
  return list;
}

}  // namespace bert_plugin

#endif  // BERT_PLUGIN_OPERATIONS_ALL_H
