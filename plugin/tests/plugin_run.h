#ifndef BERT_PLUGIN_TESTS_PLUGIN_RUN_H
#define BERT_PLUGIN_TESTS_PLUGIN_RUN_H

#include "tests/fake_runtime.h"

// Executes every plugin at random shapes, `rounds` times, and compares with float64.
void RunAll(fake::Logger* logger, int rounds);

#endif  // BERT_PLUGIN_TESTS_PLUGIN_RUN_H
