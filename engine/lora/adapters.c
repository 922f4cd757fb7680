/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/lora/adapters.h"

#include "engine/linear.h"
#include "engine/lora/lora-file.h"

#include <glib/gstdio.h>
#include <string.h>

#define RANK_UNIT   16   /* ranks are padded to it with zeros: what all products take */
#define SLAB_ROWS   1024 /* of outputs that the up factor makes at a time */
#define LONGEST_ROW 4096 /* of a sum */

/* One file's share in a layer. */
typedef struct
{
  LoraPair pair;
  double strength;
} Share;

/* All that is added to one layer. */
typedef struct
{
  int64_t n, k;
  int64_t ranks;      /* of all shares */
  int64_t rank;       /* the same, padded as what runs it wants */
  GArray *shares;     /* Share */
  const Linear *base; /* the layer that it is loaded for; NULL until then */
  Linear *whole;      /* base and this as one; or NULL, and these */
  Linear *down, *up;
  void *held[2]; /* their weights, where the backend uses them in place */
  int turn;      /* order of up's rows: see Linear.turn */
} Adapter;

/* Which file a path leads to, and as it was when; all 0: none. */
typedef struct
{
  guint64 size, inode;
  gint64 changed; /* ns */
} FileState;

/* A file as it was asked for. */
typedef struct
{
  char *name, *path;
  double strength;
  FileState state;
  LoraFile *lora;
  char *left_out; /* lines */
} File;

struct _Adapters
{
  LoraTargets *targets;
  GArray *files;       /* File */
  GHashTable *by_name; /* Linear.name (interned) -> Adapter */
};

/* -- files --------------------------------------------------------------------------------------
 */

static void
adapter_free (gpointer data)
{
  Adapter *self = data;

  g_array_unref (self->shares);
  g_free (self);
}

static void
file_clear (gpointer data)
{
  File *self = data;

  lora_file_free (self->lora);
  g_free (self->name);
  g_free (self->path);
  g_free (self->left_out);
}

/* Where `name` is (transfer full). */
static char *
find_file (const char *name, const char *const *folders, GError **error)
{
  g_autofree char *list = NULL;

  if (strchr (name, '/') != NULL)
    return g_strdup (name);
  for (guint i = 0; folders[i] != NULL; i++)
    {
      g_autofree char *path = g_build_filename (folders[i], name, NULL);

      if (g_file_test (path, G_FILE_TEST_IS_REGULAR))
        return g_steal_pointer (&path);
    }
  list = g_strjoinv (" or ", (char **)folders);
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "there is no LoRA %s in %s", name, list);
  return NULL;
}

/* Two files written within a tick of the clock differ by their inodes. */
static FileState
read_state (const char *path)
{
  GStatBuf state;

  if (g_stat (path, &state) != 0)
    return (FileState){ 0 };
  return (FileState){ (guint64)state.st_size, (guint64)state.st_ino,
                      (gint64)state.st_mtim.tv_sec * 1000000000 + state.st_mtim.tv_nsec };
}

static Adapter *
adapter_for (Adapters *self, const LoraTarget *target)
{
  Adapter *adapter = g_hash_table_lookup (self->by_name, target->linear);

  if (adapter != NULL)
    return adapter;
  adapter = g_new0 (Adapter, 1);
  adapter->n = target->total;
  adapter->k = target->in;
  adapter->shares = g_array_new (FALSE, FALSE, sizeof (Share));
  g_hash_table_insert (self->by_name, (gpointer)target->linear, adapter);
  return adapter;
}

static void
add_shares (Adapters *self, const File *file)
{
  for (guint i = 0; i < file->lora->pairs->len && file->strength != 0.0; i++)
    {
      Share share = { g_array_index (file->lora->pairs, LoraPair, i), file->strength };
      Adapter *adapter = adapter_for (self, share.pair.target);

      g_array_append_val (adapter->shares, share);
      adapter->ranks += share.pair.down.shape[0];
    }
}

static gboolean
open_file (Adapters *self, const EngineLora *lora, const char *const *folders, gboolean check,
           GError **error)
{
  File file = { .name = g_strdup (lora->file), .strength = lora->strength };

  file.path = find_file (lora->file, folders, error);
  if (file.path != NULL)
    {
      file.state = read_state (file.path);
      file.lora = lora_file_open (file.path, self->targets, check, error);
    }
  if (file.lora != NULL)
    {
      g_ptr_array_add (file.lora->left_out, NULL);
      file.left_out = g_strjoinv ("\n", (char **)file.lora->left_out->pdata);
      g_ptr_array_remove_index (file.lora->left_out, file.lora->left_out->len - 1);
      add_shares (self, &file);
    }
  g_array_append_val (self->files, file);
  return file.lora != NULL;
}

Adapters *
adapters_open (const EngineLora *loras, guint n_loras, const char *const *folders,
               const TransformerConfig *config, gboolean check, GError **error)
{
  Adapters *self = g_new0 (Adapters, 1);

  self->targets = lora_targets_new (config);
  self->files = g_array_new (FALSE, FALSE, sizeof (File));
  g_array_set_clear_func (self->files, file_clear);
  self->by_name = g_hash_table_new_full (g_direct_hash, g_direct_equal, NULL, adapter_free);
  for (guint i = 0; i < n_loras; i++)
    if (!open_file (self, &loras[i], folders, check, error))
      {
        adapters_free (NULL, self);
        return NULL;
      }
  return self;
}

void
adapters_free (const Context *ctx, Adapters *self)
{
  if (self == NULL)
    return;
  if (ctx != NULL)
    adapters_unload (self, ctx);
  g_hash_table_unref (self->by_name);
  g_array_unref (self->files);
  lora_targets_free (self->targets);
  g_free (self);
}

gboolean
adapters_match (const Adapters *self, const EngineLora *loras, guint n_loras)
{
  if (self == NULL)
    return n_loras == 0;
  if (self->files->len != n_loras)
    return FALSE;
  for (guint i = 0; i < n_loras; i++)
    {
      const File *file = &g_array_index (self->files, File, i);
      FileState now = read_state (file->path);

      if (!g_str_equal (file->name, loras[i].file) || file->strength != loras[i].strength
          || memcmp (&file->state, &now, sizeof now) != 0)
        return FALSE;
    }
  return TRUE;
}

gboolean
adapters_are_any (const Adapters *self)
{
  return self != NULL && g_hash_table_size (self->by_name) > 0;
}

guint
adapters_count (const Adapters *self)
{
  return self != NULL ? self->files->len : 0;
}

EngineLoraReport
adapters_report (const Adapters *self, guint index)
{
  const File *file = &g_array_index (self->files, File, index);

  return (EngineLoraReport){ .file = file->path,
                             .strength = file->strength,
                             .applied = file->lora->pairs->len,
                             .left_out = file->lora->left_out->len,
                             .reasons = file->left_out };
}

/* -- on the device ------------------------------------------------------------------------------
 */

/* Ranks of an adapter that runs beside its layer. */
static int64_t
rank_beside (const Adapter *self)
{
  return (self->ranks + RANK_UNIT - 1) / RANK_UNIT * RANK_UNIT;
}

LinearMemory
adapters_measure (const Adapters *self, const Context *ctx, const Transformer *transformer)
{
  LinearMemory all = { 0 };
  GHashTableIter iter;
  gpointer name, value;

  if (self == NULL)
    return all;
  g_hash_table_iter_init (&iter, self->by_name);
  while (g_hash_table_iter_next (&iter, &name, &value))
    {
      const Adapter *a = value;
      const Linear *base = transformer_find_linear (transformer, name);
      LinearMemory one = { 0 };

      if (base != NULL)
        one = linear_measure_adapted (base, a->ranks);
      if (one.weights == 0)
        one.weights = (guint64)(rank_beside (a) * (a->n + a->k)) * dtype_size (ctx->activation);
      all.weights += one.weights;
      all.loading = MAX (all.loading, one.loading);
      all.workspace = MAX (all.workspace, one.workspace);
    }
  return all;
}

/* down [rank, K]: the files' rows, one below the other. */
static void
fill_down (const Adapter *self, float *down)
{
  memset (down, 0, (gsize)(self->rank * self->k) * sizeof *down);
  for (guint i = 0; i < self->shares->len; i++)
    {
      const Tensor *from = &g_array_index (self->shares, Share, i).pair.down;
      int64_t count = tensor_count (from);

      for (int64_t j = 0; j < count; j++)
        down[j] = tensor_get (from, j);
      down += count;
    }
}

/* Where row `row` of [w1; w3] is in a layer that has them in turn. */
static int64_t
place_of (int64_t row, int64_t n, int turn)
{
  int64_t f = n / 2, r = row % f;

  return turn == 0 ? row : 2 * (r - r % turn) + r % turn + row / f * turn;
}

/* up [N, rank], with the strengths; zero where a file does not touch a row. */
static void
fill_up (const Adapter *self, float *up)
{
  int64_t column = 0;

  memset (up, 0, (gsize)(self->n * self->rank) * sizeof *up);
  for (guint i = 0; i < self->shares->len; i++)
    {
      const Share *share = &g_array_index (self->shares, Share, i);
      const Tensor *from = &share->pair.up;
      int64_t rows = from->shape[0], rank = from->shape[1];
      float factor = (float)(share->strength * share->pair.scale);

      for (int64_t row = 0; row < rows; row++)
        {
          int64_t place = place_of (share->pair.target->first + row, self->n, self->turn);

          for (int64_t r = 0; r < rank; r++)
            up[place * self->rank + column + r] = factor * tensor_get (from, row * rank + r);
        }
      column += rank;
    }
}

typedef void (*FillFunc) (const Adapter *self, float *out);

/* A dense layer [n, k]; its weights stay in *held where the backend uses them in place. */
static Status
make_linear (const Context *ctx, const Adapter *self, FillFunc fill, int64_t n, int64_t k,
             gboolean after_swiglu, void **held, Linear **out)
{
  LinearSource source
      = { .n = n, .k = k, .n_parts = 1, .after_swiglu = after_swiglu, .resident = TRUE };
  gboolean on_cpu = ctx->caps->kind == DEVICE_CPU; /* there its own memory counts it */
  Tensor weights = tensor_2d (DTYPE_F32, NULL, n, k);
  Status status;

  if (on_cpu)
    CHECK (ctx->ops->alloc (ctx->stream, tensor_bytes (&weights), &weights.data));
  else
    weights.data = g_malloc (tensor_bytes (&weights));
  fill (self, weights.data);
  source.parts[0] = weights;
  status = linear_new (ctx, &source, out);
  if (on_cpu && status == STATUS_OK && (*out)->backend->keeps_source)
    *held = weights.data;
  else if (on_cpu)
    ctx->ops->free (ctx->stream, weights.data);
  else
    g_free (weights.data);
  return status;
}

static void
adapter_unload (Adapter *self, const Context *ctx)
{
  linear_free (ctx, self->whole);
  linear_free (ctx, self->down);
  linear_free (ctx, self->up);
  for (int i = 0; i < 2; i++)
    ctx->ops->free (ctx->stream, self->held[i]);
  self->base = NULL;
  self->whole = self->down = self->up = NULL;
  self->held[0] = self->held[1] = NULL;
}

/* The layer with its adapter in the same sums. */
static Status
make_whole (const Context *ctx, Adapter *self, const Linear *base)
{
  g_autofree float *down = g_new (float, (gsize)(self->rank * self->k));
  g_autofree float *up = g_new (float, (gsize)(self->n * self->rank));
  LowRankPair pair = { tensor_2d (DTYPE_F32, down, self->rank, self->k),
                       tensor_2d (DTYPE_F32, up, self->n, self->rank) };

  fill_down (self, down);
  fill_up (self, up);
  CHECK (linear_adapt (ctx, base, &pair, &self->whole));
  self->whole->name = base->name;
  return STATUS_OK;
}

static Status
adapter_load (Adapter *self, const Context *ctx, const Linear *base)
{
  Status status = STATUS_UNSUPPORTED;

  if (self->base == base)
    return STATUS_OK;
  adapter_unload (self, ctx);
  self->turn = base->swiglu ? base->turn : 0;
  self->base = base;
  self->rank = linear_adapted_rank (base, self->ranks);
  if (self->rank > 0)
    status = make_whole (ctx, self, base);
  if (status != STATUS_UNSUPPORTED)
    return status;
  self->rank = rank_beside (self);
  CHECK (
      make_linear (ctx, self, fill_down, self->rank, self->k, FALSE, &self->held[0], &self->down));
  /* Behind a swiglu what is between the two is as small as x, where that is FP16. */
  return make_linear (ctx, self, fill_up, self->n, self->rank, base->after_swiglu, &self->held[1],
                      &self->up);
}

Status
adapters_load (Adapters *self, const Context *ctx, const Transformer *transformer)
{
  GHashTableIter iter;
  gpointer name, adapter;
  Status status = STATUS_OK;

  g_hash_table_iter_init (&iter, self->by_name);
  while (status == STATUS_OK && g_hash_table_iter_next (&iter, &name, &adapter))
    {
      const Linear *base = transformer_find_linear (transformer, name);

      status = context_check_cancelled (ctx);
      if (status == STATUS_OK)
        status = base != NULL ? adapter_load (adapter, ctx, base) : STATUS_UNSUPPORTED;
    }
  if (status != STATUS_OK)
    adapters_unload (self, ctx);
  return status;
}

void
adapters_unload (Adapters *self, const Context *ctx)
{
  GHashTableIter iter;
  gpointer adapter;

  g_hash_table_iter_init (&iter, self->by_name);
  while (g_hash_table_iter_next (&iter, NULL, &adapter))
    adapter_unload (adapter, ctx);
}

/* -- applying -----------------------------------------------------------------------------------
 */

static const Adapter *
find (const Context *ctx, const Linear *linear)
{
  return ctx->adapters != NULL && linear != NULL && linear->name != NULL
             ? g_hash_table_lookup (ctx->adapters->by_name, linear->name)
             : NULL;
}

gboolean
adapters_add (const Context *ctx, const Linear *linear)
{
  const Adapter *adapter = find (ctx, linear);

  if (adapter == NULL)
    return FALSE;
  return context_is_dry (ctx) ? linear_measure_adapted (linear, adapter->ranks).weights == 0
                              : adapter->whole == NULL;
}

const Linear *
adapters_of (const Context *ctx, const Linear *linear)
{
  const Adapter *adapter = find (ctx, linear);

  return adapter != NULL && adapter->whole != NULL ? adapter->whole : linear;
}

/* The same numbers in shorter rows, which the sum does not care about: devices have a longest row.
 */
static Tensor
in_short_rows (const Tensor *t)
{
  int64_t parts = 1;

  while (t->shape[1] / parts > LONGEST_ROW || t->shape[1] % parts != 0)
    parts++;
  return tensor_2d (t->dtype, t->data, t->shape[0] * parts, t->shape[1] / parts);
}

static Status
run (const Context *ctx, const Adapter *self, const Tensor *x, Tensor *low, Tensor *delta,
     Tensor *out)
{
  int64_t m = out->shape[0];

  CHECK (self->down->backend->apply (ctx->stream, self->down, x, low));
  for (int64_t row = 0; row < m; row += SLAB_ROWS)
    {
      int64_t rows = MIN (m - row, SLAB_ROWS);
      Tensor from = tensor_rows (low, row, rows), to = tensor_rows (out, row, rows);
      Tensor sum = tensor_rows (delta, 0, rows);
      Tensor short_to = in_short_rows (&to), short_sum = in_short_rows (&sum);

      CHECK (self->up->backend->apply (ctx->stream, self->up, &from, &sum));
      CHECK (ctx->ops->residual_norm (ctx->stream, &short_to, &short_sum, NULL, NULL, NULL, NULL,
                                      0.0f, NULL));
    }
  return STATUS_OK;
}

Status
adapters_apply (const Context *ctx, const Linear *linear, const Tensor *x, Tensor *out)
{
  const Adapter *adapter = find (ctx, linear);
  size_t mark = arena_mark (ctx->arena, ARENA_LOW);
  int64_t m = out->shape[0], n = out->shape[1];
  Tensor low, delta;

  if (!adapters_add (ctx, linear))
    return STATUS_OK;
  CHECK (arena_tensor (ctx->arena, &low, ctx->activation, m, rank_beside (adapter), 0, 0));
  CHECK (arena_tensor (ctx->arena, &delta, out->dtype, MIN (m, SLAB_ROWS), n, 0, 0));
  if (!context_is_dry (ctx))
    CHECK (run (ctx, adapter, x, &low, &delta, out));
  arena_release (ctx->arena, ARENA_LOW, mark);
  return STATUS_OK;
}
