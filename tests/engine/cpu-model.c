/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/cpu-model.h"

void
cpu_model_open (CpuModel *self, const char *dir, const char *transformer, gsize arena_bytes)
{
  g_autofree char *tiny = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage", NULL);
  g_autoptr (GError) error = NULL;

  *self = (CpuModel){ 0 };
  device_open (&self->device, &(EngineOptions){ .device = "cpu" }, &error);
  g_assert_no_error (error);
  self->checkpoint = checkpoint_open (dir != NULL ? dir : tiny, transformer, NULL, &error);
  g_assert_no_error (error);
  self->ops = *self->device.ops;
  g_assert_cmpint (arena_init (&self->arena, &self->ops, self->device.stream, arena_bytes), ==,
                   STATUS_OK);
  self->ctx = (Context){ .ops = &self->ops,
                         .stream = self->device.stream,
                         .activation = device_activation (&self->device.caps),
                         .residual = device_residual (&self->device.caps),
                         .arena = &self->arena,
                         .caps = &self->device.caps,
                         .options = &self->device.options };
}

void
cpu_model_close (CpuModel *self)
{
  arena_clear (&self->arena);
  checkpoint_free (self->checkpoint);
  device_close (&self->device);
}

Loader
cpu_model_loader (CpuModel *self, CheckpointPart part)
{
  Loader loader = { .ctx = &self->ctx };

  loader.weights = checkpoint_weights (self->checkpoint, part,
                                       checkpoint_has_svdquant (self->checkpoint), &loader.error);
  g_assert_no_error (loader.error);
  return loader;
}

void
cpu_model_assert_loaded (const Loader *loader)
{
  g_assert_no_error (loader->error);
  g_assert_cmpint (loader->status, ==, STATUS_OK);
}
