/* SPDX-License-Identifier: Apache-2.0 */
#include "app/history/entry.h"

#include "app/compare/shrink.h"
#include "app/generation/job.h"

#include <glib/gi18n.h>

struct _TesseraEntry
{
  GObject parent_instance;

  /* Owned References */
  char *path, *name, *label;
  GdkTexture *thumbnail;

  /* Only while somebody else holds it, so that a long history stays small */
  GWeakRef picture;

  gboolean asked; /* for the thumbnail */
};

G_DEFINE_FINAL_TYPE (TesseraEntry, entry, G_TYPE_OBJECT)

enum
{
  PROP_THUMBNAIL = 1,
  PROP_LABEL,
  N_PROPS
};

static GParamSpec *properties[N_PROPS];

typedef struct /* what a pool thread brings back */
{
  TesseraPicture *picture;
  GdkTexture *small;
} Loaded;

static void
loaded_free (Loaded *loaded)
{
  g_clear_object (&loaded->picture);
  g_clear_object (&loaded->small);
  g_free (loaded);
}

static void
load_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  GError *error = NULL;
  TesseraPicture *picture = picture_load (data, &error);
  Loaded *loaded;

  if (picture == NULL)
    {
      g_task_return_error (task, error);
      return;
    }
  loaded = g_new0 (Loaded, 1);
  loaded->picture = picture;
  loaded->small = texture_shrink_to_fit (picture_get_texture (picture), ENTRY_THUMBNAIL_SIZE);
  g_task_return_pointer (task, loaded, (GDestroyNotify)loaded_free);
}

static void
shrink_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  Loaded *loaded = g_new0 (Loaded, 1);

  loaded->picture = g_object_ref (data);
  loaded->small = texture_shrink_to_fit (picture_get_texture (data), ENTRY_THUMBNAIL_SIZE);
  g_task_return_pointer (task, loaded, (GDestroyNotify)loaded_free);
}

static void
set_label (TesseraEntry *self, char *label) /* (transfer full) */
{
  g_free (self->label);
  self->label = label;
  g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_LABEL]);
}

static void
adopt (TesseraEntry *self, Loaded *loaded)
{
  const EngineRequest *request = picture_get_request (loaded->picture);

  g_weak_ref_set (&self->picture, loaded->picture);
  if (self->thumbnail != NULL)
    return;
  self->thumbnail = g_object_ref (loaded->small);
  if (request != NULL && request->prompt[0] != '\0')
    /* Translators: prompt and precision of a picture in the history */
    set_label (self, g_strdup_printf (_ ("%s (%s)"), request->prompt,
                                      precision_label (request->precision)));
  g_object_notify_by_pspec (G_OBJECT (self), properties[PROP_THUMBNAIL]);
}

static void
on_thumbnail (GObject *source, GAsyncResult *result, gpointer data)
{
  TesseraEntry *self = TESSERA_ENTRY (source);
  g_autoptr (GError) error = NULL;
  Loaded *loaded = g_task_propagate_pointer (G_TASK (result), &error);

  if (loaded != NULL)
    {
      adopt (self, loaded);
      loaded_free (loaded);
    }
  else
    {
      set_label (self, g_strdup_printf (_ ("%s cannot be read"), self->name));
    }
}

void
entry_ensure_thumbnail (TesseraEntry *self)
{
  g_autoptr (TesseraPicture) picture = NULL;
  g_autoptr (GTask) task = NULL;

  g_return_if_fail (TESSERA_IS_ENTRY (self));

  if (self->asked)
    return;
  self->asked = TRUE;
  task = g_task_new (self, NULL, on_thumbnail, NULL);
  picture = g_weak_ref_get (&self->picture);
  if (picture != NULL)
    {
      g_task_set_task_data (task, g_steal_pointer (&picture), g_object_unref);
      g_task_run_in_thread (task, shrink_in_thread);
      return;
    }
  g_task_set_priority (task, G_PRIORITY_LOW);
  g_task_set_task_data (task, g_strdup (self->path), g_free);
  g_task_run_in_thread (task, load_in_thread);
}

void
entry_load_async (TesseraEntry *self, GCancellable *cancellable, GAsyncReadyCallback callback,
                  gpointer data)
{
  g_autoptr (GTask) task = g_task_new (self, cancellable, callback, data);
  g_autoptr (TesseraPicture) picture = g_weak_ref_get (&self->picture);

  if (picture != NULL)
    {
      Loaded *loaded = g_new0 (Loaded, 1);

      loaded->picture = g_steal_pointer (&picture);
      g_task_return_pointer (task, loaded, (GDestroyNotify)loaded_free);
      return;
    }
  g_task_set_task_data (task, g_strdup (self->path), g_free);
  g_task_run_in_thread (task, load_in_thread);
}

TesseraPicture *
entry_load_finish (TesseraEntry *self, GAsyncResult *result, GError **error)
{
  Loaded *loaded;
  TesseraPicture *picture;

  g_return_val_if_fail (g_task_is_valid (result, self), NULL);

  loaded = g_task_propagate_pointer (G_TASK (result), error);
  if (loaded == NULL)
    return NULL;
  if (loaded->small != NULL)
    adopt (self, loaded);
  picture = g_steal_pointer (&loaded->picture);
  loaded_free (loaded);
  return picture;
}

const char *
entry_get_path (TesseraEntry *self)
{
  return self->path;
}

const char *
entry_get_name (TesseraEntry *self)
{
  return self->name;
}

const char *
entry_get_label (TesseraEntry *self)
{
  return self->label;
}

GdkTexture *
entry_get_thumbnail (TesseraEntry *self)
{
  return self->thumbnail;
}

TesseraEntry *
entry_new (const char *path, TesseraPicture *picture)
{
  TesseraEntry *self = g_object_new (TESSERA_TYPE_ENTRY, NULL);

  self->path = g_strdup (path);
  self->name = g_path_get_basename (path);
  self->label = g_strdup (self->name);
  g_weak_ref_set (&self->picture, picture);
  return self;
}

static void
entry_get_property (GObject *object, guint id, GValue *value, GParamSpec *pspec)
{
  TesseraEntry *self = TESSERA_ENTRY (object);

  switch (id)
    {
    case PROP_THUMBNAIL:
      g_value_set_object (value, self->thumbnail);
      break;
    case PROP_LABEL:
      g_value_set_string (value, self->label);
      break;
    default:
      G_OBJECT_WARN_INVALID_PROPERTY_ID (object, id, pspec);
    }
}

static void
entry_finalize (GObject *object)
{
  TesseraEntry *self = TESSERA_ENTRY (object);

  g_free (self->path);
  g_free (self->name);
  g_free (self->label);
  g_clear_object (&self->thumbnail);
  g_weak_ref_clear (&self->picture);
  G_OBJECT_CLASS (entry_parent_class)->finalize (object);
}

static void
entry_class_init (TesseraEntryClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);
  const GParamFlags flags = G_PARAM_READABLE | G_PARAM_STATIC_STRINGS;

  object_class->get_property = entry_get_property;
  object_class->finalize = entry_finalize;

  properties[PROP_THUMBNAIL]
      = g_param_spec_object ("thumbnail", NULL, NULL, GDK_TYPE_TEXTURE, flags);
  properties[PROP_LABEL] = g_param_spec_string ("label", NULL, NULL, NULL, flags);
  g_object_class_install_properties (object_class, N_PROPS, properties);
}

static void
entry_init (TesseraEntry *self)
{
  g_weak_ref_init (&self->picture, NULL);
}
