/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kernels/bench-bare.h"

#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_ARGS 4

struct Bare
{
  dnnl_engine_t engine;
  dnnl_stream_t queue;
  dnnl_primitive_t primitive;
  dnnl_exec_arg_t args[N_ARGS];
  void *arrays[N_ARGS];
};

/* A benchmark without its yardstick has nothing to say: stop. */
static void
must (dnnl_status_t status)
{
  if (status == dnnl_success)
    return;
  fprintf (stderr, "bench: oneDNN failed with status %d\n", (int)status);
  exit (1);
}

static Bare *
make (const void *descriptor)
{
  static const int names[N_ARGS] = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST };
  static const dnnl_query_t queries[N_ARGS]
      = { dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_weights_md, dnnl_query_dst_md };
  Bare *self = calloc (1, sizeof *self);
  dnnl_primitive_desc_t description;

  must (dnnl_engine_create (&self->engine, dnnl_cpu, 0));
  must (dnnl_stream_create (&self->queue, self->engine, dnnl_stream_default_flags));
  must (dnnl_primitive_desc_create (&description, descriptor, NULL, self->engine, NULL));
  must (dnnl_primitive_create (&self->primitive, description));
  for (int i = 0; i < N_ARGS; i++)
    {
      const dnnl_memory_desc_t *layout
          = dnnl_primitive_desc_query_md (description, queries[i], names[i] == DNNL_ARG_BIAS);
      size_t bytes = (dnnl_memory_desc_get_size (layout) + 255) / 256 * 256;

      self->arrays[i] = aligned_alloc (256, bytes);
      memset (self->arrays[i], 0, bytes);
      self->args[i].arg = names[i];
      must (dnnl_memory_create (&self->args[i].memory, layout, self->engine, self->arrays[i]));
    }
  dnnl_primitive_desc_destroy (description);
  return self;
}

Bare *
bare_product (int64_t m, int64_t n, int64_t k)
{
  dnnl_memory_desc_t x, weight, bias, out;
  dnnl_matmul_desc_t descriptor;

  must (dnnl_memory_desc_init_by_tag (&x, 2, (dnnl_dims_t){ m, k }, dnnl_f32, dnnl_ab));
  must (dnnl_memory_desc_init_by_tag (&weight, 2, (dnnl_dims_t){ k, n }, dnnl_f32,
                                      dnnl_format_tag_any));
  must (dnnl_memory_desc_init_by_tag (&bias, 2, (dnnl_dims_t){ 1, n }, dnnl_f32, dnnl_ab));
  must (dnnl_memory_desc_init_by_tag (&out, 2, (dnnl_dims_t){ m, n }, dnnl_f32, dnnl_ab));
  must (dnnl_matmul_desc_init (&descriptor, &x, &weight, &bias, &out));
  return make (&descriptor);
}

Bare *
bare_conv (int64_t height, int64_t width, int64_t c_in, int64_t c_out, int size, int stride)
{
  int64_t before = size == 3 && stride == 1 ? 1 : 0;
  int64_t rows = height / stride;
  int64_t columns = width / stride;
  dnnl_dims_t strides = { stride, stride };
  dnnl_dims_t left = { before, before };
  dnnl_dims_t right = { (rows - 1) * stride + size - before - height,
                        (columns - 1) * stride + size - before - width };
  dnnl_memory_desc_t x, weight, bias, out;
  dnnl_convolution_desc_t descriptor;

  must (dnnl_memory_desc_init_by_tag (&x, 4, (dnnl_dims_t){ 1, c_in, height, width }, dnnl_f32,
                                      dnnl_format_tag_any));
  must (dnnl_memory_desc_init_by_tag (&weight, 4, (dnnl_dims_t){ c_out, c_in, size, size },
                                      dnnl_f32, dnnl_format_tag_any));
  must (dnnl_memory_desc_init_by_tag (&bias, 1, (dnnl_dims_t){ c_out }, dnnl_f32, dnnl_a));
  must (dnnl_memory_desc_init_by_tag (&out, 4, (dnnl_dims_t){ 1, c_out, rows, columns }, dnnl_f32,
                                      dnnl_format_tag_any));
  must (dnnl_convolution_forward_desc_init (&descriptor, dnnl_forward_inference,
                                            dnnl_convolution_direct, &x, &weight, &bias, &out,
                                            strides, left, right));
  return make (&descriptor);
}

void
bare_run (Bare *self)
{
  must (dnnl_primitive_execute (self->primitive, self->queue, N_ARGS, self->args));
  must (dnnl_stream_wait (self->queue));
}

void
bare_free (Bare *self)
{
  if (self == NULL)
    return;
  for (int i = 0; i < N_ARGS; i++)
    {
      dnnl_memory_destroy (self->args[i].memory);
      free (self->arrays[i]);
    }
  dnnl_primitive_destroy (self->primitive);
  dnnl_stream_destroy (self->queue);
  dnnl_engine_destroy (self->engine);
  free (self);
}
