// The fastest algorithms on the device that is here. NVIDIA only.
#pragma once

#include "engine_file.h"
#include "network.h"

namespace bert::executor {

// For every linear and every bucket of up to `most_tokens` tokens.
Algorithms tune(const Network& network, int32_t most_tokens);

}  // namespace bert::executor
