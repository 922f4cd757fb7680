/* SPDX-License-Identifier: Apache-2.0
 *
 * tma.cuh - bulk tensor copies and the barriers that count them (sm_90 up)
 *
 * One thread starts a copy of a box of a two-dimensional tensor; the copy engine computes the
 * addresses from a tensor map, fills what lies outside with zeros (and does not write it), and
 * reports the bytes to an mbarrier. A ring of stages is a pair of barriers a stage: `full`, which
 * the copies complete, and `empty`, at which the readers arrive.
 */
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"

#include <cuda.h>
#include <cudaTypedefs.h>

/* -- host: tensor maps --------------------------------------------------------------------------
 */

typedef PFN_cuTensorMapEncodeTiled_v12000 TensorMapEncoder;

/* The driver's encoder, found through the runtime: no link to libcuda. */
static inline Status
tensor_map_encoder (Stream *s, TensorMapEncoder *out)
{
  void *function = NULL;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  CUDA_CHECK (s, cudaGetDriverEntryPointByVersion ("cuTensorMapEncodeTiled", &function, 12000,
                                                   cudaEnableDefault, &found));
  REQUIRE (s, found == cudaDriverEntryPointSuccess && function != NULL);
  *out = (TensorMapEncoder)function;
  return STATUS_OK;
}

/* What a tensor holds and how its boxes land in shared memory. */
typedef enum
{
  TENSOR_DENSE,          /* BF16; rows land one behind the other */
  TENSOR_SWIZZLED,       /* BF16; boxes of 64 columns, in the layout that wgmma reads */
  TENSOR_SWIZZLED_BYTES, /* E4M3; boxes of 128 columns, likewise */
} TensorKind;

/* A map of `data` [rows, columns], rows `stride` numbers apart, read or written in boxes of
 * box_rows x box_columns; a stride of a multiple of 16 bytes, data aligned to 16 bytes. */
static inline Status
tensor_map_strided (Stream *s, TensorMapEncoder encode, const void *data, int64_t rows,
                    int64_t columns, int64_t stride, int box_rows, int box_columns, TensorKind kind,
                    CUtensorMap *out)
{
  const bool bytes = kind == TENSOR_SWIZZLED_BYTES;
  const cuuint64_t extent[2] = { (cuuint64_t)columns, (cuuint64_t)rows };
  const cuuint64_t pitch[1] = { (cuuint64_t)stride * (bytes ? 1 : sizeof (bf16)) };
  const cuuint32_t box[2] = { (cuuint32_t)box_columns, (cuuint32_t)box_rows };
  const cuuint32_t step[2] = { 1, 1 };
  const CUresult result
      = encode (out, bytes ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
                (void *)data, extent, pitch, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                kind == TENSOR_DENSE ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  REQUIRE (s, result == CUDA_SUCCESS);
  return STATUS_OK;
}

/* The same with dense rows. */
static inline Status
tensor_map (Stream *s, TensorMapEncoder encode, const void *data, int64_t rows, int64_t columns,
            int box_rows, int box_columns, TensorKind kind, CUtensorMap *out)
{
  return tensor_map_strided (s, encode, data, rows, columns, columns, box_rows, box_columns, kind,
                             out);
}

/* x [rows, columns] BF16 as boxes of box_rows x box_columns, swizzled, `boxes` neighbours in a row
 * of them at a time: they land one behind the other. */
static inline Status
tensor_map_boxes (Stream *s, TensorMapEncoder encode, const void *data, int64_t rows,
                  int64_t columns, int box_rows, int box_columns, int boxes, CUtensorMap *out)
{
  const cuuint64_t extent[3]
      = { (cuuint64_t)box_columns, (cuuint64_t)rows, (cuuint64_t)(columns / box_columns) };
  const cuuint64_t pitch[2]
      = { (cuuint64_t)columns * sizeof (bf16), (cuuint64_t)box_columns * sizeof (bf16) };
  const cuuint32_t box[3] = { (cuuint32_t)box_columns, (cuuint32_t)box_rows, (cuuint32_t)boxes };
  const cuuint32_t step[3] = { 1, 1, 1 };
  REQUIRE (s, columns % box_columns == 0);
  const CUresult result
      = encode (out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void *)data, extent, pitch, box, step,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  REQUIRE (s, result == CUDA_SUCCESS);
  return STATUS_OK;
}

/* -- device: barriers ---------------------------------------------------------------------------
 */

static __device__ __forceinline__ void
barrier_init (uint32_t barrier, uint32_t arrivals)
{
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/* Makes initialised barriers visible to the copy engine and to the cluster. */
static __device__ __forceinline__ void
barrier_init_fence ()
{
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Arrives, and announces `bytes` of copies to come. */
static __device__ __forceinline__ void
barrier_expect (uint32_t barrier, uint32_t bytes)
{
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

static __device__ __forceinline__ void
barrier_arrive (uint32_t barrier)
{
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Waits for the end of the phase of this parity. */
static __device__ __forceinline__ void
barrier_wait (uint32_t barrier, uint32_t parity)
{
  asm volatile("{.reg .pred done;\n"
               "WAIT: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
               "@done bra DONE;\n"
               "bra WAIT;\n"
               "DONE: }" ::"r"(barrier),
               "r"(parity)
               : "memory");
}

/* -- device: copies -----------------------------------------------------------------------------
 */

/* One thread: the box at (row, column) to shared memory, its bytes to `barrier`. */
static __device__ __forceinline__ void
tma_load (uint32_t shared, const CUtensorMap *map, int column, int row, uint32_t barrier)
{
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared),
               "l"(map), "r"(column), "r"(row), "r"(barrier)
               : "memory");
}

/* One thread: as many boxes as a map of tensor_map_boxes asks for, from number `box` on, `row` rows
 * below the first; zeros behind the last. */
static __device__ __forceinline__ void
tma_load_boxes (uint32_t shared, const CUtensorMap *map, int box, int row, uint32_t barrier)
{
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(shared),
               "l"(map), "r"(0), "r"(row), "r"(box), "r"(barrier)
               : "memory");
}

/* One thread: `bytes` in a row, a multiple of 16, to shared memory, likewise. */
static __device__ __forceinline__ void
bulk_load (uint32_t shared, const void *global, uint32_t bytes, uint32_t barrier)
{
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
               "[%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(global), "r"(bytes), "r"(barrier)
               : "memory");
}

/* One thread: shared memory to the box at (row, column). Others' writes to it need
 * tma_store_fence () in the writer and a barrier before. */
static __device__ __forceinline__ void
tma_store (const CUtensorMap *map, int column, int row, uint32_t shared)
{
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
      "r"(column), "r"(row), "r"(shared)
      : "memory");
}

static __device__ __forceinline__ void
tma_store_fence ()
{
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

static __device__ __forceinline__ void
tma_store_commit ()
{
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Waits until the shared memory of all but the last PENDING stores may be written again. */
template <int PENDING>
static __device__ __forceinline__ void
tma_store_wait_read ()
{
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

/* Waits until all stores are done: before the block ends. */
static __device__ __forceinline__ void
tma_store_wait_all ()
{
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

static __device__ __forceinline__ void
tma_prefetch_map (const CUtensorMap *map)
{
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* -- device: fragments to shared memory ----------------------------------------------------------
 */

/* Four 8x8 matrices of 16-bit numbers; thread t gives the address of row t % 8 of matrix t / 8. */
static __device__ __forceinline__ void
stmatrix_x4 (uint32_t shared, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}

/* The same, each matrix across: what thread t holds of rows lands in columns. */
static __device__ __forceinline__ void
stmatrix_x4_trans (uint32_t shared, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared),
      "r"(a), "r"(b), "r"(c), "r"(d)
      : "memory");
}

/* Two; the addresses of threads 0 to 15 count. */
static __device__ __forceinline__ void
stmatrix_x2 (uint32_t shared, uint32_t a, uint32_t b)
{
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(shared), "r"(a),
               "r"(b)
               : "memory");
}

/* -- device: registers ---------------------------------------------------------------------------
 */

/* Hands registers from one warpgroup to others; every warp of the group runs it. */
template <int COUNT>
static __device__ __forceinline__ void
registers_shrink ()
{
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}

template <int COUNT>
static __device__ __forceinline__ void
registers_grow ()
{
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
