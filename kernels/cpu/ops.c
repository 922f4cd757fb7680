/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU's table, with the entries that are one loop.
 */
#include "kernels/cpu/stream.h"

#include <math.h>
#include <string.h>

/* Elements that a thread takes at a time. */
#define CHUNK 4096

static Status
cpu_wait (Stream *s)
{
  return STATUS_OK;
}

static void
cpu_free (Stream *s, void *memory)
{
  host_free (&s->memory, memory);
}

static uint64_t
cpu_allocated (Stream *s)
{
  return s->memory.bytes;
}

static void
cpu_set_budget (Stream *s, uint64_t bytes)
{
  s->memory.budget = bytes;
}

static uint64_t
cpu_peak (Stream *s, bool restart)
{
  return host_peak (&s->memory, restart);
}

static const char *
cpu_detail (Stream *s)
{
  return s != NULL ? s->detail : "";
}

static Status
cpu_transfer (Stream *s, const Tensor *from, Tensor *to)
{
  int64_t count = tensor_count (from);
  Status status;

  if (from->dtype == DTYPE_BF16 && to->dtype == DTYPE_F32 && tensor_count (to) == count)
    {
      s->simd->widen_bf16 (from->data, to->data, count);
      return STATUS_OK;
    }
  status = host_convert (from, to);
  return status == STATUS_OK ? status
                             : cpu_fail (s, status, "cannot copy %s to %s or sizes differ",
                                         dtype_name (from->dtype), dtype_name (to->dtype));
}

/* -- weights that come and go: within one memory, so at once --------------------------------- */

static Status
cpu_move (Stream *s, int slot, void *to, const void *from, size_t bytes)
{
  memcpy (to, from, bytes);
  return STATUS_OK;
}

static Status
cpu_slot (Stream *s, int slot)
{
  return STATUS_OK;
}

/* -- maths ------------------------------------------------------------------------------------ */

static Status
cpu_silu (Stream *s, const Tensor *x, Tensor *out)
{
  int64_t count = tensor_count (x);
  const float *in = x->data;
  float *to = out->data;

  if (x->dtype != DTYPE_F32 || out->dtype != DTYPE_F32 || tensor_count (out) != count)
    return cpu_fail (s, STATUS_UNSUPPORTED, "SiLU of mismatched shapes");
#pragma omp parallel for num_threads(s->threads) if (count > PARALLEL_MIN)
  for (int64_t i = 0; i < count; i += CHUNK)
    s->simd->silu (in + i, to + i, count - i < CHUNK ? count - i : CHUNK);
  return STATUS_OK;
}

static Status
cpu_silu_mul (Stream *s, const Tensor *x, int turn, Tensor *out)
{
  int64_t f = x->shape[1] / 2, half = turn > 0 ? turn : f;
  const float *in = x->data;
  float *to = out->data;

  if (x->rank != 2 || x->dtype != DTYPE_F32 || out->dtype != DTYPE_F32 || x->shape[1] % 2 != 0
      || tensor_count (out) != x->shape[0] * f || f % half != 0)
    return cpu_fail (s, STATUS_UNSUPPORTED, "SwiGLU of mismatched shapes");
#pragma omp parallel for num_threads(s->threads) if (x->shape[0] * f > PARALLEL_MIN)
  for (int64_t row = 0; row < x->shape[0]; row++)
    for (int64_t i = row * f; i < (row + 1) * f; i += half)
      s->simd->silu_mul (in + 2 * i, in + 2 * i + half, to + i, half);
  return STATUS_OK;
}

static Status
cpu_modulation (Stream *s, const Tensor *m, Tensor *out)
{
  int64_t count = tensor_count (m);
  int64_t d = m->shape[1] / 4;
  const float *in = m->data;
  float *to = out->data;

  if (m->rank != 2 || m->dtype != DTYPE_F32 || out->dtype != DTYPE_F32 || m->shape[1] % 4 != 0
      || tensor_count (out) != count)
    return cpu_fail (s, STATUS_UNSUPPORTED, "modulation of mismatched shapes");
  for (int64_t i = 0; i < count; i++)
    to[i] = i / d % 2 == 1 ? tanhf (in[i]) : 1.0f + in[i];
  return STATUS_OK;
}

static Status
cpu_one_plus (Stream *s, const Tensor *x, Tensor *out)
{
  int64_t count = tensor_count (x);
  const float *in = x->data;
  float *to = out->data;

  if (x->dtype != DTYPE_F32 || out->dtype != DTYPE_F32 || tensor_count (out) != count)
    return cpu_fail (s, STATUS_UNSUPPORTED, "one plus x of mismatched shapes");
  for (int64_t i = 0; i < count; i++)
    to[i] = 1.0f + in[i];
  return STATUS_OK;
}

static Status
cpu_fill_rows (Stream *s, const Tensor *row, Tensor *out)
{
  int64_t d = tensor_count (row);

  if (row->dtype != DTYPE_F32 || out->dtype != DTYPE_F32 || out->rank != 2 || out->shape[1] != d)
    return cpu_fail (s, STATUS_UNSUPPORTED, "fill of mismatched shapes");
  for (int64_t i = 0; i < out->shape[0]; i++)
    memcpy ((float *)out->data + i * d, row->data, (size_t)d * sizeof (float));
  return STATUS_OK;
}

const Ops ops_cpu = {
  .name = "cpu",
  .query = cpu_query,
  .open = cpu_open,
  .close = cpu_close,
  .wait = cpu_wait,
  .alloc = cpu_alloc,
  .free = cpu_free,
  .allocated = cpu_allocated,
  .peak = cpu_peak,
  .set_budget = cpu_set_budget,
  .upload = cpu_transfer,
  .download = cpu_transfer,
  .copy = cpu_transfer,
  .detail = cpu_detail,
  .working_memory = CPU_WORKING_MEMORY,
  .trim = cpu_trim,
  .host_alloc = cpu_alloc,
  .host_free = cpu_free,
  .transfer = cpu_move,
  .transfer_wait = cpu_slot,
  .transfer_used = cpu_slot,
  .rms_norm = cpu_rms_norm,
  .residual_norm = cpu_residual_norm,
  .layer_norm = cpu_layer_norm,
  .qk_norm_rope = cpu_qk_norm_rope,
  .attention = cpu_attention,
  .silu_mul = cpu_silu_mul,
  .silu = cpu_silu,
  .modulation = cpu_modulation,
  .one_plus = cpu_one_plus,
  .fill_rows = cpu_fill_rows,
  .group_norm = cpu_group_norm,
  .group_moments = cpu_group_moments,
  .group_norm_by = cpu_group_norm_by,
  .conv_prepare = cpu_conv_prepare,
  .conv_bytes = cpu_conv_bytes,
  .conv2d = cpu_conv2d,
  .conv_release = cpu_conv_release,
};
