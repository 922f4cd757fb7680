/* SPDX-License-Identifier: Apache-2.0
 *
 * launch.cuh - launch_kernel on the processor
 */
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <tuple>

namespace emulation
{
/* Queues a grid, or refuses it as the runtime does. `run` is what each thread calls. */
void queue_grid (const void *kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t queue,
                 std::function<void ()> run, int cluster = 1);
}

template <typename... Parameters, typename... Arguments>
static inline void
launch_kernel (void (*kernel) (Parameters...), dim3 grid, dim3 block, size_t shared,
               cudaStream_t queue, Arguments &&...arguments)
{
  const std::tuple<Parameters...> values (arguments...);
  emulation::queue_grid (reinterpret_cast<const void *> (kernel), grid, block, shared, queue,
                         [=] { std::apply (kernel, values); });
}
