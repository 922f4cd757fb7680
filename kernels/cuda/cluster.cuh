/* SPDX-License-Identifier: Apache-2.0
 *
 * cluster.cuh - blocks that run at once and reach one another's shared memory (sm_90 up)
 *
 * Each thread arrives and waits in turns. What was written before an arrival is seen after the
 * wait. No block may end while others still reach into it.
 */
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

/* As launch_kernel, in clusters of `size` blocks, neighbours of x. */
template <typename... Parameters, typename... Arguments>
static inline void
launch_clusters (void (*kernel) (Parameters...), int size, dim3 grid, dim3 block, size_t shared,
                 cudaStream_t queue, Arguments &&...arguments)
{
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = (unsigned)size;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = queue;
  config.attrs = &cluster, config.numAttrs = 1;
  (void)cudaLaunchKernelEx (&config, kernel, arguments...);
}

/* This block's number in its cluster. */
static __device__ __forceinline__ int
cluster_rank ()
{
  int rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

static __device__ __forceinline__ void
cluster_arrive ()
{
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

static __device__ __forceinline__ void
cluster_wait ()
{
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* This block's part of `shared`, its dynamic shared memory: all of it. */
template <typename Block>
static __device__ __forceinline__ Block *
cluster_own (char *shared)
{
  return reinterpret_cast<Block *> (shared);
}

/* -- other blocks' shared memory: `shared` is an address in this one's ---------------------------
 */

static __device__ __forceinline__ uint32_t
cluster_address (uint32_t shared, int block)
{
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(block));
  return address;
}

static __device__ __forceinline__ void
cluster_store (uint32_t shared, int block, float4 v)
{
  asm volatile(
      "st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(cluster_address (shared, block)),
      "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
      : "memory");
}

/* Adds bits to a word. */
static __device__ __forceinline__ void
cluster_or (uint32_t shared, int block, uint32_t bits)
{
  asm volatile(
      "red.relaxed.cluster.shared::cluster.or.b32 [%0], %1;" ::"r"(cluster_address (shared, block)),
      "r"(bits)
      : "memory");
}
