// Attention on Hopper (9.0) through wgmma and the tensor memory accelerator. NVIDIA only: PTX.
//
// One block an SM works through items: a head of a window, or a part of its queries where there
// are few. A producer asks for an item's keys and values tile by tile, into a ring of slots
// that holds several items, so that they leave the L2 cache once and are there when wanted. Four
// consumer warpgroups take tiles of 64 queries in turn, across the ends of items. Scores, softmax
// and context stay in registers. The product of one step's probabilities and values and that of
// the next step's queries and keys are queued together; during a warpgroup's softmax the tensor
// cores work for the others.
//
// With head size 64 the tensor cores need as long for a tile as the units that compute exp2:
// 4 * 64 operations at 4096 a clock and SM, against one exponential at 16.

#include <cuda.h>

#include <algorithm>
#include <string>

#include "attention.h"
#include "context.cuh"
#include "ptx.cuh"
#include "sequences.cuh"

namespace bert {
namespace {

constexpr int kTile = 64; // queries a warpgroup, keys a step: wgmma's M, and its N here
constexpr int kGroup = 128;
constexpr int kGroups = 4;
constexpr int kConsumers = kGroups * kGroup;
constexpr int kThreads = kConsumers + kGroup;
// Tiles of keys and values, and of queries, in flight. An item has up to eight.
constexpr int kSlots = 10;
constexpr int kQuerySlots = 2 * kGroups;
// Scores may exceed the reference of their softmax by this power of two before the sums are
// rescaled. FP16 holds the probabilities, relative to the reference, up to 2^16.
constexpr float kSlack = 8.0f;

template <int kHead>
struct alignas(1024) Memory { // wgmma's swizzle modes want tiles aligned to 1024 bytes
  half tiles[kSlots][2][kTile * kHead];
  half queries[kQuerySlots][kTile * kHead];
  // Of each slot: filled by the copies, and emptied by those who read.
  uint64_t filled[kSlots], emptied[kSlots];
  uint64_t queries_filled[kQuerySlots], queries_emptied[kQuerySlots];
};

__device__ inline void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(barrier)),
               "r"(arrivals));
}

__device__ inline void barrier_expect(uint64_t* barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(
                   shared_address(barrier)),
               "r"(bytes)
               : "memory");
}

__device__ inline void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(barrier))
               : "memory");
}

// Waits for the end of the phase of this parity: a barrier's phases count from 0.
__device__ inline void barrier_wait(uint64_t* barrier, unsigned parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

__device__ inline void copy_tile(void* to, const CUtensorMap* map, int channel, int row,
                                 uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];\n" ::"r"(shared_address(to)),
      "l"(map), "r"(channel), "r"(row), "r"(shared_address(barrier))
      : "memory");
}

// A matrix descriptor (PTX ISA, wgmma): address, stride between groups of eight rows, swizzle.
// A tile has one row a key; its rows are as long as the swizzle's span, 128 or 64 bytes. It is
// K-major for queries times keys and MN-major for probabilities times values.
template <int kHead>
__device__ inline uint64_t descriptor(const half* tile) {
  constexpr uint64_t kSwizzle = kHead == 64 ? 1 : 2;
  constexpr uint64_t kStride = 8 * kHead * sizeof(half);
  return (shared_address(tile) & 0x3FFFF) >> 4 | uint64_t{1} << 16 | (kStride >> 4) << 32 |
         kSwizzle << 62;
}

__device__ inline void products_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ inline void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}
__device__ inline void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned 0;\n" ::: "memory");
}

// Results of a queued product are in registers only after the wait: no use of them may move up.
template <int kExtent>
__device__ inline void settle(float (&c)[kExtent][4]) {
#pragma unroll
  for (int n = 0; n < kExtent; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(c[n][i])::"memory");
  }
}

// c (64, 64) = a (64, 16) b (64, 16)' of two tiles in shared memory, added to c if `add`.
__device__ inline void multiply(float (&c)[8][4], uint64_t a, uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, add, 1, 1, 0, 0;\n}\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
        "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
        "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
        "+f"(c[7][2]), "+f"(c[7][3])
      : "l"(a), "l"(b), "r"(add));
}

// c (64, N) += a (64, 16) b (16, N), a in registers and b a tile in shared memory; N is 8 times
// the first extent of c.
__device__ inline void multiply(float (&c)[8][4], const unsigned (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
        "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]),
        "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]),
        "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]),
        "+f"(c[7][2]), "+f"(c[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ inline void multiply(float (&c)[4][4], const unsigned (&a)[4], uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
      "{%16, %17, %18, %19}, %20, 1, 1, 1, 1;\n"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]),
        "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]),
        "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Softmax over one tile of scores: they become probabilities relative to exp2(reference * scale).
template <int kChannels>
__device__ inline void soften(float (&scores)[8][4], float (&context)[kChannels][4],
                              float (&reference)[2], float (&total)[2], float scale) {
  float highest[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float first = scores[0][2 * r], second = scores[0][2 * r + 1];
#pragma unroll
    for (int k = 1; k < 8; ++k) {
      first = fmaxf(first, scores[k][2 * r]);
      second = fmaxf(second, scores[k][2 * r + 1]);
    }
    highest[r] = fmaxf(first, second);
    highest[r] = fmaxf(highest[r], __shfl_xor_sync(0xffffffffu, highest[r], 1));
    highest[r] = fmaxf(highest[r], __shfl_xor_sync(0xffffffffu, highest[r], 2));
  }
  // The reference starts at -infinity, so the first tile always sets it.
  const bool exceeds = (highest[0] - reference[0]) * scale > kSlack ||
                       (highest[1] - reference[1]) * scale > kSlack;
  if (__any_sync(0xffffffffu, exceeds)) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float higher = fmaxf(reference[r], highest[r]);
      const float rescale = exp2_fast((reference[r] - higher) * scale);
      reference[r] = higher;
      total[r] *= rescale;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        context[c][2 * r] *= rescale;
        context[c][2 * r + 1] *= rescale;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float shift = reference[r] * scale;
    float first = 0.0f, second = 0.0f;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      scores[k][2 * r] = exp2_fast(fmaf(scores[k][2 * r], scale, -shift));
      scores[k][2 * r + 1] = exp2_fast(fmaf(scores[k][2 * r + 1], scale, -shift));
      first += scores[k][2 * r];
      second += scores[k][2 * r + 1];
    }
    total[r] += first + second;
  }
}

// A tile of probabilities as the second product's operand: in FP16, 16 keys an instruction.
__device__ inline void pack(const float (&scores)[8][4], unsigned (&probabilities)[kTile / 16][4]) {
#pragma unroll
  for (int s = 0; s < kTile / 16; ++s) {
    probabilities[s][0] = pack_pair(scores[2 * s][0], scores[2 * s][1]);
    probabilities[s][1] = pack_pair(scores[2 * s][2], scores[2 * s][3]);
    probabilities[s][2] = pack_pair(scores[2 * s + 1][0], scores[2 * s + 1][1]);
    probabilities[s][3] = pack_pair(scores[2 * s + 1][2], scores[2 * s + 1][3]);
  }
}

// Turns four words a lane about, within each four lanes: lane p gets word p of each of the four.
__device__ inline void exchange(unsigned (&words)[4]) {
#pragma unroll
  for (int distance = 2; distance >= 1; distance /= 2) {
    const bool upper = threadIdx.x & distance;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & distance) continue;
      unsigned& low = words[i];
      unsigned& high = words[i + distance];
      const unsigned got = __shfl_xor_sync(0xffffffffu, upper ? low : high, distance);
      (upper ? low : high) = got;
    }
  }
}

template <int kHead, bool kQuantized>
__device__ inline void store_context(const ContextOutput& output, size_t row, int hidden,
                                     int channel, const float (&context)[kHead / 8][4], int r,
                                     float inverse, bool valid) {
  const int pair = threadIdx.x % 4;
  const size_t at = row * hidden + channel;
  // Four lanes have eight neighbouring channels in pairs; after the exchange one lane has them.
  if constexpr (kQuantized) {
    unsigned words[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      words[c] = quantized_pair(output, context[c][2 * r] * inverse,
                                context[c][2 * r + 1] * inverse);
      if constexpr (kHead == 64) {
        words[c] |= quantized_pair(output, context[c + 4][2 * r] * inverse,
                                   context[c + 4][2 * r + 1] * inverse)
                    << 16;
      }
    }
    exchange(words);
    if (!valid) return;
#pragma unroll
    for (int half_words = 0; half_words < kHead / 32; ++half_words) {
      const unsigned selector = half_words == 0 ? 0x5410 : 0x7632;
      *reinterpret_cast<uint2*>(output.quantized + at + (half_words * 4 + pair) * 8) =
          make_uint2(__byte_perm(words[0], words[1], selector),
                     __byte_perm(words[2], words[3], selector));
    }
  } else {
#pragma unroll
    for (int first = 0; first < kHead / 8; first += 4) {
      unsigned words[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        words[c] = pack_pair(context[first + c][2 * r] * inverse,
                             context[first + c][2 * r + 1] * inverse);
      }
      exchange(words);
      if (valid) {
        *reinterpret_cast<uint4*>(output.context + at + (first + pair) * 8) =
            make_uint4(words[0], words[1], words[2], words[3]);
      }
    }
  }
}

// The items of a block: one head of one window, of which every `parts`th tile of queries counts.
struct Item {
  Window window;
  int channel, tiles, first_query;

  __device__ Item(const BertSequences& sequences, int heads, int parts, int head_size, int index) {
    first_query = index % parts;
    channel = index / parts % heads * head_size;
    window = window_of(sequences, index / parts / heads);
    tiles = (window.length + kTile - 1) / kTile;
  }
};

template <int kHead>
__device__ void produce(const CUtensorMap* map, const BertSequences& sequences, int heads,
                        int parts, const ContextOutput& output, Memory<kHead>& memory) {
  constexpr unsigned kBytes = kTile * kHead * sizeof(half);
  const int hidden = heads * kHead, items = sequences.windows * heads * parts;
  unsigned tile_count = 0, query_count = 0;
  for (int index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item(sequences, heads, parts, kHead, index);
    if (threadIdx.x % 32 == 0) {
      // Queries and keys in turn, so that the first warpgroup can start early.
      for (int i = 0; i < item.tiles; ++i) {
        const int query = item.first_query + i * parts;
        if (query < item.tiles) {
          const unsigned slot = query_count % kQuerySlots, use = query_count / kQuerySlots;
          ++query_count;
          if (use > 0) barrier_wait(&memory.queries_emptied[slot], (use - 1) & 1);
          barrier_expect(&memory.queries_filled[slot], kBytes);
          copy_tile(memory.queries[slot], map, item.channel, item.window.start + query * kTile,
                    &memory.queries_filled[slot]);
        }
        const unsigned slot = tile_count % kSlots, use = tile_count / kSlots;
        ++tile_count;
        if (use > 0) barrier_wait(&memory.emptied[slot], (use - 1) & 1);
        barrier_expect(&memory.filled[slot], 2 * kBytes);
        const int row = item.window.start + i * kTile;
        copy_tile(memory.tiles[slot][0], map, hidden + item.channel, row, &memory.filled[slot]);
        copy_tile(memory.tiles[slot][1], map, 2 * hidden + item.channel, row,
                  &memory.filled[slot]);
      }
    }
    if (item.first_query == 0) {
      zero_padding(output, item.window.start + item.window.length,
                   item.window.rows - item.window.length, item.channel, kHead, hidden,
                   threadIdx.x % 32, 32);
    }
  }
}

template <int kHead, bool kQuantized>
__device__ void consume(unsigned group, const BertSequences& sequences, int heads, int parts,
                        const ContextOutput& output, float scale, Memory<kHead>& memory) {
  constexpr int kSteps = kHead / 16;
  constexpr int kChannels = kHead / 8;
  const int warp = threadIdx.x % kGroup / 32, lane = threadIdx.x % 32;
  const int hidden = heads * kHead, items = sequences.windows * heads * parts;
  unsigned tile_count = 0, query_count = 0;
  for (int index = blockIdx.x; index < items; index += gridDim.x) {
    const Item item(sequences, heads, parts, kHead, index);
    const auto wait_for = [&](int tile) {
      const unsigned count = tile_count + tile;
      barrier_wait(&memory.filled[count % kSlots], count / kSlots & 1);
    };
    // Every warp lets go of every slot in turn; the producer waits for all of them.
    const auto release = [&](int tile) {
      if (lane == 0) barrier_arrive(&memory.emptied[(tile_count + tile) % kSlots]);
    };
    bool released = false;
    for (int query = item.first_query; query < item.tiles; query += parts, ++query_count) {
      if (query_count % kGroups != group) continue;
      released = query + kGroups * parts >= item.tiles;
      const unsigned query_slot = query_count % kQuerySlots;
      barrier_wait(&memory.queries_filled[query_slot], query_count / kQuerySlots & 1);
      const uint64_t own = descriptor<kHead>(memory.queries[query_slot]);

      float scores[8][4], context[kChannels][4];
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) context[c][i] = 0.0f;
      }
      float reference[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
      const auto queue_scores = [&](int tile) {
        const uint64_t first = descriptor<kHead>(memory.tiles[(tile_count + tile) % kSlots][0]);
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          const uint64_t step = s * (16 * sizeof(half) >> 4);
          multiply(scores, own + step, first + step, s > 0);
        }
      };
      const auto queue_context = [&](int tile, const unsigned(&probabilities)[kTile / 16][4]) {
        const uint64_t first = descriptor<kHead>(memory.tiles[(tile_count + tile) % kSlots][1]);
#pragma unroll
        for (int s = 0; s < kTile / 16; ++s) {
          multiply(context, probabilities[s], first + s * (16 * kHead * sizeof(half) >> 4));
        }
      };

      unsigned probabilities[kTile / 16][4];
      wait_for(0);
      products_fence();
      queue_scores(0);
      products_commit();
      products_wait();
      settle(scores);
      for (int tile = 0; tile < item.tiles - 1; ++tile) {
        soften(scores, context, reference, total, scale);
        pack(scores, probabilities);
        wait_for(tile + 1);
        products_fence();
        queue_scores(tile + 1);
        queue_context(tile, probabilities);
        products_commit();
        products_wait();
        settle(scores);
        settle(context);
        if (released) release(tile);
      }
      // The last tile by itself: a condition inside the loop would make the compiler serialize it.
      const int left = item.window.length - (item.tiles - 1) * kTile;
#pragma unroll
      for (int k = 0; k < 8; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (k * 8 + lane % 4 * 2 + i % 2 >= left) scores[k][i] = -INFINITY;
        }
      }
      soften(scores, context, reference, total, scale);
      pack(scores, probabilities);
      products_fence();
      queue_context(item.tiles - 1, probabilities);
      products_commit();
      products_wait();
      settle(context);
      if (released) release(item.tiles - 1);
      if (lane == 0) barrier_arrive(&memory.queries_emptied[query_slot]);

#pragma unroll
      for (int r = 0; r < 2; ++r) {
        total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
        total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
        const int row = query * kTile + warp * 16 + lane / 4 + 8 * r;
        store_context<kHead, kQuantized>(output, item.window.start + row, hidden, item.channel,
                                         context, r, 1.0f / total[r], row < item.window.length);
      }
    }
    if (!released) {
      // Nothing here for this warpgroup. It waits all the same: it may not be a use of a slot ahead.
      for (int tile = 0; tile < item.tiles; ++tile) {
        wait_for(tile);
        release(tile);
      }
    }
    tile_count += item.tiles;
  }
}

template <int kHead, bool kQuantized>
__global__ void __launch_bounds__(kThreads, 1)
    wgmma_kernel(const __grid_constant__ CUtensorMap map, BertSequences sequences, int heads,
                 int parts, ContextOutput output, float scale) {
  extern __shared__ unsigned char bytes[];
  Memory<kHead>& memory = *reinterpret_cast<Memory<kHead>*>(
      bytes + (1024 - shared_address(bytes) % 1024) % 1024);

  if (threadIdx.x == 0) {
    for (int slot = 0; slot < kSlots; ++slot) {
      barrier_init(&memory.filled[slot], 1);
      barrier_init(&memory.emptied[slot], kConsumers / 32);
    }
    for (int slot = 0; slot < kQuerySlots; ++slot) {
      barrier_init(&memory.queries_filled[slot], 1);
      barrier_init(&memory.queries_emptied[slot], kGroup / 32);
    }
    // The copies' proxy sees the barriers only after this.
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
  }
  __syncthreads();
  // From lane 0, so that the compiler knows a warp to be of one mind.
  const unsigned group = __shfl_sync(0xffffffffu, threadIdx.x / kGroup, 0);
  // Registers go from those who copy to those who compute: 640 threads start with 96 each.
  if (group == kGroups) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;\n");
    if (threadIdx.x < kConsumers + 32) {
      produce<kHead>(&map, sequences, heads, parts, output, memory);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 112;\n");
    consume<kHead, kQuantized>(group, sequences, heads, parts, output, scale, memory);
  }
}

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's function, found at run time: the library does not link to the driver.
EncodeTiled encode_tiled() {
  static EncodeTiled found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error = cudaGetDriverEntryPointByVersion(
        "cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    const bool usable = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return reinterpret_cast<EncodeTiled>(usable ? function : nullptr);
  }();
  return found;
}

BertStatus make_map(const AttentionShape& shape, const half* qkv, CUtensorMap* map) {
  const EncodeTiled encode = encode_tiled();
  if (encode == nullptr) return fail(BERT_UNSUPPORTED, "the driver has no tensor maps");
  const cuuint64_t row = 3 * static_cast<cuuint64_t>(shape.heads) * shape.head_size;
  const cuuint64_t extents[2] = {row, static_cast<cuuint64_t>(shape.sequences.tokens)};
  const cuuint64_t strides[1] = {row * sizeof(half)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(shape.head_size), kTile};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult result = encode(
      map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<half*>(qkv), extents, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE,
      shape.head_size == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return BERT_OK;
  return fail(BERT_DEVICE_ERROR, "cuTensorMapEncodeTiled: error " + std::to_string(result));
}

decltype(&wgmma_kernel<64, false>) choose_kernel(bool wide, bool quantized) {
  if (wide) return quantized ? wgmma_kernel<64, true> : wgmma_kernel<64, false>;
  return quantized ? wgmma_kernel<32, true> : wgmma_kernel<32, false>;
}

}  // namespace

BertStatus attention_wgmma(const AttentionShape& shape, const half* qkv,
                           const ContextOutput& output, BertStream stream) {
  const BertSequences& sequences = shape.sequences;
  CUtensorMap map;
  BERT_RETURN_IF_ERROR(make_map(shape, qkv, &map));
  int device = 0, processors = 0;
  BERT_RETURN_IF_ERROR(checked(cudaGetDevice(&device), "device"));
  BERT_RETURN_IF_ERROR(checked(
      cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "device"));
  // Few windows: their queries are split, until there is an item for each SM.
  const int tiles = (sequences.max_length + kTile - 1) / kTile;
  const int heads = sequences.windows * shape.heads;
  const int parts = std::min(tiles, (processors + heads - 1) / heads);
  const auto kernel = choose_kernel(shape.head_size == 64, output.quantized != nullptr);
  const int bytes = 1024 + static_cast<int>(shape.head_size == 64 ? sizeof(Memory<64>)
                                                                  : sizeof(Memory<32>));
  BERT_RETURN_IF_ERROR(checked(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
      "shared memory of attention"));
  kernel<<<std::min(processors, heads * parts), kThreads, bytes, stream>>>(
      map, sequences, shape.heads, parts, output, exponent_scale(shape.head_size));
  return launched("attention");
}

}  // namespace bert
