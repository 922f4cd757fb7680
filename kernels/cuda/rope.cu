/* SPDX-License-Identifier: Apache-2.0
 *
 * RMS norm of each q and k head and its rotation, in place on qkv. A block takes one token, so
 * its rotations are read once and stay in registers for all heads; d / 8 lanes share a head.
 */
#include "kernels/cuda/ops.cuh"
#include "kernels/cuda/rope.cuh"

/* -- kernels ------------------------------------------------------------------------------------
 */

#define THREADS 256
#define BATCH   4 /* heads whose loads a thread has in flight */

template <int LANES, bool INTERLEAVED, typename T>
static __global__ void
__launch_bounds__ (THREADS)
    qk_norm_rope_kernel (T *qkv, int n_q, int n_kv, const float *q_weight, const float *k_weight,
                         float eps, const float *table)
{
  if (!Activation<T>::RUNS_HERE)
    return;
  constexpr int D = 8 * LANES, TURNS = INTERLEAVED ? 8 : 16, STEP = THREADS / LANES;
  const int lane = threadIdx.x % LANES, heads = n_q + n_kv;
  T *row = qkv + (size_t)blockIdx.x * (n_q + 2 * n_kv) * D + 8 * lane;
  const float *turns = table + (size_t)blockIdx.x * D;

  float turn[TURNS], wq[8], wk[8];
#pragma unroll
  for (int i = 0; i < TURNS; i += 8)
    load8 (turns + (INTERLEAVED ? 8 * lane : 16 * (lane % (LANES / 2)) + i), turn + i);
  load8 (q_weight + 8 * lane, wq);
  load8 (k_weight + 8 * lane, wk);

  for (int first = threadIdx.x / LANES; first - (int)(threadIdx.x / LANES) < heads;
       first += BATCH * STEP)
    {
      uint4 bits[BATCH];
#pragma unroll
      for (int i = 0; i < BATCH; i++)
        {
          const int head = first + i * STEP;
          bits[i] = make_uint4 (0, 0, 0, 0);
          if (head < heads)
            bits[i] = *reinterpret_cast<const uint4 *> (row + (size_t)head * D);
        }
#pragma unroll
      for (int i = 0; i < BATCH; i++)
        {
          const int head = first + i * STEP;
          float v[8];
          unpack8<T> (bits[i], v);
          const float factor = head_factor<LANES> (v, eps);
#pragma unroll
          for (int j = 0; j < 8; j++)
            v[j] *= factor * (head < n_q ? wq[j] : wk[j]);
          rotate8<LANES, INTERLEAVED> (v, turn, lane);
          if (head < heads)
            store8 (row + (size_t)head * D, v);
        }
    }
}

/* -- launchers ----------------------------------------------------------------------------------
 */

template <int LANES, typename T>
static Status
launch_as (Stream *s, Tensor *qkv, int n_q, int n_kv, const Tensor *q_weight,
           const Tensor *k_weight, float eps, const Tensor *table, RopePairing pairing)
{
  const unsigned blocks = (unsigned)qkv->shape[0];
  auto kernel = pairing == ROPE_INTERLEAVED ? qk_norm_rope_kernel<LANES, true, T>
                                            : qk_norm_rope_kernel<LANES, false, T>;
  launch_kernel (kernel, blocks, THREADS, 0, s->compute, (T *)qkv->data, n_q, n_kv,
                 (const float *)q_weight->data, (const float *)k_weight->data, eps,
                 (const float *)table->data);
  return LAUNCHED (s);
}

template <int LANES>
static Status
launch (Stream *s, Tensor *qkv, int n_q, int n_kv, const Tensor *q_weight, const Tensor *k_weight,
        float eps, const Tensor *table, RopePairing pairing)
{
  auto as = qkv->dtype == DTYPE_F16 ? launch_as<LANES, f16> : launch_as<LANES, bf16>;
  return as (s, qkv, n_q, n_kv, q_weight, k_weight, eps, table, pairing);
}

Status
cuda_qk_norm_rope (Stream *s, Tensor *qkv, int n_q, int n_kv, const Tensor *q_weight,
                   const Tensor *k_weight, float eps, const Tensor *table, RopePairing pairing)
{
  const int64_t m = qkv->shape[0];
  REQUIRE (s, n_q > 0 && n_kv > 0 && n_q <= 4096 && n_kv <= 4096);
  REQUIRE (s, m > 0 && m <= INT32_MAX && tensor_count (qkv) % (m * (n_q + 2 * n_kv)) == 0);
  const int64_t d = tensor_count (qkv) / (m * (n_q + 2 * n_kv));
  REQUIRE (s, qkv->dtype == device_activation (&s->caps) && table->dtype == DTYPE_F32);
  REQUIRE (s, q_weight->dtype == DTYPE_F32 && k_weight->dtype == DTYPE_F32);
  REQUIRE (s, tensor_count (q_weight) == d && tensor_count (k_weight) == d);
  REQUIRE (s, tensor_count (table) == m * d);
  switch (d)
    {
    case 16:
      return launch<2> (s, qkv, n_q, n_kv, q_weight, k_weight, eps, table, pairing);
    case 32:
      return launch<4> (s, qkv, n_q, n_kv, q_weight, k_weight, eps, table, pairing);
    case 64:
      return launch<8> (s, qkv, n_q, n_kv, q_weight, k_weight, eps, table, pairing);
    case 128:
      return launch<16> (s, qkv, n_q, n_kv, q_weight, k_weight, eps, table, pairing);
    case 256:
      return launch<32> (s, qkv, n_q, n_kv, q_weight, k_weight, eps, table, pairing);
    default:
      return stream_refuse (s, __func__, "heads of 16, 32, 64, 128 or 256");
    }
}
