/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/cpu/primitives.h"

#include <stdlib.h>
#include <string.h>

#define CACHE_SIZE 96
#define N_ARGS     5

static const int arg_names[N_ARGS]
    = { DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD };

struct Primitive
{
  PrimitiveKey key;
  uint64_t used; /* when, by the cache's clock; 0 = empty */
  dnnl_primitive_t primitive;
  dnnl_memory_desc_t layouts[N_ARGS];
  dnnl_memory_t arrays[N_ARGS];
};

struct PrimitiveCache
{
  uint64_t clock;
  Primitive entries[CACHE_SIZE];
};

PrimitiveCache *
primitive_cache_new (void)
{
  return calloc (1, sizeof (PrimitiveCache));
}

static void
clear (Primitive *self)
{
  for (int i = 0; i < N_ARGS; i++)
    if (self->arrays[i] != NULL)
      dnnl_memory_destroy (self->arrays[i]);
  if (self->primitive != NULL)
    dnnl_primitive_destroy (self->primitive);
  memset (self, 0, sizeof *self);
}

void
primitive_cache_free (PrimitiveCache *self)
{
  if (self == NULL)
    return;
  for (int i = 0; i < CACHE_SIZE; i++)
    clear (&self->entries[i]);
  free (self);
}

Primitive *
primitive_find (Stream *s, const PrimitiveKey *key)
{
  PrimitiveCache *cache = s->primitives;

  for (int i = 0; i < CACHE_SIZE; i++)
    {
      Primitive *entry = &cache->entries[i];

      if (entry->used != 0 && memcmp (&entry->key, key, sizeof *key) == 0)
        {
          entry->used = ++cache->clock;
          return entry;
        }
    }
  return NULL;
}

Status
primitive_status (Stream *s, dnnl_status_t status, const char *what)
{
  switch (status)
    {
    case dnnl_success:
      return STATUS_OK;
    case dnnl_out_of_memory:
      return cpu_fail (s, STATUS_NO_MEMORY, "oneDNN has no memory for %s", what);
    default:
      return cpu_fail (s, STATUS_UNSUPPORTED, "oneDNN cannot do %s (status %d)", what, (int)status);
    }
}

static dnnl_status_t
set_accumulate (dnnl_primitive_attr_t attributes)
{
  dnnl_post_ops_t post_ops;
  dnnl_status_t status = dnnl_post_ops_create (&post_ops);

  if (status != dnnl_success)
    return status;
  status = dnnl_post_ops_append_sum (post_ops, 1.0f);
  if (status == dnnl_success)
    status = dnnl_primitive_attr_set_post_ops (attributes, post_ops);
  dnnl_post_ops_destroy (post_ops);
  return status;
}

static dnnl_status_t
describe (Stream *s, const void *descriptor, bool accumulate, dnnl_primitive_desc_t *out)
{
  dnnl_primitive_attr_t attributes;
  dnnl_status_t status = dnnl_primitive_attr_create (&attributes);

  if (status != dnnl_success)
    return status;
  status = dnnl_primitive_attr_set_scratchpad_mode (attributes, dnnl_scratchpad_mode_user);
  if (status == dnnl_success && accumulate)
    status = set_accumulate (attributes);
  if (status == dnnl_success)
    status = dnnl_primitive_desc_create (out, descriptor, attributes, s->engine, NULL);
  dnnl_primitive_attr_destroy (attributes);
  return status;
}

static dnnl_status_t
build (Stream *s, const void *descriptor, bool accumulate, Primitive *self)
{
  static const dnnl_query_t queries[N_ARGS]
      = { dnnl_query_src_md, dnnl_query_weights_md, dnnl_query_weights_md, dnnl_query_dst_md,
          dnnl_query_scratchpad_md };
  dnnl_primitive_desc_t description;
  dnnl_status_t status = describe (s, descriptor, accumulate, &description);

  if (status != dnnl_success)
    return status;
  status = dnnl_primitive_create (&self->primitive, description);
  for (int i = 0; i < N_ARGS && status == dnnl_success; i++)
    {
      int index = arg_names[i] == DNNL_ARG_BIAS ? 1 : 0;
      const dnnl_memory_desc_t *layout
          = dnnl_primitive_desc_query_md (description, queries[i], index);

      if (layout == NULL || layout->ndims == 0)
        continue;
      self->layouts[i] = *layout;
      status = dnnl_memory_create (&self->arrays[i], layout, s->engine, DNNL_MEMORY_NONE);
    }
  dnnl_primitive_desc_destroy (description);
  return status;
}

Status
primitive_add (Stream *s, const PrimitiveKey *key, const void *descriptor, bool accumulate,
               Primitive **out)
{
  PrimitiveCache *cache = s->primitives;
  Primitive *entry = &cache->entries[0];
  dnnl_status_t status;
  int threads;

  for (int i = 1; i < CACHE_SIZE; i++)
    if (cache->entries[i].used < entry->used)
      entry = &cache->entries[i];
  clear (entry);

  threads = cpu_threads_enter (s);
  status = build (s, descriptor, accumulate, entry);
  cpu_threads_restore (threads);
  if (status != dnnl_success)
    {
      clear (entry);
      *out = NULL;
      return primitive_status (s, status, "this shape");
    }
  entry->key = *key;
  entry->used = ++cache->clock;
  *out = entry;
  return STATUS_OK;
}

const dnnl_memory_desc_t *
primitive_layout (const Primitive *self, int arg)
{
  for (int i = 0; i < N_ARGS; i++)
    if (arg_names[i] == arg)
      return &self->layouts[i];
  return NULL;
}

Status
primitive_run (Stream *s, Primitive *self, const void *x, const void *weight, const float *bias,
               void *out)
{
  /* oneDNN takes every array as writable, and leaves inputs alone. */
  void *handles[N_ARGS]
      = { (void *)(uintptr_t)x, (void *)(uintptr_t)weight, (void *)(uintptr_t)bias, out, NULL };
  dnnl_exec_arg_t args[N_ARGS];
  dnnl_status_t status = dnnl_success;
  int n_args = 0;
  int threads;

  CHECK (cpu_workspace (s, dnnl_memory_desc_get_size (&self->layouts[N_ARGS - 1]),
                        &handles[N_ARGS - 1]));
  for (int i = 0; i < N_ARGS && status == dnnl_success; i++)
    if (self->arrays[i] != NULL)
      {
        args[n_args++] = (dnnl_exec_arg_t){ arg_names[i], self->arrays[i] };
        status = dnnl_memory_set_data_handle (self->arrays[i], handles[i]);
      }
  if (status == dnnl_success)
    {
      threads = cpu_threads_enter (s);
      status = dnnl_primitive_execute (self->primitive, s->queue, n_args, args);
      if (status == dnnl_success)
        status = dnnl_stream_wait (s->queue);
      cpu_threads_restore (threads);
    }
  return primitive_status (s, status, "this work");
}

static dnnl_status_t
describe_product (const Product *product, bool bias, dnnl_matmul_desc_t *out)
{
  const dnnl_data_type_t type = product->bf16 ? dnnl_bf16 : dnnl_f32;
  const dnnl_dims_t x_dims = { product->m, product->k };
  const dnnl_dims_t x_strides = { product->k, 1 };
  const dnnl_dims_t weight_dims = { product->k, product->n };
  const dnnl_dims_t weight_strides = { 1, product->k };
  const dnnl_dims_t bias_dims = { 1, product->n };
  const dnnl_dims_t bias_strides = { product->n, 1 };
  const dnnl_dims_t out_dims = { product->m, product->n };
  const dnnl_dims_t out_strides = { product->out_stride, 1 };
  dnnl_memory_desc_t x, weight, vector, result;

  if (dnnl_memory_desc_init_by_strides (&x, 2, x_dims, type, x_strides) != dnnl_success
      || dnnl_memory_desc_init_by_strides (&weight, 2, weight_dims, type, weight_strides)
             != dnnl_success
      || dnnl_memory_desc_init_by_strides (&vector, 2, bias_dims, dnnl_f32, bias_strides)
             != dnnl_success
      || dnnl_memory_desc_init_by_strides (&result, 2, out_dims, dnnl_f32, out_strides)
             != dnnl_success)
    return dnnl_invalid_arguments;
  return dnnl_matmul_desc_init (out, &x, &weight, bias ? &vector : NULL, &result);
}

Status
cpu_product (Stream *s, const Product *product, const void *x, const void *weight,
             const float *bias, float *out)
{
  PrimitiveKey key = { { 'P', product->m, product->n, product->k, product->out_stride,
                         product->bf16, bias != NULL } };
  Primitive *primitive = primitive_find (s, &key);

  if (primitive == NULL)
    {
      dnnl_matmul_desc_t descriptor;

      CHECK (primitive_status (s, describe_product (product, bias != NULL, &descriptor),
                               "a matrix product"));
      CHECK (primitive_add (s, &key, &descriptor, false, &primitive));
    }
  return primitive_run (s, primitive, x, weight, bias, out);
}
