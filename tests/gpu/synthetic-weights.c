/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the transformer's tensors lie in the block of a model of random weights, so that another
 * program can compute with the same numbers.
 *
 *   synthetic-weights MODEL BLOCK INDEX
 *
 * BLOCK gets the block's bytes, BF16. INDEX gets a line a tensor: its name, where it begins in the
 * block in numbers (it goes on from the block's start where it passes the end), -1 for all ones,
 * and its extents.
 */
#include "engine/checkpoint/inventory.h"
#include "engine/checkpoint/synthetic.h"

#include <stdio.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)64 << 20)

typedef struct
{
  Weights *weights;
  const char *base; /* the first tensor lies at the block's start */
  FILE *index;
} Export;

static void
on_tensor (const char *name, int rank, const int64_t *shape, gpointer user_data)
{
  Export *self = user_data;
  Tensor tensor;
  ptrdiff_t at;

  if (!weights_get_shaped (self->weights, &tensor, name, NULL, rank, shape))
    g_error ("%s is not there", name);
  if (self->base == NULL)
    self->base = tensor.data;
  at = (const char *)tensor.data - self->base;
  /* Norms' weights are ones, and lie elsewhere. */
  if (at < 0 || (size_t)at >= BLOCK_BYTES)
    at = -(ptrdiff_t)sizeof (guint16);
  fprintf (self->index, "%s %td", name, at / (ptrdiff_t)sizeof (guint16));
  for (int i = 0; i < rank; i++)
    fprintf (self->index, " %" G_GINT64_FORMAT, shape[i]);
  fprintf (self->index, "\n");
}

int
main (int argc, char **argv)
{
  g_autoptr (GError) error = NULL;
  g_autoptr (Checkpoint) checkpoint = argc == 4 ? synthetic_open (argv[1], NULL, 0, &error) : NULL;
  Export self = { 0 };
  FILE *block;
  gboolean good;

  if (checkpoint == NULL)
    {
      fprintf (stderr, "%s\n",
               error != NULL ? error->message : "usage: synthetic-weights MODEL BLOCK INDEX");
      return 2;
    }
  self.weights = checkpoint_weights (checkpoint, CHECKPOINT_TRANSFORMER, FALSE, NULL);
  self.index = fopen (argv[3], "w");
  block = fopen (argv[2], "wb");
  if (self.index == NULL || block == NULL)
    {
      perror ("synthetic-weights");
      return 1;
    }
  inventory_transformer (checkpoint_transformer (checkpoint), on_tensor, &self);
  good = fwrite (self.base, BLOCK_BYTES, 1, block) == 1;
  good = fclose (block) == 0 && good;
  return fclose (self.index) == 0 && good ? 0 : 1;
}
