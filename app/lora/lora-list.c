/* SPDX-License-Identifier: Apache-2.0 */
#include "app/lora/lora-list.h"

#include "app/lora/lora-folder.h"

#include <glib/gi18n.h>

#define SAVE_DELAY 250 /* ms after the last change: a slider changes often */

struct _TesseraLoraList
{
  AdwExpanderRow parent_instance;

  /* Owned References */
  GPtrArray *rows; /* TesseraLoraRow, as they are seen */
  GtkWidget *add_row;
  GSettings *settings;
  TesseraWorker *worker;
  TesseraLoraRow *removed; /* can still be brought back */
  char *folder, *model_folder;
  GArray *lent; /* EngineLora */

  guint save_source;
  gboolean quiet; /* several things change at once */
};

G_DEFINE_FINAL_TYPE (TesseraLoraList, lora_list, ADW_TYPE_EXPANDER_ROW)

enum
{
  CHANGED,
  REMOVED,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

/* -- Settings -----------------------------------------------------------------------------------
 */

static gboolean
save_now (gpointer data)
{
  TesseraLoraList *self = data;
  GVariantBuilder builder;

  self->save_source = 0;
  g_variant_builder_init (&builder, G_VARIANT_TYPE ("a(sdb)"));
  for (guint i = 0; i < self->rows->len; i++)
    {
      TesseraLoraRow *row = self->rows->pdata[i];

      g_variant_builder_add (&builder, "(sdb)", lora_row_get_file (row),
                             lora_row_get_strength (row), lora_row_get_active (row));
    }
  g_settings_set_value (self->settings, "loras", g_variant_builder_end (&builder));
  return G_SOURCE_REMOVE;
}

/* -- Rows ---------------------------------------------------------------------------------------
 */

/* "1 of 2 in use" while something that is on cannot be applied. */
static void
show_count (TesseraLoraList *self)
{
  g_autofree char *text = NULL;
  guint on = 0, used = 0;

  for (guint i = 0; i < self->rows->len; i++)
    {
      on += lora_row_get_active (self->rows->pdata[i]);
      used += lora_row_is_used (self->rows->pdata[i]);
    }
  if (used < on)
    /* Translators: of the LoRA files that are switched on */
    text = g_strdup_printf (_ ("%u of %u in use"), used, on);
  else if (on > 0)
    text = g_strdup_printf (ngettext ("%u in use", "%u in use", on), on);
  adw_expander_row_set_subtitle (ADW_EXPANDER_ROW (self), text != NULL ? text : "");
  for (guint i = 0; i < self->rows->len; i++)
    lora_row_set_available (self->rows->pdata[i], on < ENGINE_REQUEST_MAX_LORAS);
}

static void
on_changed (TesseraLoraList *self)
{
  if (self->quiet)
    return;
  for (guint i = 0; i < self->rows->len; i++)
    if (lora_row_get_active (self->rows->pdata[i]) && self->worker != NULL
        && self->model_folder != NULL)
      lora_row_check (self->rows->pdata[i], self->worker);
  show_count (self);
  if (self->settings != NULL && self->save_source == 0)
    self->save_source = g_timeout_add (SAVE_DELAY, save_now, self);
  g_signal_emit (self, signals[CHANGED], 0);
}

TesseraLoraRow *
lora_list_find (TesseraLoraList *self, const char *file)
{
  for (guint i = 0; i < self->rows->len; i++)
    if (g_str_equal (lora_row_get_file (self->rows->pdata[i]), file))
      return self->rows->pdata[i];
  return NULL;
}

static gboolean
is_laid_out (TesseraLoraList *self)
{
  GtkWidget *child = gtk_widget_get_first_child (gtk_widget_get_parent (self->add_row));

  for (guint i = 0; i < self->rows->len; i++, child = gtk_widget_get_next_sibling (child))
    if (child != self->rows->pdata[i])
      return FALSE;
  return child == self->add_row;
}

/* An expander only takes rows at its end, so all are put there anew. */
static void
lay_out (TesseraLoraList *self)
{
  AdwExpanderRow *expander = ADW_EXPANDER_ROW (self);
  GtkWidget *parent = gtk_widget_get_parent (self->add_row), *child;

  if (is_laid_out (self))
    return;
  while ((child = gtk_widget_get_first_child (parent)) != NULL)
    adw_expander_row_remove (expander, child);
  for (guint i = 0; i < self->rows->len; i++)
    adw_expander_row_add_row (expander, self->rows->pdata[i]);
  adw_expander_row_add_row (expander, self->add_row);
}

static void on_remove (TesseraLoraList *self, TesseraLoraRow *row);

static TesseraLoraRow *
add (TesseraLoraList *self, const char *file)
{
  TesseraLoraRow *row = g_object_ref_sink (lora_row_new (file));

  g_ptr_array_add (self->rows, row);
  g_signal_connect_object (row, "changed", G_CALLBACK (on_changed), self, G_CONNECT_SWAPPED);
  g_signal_connect_object (row, "remove", G_CALLBACK (on_remove), self, G_CONNECT_SWAPPED);
  return row;
}

static void
on_remove (TesseraLoraList *self, TesseraLoraRow *row)
{
  lora_list_forget_removed (self);
  if (lora_row_get_place (row) == LORA_OF_USER)
    self->removed = g_object_ref (row);
  g_ptr_array_remove (self->rows, row);
  lay_out (self);
  on_changed (self);
  if (self->removed != NULL)
    g_signal_emit (self, signals[REMOVED], 0, lora_row_get_file (self->removed));
}

/* -- Folders ------------------------------------------------------------------------------------
 */

/* Marks what is in `folder`, and adds what is new. */
static void
take_folder (TesseraLoraList *self, const char *folder, LoraPlace place, GHashTable *found)
{
  g_auto (GStrv) names = lora_folder_list (folder);

  for (guint i = 0; names[i] != NULL; i++)
    {
      TesseraLoraRow *row = lora_list_find (self, names[i]);

      if (self->removed != NULL && place == LORA_OF_USER
          && g_str_equal (lora_row_get_file (self->removed), names[i]))
        continue;
      if (row == NULL)
        row = add (self, names[i]);
      if (g_hash_table_add (found, row)) /* the model's comes first */
        lora_row_set_place (row, place);
    }
}

void
lora_list_rescan (TesseraLoraList *self)
{
  g_autoptr (GHashTable) found = g_hash_table_new (NULL, NULL);

  g_return_if_fail (TESSERA_IS_LORA_LIST (self));

  self->quiet = TRUE;
  if (self->model_folder != NULL)
    take_folder (self, self->model_folder, LORA_OF_MODEL, found);
  take_folder (self, self->folder, LORA_OF_USER, found);
  for (guint i = self->rows->len; i > 0; i--)
    {
      TesseraLoraRow *row = self->rows->pdata[i - 1];

      if (g_hash_table_contains (found, row))
        continue;
      lora_row_set_place (row, LORA_ABSENT);
      if (!lora_row_get_active (row)) /* asked for by nobody */
        g_ptr_array_remove_index (self->rows, i - 1);
    }
  self->quiet = FALSE;
  lay_out (self);
  on_changed (self);
}

void
lora_list_set_model (TesseraLoraList *self, const char *model_dir)
{
  g_return_if_fail (TESSERA_IS_LORA_LIST (self));

  g_free (self->model_folder);
  self->model_folder = model_dir != NULL ? lora_folder_of_model (model_dir) : NULL;
  for (guint i = 0; i < self->rows->len; i++)
    lora_row_forget_check (self->rows->pdata[i]);
  lora_list_rescan (self);
}

void
lora_list_set_worker (TesseraLoraList *self, TesseraWorker *worker)
{
  g_set_object (&self->worker, worker);
}

void
lora_list_bind_settings (TesseraLoraList *self, GSettings *settings)
{
  g_autoptr (GVariant) value = g_settings_get_value (settings, "loras");
  GVariantIter iter;
  const char *file;
  double strength;
  gboolean active;

  g_return_if_fail (TESSERA_IS_LORA_LIST (self) && self->settings == NULL);

  self->quiet = TRUE;
  g_variant_iter_init (&iter, value);
  while (g_variant_iter_next (&iter, "(&sdb)", &file, &strength, &active))
    if (*file != '\0' && lora_list_find (self, file) == NULL)
      {
        TesseraLoraRow *row = add (self, file);

        lora_row_set_strength (row, CLAMP (strength, -8, 8));
        lora_row_set_active (row, active);
      }
  lora_list_rescan (self);
  self->settings = g_object_ref (settings);
}

/* -- Requests -----------------------------------------------------------------------------------
 */

const EngineLora *
lora_list_get (TesseraLoraList *self, guint *n)
{
  g_array_set_size (self->lent, 0);
  for (guint i = 0; i < self->rows->len && self->lent->len < ENGINE_REQUEST_MAX_LORAS; i++)
    if (lora_row_is_used (self->rows->pdata[i]))
      {
        EngineLora lora = { lora_row_get_file (self->rows->pdata[i]),
                            lora_row_get_strength (self->rows->pdata[i]) };

        g_array_append_val (self->lent, lora);
      }
  *n = self->lent->len;
  return (const EngineLora *)(const void *)self->lent->data;
}

void
lora_list_set (TesseraLoraList *self, const EngineLora *loras, guint n, GString *ignored)
{
  guint next = 0;

  g_return_if_fail (TESSERA_IS_LORA_LIST (self));

  self->quiet = TRUE;
  for (guint i = 0; i < self->rows->len; i++)
    lora_row_set_active (self->rows->pdata[i], FALSE);
  for (guint i = 0; i < n; i++)
    {
      g_autofree char *file = g_path_get_basename (loras[i].file);
      TesseraLoraRow *row = lora_list_find (self, file);
      guint position;

      if (row == NULL)
        row = add (self, file);
      if (lora_row_get_active (row)) /* named twice: what they add is added */
        lora_row_set_strength (row, CLAMP (lora_row_get_strength (row) + loras[i].strength, -8, 8));
      else
        {
          lora_row_set_strength (row, loras[i].strength);
          g_ptr_array_find (self->rows, row, &position);
          g_ptr_array_insert (self->rows, next++, g_ptr_array_steal_index (self->rows, position));
        }
      lora_row_set_active (row, TRUE);
    }
  lora_list_rescan (self);
  for (guint i = 0; i < self->rows->len && ignored != NULL; i++)
    if (lora_row_get_place (self->rows->pdata[i]) == LORA_ABSENT)
      g_string_append_printf (ignored, _ ("LoRA: %s is not on this computer\n"),
                              lora_row_get_file (self->rows->pdata[i]));
}

void
lora_list_use (TesseraLoraList *self, const char *file)
{
  TesseraLoraRow *row;

  g_return_if_fail (TESSERA_IS_LORA_LIST (self));

  lora_list_rescan (self);
  row = lora_list_find (self, file);
  if (row == NULL)
    return;
  lora_row_forget_check (row); /* the file may have been replaced */
  lora_row_set_active (row, TRUE);
  on_changed (self);
  adw_expander_row_set_expanded (ADW_EXPANDER_ROW (self), TRUE);
}

/* -- Removing -----------------------------------------------------------------------------------
 */

void
lora_list_forget_removed (TesseraLoraList *self)
{
  g_autoptr (TesseraLoraRow) row = g_steal_pointer (&self->removed);

  if (row != NULL)
    lora_folder_remove (self->folder, lora_row_get_file (row));
}

void
lora_list_bring_back (TesseraLoraList *self)
{
  g_autoptr (TesseraLoraRow) row = g_steal_pointer (&self->removed);

  if (row == NULL)
    return;
  if (lora_list_find (self, lora_row_get_file (row)) == NULL)
    g_ptr_array_add (self->rows, g_object_ref (row));
  lora_list_rescan (self);
}

/* -- Type ---------------------------------------------------------------------------------------
 */

static void
on_expanded (TesseraLoraList *self)
{
  if (adw_expander_row_get_expanded (ADW_EXPANDER_ROW (self)))
    lora_list_rescan (self);
}

static void
lora_list_dispose (GObject *object)
{
  TesseraLoraList *self = TESSERA_LORA_LIST (object);

  if (self->save_source != 0)
    {
      g_source_remove (self->save_source);
      save_now (self);
    }
  self->quiet = TRUE;
  lora_list_forget_removed (self);
  g_ptr_array_set_size (self->rows, 0);
  g_clear_object (&self->add_row);
  g_clear_object (&self->settings);
  g_clear_object (&self->worker);
  G_OBJECT_CLASS (lora_list_parent_class)->dispose (object);
}

static void
lora_list_finalize (GObject *object)
{
  TesseraLoraList *self = TESSERA_LORA_LIST (object);

  g_ptr_array_unref (self->rows);
  g_array_unref (self->lent);
  g_free (self->folder);
  g_free (self->model_folder);
  G_OBJECT_CLASS (lora_list_parent_class)->finalize (object);
}

static void
lora_list_class_init (TesseraLoraListClass *klass)
{
  G_OBJECT_CLASS (klass)->dispose = lora_list_dispose;
  G_OBJECT_CLASS (klass)->finalize = lora_list_finalize;

  signals[CHANGED] = g_signal_new ("changed", TESSERA_TYPE_LORA_LIST, G_SIGNAL_RUN_LAST, 0, NULL,
                                   NULL, NULL, G_TYPE_NONE, 0);
  signals[REMOVED] = g_signal_new ("removed", TESSERA_TYPE_LORA_LIST, G_SIGNAL_RUN_LAST, 0, NULL,
                                   NULL, NULL, G_TYPE_NONE, 1, G_TYPE_STRING);
}

static GtkWidget *
make_add_row (void)
{
  GtkWidget *row = adw_action_row_new ();
  GtkWidget *icon = gtk_image_new_from_icon_name ("list-add-symbolic");

  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (row), _ ("Add _File…"));
  adw_preferences_row_set_use_underline (ADW_PREFERENCES_ROW (row), TRUE);
  adw_action_row_set_subtitle (ADW_ACTION_ROW (row), _ ("It is copied to the app’s own files"));
  adw_action_row_add_suffix (ADW_ACTION_ROW (row), icon);
  gtk_list_box_row_set_activatable (GTK_LIST_BOX_ROW (row), TRUE);
  gtk_actionable_set_action_name (GTK_ACTIONABLE (row), "win.add-lora");
  return row;
}

static void
lora_list_init (TesseraLoraList *self)
{
  self->rows = g_ptr_array_new_with_free_func (g_object_unref);
  self->lent = g_array_new (FALSE, FALSE, sizeof (EngineLora));
  self->folder = lora_folder_get ();
  self->add_row = g_object_ref_sink (make_add_row ());
  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (self), _ ("_LoRA"));
  adw_preferences_row_set_use_underline (ADW_PREFERENCES_ROW (self), TRUE);
  adw_expander_row_add_row (ADW_EXPANDER_ROW (self), self->add_row);
  g_signal_connect (self, "notify::expanded", G_CALLBACK (on_expanded), NULL);
}
