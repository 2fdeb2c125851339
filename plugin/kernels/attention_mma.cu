// Attention on NVIDIA's tensor cores from Turing (7.5) on, through mma.sync. NVIDIA only: PTX.
//
// A block has 64 queries of one head of one window, 16 a warp; keys and values come 64 at a time
// into shared memory, the next ones while these are used. Scores, softmax and context stay in
// registers: a warp's score tile is laid out as the probabilities' operand of the second product
// needs it. 4 * 64 * 64 * head size operations on 4 * 64 * head size bytes a step: 64 a byte.

#include <string>

#include "attention.h"
#include "context.cuh"
#include "ptx.cuh"
#include "sequences.cuh"

namespace bert {
namespace {

constexpr int kTile = 64; // queries a block, keys a step
constexpr int kThreads = 128;

// 16 bytes from memory into shared memory, zeros if not `valid`.
__device__ inline void copy_async(half* to, const half* from, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(to)),
               "l"(from), "r"(valid ? 16 : 0));
#else
  *reinterpret_cast<int4*>(to) =
      valid ? *reinterpret_cast<const int4*>(from) : make_int4(0, 0, 0, 0);
#endif
}

__device__ inline void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;\n");
#endif
}

template <int kPending>
__device__ inline void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending));
#endif
}

__device__ inline void load_matrices(unsigned (&to)[4], const half* from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(from)));
}

__device__ inline void load_matrices_transposed(unsigned (&to)[4], const half* from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(from)));
}

// c (16, 8) += a (16, 16) b (16, 8), FP16 with FP32 sums.
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  const unsigned b[2] = {b0, b1};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[2 * i]), "r"(a[2 * i + 1]), "r"(b[i]));
  }
#endif
}

// Where 16-byte chunk `chunk` of `row` lies in a tile: chunks of a row trade places by row, so
// that the eight rows that ldmatrix reads at once lie in different banks.
template <int kHead>
__device__ inline int swizzled(int row, int chunk) {
  constexpr int kChunks = kHead / 8;
  const int turn = kChunks == 8 ? row % 8 : row / 2 % 4;
  return row * kHead + (chunk ^ turn) * 8;
}

template <int kHead>
__device__ inline void copy_tile(half* tile, const half* from, size_t stride, int first, int rows) {
  constexpr int kChunks = kHead / 8;
  for (int i = threadIdx.x; i < kTile * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool valid = first + row < rows;
    copy_async(tile + swizzled<kHead>(row, chunk),
               from + (valid ? first + row : 0) * stride + chunk * 8, valid);
  }
}

template <int kHead>
__global__ void __launch_bounds__(kThreads)
    mma_kernel(BertSequences sequences, int heads, const half* qkv, ContextOutput output,
               float scale) {
  constexpr int kSteps = kHead / 16;     // of 16 channels, in the first product
  constexpr int kChannels = kHead / 8;   // tiles of 8 channels, in the second
  constexpr int kKeys = kTile / 8;       // tiles of 8 keys
  __shared__ alignas(128) half queries[kTile * kHead];
  __shared__ alignas(128) half keys[2][kTile * kHead];
  __shared__ alignas(128) half values[2][kTile * kHead];

  const Window window = window_of(sequences, blockIdx.z);
  const int first_query = blockIdx.x * kTile;
  if (first_query >= window.rows) return;
  const int hidden = heads * kHead, channel = blockIdx.y * kHead;
  const int padding = max(window.length, first_query);
  zero_padding(output, window.start + padding,
               max(0, min(window.rows, first_query + kTile) - padding), channel, kHead, hidden,
               threadIdx.x, kThreads);
  if (first_query >= window.length) return;

  const size_t stride = 3 * static_cast<size_t>(hidden);
  const half* base = qkv + window.start * stride + channel;
  copy_tile<kHead>(queries, base, stride, first_query, window.length);
  copy_tile<kHead>(keys[0], base + hidden, stride, 0, window.length);
  copy_tile<kHead>(values[0], base + 2 * hidden, stride, 0, window.length);
  commit_copies();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = lane / 4, pair = lane % 4;
  unsigned own[kSteps][4];
  float context[kChannels][4] = {};
  float highest[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
  const int steps = (window.length + kTile - 1) / kTile;
  for (int step = 0; step < steps; ++step) {
    const int stage = step % 2;
    if (step + 1 < steps) {
      copy_tile<kHead>(keys[1 - stage], base + hidden, stride, (step + 1) * kTile, window.length);
      copy_tile<kHead>(values[1 - stage], base + 2 * hidden, stride, (step + 1) * kTile,
                       window.length);
      commit_copies();
      wait_copies<1>();
    } else {
      wait_copies<0>();
    }
    __syncthreads();
    if (step == 0) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        load_matrices(own[s], queries + swizzled<kHead>(warp * 16 + lane % 16, 2 * s + lane / 16));
      }
    }

    float scores[kKeys][4] = {};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
#pragma unroll
      for (int k = 0; k < kKeys; k += 2) {
        unsigned b[4];
        load_matrices(b, keys[stage] + swizzled<kHead>(k * 8 + lane / 16 * 8 + lane % 8,
                                                       2 * s + lane / 8 % 2));
        multiply(scores[k], own[s], b[0], b[1]);
        multiply(scores[k + 1], own[s], b[2], b[3]);
      }
    }
    const int left = window.length - step * kTile;
    if (left < kTile) {
#pragma unroll
      for (int k = 0; k < kKeys; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (k * 8 + pair * 2 + i % 2 >= left) scores[k][i] = -INFINITY;
        }
      }
    }
    // A thread holds two of the warp's rows: `group` and `group + 8`.
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float higher = highest[r];
#pragma unroll
      for (int k = 0; k < kKeys; ++k) {
        higher = fmaxf(higher, fmaxf(scores[k][2 * r], scores[k][2 * r + 1]));
      }
      higher = fmaxf(higher, __shfl_xor_sync(0xffffffffu, higher, 1));
      higher = fmaxf(higher, __shfl_xor_sync(0xffffffffu, higher, 2));
      const float rescale = exp2f((highest[r] - higher) * scale);
      highest[r] = higher;
      total[r] *= rescale;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        context[c][2 * r] *= rescale;
        context[c][2 * r + 1] *= rescale;
      }
      const float shift = higher * scale;
#pragma unroll
      for (int k = 0; k < kKeys; ++k) {
#pragma unroll
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          scores[k][i] = exp2f(scores[k][i] * scale - shift);
          total[r] += scores[k][i];
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kKeys; k += 2) {
      const unsigned probabilities[4] = {
          pack_pair(scores[k][0], scores[k][1]), pack_pair(scores[k][2], scores[k][3]),
          pack_pair(scores[k + 1][0], scores[k + 1][1]),
          pack_pair(scores[k + 1][2], scores[k + 1][3])};
#pragma unroll
      for (int c = 0; c < kChannels; c += 2) {
        unsigned b[4];
        load_matrices_transposed(
            b, values[stage] + swizzled<kHead>(k * 8 + lane % 16, c + lane / 16));
        multiply(context[c], probabilities, b[0], b[1]);
        multiply(context[c + 1], probabilities, b[2], b[3]);
      }
    }
    __syncthreads(); // before the next copies overwrite this stage
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
    total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
    const int query = first_query + warp * 16 + group + 8 * r;
    if (query >= window.length) continue;
    const float inverse = 1.0f / total[r];
    const size_t at = static_cast<size_t>(window.start + query) * hidden + channel;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      store_pair(output, at + c * 8 + pair * 2, context[c][2 * r] * inverse,
                 context[c][2 * r + 1] * inverse);
    }
  }
}

}  // namespace

BertStatus attention_mma(const AttentionShape& shape, const half* qkv, const ContextOutput& output,
                         BertStream stream) {
  const BertSequences& sequences = shape.sequences;
  const dim3 grid((sequences.max_length + kTile - 1) / kTile, shape.heads, sequences.windows);
  const auto kernel = shape.head_size == 64 ? mma_kernel<64> : mma_kernel<32>;
  kernel<<<grid, kThreads, 0, stream>>>(sequences, shape.heads, qkv, output,
                                        exponent_scale(shape.head_size));
  return launched("attention");
}

}  // namespace bert
