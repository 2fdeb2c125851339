// One warp a row, the row in FP32 registers between its only read and its only write. All are
// bound by memory, or where rows are few by latency: then a block has fewer rows, and parameters
// are loaded before the kernel ahead has ended.

#include "rows.h"

#include <cuda_fp8.h>

#include <type_traits>

#include "pack.cuh"
#include "resources.h"
#include "warp.cuh"

namespace bert::executor {
namespace {

static_assert(kWarp == 32, "NVIDIA's warps");

constexpr int kMostPacks = 4;  // of eight channels, a lane: BERT_MAX_HIDDEN channels
constexpr int kMostRowsPerBlock = 4;
// Up to so many rows a block has one: H100's 132 processors then have some each.
constexpr int kFewRows = 1024;

template <int kPacks>
struct Row {
  float values[kPacks][kPack];
};

// Calls `each(i, channel)` for the packs of eight channels that this lane has.
template <int kPacks, class Each>
__device__ inline void for_packs(int hidden, Each each) {
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    const int channel = (static_cast<int>(threadIdx.x) % kWarp + i * kWarp) * kPack;
    if (channel < hidden) each(i, channel);
  }
}

__device__ inline void add(const half* from, float (&to)[kPack]) {
  float more[kPack];
  load(from, more);
#pragma unroll
  for (int j = 0; j < kPack; ++j) to[j] += more[j];
}

// A lane's share of a vector (hidden), as it lies in memory.
template <int kPacks, class Value = half>
struct Vector {
  static constexpr int kWords = kPack * sizeof(Value) / sizeof(int4);
  int4 packs[kPacks][kWords];

  __device__ Vector(const Value* from, int hidden) {
    for_packs<kPacks>(hidden, [&](int i, int channel) {
#pragma unroll
      for (int w = 0; w < kWords; ++w) {
        packs[i][w] = reinterpret_cast<const int4*>(from + channel)[w];
      }
    });
  }
  __device__ void get(int i, float (&to)[kPack]) const {
    load(reinterpret_cast<const Value*>(packs[i]), to);
  }
};

__device__ inline void store_quantized(const QuantizedOutput& output, size_t at,
                                       const float (&from)[kPack]) {
  if (output.rows == nullptr) return;
  if (output.type == Type::kInt8) {
    bert::store_quantized(reinterpret_cast<int8_t*>(output.rows) + at, from, output.scale);
    return;
  }
  const float inverse = 1.0f / output.scale;
  int2 bits;
  auto* pairs = reinterpret_cast<__nv_fp8x2_storage_t*>(&bits);
#pragma unroll
  for (int i = 0; i < kPack / 2; ++i) {
    const float2 pair = make_float2(from[2 * i] * inverse, from[2 * i + 1] * inverse);
    pairs[i] = __nv_cvt_float2_to_fp8x2(pair, __NV_SATFINITE, __NV_E4M3);
  }
  *reinterpret_cast<int2*>(output.rows + at) = bits;
}

// (x - mean) / sqrt(variance + epsilon) * gamma + beta, in place.
template <int kPacks>
__device__ inline void normalize(Row<kPacks>& row, const Vector<kPacks>& gamma,
                                 const Vector<kPacks>& beta, int hidden, float epsilon) {
  float sum = 0.0f, squares = 0.0f;
  for_packs<kPacks>(hidden, [&](int i, int) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) sum += row.values[i][j];
  });
  const float mean = warp_sum(sum) / hidden;
  // The variance about the mean, not E[x^2] - E[x]^2, which cancels in FP32.
  for_packs<kPacks>(hidden, [&](int i, int) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      row.values[i][j] -= mean;
      squares += row.values[i][j] * row.values[i][j];
    }
  });
  const float inverse = rsqrtf(warp_sum(squares) / hidden + epsilon);
  for_packs<kPacks>(hidden, [&](int i, int) {
    float scale[kPack], shift[kPack];
    gamma.get(i, scale);
    beta.get(i, shift);
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      row.values[i][j] = row.values[i][j] * inverse * scale[j] + shift[j];
    }
  });
}

__device__ inline int row_of_warp() {
  return static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / kWarp);
}

// Nothing that a kernel ahead writes may be read before this.
__device__ inline void wait_for_kernel_ahead() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

template <int kPacks>
__global__ void __launch_bounds__(kMostRowsPerBlock* kWarp) embed_kernel(Embedding e) {
  const int index = row_of_warp();
  if (index >= e.rows) return;
  const bool counts = index < *e.count;
  // A row that does not count is the first embedding of each table.
  const Token token = counts ? e.tokens[index] : Token{0, 0, 0};
  const half* word = e.word + static_cast<size_t>(token.id) * e.hidden;
  const half* segment = e.segment + static_cast<size_t>(token.segment) * e.hidden;
  const half* position = e.position + static_cast<size_t>(token.position) * e.hidden;
  Row<kPacks> row;
  for_packs<kPacks>(e.hidden, [&](int i, int channel) {
    load(word + channel, row.values[i]);
    add(segment + channel, row.values[i]);
    add(position + channel, row.values[i]);
  });
  const Vector<kPacks> gamma(e.norm.gamma, e.hidden), beta(e.norm.beta, e.hidden);
  normalize(row, gamma, beta, e.hidden, e.epsilon);
  const size_t begin = static_cast<size_t>(index) * e.hidden;
  for_packs<kPacks>(e.hidden, [&](int i, int channel) {
    store(e.output + begin + channel, row.values[i]);
    store_quantized(e.quantized, begin + channel, row.values[i]);
    if (counts) return;
    if (e.context != nullptr) {
      *reinterpret_cast<int4*>(e.context + begin + channel) = make_int4(0, 0, 0, 0);
    } else {
      *reinterpret_cast<int2*>(e.context_quantized + begin + channel) = make_int2(0, 0);
    }
  });
}

// What the QA head takes of a row: the row, or what INT8 makes of it, in steps of the scale.
template <int kPacks>
__device__ inline void round_for(const Head& head, int hidden, Row<kPacks>& row) {
  if (head.type != Type::kInt8) return;
  for_packs<kPacks>(hidden, [&](int i, int) {
#pragma unroll
    for (float& value : row.values[i]) value = quantized(value, head.input_scale);
  });
}

template <int kPacks>
__device__ inline void write_logits(const Head& head, int hidden, const Row<kPacks>& row,
                                    int index) {
  const bool integers = head.type == Type::kInt8;
  // INT8's sums are whole numbers below 2^24, which FP32 adds up exactly.
  static_assert(127 * 128 * BERT_MAX_HIDDEN < 1 << 24);
  float sums[2] = {0.0f, 0.0f};
  for_packs<kPacks>(hidden, [&](int i, int channel) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int at = k * hidden + channel;
      float weight[kPack];
      if (integers) {
        load(static_cast<const int8_t*>(head.weight) + at, weight);
      } else {
        load(static_cast<const half*>(head.weight) + at, weight);
      }
#pragma unroll
      for (int j = 0; j < kPack; ++j) sums[k] += row.values[i][j] * weight[j];
    }
  });
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const float sum = warp_sum(sums[k]);
    if (threadIdx.x % kWarp == 0) {
      const float scale = integers ? head.input_scale * head.weight_scales[k] : 1.0f;
      (k == 0 ? head.start : head.end)[index] = sum * scale + __half2float(head.bias[k]);
    }
  }
}

// The product is FP16's, or INT8's sums.
template <int kPacks, class Value, bool kHead>
__global__ void __launch_bounds__(kMostRowsPerBlock* kWarp) add_norm_kernel(AddNorm t) {
  constexpr bool kSums = std::is_same_v<Value, int32_t>;
  const int index = row_of_warp();
  if (index >= t.rows) return;
  const Vector<kPacks> gamma(t.norm.gamma, t.hidden), beta(t.norm.beta, t.hidden);
  const Vector<kPacks> bias(t.bias, t.hidden);
  wait_for_kernel_ahead();
  const size_t begin = static_cast<size_t>(index) * t.hidden;
  const Value* products;
  if constexpr (kSums) {
    products = t.sums.rows;
  } else {
    products = t.product;
  }
  const Vector<kPacks, Value> product(products + begin, t.hidden);
  const Vector<kPacks> residual(t.residual + begin, t.hidden);
  Row<kPacks> row;
  for_packs<kPacks>(t.hidden, [&](int i, [[maybe_unused]] int channel) {
    float more[kPack], shift[kPack];
    product.get(i, row.values[i]);
    if constexpr (kSums) {
      load(t.sums.weight_scales + channel, more);
#pragma unroll
      for (int j = 0; j < kPack; ++j) row.values[i][j] *= t.sums.input_scale * more[j];
    }
    residual.get(i, more);
    bias.get(i, shift);
#pragma unroll
    for (int j = 0; j < kPack; ++j) row.values[i][j] += more[j] + shift[j];
  });
  normalize(row, gamma, beta, t.hidden, t.epsilon);
  if constexpr (kHead) {
    round_for(t.head, t.hidden, row);
    write_logits(t.head, t.hidden, row, index);
  } else {
    for_packs<kPacks>(t.hidden, [&](int i, int channel) {
      store(t.output + begin + channel, row.values[i]);
      store_quantized(t.quantized, begin + channel, row.values[i]);
    });
  }
}

template <Type kType>
__global__ void fill_kernel(void* values, size_t count) {
  const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    // PCG's output function over the index.
    const unsigned state = static_cast<unsigned>(i) * 747796405u + 2891336453u;
    const unsigned word = ((state >> ((state >> 28) + 4)) ^ state) * 277803737u;
    const float value = static_cast<float>(static_cast<int>((word >> 22) ^ word)) * 0x1p-31f;
    if constexpr (kType == Type::kHalf) {
      static_cast<half*>(values)[i] = __float2half(value);
    } else if constexpr (kType == Type::kE4m3) {
      static_cast<__nv_fp8_storage_t*>(values)[i] =
          __nv_cvt_float_to_fp8(64.0f * value, __NV_SATFINITE, __NV_E4M3);
    } else {
      static_cast<int8_t*>(values)[i] = static_cast<int8_t>(__float2int_rn(127.0f * value));
    }
  }
}

// Calls `launch` with the number of packs a lane has, as a compile-time constant.
template <class Launch>
void with_packs(int hidden, Launch launch) {
  const int packs = (hidden / kPack + kWarp - 1) / kWarp;
  static_assert(kMostPacks * kWarp * kPack >= BERT_MAX_HIDDEN);
  if (packs == 1) launch(std::integral_constant<int, 1>{});
  if (packs == 2) launch(std::integral_constant<int, 2>{});
  if (packs == 3) launch(std::integral_constant<int, 3>{});
  if (packs == 4) launch(std::integral_constant<int, 4>{});
}

template <class Task>
void launch(void (*kernel)(Task), const Task& task, bool overlapped, cudaStream_t stream) {
  const int rows_per_block = task.rows <= kFewRows ? 1 : kMostRowsPerBlock;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3((task.rows + rows_per_block - 1) / rows_per_block);
  config.blockDim = dim3(rows_per_block * kWarp);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = overlapped ? 1 : 0;
  cuda(cudaLaunchKernelEx(&config, kernel, task), "layer norm");
}

}  // namespace

void embed(const Embedding& embedding, cudaStream_t stream) {
  with_packs(embedding.hidden, [&](auto packs) {
    launch(embed_kernel<packs.value>, embedding, false, stream);
  });
}

void add_norm(const AddNorm& task, bool overlapped, cudaStream_t stream) {
  const bool head = task.output == nullptr;
  with_packs(task.hidden, [&](auto packs) {
    const auto kernel =
        task.product == nullptr
            ? (head ? add_norm_kernel<packs.value, int32_t, true>
                    : add_norm_kernel<packs.value, int32_t, false>)
            : (head ? add_norm_kernel<packs.value, half, true>
                    : add_norm_kernel<packs.value, half, false>);
    launch(kernel, task, overlapped, stream);
  });
}

void fill(void* values, Type type, size_t count, cudaStream_t stream) {
  const auto kernel = type == Type::kHalf   ? fill_kernel<Type::kHalf>
                      : type == Type::kE4m3 ? fill_kernel<Type::kE4m3>
                                            : fill_kernel<Type::kInt8>;
  kernel<<<1024, 256, 0, stream>>>(values, count);
  cuda(cudaGetLastError(), "fill");
}

}  // namespace bert::executor
