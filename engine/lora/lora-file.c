/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/lora/lora-file.h"

#include "engine/error.h"
#include "engine/lora/lora-scale.h"

#include <math.h>
#include <string.h>

#define MAX_RANK 4096

/* -- telling by names----------------------------------------------------------------------------
 */

gboolean
lora_file_detect (Safetensors *file)
{
  for (guint i = 0; i < safetensors_count (file); i++)
    {
      LoraMeaning meaning = lora_name_read (safetensors_name (file, i));

      if (meaning.role != LORA_ROLE_NONE && meaning.role != LORA_ROLE_ALPHA)
        return TRUE;
    }
  return FALSE;
}

int
lora_file_rank (Safetensors *file)
{
  int64_t rank = 0;

  for (guint i = 0; i < safetensors_count (file); i++)
    {
      const char *name = safetensors_name (file, i);
      SafetensorsInfo info;

      if (lora_name_read (name).role == LORA_ROLE_DOWN && safetensors_info (file, name, &info)
          && info.rank >= 2 && info.shape[0] <= MAX_RANK)
        rank = MAX (rank, info.shape[0]);
    }
  return (int)rank;
}

/* -- collecting ---------------------------------------------------------------------------------
 */

/* The tensors of one layer under one spelling. */
typedef struct
{
  const LoraTarget *target;
  char *module; /* owned; as the file spells it */
  const char *down, *up, *alpha;
} Found;

typedef struct
{
  LoraFile *lora;
  const LoraTargets *targets;
  GPtrArray *found;     /* Found */
  GHashTable *modules;  /* module (borrowed from Found) -> Found */
  GHashTable *by_layer; /* LoraTarget.name -> Found: the first spelling counts */
  GHashTable *noted;    /* set of lines, borrowed from left_out */
  gboolean check;
  LoraScales *scales; /* owned */
} Reading;

static void
found_free (gpointer data)
{
  g_free (((Found *)data)->module);
  g_free (data);
}

static void
leave_out (Reading *self, const char *module, gsize length, const char *why)
{
  char *line = g_strdup_printf ("%.*s: %s", (int)MIN (length, 200), module, why);

  if (!g_utf8_validate (line, -1, NULL) || !g_hash_table_add (self->noted, line))
    g_free (line);
  else
    g_ptr_array_add (self->lora->left_out, line);
}

static Found *
find_module (Reading *self, const char *name, gsize length)
{
  g_autofree char *module = g_strndup (name, length);
  const LoraTarget *target = lora_targets_find (self->targets, name, length);
  Found *found = g_hash_table_lookup (self->modules, module);

  if (found != NULL || target == NULL)
    return found;
  found = g_new0 (Found, 1);
  found->target = target;
  found->module = g_steal_pointer (&module);
  g_ptr_array_add (self->found, found);
  g_hash_table_insert (self->modules, found->module, found);
  return found;
}

static void
take_name (Reading *self, const char *name)
{
  LoraMeaning meaning = lora_name_read (name);
  Found *found;

  if (meaning.role == LORA_ROLE_OTHER)
    {
      leave_out (self, name, meaning.module, meaning.what);
      return;
    }
  found = meaning.role == LORA_ROLE_NONE ? NULL : find_module (self, name, meaning.module);
  if (found == NULL)
    leave_out (self, name, meaning.module,
               meaning.role == LORA_ROLE_NONE ? "no tensor of a LoRA"
                                              : "this model has no such layer");
  else if (meaning.role == LORA_ROLE_DOWN)
    found->down = name;
  else if (meaning.role == LORA_ROLE_UP)
    found->up = name;
  else
    found->alpha = name;
}

/* -- checking -----------------------------------------------------------------------------------
 */

/* A matrix, perhaps written as a 1x1 convolution; FALSE if it is none. */
static gboolean
get_matrix (Safetensors *file, const char *name, Tensor *out)
{
  if (!safetensors_find (file, name, out)
      || (out->dtype != DTYPE_F32 && out->dtype != DTYPE_BF16 && out->dtype != DTYPE_F16))
    return FALSE;
  while (out->rank > 2 && out->shape[out->rank - 1] == 1)
    out->rank--;
  return out->rank == 2;
}

static gboolean
is_finite (const Tensor *t)
{
  int64_t count = tensor_count (t);
  float sum = 0.0f; /* of zeros: any infinity or NaN makes it NaN */

  for (int64_t i = 0; i < count; i++)
    sum += tensor_get (t, i) * 0.0f;
  return sum == 0.0f;
}

static gboolean
check_numbers (Safetensors *file, const char *name, const Tensor *t, GError **error)
{
  return is_finite (t)
         || error_fail_model (error, safetensors_path (file),
                              "tensor %s holds infinite numbers or NaN", name);
}

/* Why the layer cannot be applied, or NULL. */
static char *
find_fault (Reading *self, const Found *found, LoraPair *pair)
{
  const LoraTarget *t = found->target;
  Safetensors *file = self->lora->file;

  if (found->down == NULL || found->up == NULL)
    return g_strdup_printf ("has no %s factor", found->down == NULL ? "down (A)" : "up (B)");
  if (!get_matrix (file, found->down, &pair->down) || !get_matrix (file, found->up, &pair->up))
    return g_strdup ("a factor is no matrix of F32, BF16 or F16");
  if (pair->down.shape[0] < 1 || pair->down.shape[0] > MAX_RANK
      || pair->up.shape[1] != pair->down.shape[0] || pair->down.shape[1] != t->in
      || pair->up.shape[0] != t->rows)
    return g_strdup_printf (
        "factors of %" G_GINT64_FORMAT " x %" G_GINT64_FORMAT " and %" G_GINT64_FORMAT
        " x %" G_GINT64_FORMAT " do not fit a layer of %" G_GINT64_FORMAT " x %" G_GINT64_FORMAT,
        (gint64)pair->up.shape[0], (gint64)pair->up.shape[1], (gint64)pair->down.shape[0],
        (gint64)pair->down.shape[1], (gint64)t->rows, (gint64)t->in);
  if (!lora_scales_get (self->scales, found->module, found->alpha, pair->down.shape[0],
                        &pair->scale))
    return g_strdup ("alpha is no finite number");
  return NULL;
}

/* The same layer under another spelling, or q, k, v of what is there as a whole: copies that some
 * programs keep side by side. The separate ones count, of two spellings the first. */
static gboolean
is_copy (Reading *self, const Found *found)
{
  static const char *const separate[] = { ".attention.to_q", ".attention.to_k", ".attention.to_v" };

  if (g_hash_table_lookup (self->by_layer, found->target->name) != found)
    return TRUE;
  if (!g_str_has_suffix (found->target->name, ".attention.to_qkv"))
    return FALSE;
  for (guint i = 0; i < G_N_ELEMENTS (separate); i++)
    if (g_hash_table_contains (
            self->by_layer, lora_name_with (found->target->name, ".attention.to_qkv", separate[i])))
      return TRUE;
  return FALSE;
}

static gboolean
take_found (Reading *self, const Found *found, GError **error)
{
  LoraPair pair = { .target = found->target };
  g_autofree char *fault = NULL;

  if (is_copy (self, found))
    {
      leave_out (self, found->module, strlen (found->module), "a copy of what is there already");
      return TRUE;
    }
  fault = find_fault (self, found, &pair);
  if (fault != NULL)
    {
      leave_out (self, found->module, strlen (found->module), fault);
      return TRUE;
    }
  if (self->check
      && (!check_numbers (self->lora->file, found->down, &pair.down, error)
          || !check_numbers (self->lora->file, found->up, &pair.up, error)))
    return FALSE;
  g_array_append_val (self->lora->pairs, pair);
  return TRUE;
}

static int
compare_lines (gconstpointer a, gconstpointer b)
{
  return strcmp (*(char *const *)a, *(char *const *)b);
}

static gboolean
read_file (Reading *self, GError **error)
{
  LoraFile *lora = self->lora;
  const char *path = safetensors_path (lora->file);

  self->scales = lora_scales_new (lora->file, error);
  if (self->scales == NULL)
    return FALSE;
  for (guint i = 0; i < safetensors_count (lora->file); i++)
    take_name (self, safetensors_name (lora->file, i));
  for (guint i = 0; i < self->found->len; i++)
    {
      Found *found = g_ptr_array_index (self->found, i);

      if (!g_hash_table_contains (self->by_layer, found->target->name))
        g_hash_table_insert (self->by_layer, (gpointer)found->target->name, found);
    }
  for (guint i = 0; i < self->found->len; i++)
    if (!take_found (self, g_ptr_array_index (self->found, i), error))
      return FALSE;
  g_ptr_array_sort (lora->left_out, compare_lines);
  if (lora->pairs->len > 0)
    return TRUE;
  if (!lora_file_detect (lora->file))
    return error_fail_model (error, path, "holds no LoRA");
  return error_fail_model (error, path, "nothing in it can be added to this model, such as %s",
                           lora->left_out->len > 0 ? (char *)g_ptr_array_index (lora->left_out, 0)
                                                   : "its tensors");
}

LoraFile *
lora_file_open (const char *path, const LoraTargets *targets, gboolean check, GError **error)
{
  g_autoptr (LoraFile) self = g_new0 (LoraFile, 1);
  Reading reading = { .lora = self, .targets = targets, .check = check };
  gboolean good;

  self->pairs = g_array_new (FALSE, FALSE, sizeof (LoraPair));
  self->left_out = g_ptr_array_new_with_free_func (g_free);
  self->file = safetensors_open (path, error);
  if (self->file == NULL)
    return NULL;
  reading.found = g_ptr_array_new_with_free_func (found_free);
  reading.modules = g_hash_table_new (g_str_hash, g_str_equal);
  reading.by_layer = g_hash_table_new (g_str_hash, g_str_equal);
  reading.noted = g_hash_table_new (g_str_hash, g_str_equal);
  good = read_file (&reading, error);
  lora_scales_free (reading.scales);
  g_hash_table_unref (reading.noted);
  g_hash_table_unref (reading.by_layer);
  g_hash_table_unref (reading.modules);
  g_ptr_array_unref (reading.found);
  return good ? g_steal_pointer (&self) : NULL;
}

void
lora_file_free (LoraFile *self)
{
  if (self == NULL)
    return;
  safetensors_free (self->file);
  g_array_unref (self->pairs);
  g_ptr_array_unref (self->left_out);
  g_free (self);
}
