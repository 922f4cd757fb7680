/* SPDX-License-Identifier: Apache-2.0
 *
 * cpu-model.h - a model folder, the processor and an arena, for tests of one network alone
 */
#pragma once

#include "engine/models.h"

G_BEGIN_DECLS

typedef struct
{
  Device device;
  Checkpoint *checkpoint;
  Ops ops; /* the processor's, in which a test may exchange functions */
  Context ctx;
  Arena arena;
} CpuModel;

/* `dir` NULL: the tiny model of tests/data. `transformer` NULL: the folder's own. Fails the test if
 * the model cannot be opened. *self must stay where it is. */
void cpu_model_open (CpuModel *self, const char *dir, const char *transformer, gsize arena_bytes);
void cpu_model_close (CpuModel *self);

/* For a part's weights; a quantised transformer's if the folder or `transformer` is one. */
Loader cpu_model_loader (CpuModel *self, CheckpointPart part);
/* Fails the test if what `loader` made is not whole. */
void cpu_model_assert_loaded (const Loader *loader);

G_END_DECLS
