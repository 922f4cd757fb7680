/* SPDX-License-Identifier: Apache-2.0
 *
 * The INT4 product of sm_80, sm_86 and sm_89: warp-level mma of 4-bit integers, each group of 64 k
 * folded into FP32, the low-rank product on top by 16-bit mma. Newer cards have no such
 * instruction and emulate it, exactly but slowly.
 *
 * A stage of the ring has 64 bytes of every row: 128 k of codes with their scales, or, behind the
 * last of those, 32 ranks of x proj_down and proj_up. Both are read by the same ldmatrix: 16 rows
 * of 32 bytes are a fragment of either mma.
 *
 * The fold. A group's sum p is exact; the mma adds it to the bits of MAGIC = 1.5 2^23, so that its
 * result is the float MAGIC + p. With sa, ws the scales (8 bits each), level L1 wants
 *   acc = fma (p, sa ws, acc).
 * Here t = fma (MAGIC + p, sa, -MAGIC sa) = p sa, which is exact, and acc = fma (t, ws, acc): the
 * same number rounded once, by two instructions instead of three. (Scales beyond 2^103 would
 * overflow on the way.)
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/svdq.cuh"
#include "kernels/cuda/svdq.h"

#define STAGES       2
#define ROW_BYTES    64
#define ROW_CHUNKS   4
#define STAGE_K      128
#define STAGE_GROUPS 2
#define STAGE_RANKS  32
#define GROUP_TILES  8 /* tiles are numbered down 8 rows of tiles, then along: shares L2 */

/* A tile of ROWS x COLUMNS, cut among WARPS_DOWN x WARPS_ALONG warps. */
template <int ROWS_, int COLUMNS_, int WARPS_DOWN, int WARPS_ALONG_> struct Tile
{
  static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, WARPS_ALONG = WARPS_ALONG_;
  static constexpr int THREADS = WARPS_DOWN * WARPS_ALONG * 32;
  static constexpr int WARP_ROWS = ROWS / WARPS_DOWN, WARP_COLUMNS = COLUMNS / WARPS_ALONG;
  static constexpr int DOWN = WARP_ROWS / 16, ALONG = WARP_COLUMNS / 8; /* mma tiles of a warp */
  static constexpr int W = ROWS * ROW_BYTES;                            /* offsets in a stage */
  static constexpr int X_SCALES = W + COLUMNS * ROW_BYTES;
  static constexpr int W_SCALES = X_SCALES + STAGE_GROUPS * ROWS * 2;
  static constexpr int STAGE_BYTES = W_SCALES + STAGE_GROUPS * COLUMNS * 2;
  static constexpr int SHARED_BYTES = STAGES * STAGE_BYTES;
  static constexpr int OUT_PITCH = COLUMNS + 8; /* of the staged outputs, in numbers */
  static_assert (ROWS * OUT_PITCH * 2 <= SHARED_BYTES, "outputs are staged in the ring");
};

struct Product
{
  const uint8_t *x, *w;
  const uint16_t *x_scales, *w_scales;
  const bf16 *lora, *up;
  const float *outer, *bias;
  bf16 *y;
  int64_t pitch, stride;
  int m, n, k, rank, row_tiles, column_tiles;
  int stages, all_stages; /* of codes; and of codes and ranks */
};

/* Where a block's or a warp's share of the tile begins. */
struct Place
{
  int row, column;
};

static __device__ __forceinline__ uint32_t
chunk_at (int row, int chunk)
{
  return row * ROW_BYTES + (chunk ^ row / 2 % ROW_CHUNKS) * 16;
}

/* d = a b + c, a [16, 64], b [64, 8] 4-bit integers. */
static __device__ __forceinline__ void
mma_s4 (uint32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const uint32_t c[4])
{
  asm volatile("mma.sync.aligned.m16n8k64.row.col.s32.s4.s4.s32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]),
                 "r"(c[2]), "r"(c[3]));
}

/* MAGIC in registers that the compiler does not know as constants, or it makes them anew for each
 * mma. */
static __device__ __forceinline__ void
load_magic (uint32_t c[4])
{
#pragma unroll
  for (int i = 0; i < 4; i++)
    asm volatile("mov.b32 %0, %1;" : "=r"(c[i]) : "n"(SVDQ_MAGIC_BITS));
}

/* The compiler takes it for a new number: what follows from it is computed again here, and not kept
 * in registers that the sums need. */
static __device__ __forceinline__ uint32_t
anew (uint32_t number)
{
  asm volatile("" : "+r"(number));
  return number;
}

/* Two numbers below 2^16 in a register. */
static __device__ __forceinline__ uint32_t
both_of (uint32_t low, uint32_t high)
{
  return anew (low | high << 16);
}

template <typename T>
static __device__ __forceinline__ Place
unpacked (uint32_t tile)
{
  return { (int)(tile & 0xffff) * T::ROWS, (int)(tile >> 16) * T::COLUMNS };
}

template <typename T>
static __device__ __forceinline__ Place
warp_of (void)
{
  const int warp = threadIdx.x / 32;
  return { warp / T::WARPS_ALONG * T::WARP_ROWS, warp % T::WARPS_ALONG * T::WARP_COLUMNS };
}

/* -- copying ------------------------------------------------------------------------------------
 */

/* A thread's share of the next stage: where its first 16 bytes lie, and where they go. */
struct Share
{
  const char *x, *w;
  uint32_t to; /* in a stage, of x */
};

static __device__ __forceinline__ void
point_share (Share &share, const void *x, const void *w, uint32_t row_bytes, Place tile)
{
  const uint32_t own = anew (threadIdx.x) / ROW_CHUNKS, chunk = anew (threadIdx.x) % ROW_CHUNKS;
  share.x = static_cast<const char *> (x) + (size_t)(tile.row + own) * row_bytes + chunk * 16;
  share.w = static_cast<const char *> (w) + (size_t)(tile.column + own) * row_bytes + chunk * 16;
}

static __device__ __forceinline__ Share
share_of (const Product &p, Place tile)
{
  Share share;
  point_share (share, p.x, p.w, p.k / 2, tile);
  share.to = anew (chunk_at (threadIdx.x / ROW_CHUNKS, threadIdx.x % ROW_CHUNKS));
  return share;
}

/* 64 bytes of ROWS rows; zeros outside, where nothing is read. */
template <int ROWS, int THREADS>
static __device__ __forceinline__ void
copy_rows (uint32_t shared, const char *from, uint32_t row_bytes, int rows)
{
#pragma unroll
  for (int i = 0; i < ROWS; i += THREADS / ROW_CHUNKS)
    cp_async_16 (shared + i * ROW_BYTES, from + (size_t)i * row_bytes, i < rows);
}

/* COUNT scales of each of a stage's groups, rows of `pitch`; zeros from `limit` on. */
template <int COUNT>
static __device__ __forceinline__ void
copy_scales (uint32_t shared, const uint16_t *scales, int group, int groups, int first,
             int64_t limit, int64_t pitch, uint32_t thread)
{
  if (thread >= STAGE_GROUPS * COUNT / 8)
    return;
  const int g = thread / (COUNT / 8), at = thread % (COUNT / 8) * 8;
  const bool inside = group + g < groups && first + at < limit;
  cp_async_16 (shared + thread * 16, inside ? scales + (group + g) * pitch + first + at : scales,
               inside);
}

/* Copies the stages in turn: codes, then ranks. */
template <typename T>
static __device__ __forceinline__ void
copy_stage (const Product &p, Share &share, uint32_t ring, int stage, uint32_t packed)
{
  const Place tile = unpacked<T> (anew (packed));
  const bool codes = stage < p.stages;
  const uint32_t shared = ring + stage % STAGES * T::STAGE_BYTES;
  const uint32_t row_bytes = codes ? p.k / 2 : p.rank * 2;
  const uint32_t thread = anew (threadIdx.x);
  if (stage == p.stages)
    point_share (share, p.lora, p.up, row_bytes, tile);
  if (stage < p.all_stages)
    {
      const uint32_t at = (codes ? stage : stage - p.stages) * ROW_BYTES;
      const bool inside = at + thread % ROW_CHUNKS * 16 < row_bytes;
      const int own = thread / ROW_CHUNKS;
      const uint32_t to = shared + share.to;
      copy_rows<T::ROWS, T::THREADS> (to, share.x, row_bytes, inside ? p.m - tile.row - own : 0);
      copy_rows<T::COLUMNS, T::THREADS> (to + T::W, share.w, row_bytes,
                                         inside ? p.n - tile.column - own : 0);
      share.x += ROW_BYTES;
      share.w += ROW_BYTES;
    }
  if (codes)
    {
      const int group = stage * STAGE_GROUPS, groups = p.k / 64;
      copy_scales<T::ROWS> (shared + T::X_SCALES, p.x_scales, group, groups, tile.row, p.pitch,
                            p.pitch, thread);
      copy_scales<T::COLUMNS> (shared + T::W_SCALES, p.w_scales, group, groups, tile.column, p.n,
                               p.n, thread - STAGE_GROUPS * T::ROWS / 8);
    }
  cp_async_commit ();
}

/* -- multiplying --------------------------------------------------------------------------------
 */

/* Where a lane reads in every stage: by ldmatrix for groups or 16 ranks of even number, those of
 * odd number lie at ODD (two chunks on); and its scales. */
#define ODD 32u

struct Reads
{
  uint32_t fragments, scales; /* of x and of w */
};

template <typename T>
static __device__ __forceinline__ Reads
reads_of (Place warp)
{
  const int lane = threadIdx.x % 32;
  return { both_of (warp.row * ROW_BYTES + chunk_at (lane % 16, lane / 16),
                    T::W + warp.column * ROW_BYTES
                        + chunk_at (lane / 16 * 8 + lane % 8, lane / 8 % 2)),
           both_of (T::X_SCALES + (warp.row + lane / 4) * 2,
                    T::W_SCALES + (warp.column + lane % 4 * 2) * 2) };
}

static __device__ __forceinline__ float
bf16_bits (uint32_t bits)
{
  return __uint_as_float (bits << 16);
}

/* One group of 64 k; `stage` is where the stage lies. */
template <typename T>
static __device__ __forceinline__ void
multiply_group (float (&d)[T::DOWN][T::ALONG][4], const uint32_t magic[4], const char *stage,
                const Reads &at, int group)
{
  const uint32_t ring = shared_address (stage), odd = group * ODD;
  const char *x_scales = stage + (at.scales & 0xffff) + group * T::ROWS * 2;
  const char *w_scales = stage + (at.scales >> 16) + group * T::COLUMNS * 2;
  uint32_t a[T::DOWN][4];
  float sa[T::DOWN][2], less[T::DOWN][2];
#pragma unroll
  for (int i = 0; i < T::DOWN; i++)
    {
      ldmatrix_x4 (a[i], ring + (at.fragments & 0xffff ^ odd) + i * 16 * ROW_BYTES);
#pragma unroll
      for (int h = 0; h < 2; h++)
        {
          sa[i][h]
              = bf16_bits (*reinterpret_cast<const uint16_t *> (x_scales + (i * 16 + h * 8) * 2));
          less[i][h] = __fmul_rn (sa[i][h], -SVDQ_MAGIC);
        }
    }
  uint32_t b[4];
#pragma unroll
  for (int j = 0; j < T::ALONG; j++)
    {
      if (j % 2 == 0)
        ldmatrix_x4 (b, ring + (at.fragments >> 16 ^ odd) + j * 8 * ROW_BYTES);
      const uint32_t both = *reinterpret_cast<const uint32_t *> (w_scales + j * 8 * 2);
      const float ws[2] = { bf16_bits (both), __uint_as_float (both & 0xffff0000u) };
#pragma unroll
      for (int i = 0; i < T::DOWN; i++)
        {
          uint32_t sum[4];
          mma_s4 (sum, a[i], b[j % 2 * 2], b[j % 2 * 2 + 1], magic);
#pragma unroll
          for (int c = 0; c < 4; c++)
            d[i][j][c]
                = __fmaf_rn (__fmaf_rn (__uint_as_float (sum[c]), sa[i][c / 2], less[i][c / 2]),
                             ws[c % 2], d[i][j][c]);
        }
    }
}

/* 16 ranks. */
template <typename T>
static __device__ __forceinline__ void
multiply_ranks (float (&d)[T::DOWN][T::ALONG][4], const char *stage, const Reads &at, int step)
{
  const uint32_t ring = shared_address (stage), odd = step * ODD;
  uint32_t a[T::DOWN][4];
#pragma unroll
  for (int i = 0; i < T::DOWN; i++)
    ldmatrix_x4 (a[i], ring + (at.fragments & 0xffff ^ odd) + i * 16 * ROW_BYTES);
#pragma unroll
  for (int pair = 0; pair < T::ALONG / 2; pair++)
    {
      uint32_t b[4];
      ldmatrix_x4 (b, ring + (at.fragments >> 16 ^ odd) + pair * 16 * ROW_BYTES);
#pragma unroll
      for (int i = 0; i < T::DOWN; i++)
        {
          mma_bf16 (d[i][pair * 2], a[i], b[0], b[1]);
          mma_bf16 (d[i][pair * 2 + 1], a[i], b[2], b[3]);
        }
    }
}

template <typename T>
static __device__ __forceinline__ void
scale_columns (const Product &p, float (&d)[T::DOWN][T::ALONG][4], int column)
{
  if (p.outer == NULL)
    return;
#pragma unroll
  for (int j = 0; j < T::ALONG; j++)
    {
      const int at = column + j * 8 + threadIdx.x % 4 * 2;
      const float2 outer = at < p.n ? __ldg (reinterpret_cast<const float2 *> (p.outer + at))
                                    : make_float2 (0.0f, 0.0f);
#pragma unroll
      for (int i = 0; i < T::DOWN; i++)
#pragma unroll
        for (int c = 0; c < 4; c++)
          d[i][j][c] *= c % 2 ? outer.y : outer.x;
    }
}

template <typename T>
static __device__ __forceinline__ void
multiply_stage (const Product &p, float (&d)[T::DOWN][T::ALONG][4], const uint32_t magic[4],
                const char *shared, const Reads &at, int stage, uint32_t packed)
{
  const char *from = shared + stage % STAGES * T::STAGE_BYTES;
  if (stage < p.stages)
    {
      const int groups = min (p.k / 64 - stage * STAGE_GROUPS, STAGE_GROUPS);
#pragma unroll 1
      for (int group = 0; group < groups; group++)
        multiply_group<T> (d, magic, from, at, group);
      if (stage + 1 == p.stages)
        scale_columns<T> (p, d, unpacked<T> (packed).column + warp_of<T> ().column);
    }
  else
#pragma unroll 1
    for (int step = 0; step < 2; step++)
      multiply_ranks<T> (d, from, at, step);
}

/* -- outputs ------------------------------------------------------------------------------------
 */

static __device__ __forceinline__ float2
bias_at (const Product &p, int column)
{
  return p.bias != NULL && column < p.n ? __ldg (reinterpret_cast<const float2 *> (p.bias + column))
                                        : make_float2 (0.0f, 0.0f);
}

/* Sums -> outputs in shared memory, rows of OUT_PITCH. */
template <typename T, bool SWIGLU>
static __device__ __forceinline__ void
stage_outputs (const Product &p, const float (&d)[T::DOWN][T::ALONG][4], bf16 *staged, Place tile,
               Place warp)
{
  const int lane = threadIdx.x % 32, row = warp.row + lane / 4;
#pragma unroll
  for (int j = 0; j < T::ALONG; j += SWIGLU ? 2 : 1)
    {
      const int own = warp.column + j * 8 + lane % 4 * 2;
      const float2 b = bias_at (p, tile.column + own);
      const float2 up = SWIGLU ? bias_at (p, tile.column + own + 8) : b;
      const int target = SWIGLU ? warp.column / 2 + j * 4 + lane % 4 * 2 : own;
#pragma unroll
      for (int i = 0; i < T::DOWN; i++)
#pragma unroll
        for (int h = 0; h < 2; h++)
          {
            float low = d[i][j][2 * h] + b.x, high = d[i][j][2 * h + 1] + b.y;
            if (SWIGLU)
              {
                low = silu_of (low) * (d[i][j + 1][2 * h] + up.x);
                high = silu_of (high) * (d[i][j + 1][2 * h + 1] + up.y);
              }
            *reinterpret_cast<uint32_t *> (&staged[(row + i * 16 + h * 8) * T::OUT_PITCH + target])
                = pack2 (low, high);
          }
    }
}

template <typename T, bool SWIGLU>
static __device__ __forceinline__ void
write_outputs (const Product &p, const bf16 *staged, Place tile)
{
  constexpr int CHUNKS = T::COLUMNS / (SWIGLU ? 2 : 1) / 8;
  const int n = SWIGLU ? p.n / 2 : p.n, first = SWIGLU ? tile.column / 2 : tile.column;
#pragma unroll
  for (int at = threadIdx.x; at < T::ROWS * CHUNKS; at += T::THREADS)
    {
      const int r = at / CHUNKS, c = at % CHUNKS * 8;
      if (tile.row + r < p.m && first + c < n)
        *reinterpret_cast<uint4 *> (p.y + (tile.row + r) * p.stride + first + c)
            = *reinterpret_cast<const uint4 *> (&staged[r * T::OUT_PITCH + c]);
    }
}

template <typename T>
static __device__ __forceinline__ Place
tile_of (const Product &p, int block)
{
  const int per_group = GROUP_TILES * p.column_tiles;
  const int first = block / per_group * GROUP_TILES;
  const int tall = min (GROUP_TILES, p.row_tiles - first);
  return { (first + block % per_group % tall) * T::ROWS, block % per_group / tall * T::COLUMNS };
}

template <typename T, bool SWIGLU>
static __global__ void
__launch_bounds__ (T::THREADS, 512 / T::THREADS) svdq_int4_kernel (Product p)
{
  extern __shared__ __align__ (128) char shared[];
  const uint32_t ring = shared_address (shared);
  float d[T::DOWN][T::ALONG][4] = {};
  {
    const Place tile = tile_of<T> (p, blockIdx.x), warp = warp_of<T> ();
    const uint32_t packed = both_of (tile.row / T::ROWS, tile.column / T::COLUMNS);
    uint32_t magic[4];
    const Reads at = reads_of<T> (warp);
    load_magic (magic);
    Share share = share_of (p, tile);
    copy_stage<T> (p, share, ring, 0, packed);
    for (int stage = 0; stage < p.all_stages; stage++)
      {
        cp_async_wait<0> ();
        __syncthreads (); /* the stage is there, and the one before it is read by all */
        copy_stage<T> (p, share, ring, stage + 1, packed);
        multiply_stage<T> (p, d, magic, shared, at, stage, packed);
      }
  }
  const Place tile = tile_of<T> (p, anew (blockIdx.x)), warp = warp_of<T> ();
  bf16 *staged = reinterpret_cast<bf16 *> (shared);
  __syncthreads ();
  stage_outputs<T, SWIGLU> (p, d, staged, tile, warp);
  __syncthreads ();
  write_outputs<T, SWIGLU> (p, staged, tile);
}

/* -- launching ----------------------------------------------------------------------------------
 */

template <typename T, bool SWIGLU>
static Status
launch (Stream *s, Product p)
{
  p.row_tiles = CEIL_DIV (p.m, T::ROWS);
  p.column_tiles = CEIL_DIV (p.n, T::COLUMNS);
  REQUIRE (s, p.row_tiles < 1 << 16 && p.column_tiles < 1 << 16);
  REQUIRE (s, (int64_t)p.row_tiles * p.column_tiles <= INT32_MAX);
  auto *kernel = svdq_int4_kernel<T, SWIGLU>;
  CUDA_CHECK (s, cudaFuncSetAttribute (kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       T::SHARED_BYTES));
  kernel<<<p.row_tiles * p.column_tiles, T::THREADS, T::SHARED_BYTES, s->compute>>> (p);
  return LAUNCHED (s);
}

typedef Tile<128, 128, 4, 2> LargeTile;
typedef Tile<64, 64, 2, 2> SmallTile;

Status
svdq_gemm_int4 (Stream *s, const SvdqGemm *g)
{
  const SvdqWeights *w = g->w;
  const SvdqActivations *a = g->a;
  REQUIRE (s, s->caps.sm >= 80 && w->format == SVDQ_INT4);
  REQUIRE (s, a->m >= 1 && a->m <= INT32_MAX / 2 && g->stride % 8 == 0);
  const int stages = (int)CEIL_DIV (w->k, STAGE_K);
  const Product p = { a->codes,
                      w->qweight,
                      (const uint16_t *)a->scales,
                      (const uint16_t *)w->wscales,
                      (const bf16 *)a->lora,
                      (const bf16 *)w->proj_up,
                      w->outer,
                      w->bias,
                      (bf16 *)g->y,
                      a->pitch,
                      g->stride,
                      (int)a->m,
                      (int)w->n,
                      (int)w->k,
                      w->rank,
                      0,
                      0,
                      stages,
                      stages + CEIL_DIV (w->rank, STAGE_RANKS) };
  const int64_t large = CEIL_DIV (a->m, LargeTile::ROWS) * CEIL_DIV (w->n, LargeTile::COLUMNS);
  if (large >= s->caps.multiprocessors)
    return w->swiglu ? launch<LargeTile, true> (s, p) : launch<LargeTile, false> (s, p);
  return w->swiglu ? launch<SmallTile, true> (s, p) : launch<SmallTile, false> (s, p);
}
