/* SPDX-License-Identifier: Apache-2.0
 *
 * Work on several queues: tied by all the events that it needs it leaves the same bytes however the
 * card serves them, and with any of them missing it does not. Prints TAP.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/launch.cuh"
#include "tests/kernels/emulation/emulation.h"

#include <stdio.h>

#define ROUNDS 6
#define SLOTS  2

/* What is left out. */
enum Fault
{
  NOTHING,
  ARRIVAL, /* the maths does not wait for the copy */
  USE,     /* a copy does not wait for the maths that reads what it overwrites */
  HOST,    /* the host writes into memory that a copy has yet to read */
  ORDER,   /* the event is recorded before the copy, not behind it */
};

static const char *const names[]
    = { "nothing is left out", "maths that does not wait for its copy",
        "a copy that does not wait for the maths before", "a host that does not wait for a copy",
        "an event in front of what it stands for" };

static __global__ void
add_kernel (const int *slot, int *sum, int round)
{
  sum[threadIdx.x] = sum[threadIdx.x] * 3 + slot[threadIdx.x] + round;
}

/* Numbers pass through two slots, as weights do; true: the sum is right. */
static bool
relay (emulation::Serving serving, Fault fault)
{
  int *sum, *slots[SLOTS], *host, results[32], expected = 0;
  cudaStream_t compute, copies;
  cudaEvent_t arrived[SLOTS], used[SLOTS];
  emulation::set_serving (serving);
  (void)cudaStreamCreateWithFlags (&compute, cudaStreamNonBlocking);
  (void)cudaStreamCreateWithFlags (&copies, cudaStreamNonBlocking);
  (void)cudaMalloc ((void **)&sum, sizeof results);
  (void)cudaMemset (sum, 0, sizeof results);
  (void)cudaMallocHost ((void **)&host, SLOTS * sizeof results);
  for (int i = 0; i < SLOTS; i++)
    {
      (void)cudaMalloc ((void **)&slots[i], sizeof results);
      (void)cudaMemset (slots[i], 0, sizeof results);
      (void)cudaEventCreateWithFlags (&arrived[i], cudaEventDisableTiming);
      (void)cudaEventCreateWithFlags (&used[i], cudaEventDisableTiming);
    }

  for (int round = 0; round < ROUNDS; round++)
    {
      const int slot = round % SLOTS;
      int *from = host + slot * 32;
      if (fault != HOST)
        (void)cudaEventSynchronize (arrived[slot]);
      for (int i = 0; i < 32; i++)
        from[i] = 100 * round;
      if (fault != USE)
        (void)cudaStreamWaitEvent (copies, used[slot], 0);
      if (fault == ORDER)
        (void)cudaEventRecord (arrived[slot], copies);
      (void)cudaMemcpyAsync (slots[slot], from, sizeof results, cudaMemcpyDefault, copies);
      if (fault != ORDER)
        (void)cudaEventRecord (arrived[slot], copies);
      if (fault != ARRIVAL)
        (void)cudaStreamWaitEvent (compute, arrived[slot], 0);
      launch_kernel (add_kernel, 1, 32, 0, compute, (const int *)slots[slot], sum, round);
      (void)cudaEventRecord (used[slot], compute);
      expected = expected * 3 + 100 * round + round;
    }
  (void)cudaMemcpyAsync (results, sum, sizeof results, cudaMemcpyDeviceToHost, compute);

  for (int i = 0; i < SLOTS; i++)
    {
      (void)cudaFree (slots[i]);
      (void)cudaEventDestroy (arrived[i]);
      (void)cudaEventDestroy (used[i]);
    }
  (void)cudaFree (sum);
  (void)cudaFreeHost (host);
  (void)cudaStreamDestroy (copies);
  (void)cudaStreamDestroy (compute);
  return results[0] == expected && results[31] == expected;
}

int
main (void)
{
  static const emulation::Serving servings[]
      = { emulation::AT_ONCE, emulation::LATE, emulation::OTHERS_FIRST, emulation::BY_CHANCE };
  int failed = 0;
  printf ("1..%d\n", ORDER + 1);
  for (int fault = NOTHING; fault <= ORDER; fault++)
    {
      int right = 0;
      for (const emulation::Serving serving : servings)
        right += relay (serving, (Fault)fault);
      const bool ok = fault == NOTHING ? right == 4 : right < 4;
      failed += !ok;
      printf ("# right in %d of 4 servings\n%sok %d - %s\n", right, ok ? "" : "not ", fault + 1,
              names[fault]);
    }
  return failed > 0;
}
