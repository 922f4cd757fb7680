/* SPDX-License-Identifier: Apache-2.0
 *
 * The emulation notices what it says that it notices: each kernel here but the first is wrong in
 * one way, and ends the process that runs it. Prints TAP.
 */
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 96
#define SHARED  1024

/* Each thread says what its neighbour has written; BARRIER: after it has. */
template <bool BARRIER>
static __global__ void
neighbour_kernel (int *out)
{
  __shared__ int numbers[THREADS];
  numbers[threadIdx.x] = threadIdx.x;
  if (BARRIER)
    __syncthreads ();
  out[threadIdx.x] = numbers[(threadIdx.x + 40) % THREADS];
}

static __global__ void
lanes_kernel (int *out)
{
  out[threadIdx.x] = threadIdx.x % 32 == 5 ? 0 : __shfl_xor_sync (0xffffffffu, 1, 1);
}

static __global__ void
half_barrier_kernel (int *out)
{
  if (threadIdx.x % 32 < 16)
    named_barrier (1, 64);
  out[threadIdx.x] = 0;
}

static __global__ void
stuck_kernel (int *out)
{
  if (threadIdx.x / 32 == 0)
    named_barrier (1, 64);
  out[threadIdx.x] = 0;
}

static __global__ void
early_kernel (int *out)
{
  extern __shared__ __align__ (128) char shared[];
  cp_async_16 (shared_address (shared) + threadIdx.x % 32 * 16, out, true);
  cp_async_commit ();
  cp_async_wait<1> (); /* that is the one */
  cp_async_commit ();
  const uint32_t word = shared_word (shared_address (shared) + threadIdx.x % 32 * 16);
  cp_async_wait<0> ();
  out[THREADS + threadIdx.x] = (int)word;
}

static __global__ void
forgotten_kernel (int *out)
{
  extern __shared__ __align__ (128) char shared[];
  cp_async_16 (shared_address (shared), out, true);
}

static __global__ void
behind_shared_kernel (int *out)
{
  extern __shared__ __align__ (128) char shared[];
  char *volatile at = shared;
  at[SHARED + threadIdx.x] = 1;
  out[threadIdx.x] = 0;
}

static __global__ void
matrix_behind_kernel (int *out)
{
  extern __shared__ __align__ (128) char shared[];
  uint32_t r[4];
  ldmatrix_x4 (r, shared_address (shared) + SHARED - 31 * 16 + threadIdx.x % 32 * 16);
  out[threadIdx.x] = (int)r[0];
}

static __global__ void
behind_device_kernel (int *out)
{
  out[1 << 12 | threadIdx.x] = 0;
}

static const struct
{
  const char *what;
  void (*kernel) (int *out);
  size_t shared;
  const char *said; /* part of the last line; NULL: it is right */
} cases[] = {
  { "a barrier between neighbours", neighbour_kernel<true>, 0, NULL },
  { "none", neighbour_kernel<false>, 0, "leaves other bytes" },
  { "a lane that does not come", lanes_kernel, 0, "which have ended" },
  { "half of each warp at a barrier", half_barrier_kernel, 0, "" },
  { "a barrier to which one warp comes of two", stuck_kernel, 0, "" },
  { "a copy that is read before it is waited for", early_kernel, SHARED, "leaves other bytes" },
  { "a copy that nobody waits for", forgotten_kernel, SHARED, "has not waited for" },
  { "writing behind shared memory", behind_shared_kernel, SHARED, "" },
  { "a matrix partly behind shared memory", matrix_behind_kernel, SHARED, "dynamic shared memory" },
  { "writing behind device memory", behind_device_kernel, 0, "" },
  { "more shared memory than asked for", neighbour_kernel<true>, 64 << 10, "launch refused" },
};

/* Runs a case in a process of its own, whose last line becomes `line`. True: it ended well. */
static bool
run (size_t number, char *line, size_t size)
{
  int pipe_of[2], status = 0;
  if (pipe (pipe_of) != 0)
    return false;
  fflush (stdout);
  const pid_t child = fork ();
  if (child == 0)
    {
      int *out = NULL;
      dup2 (pipe_of[1], STDOUT_FILENO);
      close (STDERR_FILENO); /* what a sanitizer has to say is expected */
      (void)cudaMalloc ((void **)&out, 4096);
      (void)cudaMemset (out, 1, 4096);
      launch_kernel (cases[number].kernel, 1, THREADS, cases[number].shared, NULL, out);
      const bool refused = cudaGetLastError () != cudaSuccess;
      printf ("%s\n", refused ? "launch refused" : "ran");
      fflush (stdout);
      _exit (refused);
    }
  close (pipe_of[1]);
  FILE *from = fdopen (pipe_of[0], "r");
  char next[512];
  line[0] = '\0';
  while (fgets (next, sizeof next, from) != NULL)
    snprintf (line, size, "%.*s", (int)strcspn (next, "\n"), next);
  fclose (from);
  return waitpid (child, &status, 0) == child && WIFEXITED (status) && WEXITSTATUS (status) == 0;
}

int
main (void)
{
  const size_t n = sizeof cases / sizeof cases[0];
  int failed = 0;
  printf ("1..%zu\n", n);
  for (size_t i = 0; i < n; i++)
    {
      char line[512];
      const bool well = run (i, line, sizeof line);
      const bool ok = cases[i].said == NULL ? well : !well && strstr (line, cases[i].said) != NULL;
      failed += !ok;
      printf ("# %s\n%sok %zu - %s\n", line, ok ? "" : "not ", i + 1, cases[i].what);
    }
  return failed > 0;
}
