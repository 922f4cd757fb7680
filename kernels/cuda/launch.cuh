/* SPDX-License-Identifier: Apache-2.0
 *
 * launch.cuh - the one way to start a kernel: a call like any other
 *
 * What stands between <<< and >>> are arguments here, and the kernel's own follow them, converted
 * as in any call. It is no C++ otherwise: the tests compile the kernels for the processor too, with
 * a launch_kernel of their own (tests/kernels/emulation).
 */
#pragma once

#include <cuda_runtime.h>

/* Queues `kernel` on `grid` blocks of `block` threads with `shared` bytes of dynamic shared memory.
 * A failure is kept by the runtime, where LAUNCHED (common.cuh) finds it. */
template <typename... Parameters, typename... Arguments>
static inline void
launch_kernel (void (*kernel) (Parameters...), dim3 grid, dim3 block, size_t shared,
               cudaStream_t queue, Arguments &&...arguments)
{
  const auto launch = [=] (Parameters... values) {
    void *pointers[] = { &values... };
    (void)cudaLaunchKernel (reinterpret_cast<const void *> (kernel), grid, block, pointers, shared,
                            queue);
  };
  launch (arguments...);
}
