// Which numbers of tokens share a tuned algorithm. Plain C++: tests without a GPU use it as well.

#include <algorithm>
#include <limits>

#include "bert_kernels.h"

int32_t bert_linear_bucket(int32_t tokens) {
  constexpr int64_t kSmallest = 64, kAnOctave = 4;
  int64_t octave = kSmallest;
  if (tokens <= octave) return kSmallest;
  while (2 * octave < tokens) octave *= 2;
  const int64_t step = octave / kAnOctave;
  const int64_t end = (tokens + step - 1) / step * step;
  return static_cast<int32_t>(std::min<int64_t>(end, std::numeric_limits<int32_t>::max()));
}
