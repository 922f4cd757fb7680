/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/checkpoint/catalogue.h"

#include "engine/engine.h"
#include "engine/files/json.h"

#include <string.h>

#define MAX_BYTES  (4 << 20)
#define MAX_MODELS 256
#define MAX_FILES  1024
#define MAX_TEXT   512
#define MAX_SIZE   (G_GUINT64_CONSTANT (1) << 44) /* 17.6 TB */

static gboolean G_GNUC_PRINTF (3, 4)
    refuse (const char *path, GError **error, const char *format, ...)
{
  g_autofree char *what = NULL;
  va_list arguments;

  va_start (arguments, format);
  what = g_strdup_vprintf (format, arguments);
  va_end (arguments);
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s: %s", path, what);
  return FALSE;
}

/* -- what may be written ------------------------------------------------------------------------
 */

gboolean
catalogue_is_path (const char *path)
{
  g_auto (GStrv) names = NULL;

  if (path == NULL || path[0] == '\0' || strlen (path) > MAX_TEXT)
    return FALSE;
  names = g_strsplit (path, "/", -1);
  for (guint i = 0; names[i] != NULL; i++)
    {
      /* No hidden names either: temporary files and ".." begin with a dot. */
      if (names[i][0] == '\0' || names[i][0] == '.' || i > 15)
        return FALSE;
      for (const char *c = names[i]; *c != '\0'; c++)
        if (!g_ascii_isalnum (*c) && strchr ("-_.+", *c) == NULL)
          return FALSE;
    }
  return TRUE;
}

gboolean
catalogue_is_address (const char *url)
{
  g_autoptr (GUri) uri = g_uri_parse (url, G_URI_FLAGS_ENCODED, NULL);
  const char *host = uri != NULL ? g_uri_get_host (uri) : NULL;

  if (host == NULL || host[0] == '\0' || g_uri_get_userinfo (uri) != NULL)
    return FALSE;
  if (g_str_equal (g_uri_get_scheme (uri), "https"))
    return TRUE;
  return g_str_equal (g_uri_get_scheme (uri), "http")
         && (g_str_equal (host, "localhost") || g_str_equal (host, "127.0.0.1")
             || g_str_equal (host, "::1"));
}

static gboolean
is_id (const char *text)
{
  gsize length = strlen (text);

  return length > 0 && length <= 64 && text[0] != '.'
         && strspn (text, "abcdefghijklmnopqrstuvwxyz0123456789.-") == length;
}

/* A short text without control characters. */
static gboolean
get_text (const cJSON *object, const char *key, const char *fallback, const char *path, char **out,
          GError **error)
{
  const char *text = NULL;

  if (!json_get_string_or (object, key, fallback, path, &text, error))
    return FALSE;
  if (text == NULL)
    return refuse (path, error, "\"%s\" is missing", key);
  if (strlen (text) > MAX_TEXT)
    return refuse (path, error, "\"%s\" is too long", key);
  for (const char *c = text; *c != '\0'; c++)
    if (g_ascii_iscntrl (*c))
      return refuse (path, error, "\"%s\" holds a control character", key);
  *out = g_strdup (text);
  return TRUE;
}

static gboolean
get_bytes (const cJSON *object, const char *key, const char *path, guint64 *out, GError **error)
{
  const cJSON *item = cJSON_GetObjectItemCaseSensitive (object, key);

  *out = 0;
  if (item == NULL || (json_is_count (item, out) && *out > 0 && *out < MAX_SIZE))
    return TRUE;
  return refuse (path, error, "\"%s\" is no number of bytes", key);
}

/* -- files --------------------------------------------------------------------------------------
 */

static void
file_free (gpointer data)
{
  CatalogueFile *self = data;

  if (self == NULL)
    return;
  g_free (self->path);
  g_free (self->repository);
  g_free (self->source);
  g_free (self->hash);
  g_free (self);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (CatalogueFile, file_free)

static CatalogueFile *
file_copy (const CatalogueFile *file)
{
  CatalogueFile *self = g_memdup2 (file, sizeof *file);

  self->path = g_strdup (file->path);
  self->repository = g_strdup (file->repository);
  self->source = g_strdup (file->source);
  self->hash = g_strdup (file->hash);
  return self;
}

static gboolean
read_hash (CatalogueFile *self, const cJSON *object, const char *path, GError **error)
{
  static const struct
  {
    const char *key;
    GChecksumType type;
    gsize digits;
  } kinds[] = { { "sha256", G_CHECKSUM_SHA256, 64 }, { "md5", G_CHECKSUM_MD5, 32 } };

  for (guint i = 0; i < G_N_ELEMENTS (kinds) && self->hash == NULL; i++)
    {
      const char *text = NULL;

      if (!json_get_string_or (object, kinds[i].key, NULL, path, &text, error))
        return FALSE;
      if (text == NULL)
        continue;
      if (strlen (text) != kinds[i].digits || strspn (text, "0123456789abcdef") != kinds[i].digits)
        return refuse (path, error, "%s: \"%s\" is no such hash", self->path, kinds[i].key);
      self->hash = g_strdup (text);
      self->hash_type = kinds[i].type;
    }
  return TRUE;
}

static CatalogueFile *
read_file (const cJSON *object, const char *path, GError **error)
{
  g_autoptr (CatalogueFile) self = g_new0 (CatalogueFile, 1);

  if (!get_text (object, "path", NULL, path, &self->path, error)
      || !get_text (object, "source", self->path, path, &self->source, error)
      || !get_text (object, "repository", NULL, path, &self->repository, error)
      || !get_bytes (object, "size", path, &self->size, error)
      || !get_bytes (object, "about", path, &self->about, error)
      || !json_get_bool_or (object, "shards", FALSE, path, &self->shards, error)
      || !read_hash (self, object, path, error))
    return NULL;
  if (!catalogue_is_path (self->path) || !catalogue_is_path (self->source)
      || !catalogue_is_path (self->repository))
    {
      refuse (path, error, "\"%s\" from \"%s\" of \"%s\" is no path below a folder", self->path,
              self->source, self->repository);
      return NULL;
    }
  return g_steal_pointer (&self);
}

static gboolean
read_files (const cJSON *list, const char *path, GPtrArray *files, GError **error)
{
  const cJSON *item;

  if (!cJSON_IsArray (list))
    return refuse (path, error, "a list of files is missing");
  cJSON_ArrayForEach (item, list)
  {
    CatalogueFile *file = read_file (item, path, error);

    if (file == NULL)
      return FALSE;
    for (guint i = 0; i < files->len; i++)
      if (g_str_equal (((CatalogueFile *)g_ptr_array_index (files, i))->path, file->path))
        {
          refuse (path, error, "\"%s\" is there twice", file->path);
          file_free (file);
          return FALSE;
        }
    g_ptr_array_add (files, file);
    if (files->len > MAX_FILES)
      return refuse (path, error, "there are too many files");
  }
  return TRUE;
}

/* -- models -------------------------------------------------------------------------------------
 */

static void
model_free (gpointer data)
{
  CatalogueModel *self = data;

  if (self == NULL)
    return;
  g_free (self->id);
  g_free (self->name);
  g_free (self->precision);
  g_free (self->licence);
  g_free (self->page);
  g_clear_pointer (&self->files, g_ptr_array_unref);
  g_free (self);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC (CatalogueModel, model_free)

static int
compare_bytes (gconstpointer a, gconstpointer b)
{
  const CatalogueFile *x = *(CatalogueFile *const *)a, *y = *(CatalogueFile *const *)b;
  const guint64 first = MAX (x->size, x->about), second = MAX (y->size, y->about);

  if (first != second)
    return first < second ? -1 : 1;
  return strcmp (x->path, y->path);
}

static gboolean
read_model_files (CatalogueModel *self, const cJSON *object, const cJSON *groups, const char *path,
                  GError **error)
{
  const cJSON *names = cJSON_GetObjectItemCaseSensitive (object, "groups"), *name;

  cJSON_ArrayForEach (name, names)
  {
    if (!cJSON_IsString (name))
      return refuse (path, error, "%s: a group is no text", self->id);
    if (!read_files (cJSON_GetObjectItemCaseSensitive (groups, name->valuestring), path,
                     self->files, error))
      return FALSE;
  }
  if (!read_files (cJSON_GetObjectItemCaseSensitive (object, "files"), path, self->files, error))
    return FALSE;
  if (self->files->len == 0)
    return refuse (path, error, "%s has no files", self->id);
  g_ptr_array_sort (self->files, compare_bytes);
  return TRUE;
}

static CatalogueModel *
read_model (const cJSON *object, const cJSON *groups, const char *path, GError **error)
{
  g_autoptr (CatalogueModel) self = g_new0 (CatalogueModel, 1);

  self->files = g_ptr_array_new_with_free_func (file_free);
  if (!get_text (object, "id", NULL, path, &self->id, error)
      || !get_text (object, "name", NULL, path, &self->name, error)
      || !get_text (object, "precision", NULL, path, &self->precision, error)
      || !get_text (object, "licence", NULL, path, &self->licence, error)
      || !get_text (object, "page", NULL, path, &self->page, error)
      || !json_get_int_or (object, "min_sm", 0, 999, 0, path, &self->min_sm, error)
      || !json_get_int_or (object, "max_sm", 0, 999, 999, path, &self->max_sm, error)
      || !get_bytes (object, "min_memory", path, &self->min_memory, error)
      || !read_model_files (self, object, groups, path, error))
    return NULL;
  if (!is_id (self->id))
    refuse (path, error, "\"%s\" is no id of a model", self->id);
  else if (!g_str_equal (self->precision, "bf16") && !g_str_equal (self->precision, "svdquant"))
    refuse (path, error, "%s: no precision \"%s\"", self->id, self->precision);
  else if (!catalogue_is_address (self->page))
    refuse (path, error, "%s: \"%s\" is no HTTPS address", self->id, self->page);
  else
    return g_steal_pointer (&self);
  return NULL;
}

/* -- the whole ----------------------------------------------------------------------------------
 */

static void
mirror_free (gpointer data)
{
  CatalogueMirror *self = data;

  g_free (self->name);
  g_free (self->url);
  g_free (self);
}

static gboolean
read_mirrors (Catalogue *self, const cJSON *root, const char *path, GError **error)
{
  const cJSON *list = cJSON_GetObjectItemCaseSensitive (root, "mirrors"), *item;

  cJSON_ArrayForEach (item, list)
  {
    CatalogueMirror *mirror = g_new0 (CatalogueMirror, 1);
    const CatalogueFile example = { .repository = (char *)"owner/name", .source = (char *)"file" };
    g_autofree char *url = NULL;

    g_ptr_array_add (self->mirrors, mirror);
    if (!get_text (item, "name", NULL, path, &mirror->name, error)
        || !get_text (item, "url", NULL, path, &mirror->url, error))
      return FALSE;
    if (strstr (mirror->url, "{path}") == NULL)
      return refuse (path, error, "the mirror %s has no {path}", mirror->name);
    url = catalogue_url (mirror, &example);
    if (!catalogue_is_address (url))
      return refuse (path, error, "the mirror %s has no HTTPS address", mirror->name);
  }
  if (self->mirrors->len == 0 || self->mirrors->len > 16)
    return refuse (path, error, "there are %u mirrors", self->mirrors->len);
  return TRUE;
}

static gboolean
read_models (Catalogue *self, const cJSON *root, const char *path, GError **error)
{
  const cJSON *groups = cJSON_GetObjectItemCaseSensitive (root, "groups");
  const cJSON *list = cJSON_GetObjectItemCaseSensitive (root, "models"), *item;

  cJSON_ArrayForEach (item, list)
  {
    CatalogueModel *model = read_model (item, groups, path, error);

    if (model == NULL)
      return FALSE;
    if (catalogue_find (self, model->id) != NULL || self->models->len == MAX_MODELS)
      {
        refuse (path, error, "%s is there twice, or one model too many", model->id);
        model_free (model);
        return FALSE;
      }
    g_ptr_array_add (self->models, model);
  }
  return self->models->len > 0 || refuse (path, error, "there are no models");
}

Catalogue *
catalogue_parse (const char *text, gsize length, const char *path, GError **error)
{
  g_autoptr (cJSON) root = NULL;
  g_autoptr (Catalogue) self = NULL;
  int version;

  if (length > MAX_BYTES)
    {
      refuse (path, error, "is too long for a catalogue");
      return NULL;
    }
  root = json_parse (text, length, path, error);
  if (root == NULL || !json_get_int (root, "version", 1, 1, path, &version, error))
    return NULL;
  self = g_new0 (Catalogue, 1);
  g_atomic_ref_count_init (&self->references);
  self->mirrors = g_ptr_array_new_with_free_func (mirror_free);
  self->models = g_ptr_array_new_with_free_func (model_free);
  if (!read_mirrors (self, root, path, error) || !read_models (self, root, path, error))
    return NULL;
  return g_steal_pointer (&self);
}

Catalogue *
catalogue_load (const char *path, GError **error)
{
  g_autofree char *text = NULL;
  gsize length = 0;

  if (!g_file_get_contents (path, &text, &length, error))
    return NULL;
  return catalogue_parse (text, length, path, error);
}

Catalogue *
catalogue_ref (Catalogue *self)
{
  g_atomic_ref_count_inc (&self->references);
  return self;
}

void
catalogue_unref (Catalogue *self)
{
  if (self == NULL || !g_atomic_ref_count_dec (&self->references))
    return;
  g_ptr_array_unref (self->mirrors);
  g_ptr_array_unref (self->models);
  g_free (self);
}

const CatalogueModel *
catalogue_find (const Catalogue *self, const char *id)
{
  for (guint i = 0; i < self->models->len; i++)
    {
      const CatalogueModel *model = g_ptr_array_index (self->models, i);

      if (g_str_equal (model->id, id))
        return model;
    }
  return NULL;
}

const CatalogueModel *
catalogue_recommend (const Catalogue *self, int sm, guint64 memory)
{
  for (guint i = 0; i < self->models->len; i++)
    {
      const CatalogueModel *model = g_ptr_array_index (self->models, i);

      if (sm >= model->min_sm && sm <= model->max_sm && memory >= model->min_memory)
        return model;
    }
  return NULL;
}

guint64
catalogue_model_bytes (const CatalogueModel *model)
{
  guint64 sum = 0;

  for (guint i = 0; i < model->files->len; i++)
    {
      const CatalogueFile *file = g_ptr_array_index (model->files, i);

      sum += MAX (file->size, file->about); /* below 2^54: at most 1024 files of 2^44 */
    }
  return sum;
}

char *
catalogue_url (const CatalogueMirror *mirror, const CatalogueFile *file)
{
  GString *url = g_string_new (mirror->url);

  g_string_replace (url, "{repository}", file->repository, 1);
  g_string_replace (url, "{path}", file->source, 1);
  return g_string_free (url, FALSE);
}

GPtrArray *
catalogue_shards (const CatalogueFile *index, const char *text, gsize length, GError **error)
{
  g_autoptr (cJSON) root = json_parse (text, length, index->path, error);
  g_autoptr (GPtrArray) files = g_ptr_array_new_with_free_func (file_free);
  g_autoptr (GHashTable) seen = g_hash_table_new (g_str_hash, g_str_equal);
  g_autofree char *folder = g_path_get_dirname (index->path);
  g_autofree char *source_folder = g_path_get_dirname (index->source);
  const cJSON *map, *item;

  if (root == NULL)
    return NULL;
  map = cJSON_GetObjectItemCaseSensitive (root, "weight_map");
  cJSON_ArrayForEach (item, map)
  {
    CatalogueFile file = *index;
    g_autofree char *path = NULL, *source = NULL;

    if (!cJSON_IsString (item) || strchr (item->valuestring, '/') != NULL
        || !catalogue_is_path (item->valuestring))
      {
        refuse (index->path, error, "the weight_map names no file beside it");
        return NULL;
      }
    if (!g_hash_table_add (seen, item->valuestring))
      continue;
    path = g_build_filename (folder, item->valuestring, NULL);
    source = g_str_equal (source_folder, ".")
                 ? g_strdup (item->valuestring)
                 : g_build_filename (source_folder, item->valuestring, NULL);
    file.path = path;
    file.source = source;
    file.hash = NULL;
    file.size = file.about = 0;
    file.shards = FALSE;
    g_ptr_array_add (files, file_copy (&file));
  }
  if (files->len == 0 || files->len > MAX_FILES)
    {
      refuse (index->path, error, "the weight_map names %u files", files->len);
      return NULL;
    }
  return g_steal_pointer (&files);
}
