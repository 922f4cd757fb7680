/* SPDX-License-Identifier: Apache-2.0
 *
 * svdq_sm75.cuh - products of 4-bit codes on sm_75
 *
 * Tile, shares and fragments are those of svdq_tile.cuh. Low-rank factors are FP16; outputs are
 * FP16, or F32 on their way to the residual stream. This card has no cp.async and 64 KiB of shared
 * memory a multiprocessor: while a stage is multiplied, the next one is on its way to registers;
 * there are two in shared memory, and FP16 outputs leave a warp in slices of 16 rows.
 */
#pragma once

#include "kernels/cuda/svdq_fp4.cuh"
#include "kernels/cuda/svdq_heads.cuh"
#include "kernels/cuda/svdq_int4.cuh"

#define SM75_STAGES 2

/* Rows and k in halves; the two sums of a half of the rows are not next to each other, as the
 * second waits for the first. */
struct MmaS4By8
{
  static constexpr bool RUNS = Activation<f16>::RUNS_HERE;

  static __device__ __forceinline__ void
  run (uint32_t d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, const uint32_t c[4])
  {
#pragma unroll
    for (int i = 0; i < 4; i++)
      d[i] = c[i];
    mma_s4_8x8x32 (d, a[0], b0);
    mma_s4_8x8x32 (d + 2, a[1], b0);
    mma_s4_8x8x32 (d, a[2], b1);
    mma_s4_8x8x32 (d + 2, a[3], b1);
  }
};

struct Sm75Args
{
  SvdqProductArgs p; /* y FP16 or F32 */
  float unit;        /* SvdqWeights.unit */
};

/* -- stages -------------------------------------------------------------------------------------
 */

/* What a thread carries of a stage. Its scales, in words, are first those of rows. */
template <typename T> struct Sm75Carried
{
  static constexpr int X = T::ROWS * 2 / T::THREADS, W = T::COLUMNS * 2 / T::THREADS;
  static constexpr int X_WORDS = T::ROWS * T::SCALE_BYTES / 4;
  static constexpr int WORDS = X_WORDS + T::COLUMNS * T::SCALE_BYTES / 4;
  static constexpr int SCALES = CEIL_DIV (WORDS, T::THREADS);
  uint4 x[X], w[W];
  uint32_t scales[SCALES];
};

/* As svdq_copy_rows, into registers. */
template <int COUNT, int THREADS>
static __device__ __forceinline__ void
sm75_fetch_rows (uint4 (&to)[COUNT], const void *matrix, int first, int limit, uint32_t pitch,
                 uint32_t offset)
{
  const int row = first + threadIdx.x / 2, chunk = threadIdx.x % 2;
#pragma unroll
  for (int i = 0; i < COUNT; i++)
    to[i] = __ldg (reinterpret_cast<const uint4 *> (
        (const char *)matrix
        + (min (row + i * (THREADS / 2), limit - 1) * pitch + chunk * 16 + offset)));
}

template <typename T>
static __device__ __forceinline__ void
sm75_fetch_scales (const SvdqProductArgs &p, Sm75Carried<T> &to, int stage, int row, int column)
{
  typedef Sm75Carried<T> C;
  constexpr int BYTES = T::SCALE_BYTES;
  const uint8_t *x = p.x_scales + (int64_t)stage * p.x_pitch * BYTES;
  const uint8_t *w = p.w_scales + (int64_t)stage * p.n * BYTES;
#pragma unroll
  for (int i = 0; i < C::SCALES; i++)
    {
      const int word = i * T::THREADS + threadIdx.x;
      const bool of_x = word < C::X_WORDS;
      const int from = of_x ? row * BYTES + word * 4 : column * BYTES + (word - C::X_WORDS) * 4;
      const int last = (of_x ? p.x_pitch : p.n) * BYTES - 4;
      to.scales[i] = __ldg (reinterpret_cast<const uint32_t *> ((of_x ? x : w) + min (from, last)));
    }
}

template <typename T>
static __device__ __forceinline__ void
sm75_fetch (const SvdqProductArgs &p, Sm75Carried<T> &to, int stage, int row, int column)
{
  typedef Sm75Carried<T> C;
  const int codes = p.k / SVDQ_STAGE_K, lora = stage - codes;
  asm("" : "+r"(stage)); /* or else each address becomes a register that counts along */
  const bool of_codes = lora < 0;
  if (!of_codes && lora * SVDQ_RANK_STEP >= p.rank)
    return;
  const uint32_t offset = (of_codes ? stage : lora) * SVDQ_ROW_BYTES;
  const uint32_t pitch = of_codes ? p.k / 2 : p.rank * (uint32_t)sizeof (uint16_t);
  const void *x = of_codes ? p.x_codes : p.lora;
  const void *w = of_codes ? p.w_codes : p.up;
  sm75_fetch_rows<C::X, T::THREADS> (to.x, x, row, p.m, pitch, offset);
  sm75_fetch_rows<C::W, T::THREADS> (to.w, w, column, p.n, pitch, offset);
  if (of_codes)
    sm75_fetch_scales<T> (p, to, stage, row, column);
}

template <typename T>
static __device__ __forceinline__ void
sm75_put (const Sm75Carried<T> &from, char *ring, int stage)
{
  typedef Sm75Carried<T> C;
  char *shared = ring + stage % SM75_STAGES * T::STAGE_BYTES;
  const int row = threadIdx.x / 2, chunk = threadIdx.x % 2;
#pragma unroll
  for (int i = 0; i < C::X; i++)
    *reinterpret_cast<uint4 *> (shared + svdq_chunk_at (row + i * (T::THREADS / 2), chunk))
        = from.x[i];
#pragma unroll
  for (int i = 0; i < C::W; i++)
    *reinterpret_cast<uint4 *> (shared
                                + svdq_chunk_at (T::ROWS + row + i * (T::THREADS / 2), chunk))
        = from.w[i];
#pragma unroll
  for (int i = 0; i < C::SCALES; i++)
    {
      const int word = i * T::THREADS + threadIdx.x;
      if (word < C::WORDS)
        *reinterpret_cast<uint32_t *> (shared + T::CODE_BYTES + word * 4) = from.scales[i];
    }
}

/* -- outputs ------------------------------------------------------------------------------------
 */

/* Two sums and their bias. */
static __device__ __forceinline__ float2
sm75_finish (const float *d, float unit, float2 bias)
{
  return make_float2 (fmaf (d[0], unit, bias.x), fmaf (d[1], unit, bias.y));
}

/* Rows i * 16 .. + 15 of a warp's sums, by way of shared memory of its own: lines of FP16. */
template <typename T, bool SWIGLU>
static __device__ __forceinline__ void
sm75_write_half (const Sm75Args &to, const float (&d)[T::ALONG][4], int i, uint16_t *staged,
                 const MmaPlace &at)
{
  constexpr int WIDTH = T::WARP_COLUMNS / (SWIGLU ? 2 : 1), CHUNKS = WIDTH / 8, PITCH = WIDTH + 8;
  const SvdqProductArgs &p = to.p;
  const int lane = threadIdx.x % 32, own = lane % 4 * 2;
  const int column = at.column + at.warp_column, row = at.row + at.warp_row + i * 16;
#pragma unroll
  for (int j = 0; j < T::ALONG; j += SWIGLU ? 2 : 1)
    {
      const float2 b = pair_at (p.bias, column + j * 8 + own, p.n, 0.0f);
      const float2 up_b = SWIGLU ? pair_at (p.bias, column + j * 8 + 8 + own, p.n, 0.0f) : b;
#pragma unroll
      for (int h = 0; h < 2; h++)
        {
          float2 v = sm75_finish (&d[j][2 * h], to.unit, b);
          if (SWIGLU)
            {
              const float2 up = sm75_finish (&d[j + 1][2 * h], to.unit, up_b);
              v.x = silu_of (v.x) * up.x * SWIGLU_F16_SCALE;
              v.y = silu_of (v.y) * up.y * SWIGLU_F16_SCALE;
            }
          uint16_t *place = &staged[(h * 8 + lane / 4) * PITCH + j * (SWIGLU ? 4 : 8) + own];
          *reinterpret_cast<uint32_t *> (place) = pack2<f16> (v.x, v.y);
        }
    }
  __syncwarp ();
  const int n = SWIGLU ? p.n / 2 : p.n, first = SWIGLU ? column / 2 : column;
#pragma unroll
  for (int c = lane; c < 16 * CHUNKS; c += 32)
    {
      const int r = c / CHUNKS, chunk = c % CHUNKS * 8;
      if (row + r < p.m && first + chunk < n)
        *reinterpret_cast<uint4 *> ((uint16_t *)p.y + (row + r) * p.stride + first + chunk)
            = *reinterpret_cast<const uint4 *> (&staged[r * PITCH + chunk]);
    }
  __syncwarp ();
}

/* The same in F32: four lanes write 32 bytes, which is as much as memory moves. */
template <typename T>
static __device__ __forceinline__ void
sm75_write_float (const Sm75Args &to, const float (&d)[T::ALONG][4], int i, const MmaPlace &at)
{
  const SvdqProductArgs &p = to.p;
  const int lane = threadIdx.x % 32, row = at.row + at.warp_row + i * 16 + lane / 4;
#pragma unroll
  for (int j = 0; j < T::ALONG; j++)
    {
      const int column = at.column + at.warp_column + j * 8 + lane % 4 * 2;
      const float2 b = pair_at (p.bias, column, p.n, 0.0f);
#pragma unroll
      for (int h = 0; h < 2; h++)
        if (row + h * 8 < p.m && column < p.n)
          *reinterpret_cast<float2 *> ((float *)p.y + (row + h * 8) * p.stride + column)
              = sm75_finish (&d[j][2 * h], to.unit, b);
    }
}

/* -- the kernel ---------------------------------------------------------------------------------
 */

enum Sm75Output
{
  SM75_HALF,
  SM75_SWIGLU, /* FP16 too */
  SM75_FLOAT,
};

/* Waits for a stage, asks for the next one, and says where the warp's share of it lies. */
template <typename T>
static __device__ __forceinline__ SvdqShare
sm75_next_stage (const SvdqProductArgs &p, Sm75Carried<T> &next, const char *ring, int stage,
                 const MmaPlace &at)
{
  __syncthreads (); /* the stage is there, and the one before it is read by all */
  sm75_fetch<T> (p, next, stage + 1, at.row, at.column);
  return svdq_share<T> (shared_address (ring) + stage % SM75_STAGES * T::STAGE_BYTES, at);
}

/* As svdq_sum. */
template <typename T, typename Math>
static __device__ __forceinline__ void
sm75_sum (const SvdqProductArgs &p, float (&d)[T::DOWN][T::ALONG][4], char *ring,
          const MmaPlace &at)
{
  static_assert (T::STAGES == SM75_STAGES, "the ring");
  const int codes = p.k / SVDQ_STAGE_K, stages = codes + p.rank / SVDQ_RANK_STEP;
  Sm75Carried<T> next = {};
  sm75_fetch<T> (p, next, 0, at.row, at.column);
  sm75_put<T> (next, ring, 0);
  for (int stage = 0; stage < codes; stage++)
    {
      Math::template multiply<T> (d, sm75_next_stage<T> (p, next, ring, stage, at));
      sm75_put<T> (next, ring, stage + 1);
    }
  svdq_scale_sums<T> (p, d, at.column + at.warp_column, Math::UNIT);
  for (int stage = codes; stage < stages; stage++)
    {
      svdq_multiply_lora<T, f16> (d, sm75_next_stage<T> (p, next, ring, stage, at));
      sm75_put<T> (next, ring, stage + 1);
    }
  __syncthreads ();
}

template <typename T, typename Math, Sm75Output OUTPUT>
static __global__ void
__launch_bounds__ (T::THREADS, T::BLOCKS) svdq_sm75_kernel (Sm75Args args)
{
  if (!Math::RUNS)
    return;
  constexpr int SLICE = 16 * (T::WARP_COLUMNS + 8); /* numbers */
  static_assert (T::THREADS / 32 * SLICE * 2 <= T::SHARED_BYTES, "outputs are staged in the ring");
  extern __shared__ __align__ (128) char shared[];
  const SvdqProductArgs &p = args.p;
  const MmaPlace at = svdq_place<T> (p);

  float d[T::DOWN][T::ALONG][4] = {};
  sm75_sum<T, Math> (p, d, shared, at);
  uint16_t *staged = reinterpret_cast<uint16_t *> (shared) + threadIdx.x / 32 * SLICE;
#pragma unroll
  for (int i = 0; i < T::DOWN; i++)
    if (OUTPUT == SM75_FLOAT)
      sm75_write_float<T> (args, d[i], i, at);
    else
      sm75_write_half<T, OUTPUT == SM75_SWIGLU> (args, d[i], i, staged, at);
}

/* -- heads --------------------------------------------------------------------------------------
 */

struct Sm75HeadsArgs
{
  SvdqHeadsArgs of;
  float unit; /* as in Sm75Args */
};

/* Sixteen rows of each warp's sums as FP16, those of warps above one another in turn. */
template <typename T>
static __device__ __forceinline__ void
sm75_stage_slice (const Sm75HeadsArgs &args, const float (&d)[T::ALONG][4], f16 *staged,
                  const MmaPlace &at)
{
  const SvdqProductArgs &p = args.of.p;
  const int lane = threadIdx.x % 32, row = at.warp_row / T::WARP_ROWS * 16 + lane / 4;
#pragma unroll
  for (int j = 0; j < T::ALONG; j++)
    {
      const int own = at.warp_column + j * 8 + lane % 4 * 2;
      const float2 b = pair_at (p.bias, at.column + own, p.n, 0.0f);
#pragma unroll
      for (int h = 0; h < 2; h++)
        {
          const float2 v = sm75_finish (&d[j][2 * h], args.unit, b);
          *reinterpret_cast<uint32_t *> (&staged[(row + h * 8) * T::OUT_PITCH + own])
              = pack2<f16> (v.x, v.y);
        }
    }
}

/* As svdq_heads_kernel; outputs are staged in slices. */
template <typename T, typename Math>
static __global__ void
__launch_bounds__ (T::THREADS, T::BLOCKS) svdq_sm75_heads_kernel (Sm75HeadsArgs args)
{
  if (!Math::RUNS)
    return;
  constexpr int WARPS_DOWN = T::ROWS / T::WARP_ROWS;
  static_assert (T::COLUMNS == SVDQ_HEAD, "a tile is a head");
  static_assert (WARPS_DOWN * 16 * T::OUT_PITCH * 2 <= T::SHARED_BYTES, "a slice fits the ring");
  extern __shared__ __align__ (128) char shared[];
  const SvdqProductArgs &p = args.of.p;
  const MmaPlace at = svdq_place<T> (p);

  float d[T::DOWN][T::ALONG][4] = {};
  sm75_sum<T, Math> (p, d, shared, at);
  f16 *staged = reinterpret_cast<f16 *> (shared);
#pragma unroll
  for (int i = 0; i < T::DOWN; i++)
    {
      sm75_stage_slice<T> (args, d[i], staged, at);
      __syncthreads ();
      const SvdqHeadRows<f16, WARPS_DOWN * 16, T::WARP_ROWS, T::OUT_PITCH, T::THREADS> rows (
          p, staged, at.row + i * 16, at.column);
      rows.finish (args.of.heads, at.column / SVDQ_HEAD);
      __syncthreads (); /* the slice is read by all */
    }
}

/* Two blocks of four warps on a multiprocessor, which is all of its registers: a warp of 64 x 64
 * has a tenth less to do than one of 64 x 32. */
typedef SvdqTile<128, 128, 2, 2, SM75_STAGES, 2, 2> Sm75LargeTile;
typedef SvdqTile<64, 64, 2, 2, SM75_STAGES, 4, 2> Sm75SmallTile;
typedef SvdqTile<64, 128, 2, 2, SM75_STAGES, 3, 2> Sm75SmallHeadsTile;
typedef SvdqTile<128, 128, 2, 2, SM75_STAGES, 2, 4> Sm75Fp4LargeTile;
typedef SvdqTile<64, 64, 2, 2, SM75_STAGES, 4, 4> Sm75Fp4SmallTile;
typedef SvdqTile<64, 128, 2, 2, SM75_STAGES, 3, 4> Sm75Fp4SmallHeadsTile;

/* -- launching ----------------------------------------------------------------------------------
 */

template <typename T, typename Math, Sm75Output OUTPUT>
static Status
sm75_launch_tile (Stream *s, Sm75Args args)
{
  unsigned blocks = 0;
  CHECK (svdq_count_tiles<T> (s, &args.p, &blocks));
  launch_kernel (svdq_sm75_kernel<T, Math, OUTPUT>, blocks, T::THREADS, T::SHARED_BYTES, s->compute,
                 args);
  return LAUNCHED (s);
}

template <typename T, typename Math>
static Status
sm75_launch_output (Stream *s, const SvdqGemm *g, const Sm75Args &args)
{
  if (g->w->swiglu)
    return sm75_launch_tile<T, Math, SM75_SWIGLU> (s, args);
  return g->wide ? sm75_launch_tile<T, Math, SM75_FLOAT> (s, args)
                 : sm75_launch_tile<T, Math, SM75_HALF> (s, args);
}

/* As svdq_launch, for activations of FP16. */
template <typename Large, typename Small, typename Math>
static Status
sm75_launch (Stream *s, const SvdqGemm *g, SvdqFormat format)
{
  REQUIRE (s, g->w->format == format && s->caps.sm >= 75);
  REQUIRE (s, !(g->w->swiglu && g->wide));
  Sm75Args args = { {}, g->w->unit };
  CHECK (svdq_describe (s, g, &args.p));
  if (mma_tiles<Large> (args.p.m, args.p.n) >= s->caps.multiprocessors)
    return sm75_launch_output<Large, Math> (s, g, args);
  return sm75_launch_output<Small, Math> (s, g, args);
}

template <typename T, typename Math>
static Status
sm75_launch_heads_tile (Stream *s, Sm75HeadsArgs args)
{
  unsigned blocks = 0;
  CHECK (svdq_count_tiles<T> (s, &args.of.p, &blocks));
  launch_kernel (svdq_sm75_heads_kernel<T, Math>, blocks, T::THREADS, T::SHARED_BYTES, s->compute,
                 args);
  return LAUNCHED (s);
}

/* As svdq_launch_heads. */
template <typename Large, typename Small, typename Math>
static Status
sm75_launch_heads (Stream *s, const SvdqGemm *g, SvdqFormat format)
{
  Sm75HeadsArgs args = { {}, g->w->unit };
  REQUIRE (s, g->w->format == format && s->caps.sm >= 75);
  CHECK (svdq_describe_heads (s, g, &args.of));
  if (mma_tiles<Large> (args.of.p.m, args.of.p.n) >= s->caps.multiprocessors)
    return sm75_launch_heads_tile<Large, Math> (s, args);
  return sm75_launch_heads_tile<Small, Math> (s, args);
}
