/* SPDX-License-Identifier: Apache-2.0 */
#include "app/history/history.h"

#include <stdio.h>
#include <string.h>

struct _TesseraHistory
{
  GObject parent_instance;

  /* Owned References */
  char *folder;
  GPtrArray *entries;      /* of TesseraEntry, newest first */
  GHashTable *hidden;      /* names of removed entries whose files are still there */
  GHashTable *being_saved; /* names that a pool thread writes */
  GFileMonitor *monitor;
  char *last_stem;

  gboolean loading;
};

static void list_model_init (GListModelInterface *iface);

G_DEFINE_FINAL_TYPE_WITH_CODE (TesseraHistory, history, G_TYPE_OBJECT,
                               G_IMPLEMENT_INTERFACE (G_TYPE_LIST_MODEL, list_model_init))

enum
{
  PROP_LOADING = 1,
  N_PROPS
};

static GParamSpec *properties[N_PROPS];

/* TRUE for files that are ours to show; temporary files begin with a dot. */
static gboolean
is_picture_name (const char *name)
{
  return name[0] != '.' && g_str_has_suffix (name, ".png");
}

/* The place of `name`: where it is (TRUE) or belongs (FALSE). Names fall. */
static gboolean
find_name (TesseraHistory *self, const char *name, guint *position)
{
  guint low = 0, high = self->entries->len;

  while (low < high)
    {
      const guint middle = low + (high - low) / 2;
      const int order = strcmp (name, entry_get_name (self->entries->pdata[middle]));

      if (order == 0)
        {
          *position = middle;
          return TRUE;
        }
      if (order > 0)
        high = middle;
      else
        low = middle + 1;
    }
  *position = low;
  return FALSE;
}

/* Shows an entry (borrowed) unless its name is there already. */
static void
insert (TesseraHistory *self, TesseraEntry *entry)
{
  guint position;

  if (find_name (self, entry_get_name (entry), &position))
    return;
  g_ptr_array_insert (self->entries, position, g_object_ref (entry));
  g_list_model_items_changed (G_LIST_MODEL (self), position, 0, 1);
}

static void
insert_file (TesseraHistory *self, const char *name)
{
  g_autofree char *path = NULL;
  g_autoptr (TesseraEntry) entry = NULL;
  guint position;

  if (!is_picture_name (name) || g_hash_table_contains (self->hidden, name)
      || g_hash_table_contains (self->being_saved, name) || find_name (self, name, &position))
    return;
  path = g_build_filename (self->folder, name, NULL);
  entry = entry_new (path, NULL);
  insert (self, entry);
}

static void
take_out (TesseraHistory *self, const char *name)
{
  guint position;

  if (!find_name (self, name, &position))
    return;
  g_ptr_array_remove_index (self->entries, position);
  g_list_model_items_changed (G_LIST_MODEL (self), position, 1, 0);
}

static void
on_folder_changed (TesseraHistory *self, GFile *file, GFile *other, GFileMonitorEvent event)
{
  g_autofree char *name = g_file_get_basename (file);
  g_autofree char *other_name = other != NULL ? g_file_get_basename (other) : NULL;

  switch (event)
    {
    case G_FILE_MONITOR_EVENT_DELETED:
    case G_FILE_MONITOR_EVENT_MOVED_OUT:
      take_out (self, name);
      break;
    case G_FILE_MONITOR_EVENT_RENAMED:
      take_out (self, name);
      insert_file (self, other_name);
      break;
    case G_FILE_MONITOR_EVENT_MOVED_IN:
    case G_FILE_MONITOR_EVENT_CHANGES_DONE_HINT:
      insert_file (self, name);
      break;
    default:
      break;
    }
}

static void
read_folder_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  g_autoptr (GPtrArray) names = g_ptr_array_new_with_free_func (g_free);
  g_autoptr (GDir) dir = NULL;
  GError *error = NULL;
  const char *name;

  dir = g_dir_open (data, 0, &error);
  if (dir == NULL)
    {
      g_task_return_error (task, error);
      return;
    }
  while ((name = g_dir_read_name (dir)) != NULL)
    if (is_picture_name (name))
      g_ptr_array_add (names, g_strdup (name));
  g_task_return_pointer (task, g_steal_pointer (&names), (GDestroyNotify)g_ptr_array_unref);
}

static void
watch_folder (TesseraHistory *self)
{
  g_autoptr (GFile) file = g_file_new_for_path (self->folder);

  /* Without a monitor the history still works; it only does not see others' changes. */
  self->monitor = g_file_monitor_directory (file, G_FILE_MONITOR_WATCH_MOVES, NULL, NULL);
  if (self->monitor != NULL)
    g_signal_connect_swapped (self->monitor, "changed", G_CALLBACK (on_folder_changed), self);
}

static void
on_folder_read (GObject *source, GAsyncResult *result, gpointer data)
{
  TesseraHistory *self = TESSERA_HISTORY (source);
  g_autoptr (GPtrArray) names = g_task_propagate_pointer (G_TASK (result), NULL);

  for (guint i = 0; names != NULL && i < names->len; i++)
    insert_file (self, names->pdata[i]);
  self->loading = FALSE;
  g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_LOADING]);
}

/* A thousandth of a second after `stem`; NULL if that is none. */
static char *
stem_after (const char *stem)
{
  int year, month, day, hour, minute, second, thousandth;
  g_autoptr (GDateTime) moment = NULL, next = NULL;

  if (sscanf (stem, "%4d%2d%2d-%2d%2d%2d-%3d", &year, &month, &day, &hour, &minute, &second,
              &thousandth)
      == 7)
    moment = g_date_time_new_utc (year, month, day, hour, minute, second);
  next = moment != NULL ? g_date_time_add (moment, (thousandth + 1) * G_TIME_SPAN_MILLISECOND)
                        : NULL;
  return next != NULL ? history_stem_at (next, NULL) : NULL;
}

char *
history_stem_at (GDateTime *now, const char *last)
{
  g_autofree char *moment = g_date_time_format (now, "%Y%m%d-%H%M%S");
  g_autofree char *stem
      = g_strdup_printf ("%s-%03d", moment, g_date_time_get_microsecond (now) / 1000);
  char *later = last != NULL && strcmp (stem, last) <= 0 ? stem_after (last) : NULL;

  return later != NULL ? later : g_steal_pointer (&stem);
}

char *
history_new_stem (TesseraHistory *self)
{
  g_autoptr (GDateTime) now = g_date_time_new_now_local ();
  char *stem = history_stem_at (now, self->last_stem);

  g_free (self->last_stem);
  self->last_stem = g_strdup (stem);
  return stem;
}

typedef struct
{
  TesseraPicture *picture;
  char *folder, *name, *path;
} Saving;

static void
saving_free (Saving *saving)
{
  g_object_unref (saving->picture);
  g_free (saving->folder);
  g_free (saving->name);
  g_free (saving->path);
  g_free (saving);
}

static void
save_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  Saving *saving = data;
  GError *error = NULL;

  g_mkdir_with_parents (saving->folder, 0700);
  if (picture_save (saving->picture, saving->path, &error))
    g_task_return_boolean (task, TRUE);
  else
    g_task_return_error (task, error);
}

void
history_add_async (TesseraHistory *self, TesseraPicture *picture, const char *stem,
                   GAsyncReadyCallback callback, gpointer data)
{
  g_autoptr (GTask) task = g_task_new (self, NULL, callback, data);
  const EngineRequest *request = picture_get_request (picture);
  Saving *saving = g_new0 (Saving, 1);

  saving->picture = g_object_ref (picture);
  saving->folder = g_strdup (self->folder);
  saving->name = g_strdup_printf ("%s-%s.png", stem,
                                  request ? engine_precision_name (request->precision) : "image");
  saving->path = g_build_filename (self->folder, saving->name, NULL);
  g_hash_table_add (self->being_saved, g_strdup (saving->name));
  g_task_set_task_data (task, saving, (GDestroyNotify)saving_free);
  g_task_run_in_thread (task, save_in_thread);
}

TesseraEntry *
history_add_finish (TesseraHistory *self, GAsyncResult *result, GError **error)
{
  Saving *saving;
  g_autoptr (TesseraEntry) entry = NULL;
  guint position;

  g_return_val_if_fail (g_task_is_valid (result, self), NULL);

  saving = g_task_get_task_data (G_TASK (result));
  g_hash_table_remove (self->being_saved, saving->name);
  if (!g_task_propagate_boolean (G_TASK (result), error))
    return NULL;
  entry = entry_new (saving->path, saving->picture);
  insert (self, entry);
  return find_name (self, saving->name, &position) ? self->entries->pdata[position] : NULL;
}

TesseraEntry *
history_find_twin (TesseraHistory *self, TesseraEntry *entry)
{
  const char *name = entry_get_name (entry), *dash = strrchr (name, '-');
  guint position;

  if (dash == NULL)
    return NULL;
  for (int i = ENGINE_PRECISION_BF16; i <= ENGINE_PRECISION_SVDQUANT; i++)
    {
      g_autofree char *twin
          = g_strdup_printf ("%.*s-%s.png", (int)(dash - name), name, engine_precision_name (i));

      if (strcmp (twin, name) != 0 && find_name (self, twin, &position))
        return self->entries->pdata[position];
    }
  return NULL;
}

gboolean
history_find (TesseraHistory *self, TesseraEntry *entry, guint *position)
{
  return find_name (self, entry_get_name (entry), position);
}

void
history_remove (TesseraHistory *self, TesseraEntry *entry)
{
  g_hash_table_add (self->hidden, g_strdup (entry_get_name (entry)));
  take_out (self, entry_get_name (entry));
}

void
history_bring_back (TesseraHistory *self, TesseraEntry *entry)
{
  if (g_hash_table_remove (self->hidden, entry_get_name (entry))
      && g_file_test (entry_get_path (entry), G_FILE_TEST_EXISTS))
    insert (self, entry);
}

static void
delete_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  g_autoptr (GFile) file = g_file_new_for_path (data);

  if (!g_file_trash (file, NULL, NULL))
    g_file_delete (file, NULL, NULL);
  g_task_return_boolean (task, TRUE);
}

static void
on_deleted (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autofree char *name = data;

  g_hash_table_remove (TESSERA_HISTORY (source)->hidden, name);
}

void
history_forget (TesseraHistory *self, TesseraEntry *entry)
{
  g_autoptr (GTask) task = NULL;

  if (!g_hash_table_contains (self->hidden, entry_get_name (entry)))
    return;
  task = g_task_new (self, NULL, on_deleted, g_strdup (entry_get_name (entry)));
  g_task_set_task_data (task, g_strdup (entry_get_path (entry)), g_free);
  g_task_run_in_thread (task, delete_in_thread);
}

const char *
history_get_folder (TesseraHistory *self)
{
  return self->folder;
}

gboolean
history_get_loading (TesseraHistory *self)
{
  return self->loading;
}

TesseraHistory *
history_new (const char *folder)
{
  TesseraHistory *self = g_object_new (TESSERA_TYPE_HISTORY, NULL);
  g_autoptr (GTask) task = g_task_new (self, NULL, on_folder_read, NULL);

  self->folder = g_strdup (folder);
  self->loading = TRUE;
  g_mkdir_with_parents (folder, 0700);
  watch_folder (self); /* before reading, so that nothing falls in between */
  g_task_set_task_data (task, g_strdup (folder), g_free);
  g_task_run_in_thread (task, read_folder_in_thread);
  return self;
}

static GType
get_item_type (GListModel *model)
{
  return TESSERA_TYPE_ENTRY;
}

static guint
get_n_items (GListModel *model)
{
  return TESSERA_HISTORY (model)->entries->len;
}

static gpointer
get_item (GListModel *model, guint position)
{
  TesseraHistory *self = TESSERA_HISTORY (model);

  return position < self->entries->len ? g_object_ref (self->entries->pdata[position]) : NULL;
}

static void
list_model_init (GListModelInterface *iface)
{
  iface->get_item_type = get_item_type;
  iface->get_n_items = get_n_items;
  iface->get_item = get_item;
}

static void
history_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  if (id == PROP_LOADING)
    g_value_set_boolean (value, TESSERA_HISTORY (object)->loading);
  else
    G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
}

static void
history_finalize (GObject *object)
{
  TesseraHistory *self = TESSERA_HISTORY (object);

  if (self->monitor != NULL)
    g_signal_handlers_disconnect_by_data (self->monitor, self);
  g_clear_object (&self->monitor);
  g_ptr_array_unref (self->entries);
  g_hash_table_unref (self->hidden);
  g_hash_table_unref (self->being_saved);
  g_free (self->folder);
  g_free (self->last_stem);
  G_OBJECT_CLASS (history_parent_class)->finalize (object);
}

static void
history_class_init (TesseraHistoryClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);

  object_class->get_property = history_get_property;
  object_class->finalize = history_finalize;

  properties[PROP_LOADING] = g_param_spec_boolean ("loading", NULL, NULL, FALSE,
                                                   G_PARAM_READABLE | G_PARAM_STATIC_STRINGS);
  g_object_class_install_properties (object_class, N_PROPS, properties);
}

static void
history_init (TesseraHistory *self)
{
  self->entries = g_ptr_array_new_with_free_func (g_object_unref);
  self->hidden = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
  self->being_saved = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, NULL);
}
