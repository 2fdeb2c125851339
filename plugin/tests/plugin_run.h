#ifndef BERT_PLUGIN_TESTS_PLUGIN_RUN_H
#define BERT_PLUGIN_TESTS_PLUGIN_RUN_H

#include "tests/fake_runtime.h"

// Executes every plugin at random shapes, and compares with float64. Needs a device.
void RunAll(fake::Logger* logger);

#endif  // BERT_PLUGIN_TESTS_PLUGIN_RUN_H
