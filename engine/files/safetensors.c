/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/files/safetensors.h"

#include "engine/error.h"
#include "engine/files/json.h"
#include "engine/files/mapped-file.h"

#include <glib/gstdio.h>
#include <string.h>

#define MAX_RANK         8
#define MAX_HEADER_BYTES (100 * 1000 * 1000) /* the limit of the reference implementation */
#define MAX_SHARDS       1000
#define PREFIX_BYTES     8

typedef struct
{
  const char *name;  /* borrowed from `strings`, like dtype */
  const char *dtype; /* as spelled in the file */
  gboolean viewable; /* `kind` is set, and there are no more axes than a Tensor has */
  DType kind;
  int rank;
  int64_t shape[MAX_RANK];
  const char *data; /* in the mapping, or in `copies` */
  guint64 begin, bytes;
  guint shard;
} Entry;

struct _Safetensors
{
  char *path;
  GPtrArray *shard_paths; /* char * */
  GPtrArray *maps;        /* GMappedFile */
  GArray *stats;          /* GStatBuf: the files as they were mapped */
  GArray *entries;        /* Entry, in file order */
  GHashTable *by_name;    /* name -> index + 1 */
  GHashTable *metadata;   /* char * -> char * */
  GStringChunk *strings;
  GPtrArray *copies; /* aligned memory for tensors that the file has at odd addresses */
  guint64 bytes;
};

static const struct
{
  const char *name;
  guint bytes;
} dtypes_not_viewed[] = {
  { "F64", 8 }, { "U64", 8 },  { "U32", 4 },     { "I16", 2 },
  { "U16", 2 }, { "BOOL", 1 }, { "F8_E5M2", 1 }, { "F8_E8M0", 1 },
};

/* Bytes of an element of `entry`, 0 for a type this program does not know. */
static guint
find_dtype (Entry *entry)
{
  for (int d = DTYPE_F32; d <= DTYPE_I64; d++)
    if (strcmp (entry->dtype, dtype_name ((DType)d)) == 0)
      {
        entry->kind = (DType)d;
        entry->viewable = entry->rank <= TENSOR_MAX_RANK;
        return (guint)dtype_size ((DType)d);
      }
  for (guint i = 0; i < G_N_ELEMENTS (dtypes_not_viewed); i++)
    if (strcmp (entry->dtype, dtypes_not_viewed[i].name) == 0)
      return dtypes_not_viewed[i].bytes;
  return 0;
}

static gboolean
read_shape (Entry *entry, const cJSON *array)
{
  const cJSON *item;

  if (!cJSON_IsArray (array))
    return FALSE;
  cJSON_ArrayForEach (item, array)
  {
    guint64 extent;

    if (entry->rank == MAX_RANK || !json_is_count (item, &extent))
      return FALSE;
    entry->shape[entry->rank++] = (int64_t)extent;
  }
  return TRUE;
}

static gboolean
read_offsets (const cJSON *array, guint64 *begin, guint64 *end)
{
  return cJSON_IsArray (array) && cJSON_GetArraySize (array) == 2
         && json_is_count (array->child, begin) && json_is_count (array->child->next, end);
}

/* One tensor of a header, against `payload`: the bytes that follow the header. */
static gboolean
read_entry (Safetensors *self, const char *path, const cJSON *item, guint64 payload, Entry *entry,
            GError **error)
{
  const char *name = item->string;
  const cJSON *dtype = cJSON_GetObjectItemCaseSensitive (item, "dtype");
  guint64 end, expected;
  guint size;

  if (!cJSON_IsObject (item) || !cJSON_IsString (dtype))
    return error_fail_model (error, path, "tensor %s has no dtype", name);
  entry->name = g_string_chunk_insert (self->strings, name);
  entry->dtype = g_string_chunk_insert_const (self->strings, dtype->valuestring);
  if (!read_shape (entry, cJSON_GetObjectItemCaseSensitive (item, "shape")))
    return error_fail_model (error, path, "tensor %s has no valid shape", name);
  if (!read_offsets (cJSON_GetObjectItemCaseSensitive (item, "data_offsets"), &entry->begin, &end))
    return error_fail_model (error, path, "tensor %s has no valid data_offsets", name);
  if (entry->begin > end || end > payload)
    return error_fail_model (error, path,
                             "tensor %s lies at bytes %" G_GUINT64_FORMAT " to %" G_GUINT64_FORMAT
                             " of %" G_GUINT64_FORMAT ": the file is truncated or damaged",
                             name, entry->begin, end, payload);
  entry->bytes = end - entry->begin;
  size = find_dtype (entry);
  expected = 1;
  for (int i = 0; i < entry->rank; i++)
    if (!g_uint64_checked_mul (&expected, expected, (guint64)entry->shape[i]))
      return error_fail_model (error, path, "tensor %s has an absurd shape", name);
  if (!g_uint64_checked_mul (&expected, expected, MAX (size, 1)))
    return error_fail_model (error, path, "tensor %s has an absurd shape", name);
  if (size != 0 && expected != entry->bytes)
    return error_fail_model (error, path,
                             "tensor %s has %" G_GUINT64_FORMAT
                             " bytes, its shape and type %s need "
                             "%" G_GUINT64_FORMAT,
                             name, entry->bytes, entry->dtype, expected);
  return TRUE;
}

static gboolean
read_metadata (Safetensors *self, const char *path, const cJSON *object, GError **error)
{
  const cJSON *item;

  if (!cJSON_IsObject (object))
    return error_fail_model (error, path, "__metadata__ is not an object");
  cJSON_ArrayForEach (item, object)
  {
    if (!cJSON_IsString (item))
      return error_fail_model (error, path, "__metadata__ value %s is not a string", item->string);
    if (!g_hash_table_contains (self->metadata, item->string))
      g_hash_table_insert (self->metadata, g_strdup (item->string), g_strdup (item->valuestring));
  }
  return TRUE;
}

static int
compare_entries (gconstpointer a, gconstpointer b)
{
  const Entry *left = a, *right = b;

  if (left->begin != right->begin)
    return left->begin < right->begin ? -1 : 1;
  return left->bytes < right->bytes ? -1 : left->bytes > right->bytes;
}

/* Sorts a shard's entries by place and adds them to the index. */
static gboolean
add_entries (Safetensors *self, const char *path, GArray *entries, GError **error)
{
  const char *last = NULL; /* whose bytes end at `taken` */
  guint64 taken = 0;

  g_array_sort (entries, compare_entries);
  for (guint i = 0; i < entries->len; i++)
    {
      const Entry *entry = &g_array_index (entries, Entry, i);
      gpointer index;

      if (entry->begin < taken && entry->bytes > 0)
        return error_fail_model (error, path, "tensors %s and %s overlap", last, entry->name);
      if (entry->bytes > 0)
        {
          taken = entry->begin + entry->bytes;
          last = entry->name;
        }
      self->bytes += entry->bytes;
      g_array_append_val (self->entries, *entry);
      index = GUINT_TO_POINTER (self->entries->len);
      if (!g_hash_table_insert (self->by_name, (gpointer)entry->name, index))
        return error_fail_model (error, path, "tensor %s is there twice", entry->name);
    }
  return TRUE;
}

/* Other containers of weights are refused by name: their first bytes would make an absurd header.
 */
static gboolean
check_magic (const char *contents, const char *path, GError **error)
{
  static const struct
  {
    const char *magic, *what;
  } others[] = {
    { "GGUF", "a GGUF file" },
    { "PK\003\004", "a PyTorch checkpoint (zip), which can hold programs" },
    { "\200\002", "a PyTorch checkpoint (pickle), which can hold programs" },
  };

  for (guint i = 0; i < G_N_ELEMENTS (others); i++)
    if (strncmp (contents, others[i].magic, strlen (others[i].magic)) == 0
        && (contents[PREFIX_BYTES] != '{' || i == 0))
      return error_fail_model (error, path, "%s; this program reads .safetensors files only",
                               others[i].what);
  return TRUE;
}

static gboolean
read_header (Safetensors *self, const char *path, GMappedFile *map, GError **error)
{
  const char *contents = g_mapped_file_get_contents (map);
  guint64 length = g_mapped_file_get_length (map);
  g_autoptr (cJSON) root = NULL;
  g_autoptr (GArray) entries = g_array_new (FALSE, FALSE, sizeof (Entry));
  const cJSON *item;
  guint64 header;

  if (length <= PREFIX_BYTES)
    return error_fail_model (
        error, path, "%" G_GUINT64_FORMAT " bytes are too few for a safetensors file", length);
  if (!error_check_stand_in (error, path, contents, length) || !check_magic (contents, path, error))
    return FALSE;
  memcpy (&header, contents, PREFIX_BYTES);
  header = GUINT64_FROM_LE (header);
  if (header > MAX_HEADER_BYTES)
    return error_fail_model (error, path,
                             "the header claims %" G_GUINT64_FORMAT
                             " bytes, more than %d: not a safetensors "
                             "file, or damaged",
                             header, MAX_HEADER_BYTES);
  if (header > length - PREFIX_BYTES)
    return error_fail_model (error, path,
                             "the header claims %" G_GUINT64_FORMAT
                             " bytes, the file has %" G_GUINT64_FORMAT ": truncated or damaged",
                             header, length);
  root = json_parse (contents + PREFIX_BYTES, header, path, error);
  if (root == NULL)
    return FALSE;
  if (!cJSON_IsObject (root))
    return error_fail_model (error, path, "the header is not a JSON object");
  cJSON_ArrayForEach (item, root)
  {
    Entry entry = { .shard = self->maps->len - 1 };

    if (strcmp (item->string, "__metadata__") == 0)
      {
        if (!read_metadata (self, path, item, error))
          return FALSE;
        continue;
      }
    if (!read_entry (self, path, item, length - PREFIX_BYTES - header, &entry, error))
      return FALSE;
    entry.data = contents + PREFIX_BYTES + header + entry.begin;
    g_array_append_val (entries, entry);
  }
  return add_entries (self, path, entries, error);
}

static gboolean
open_shard (Safetensors *self, const char *path, GError **error)
{
  GMappedFile *map = mapped_file_open (path, error);

  GStatBuf status;

  if (map == NULL)
    return FALSE;
  if (g_stat (path, &status) != 0)
    memset (&status, 0, sizeof status); /* removed since: nothing can happen to it any more */
  g_array_append_val (self->stats, status);
  g_ptr_array_add (self->maps, map);
  g_ptr_array_add (self->shard_paths, g_strdup (path));
  return read_header (self, path, map, error);
}

/* A shard's name comes from a download: it must not lead out of the folder. */
static gboolean
is_plain_name (const char *name)
{
  return *name != '\0' && strchr (name, '/') == NULL && strchr (name, '\\') == NULL
         && strcmp (name, ".") != 0 && strcmp (name, "..") != 0;
}

static gboolean
open_index (Safetensors *self, GError **error)
{
  g_autoptr (cJSON) root = json_load (self->path, MAX_HEADER_BYTES, error);
  g_autofree char *folder = g_path_get_dirname (self->path);
  g_autoptr (GHashTable) shards = g_hash_table_new (g_str_hash, g_str_equal);
  const cJSON *map, *item;

  if (root == NULL)
    return FALSE;
  map = cJSON_GetObjectItemCaseSensitive (root, "weight_map");
  if (!cJSON_IsObject (map) || map->child == NULL)
    return error_fail_model (error, self->path, "no weight_map that names shards");
  cJSON_ArrayForEach (item, map)
  {
    g_autofree char *path = NULL;

    if (!cJSON_IsString (item) || !is_plain_name (item->valuestring))
      return error_fail_model (error, self->path, "tensor %s is not mapped to a plain file name",
                               item->string);
    if (g_hash_table_contains (shards, item->valuestring))
      continue;
    if (g_hash_table_size (shards) == MAX_SHARDS)
      return error_fail_model (error, self->path, "more than %d shards", MAX_SHARDS);
    path = g_build_filename (folder, item->valuestring, NULL);
    if (!open_shard (self, path, error))
      return FALSE;
    g_hash_table_insert (shards, item->valuestring, GUINT_TO_POINTER (self->maps->len - 1));
  }
  cJSON_ArrayForEach (item, map)
  {
    guint index = GPOINTER_TO_UINT (g_hash_table_lookup (self->by_name, item->string));
    guint shard = GPOINTER_TO_UINT (g_hash_table_lookup (shards, item->valuestring));

    if (index == 0 || g_array_index (self->entries, Entry, index - 1).shard != shard)
      return error_fail_model (error, self->path, "tensor %s is not in %s, where this index has it",
                               item->string, item->valuestring);
  }
  return TRUE;
}

static Safetensors *
new_empty (const char *path)
{
  Safetensors *self = g_new0 (Safetensors, 1);

  self->path = g_strdup (path);
  self->shard_paths = g_ptr_array_new_with_free_func (g_free);
  self->maps = g_ptr_array_new_with_free_func ((GDestroyNotify)g_mapped_file_unref);
  self->stats = g_array_new (FALSE, FALSE, sizeof (GStatBuf));
  self->entries = g_array_new (FALSE, FALSE, sizeof (Entry));
  self->by_name = g_hash_table_new (g_str_hash, g_str_equal);
  self->metadata = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  self->strings = g_string_chunk_new (16 * 1024);
  self->copies = g_ptr_array_new_with_free_func (g_free);
  return self;
}

Safetensors *
safetensors_open (const char *path, GError **error)
{
  g_autoptr (Safetensors) self = new_empty (path);
  gboolean opened;

  if (g_str_has_suffix (path, ".json"))
    opened = open_index (self, error);
  else
    opened = open_shard (self, path, error);
  return opened ? g_steal_pointer (&self) : NULL;
}

Safetensors *
safetensors_new_borrowed (const char *label)
{
  Safetensors *self = new_empty (label);

  g_ptr_array_add (self->shard_paths, g_strdup (label));
  return self;
}

void
safetensors_add_borrowed (Safetensors *self, const char *name, const Tensor *tensor)
{
  Entry entry = { .name = g_string_chunk_insert (self->strings, name),
                  .dtype = dtype_name (tensor->dtype),
                  .viewable = TRUE,
                  .kind = tensor->dtype,
                  .rank = tensor->rank,
                  .data = tensor->data,
                  .bytes = tensor_bytes (tensor) };

  memcpy (entry.shape, tensor->shape, (gsize)tensor->rank * sizeof *entry.shape);
  self->bytes += entry.bytes;
  g_array_append_val (self->entries, entry);
  g_hash_table_insert (self->by_name, (gpointer)entry.name, GUINT_TO_POINTER (self->entries->len));
}

void
safetensors_set_borrowed_metadata (Safetensors *self, const char *key, const char *value)
{
  g_hash_table_insert (self->metadata, g_strdup (key), g_strdup (value));
}

void
safetensors_free (Safetensors *self)
{
  if (self == NULL)
    return;
  g_ptr_array_unref (self->copies);
  g_hash_table_unref (self->by_name);
  g_hash_table_unref (self->metadata);
  g_array_unref (self->entries);
  g_string_chunk_free (self->strings);
  g_ptr_array_unref (self->maps);
  g_array_unref (self->stats);
  g_ptr_array_unref (self->shard_paths);
  g_free (self->path);
  g_free (self);
}

/* Another file under the same name is no matter: the one that is mapped lives on. */
gboolean
safetensors_check_unchanged (Safetensors *self, GError **error)
{
  for (guint i = 0; i < self->stats->len; i++)
    {
      const GStatBuf *then = &g_array_index (self->stats, GStatBuf, i);
      const char *path = g_ptr_array_index (self->shard_paths, i);
      GStatBuf now;

      if (g_stat (path, &now) != 0 || now.st_dev != then->st_dev || now.st_ino != then->st_ino
          || (now.st_size == then->st_size && now.st_mtim.tv_sec == then->st_mtim.tv_sec
              && now.st_mtim.tv_nsec == then->st_mtim.tv_nsec))
        continue;
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_CHANGED,
                   "%s: has been rewritten since the model was opened; open it again", path);
      return FALSE;
    }
  return TRUE;
}

static Entry *
find_entry (Safetensors *self, const char *name)
{
  guint index = GPOINTER_TO_UINT (g_hash_table_lookup (self->by_name, name));

  return index == 0 ? NULL : &g_array_index (self->entries, Entry, index - 1);
}

gboolean
safetensors_find (Safetensors *self, const char *name, Tensor *out)
{
  Entry *entry = find_entry (self, name);

  if (entry == NULL || !entry->viewable)
    return FALSE;
  /* The format does not promise alignment; C does not allow reading numbers without it. */
  if ((guintptr)entry->data % dtype_size (entry->kind) != 0)
    {
      char *copy = g_try_malloc (entry->bytes);

      if (copy == NULL && entry->bytes > 0)
        return FALSE;
      if (entry->bytes > 0)
        memcpy (copy, entry->data, entry->bytes);
      g_ptr_array_add (self->copies, copy);
      entry->data = copy;
    }
  *out = (Tensor){ entry->kind, entry->rank, { 1, 1, 1, 1 }, (void *)entry->data };
  for (int i = 0; i < entry->rank; i++)
    out->shape[i] = entry->shape[i];
  return TRUE;
}

const void *
safetensors_data (Safetensors *self, const char *name)
{
  const Entry *entry = find_entry (self, name);

  return entry != NULL ? entry->data : NULL;
}

gboolean
safetensors_info (Safetensors *self, const char *name, SafetensorsInfo *out)
{
  const Entry *entry = find_entry (self, name);

  if (entry == NULL)
    return FALSE;
  *out = (SafetensorsInfo){ .dtype = entry->dtype,
                            .file = g_ptr_array_index (self->shard_paths, entry->shard),
                            .rank = entry->rank,
                            .bytes = entry->bytes };
  memcpy (out->shape, entry->shape, sizeof out->shape);
  return TRUE;
}

guint
safetensors_count (Safetensors *self)
{
  return self->entries->len;
}

const char *
safetensors_name (Safetensors *self, guint index)
{
  g_return_val_if_fail (index < self->entries->len, NULL);
  return g_array_index (self->entries, Entry, index).name;
}

const char *
safetensors_metadata (Safetensors *self, const char *key)
{
  return g_hash_table_lookup (self->metadata, key);
}

guint64
safetensors_bytes (Safetensors *self)
{
  return self->bytes;
}

const char *
safetensors_path (Safetensors *self)
{
  return self->path;
}
