/* SPDX-License-Identifier: Apache-2.0
 *
 * queues.h - work that the emulated card has been given, and does when it likes
 */
#pragma once

#include <functional>

#include <cuda_runtime.h>

namespace emulation
{
/* Keeps `error` for cudaGetLastError, and returns it. */
cudaError_t failed (cudaError_t error);

/* Behind what the queue has already, or into the graph that it is capturing; NULL: the default
 * queue, which waits for no other. Done now, or later, as set_serving says. */
void queue_work (cudaStream_t queue, std::function<void ()> work);

/* The host waits. */
void finish_queue (cudaStream_t queue);
void finish_all_queues ();
}
