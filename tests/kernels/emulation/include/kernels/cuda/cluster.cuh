/* SPDX-License-Identifier: Apache-2.0
 *
 * cluster.cuh - the functions of kernels/cuda/cluster.cuh on the processor
 *
 * The shared memories of a cluster's blocks lie one behind the other.
 */
#pragma once

#include "kernels/cuda/launch.cuh"
#include "tests/kernels/emulation/device.h"

template <typename... Parameters, typename... Arguments>
static inline void
launch_clusters (void (*kernel) (Parameters...), int size, dim3 grid, dim3 block, size_t shared,
                 cudaStream_t queue, Arguments &&...arguments)
{
  const std::tuple<Parameters...> values (arguments...);
  emulation::queue_grid (
      reinterpret_cast<const void *> (kernel), grid, block, shared, queue,
      [=] { std::apply (kernel, values); }, size);
}

static inline int
cluster_rank ()
{
  return emulation::cluster_rank ();
}

/* Who arrives goes on to where it waits. */
static inline void
cluster_arrive ()
{
}

static inline void
cluster_wait ()
{
  emulation::sync_cluster ();
}

template <typename Block>
static inline Block *
cluster_own (char *shared)
{
  return reinterpret_cast<Block *> (shared + cluster_rank () * emulation::cluster_pitch ());
}

static inline uint32_t
cluster_address (uint32_t shared, int block)
{
  return shared + (uint32_t)((block - cluster_rank ()) * (int)emulation::cluster_pitch ());
}

static inline void
cluster_store (uint32_t shared, int block, float4 v)
{
  *reinterpret_cast<float4 *> (emulation::shared_at (cluster_address (shared, block), 16)) = v;
}

static inline void
cluster_or (uint32_t shared, int block, uint32_t bits)
{
  *reinterpret_cast<uint32_t *> (emulation::shared_at (cluster_address (shared, block), 4)) |= bits;
}
