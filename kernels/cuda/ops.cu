/* SPDX-License-Identifier: Apache-2.0
 *
 * The CUDA device as the engine sees it: one table, filled from the files beside this one.
 */
#include "kernels/cuda/launchers.h"
#include "kernels/cuda/ops.cuh"

/* Tables are read from C, where the order of their entries is the header's business; C++17 has no
 * designated initialisers, so the table is filled by a function that runs at compile time. */
static constexpr Ops
make_ops ()
{
  Ops ops = {};
  ops.name = "cuda";

  ops.query = cuda_query;
  ops.open = cuda_open;
  ops.close = cuda_close;
  ops.wait = cuda_wait;
  ops.alloc = cuda_alloc;
  ops.free = stream_free;
  ops.allocated = cuda_allocated;
  ops.peak = cuda_peak;
  ops.set_budget = cuda_set_budget;
  ops.upload = cuda_upload;
  ops.download = cuda_download;
  ops.copy = cuda_copy;
  ops.detail = cuda_detail;
  ops.working_memory = SCRATCH_BYTES + STAGING_SLOTS * STAGING_BYTES;
  ops.trim = cuda_trim;

  ops.host_alloc = cuda_host_alloc;
  ops.host_free = cuda_host_free;
  ops.transfer = cuda_transfer;
  ops.transfer_wait = cuda_transfer_wait;
  ops.transfer_used = cuda_transfer_used;

  ops.record = cuda_record;
  ops.record_end = cuda_record_end;
  ops.replay = cuda_replay;
  ops.recording_free = cuda_recording_free;

  ops.rms_norm = cuda_rms_norm;
  ops.residual_norm = cuda_residual_norm;
  ops.layer_norm = cuda_layer_norm;
  ops.qk_norm_rope = cuda_qk_norm_rope;
  ops.attention = cuda_attention;
  ops.silu_mul = cuda_silu_mul;
  ops.silu = cuda_silu;
  ops.modulation = cuda_modulation;
  ops.one_plus = cuda_one_plus;
  ops.fill_rows = cuda_fill_rows;

  ops.group_norm = cuda_group_norm;
  ops.group_moments = cuda_group_moments;
  ops.group_norm_by = cuda_group_norm_by;
  ops.conv_prepare = cuda_conv_prepare;
  ops.conv_bytes = cuda_conv_bytes;
  ops.conv2d = cuda_conv2d;
  ops.conv_release = cuda_conv_release;
  return ops;
}

extern "C" const Ops ops_cuda = make_ops ();
