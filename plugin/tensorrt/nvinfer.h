#ifndef BERT_PLUGIN_NVINFER_H
#define BERT_PLUGIN_NVINFER_H

// TensorRT's or ixRT's runtime headers. TensorRT 10 marks the whole V2 plugin API as deprecated,
// which its own headers then warn about.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#include <NvInferRuntime.h>
#pragma GCC diagnostic pop

#endif  // BERT_PLUGIN_NVINFER_H
