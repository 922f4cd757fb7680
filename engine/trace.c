/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/trace.h"

struct _Trace
{
  SafetensorsWriter *writer;
  GPtrArray *copies; /* of g_malloc'ed data that the writer borrows */
};

Trace *
trace_new (void)
{
  Trace *self = g_new0 (Trace, 1);

  self->writer = safetensors_writer_new ();
  self->copies = g_ptr_array_new_with_free_func (g_free);
  return self;
}

void
trace_free (Trace *self)
{
  if (self == NULL)
    return;
  safetensors_writer_free (self->writer);
  g_ptr_array_unref (self->copies);
  g_free (self);
}

void
trace_add (Trace *self, const char *name, DType dtype, int rank, const int64_t *shape,
           gconstpointer data)
{
  gsize bytes = dtype_size (dtype);
  gpointer copy;

  if (self == NULL)
    return;
  for (int i = 0; i < rank; i++)
    bytes *= (gsize)shape[i];
  copy = g_memdup2 (data, bytes);
  g_ptr_array_add (self->copies, copy);
  safetensors_writer_add (self->writer, name, dtype, rank, shape, copy);
}

gboolean
trace_write (Trace *self, const char *path, GError **error)
{
  return safetensors_writer_write (self->writer, path, error);
}
