/* SPDX-License-Identifier: Apache-2.0 */
#include "app/lora/lora-row.h"

#include "app/wheel.h"

#include <glib/gi18n.h>
#include <math.h>
#include <string.h>

#define USUAL_STRENGTH   2 /* of the slider, both ways */
#define LARGEST_STRENGTH 8 /* that a request may have */

typedef enum
{
  FIT_UNKNOWN,
  FIT_WHOLE,
  FIT_PARTLY,
  FIT_NOT, /* the engine refuses it */
} Fit;

struct _TesseraLoraRow
{
  AdwPreferencesRow parent_instance;

  /* Template Widgets */
  GtkLabel *name, *text, *details;
  GtkMenuButton *info;
  GtkButton *remove;
  GtkSwitch *active;
  GtkScale *scale;
  GtkAdjustment *strength;

  /* Owned References */
  char *file;
  GCancellable *checking; /* NULL unless it is being asked */

  LoraPlace place;
  Fit fit;
  gboolean available;
};

G_DEFINE_FINAL_TYPE (TesseraLoraRow, lora_row, ADW_TYPE_PREFERENCES_ROW)

enum
{
  CHANGED,
  REMOVE,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

/* -- What it says -------------------------------------------------------------------------------
 */

/* Only of a file that is on is anything said: others are merely there. */
static void
show_text (TesseraLoraRow *self, const char *text, const char *details)
{
  gtk_label_set_label (self->text, text != NULL ? text : "");
  gtk_widget_set_visible (GTK_WIDGET (self->text), text != NULL);
  gtk_label_set_label (self->details, details != NULL ? details : "");
  gtk_widget_set_visible (GTK_WIDGET (self->info), details != NULL && *details != '\0');
}

static void
update (TesseraLoraRow *self)
{
  const gboolean on = gtk_switch_get_active (self->active);

  gtk_widget_set_visible (GTK_WIDGET (self->scale), on);
  gtk_widget_set_visible (GTK_WIDGET (self->remove), self->place != LORA_OF_MODEL);
  gtk_widget_set_sensitive (GTK_WIDGET (self->active), on || self->available);
  gtk_widget_set_tooltip_text (
      GTK_WIDGET (self->active),
      on || self->available ? NULL : _ ("An image can have 8 LoRA files at most"));
  if (self->place == LORA_ABSENT)
    show_text (self, _ ("Not applied: the file is not on this computer"), NULL);
  else if (!on || self->fit == FIT_UNKNOWN)
    show_text (self, NULL, NULL);
}

static void
show_fit (TesseraLoraRow *self, const WorkerLora *lora)
{
  g_autofree char *text = NULL;

  if (lora->left_out > 0)
    text = g_strdup_printf (/* Translators: layers of a model */
                            ngettext ("Applied to %u layer, %u left out",
                                      "Applied to %u layers, %u left out", lora->applied),
                            lora->applied, lora->left_out);
  else
    text = g_strdup_printf (ngettext ("Applied to %u layer", "Applied to %u layers", lora->applied),
                            lora->applied);
  self->fit = lora->left_out > 0 ? FIT_PARTLY : FIT_WHOLE;
  show_text (self, text, lora->reasons);
}

/* -- Asking the model ---------------------------------------------------------------------------
 */

static void
on_checked (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (TesseraLoraRow) self = data;
  g_autoptr (GError) error = NULL;
  WorkerLora *lora = worker_check_lora_finish (TESSERA_WORKER (source), result, &error);

  if (g_task_get_cancellable (G_TASK (result)) == self->checking)
    {
      g_clear_object (&self->checking);
      if (lora != NULL)
        show_fit (self, lora);
      else if (!g_error_matches (error, G_IO_ERROR, G_IO_ERROR_NOT_INITIALIZED))
        {
          self->fit = FIT_NOT;
          show_text (self, _ ("Not applied: the file cannot be used with this model"),
                     error->message);
        }
      update (self);
      g_signal_emit (self, signals[CHANGED], 0);
    }
  worker_lora_free (lora);
}

void
lora_row_check (TesseraLoraRow *self, TesseraWorker *worker)
{
  g_return_if_fail (TESSERA_IS_LORA_ROW (self));

  if (self->place == LORA_ABSENT || self->fit != FIT_UNKNOWN || self->checking != NULL)
    return;
  self->checking = g_cancellable_new ();
  worker_check_lora_async (worker, self->file, self->checking, on_checked, g_object_ref (self));
}

void
lora_row_forget_check (TesseraLoraRow *self)
{
  g_return_if_fail (TESSERA_IS_LORA_ROW (self));

  g_cancellable_cancel (self->checking);
  g_clear_object (&self->checking);
  self->fit = FIT_UNKNOWN;
  update (self);
}

/* -- Values -------------------------------------------------------------------------------------
 */

gboolean
lora_row_is_used (TesseraLoraRow *self)
{
  return lora_row_get_active (self) && self->place != LORA_ABSENT && self->fit != FIT_NOT;
}

const char *
lora_row_get_text (TesseraLoraRow *self)
{
  return gtk_label_get_label (self->text);
}

const char *
lora_row_get_file (TesseraLoraRow *self)
{
  return self->file;
}

void
lora_row_set_place (TesseraLoraRow *self, LoraPlace place)
{
  g_return_if_fail (TESSERA_IS_LORA_ROW (self));

  if (place == self->place)
    return;
  self->place = place;
  lora_row_forget_check (self);
}

LoraPlace
lora_row_get_place (TesseraLoraRow *self)
{
  return self->place;
}

gboolean
lora_row_get_active (TesseraLoraRow *self)
{
  return gtk_switch_get_active (self->active);
}

void
lora_row_set_active (TesseraLoraRow *self, gboolean active)
{
  gtk_switch_set_active (self->active, active);
}

double
lora_row_get_strength (TesseraLoraRow *self)
{
  return gtk_adjustment_get_value (self->strength);
}

/* What another program's picture asks for may be beyond what the slider usually offers. */
void
lora_row_set_strength (TesseraLoraRow *self, double strength)
{
  const double most = fabs (strength) > USUAL_STRENGTH ? LARGEST_STRENGTH : (double)USUAL_STRENGTH;

  g_return_if_fail (TESSERA_IS_LORA_ROW (self));

  gtk_adjustment_set_lower (self->strength, -most);
  gtk_adjustment_set_upper (self->strength, most);
  gtk_adjustment_set_value (self->strength, strength);
}

void
lora_row_set_available (TesseraLoraRow *self, gboolean available)
{
  if (available == self->available)
    return;
  self->available = available;
  update (self);
}

/* -- Type ---------------------------------------------------------------------------------------
 */

static void
on_active (TesseraLoraRow *self)
{
  /* What was found of it is said again when it is on again. */
  if (!gtk_switch_get_active (self->active))
    lora_row_forget_check (self);
  update (self);
  g_signal_emit (self, signals[CHANGED], 0);
}

static void
on_strength (TesseraLoraRow *self)
{
  g_signal_emit (self, signals[CHANGED], 0);
}

static void
on_remove (TesseraLoraRow *self)
{
  g_signal_emit (self, signals[REMOVE], 0);
}

static char *
format_strength (GtkScale *scale, double value, gpointer data)
{
  return g_strdup_printf ("%.2f", value);
}

static void
name_control (gpointer widget, char *label) /* (transfer full) */
{
  gtk_accessible_update_property (GTK_ACCESSIBLE (widget), GTK_ACCESSIBLE_PROPERTY_LABEL, label,
                                  -1);
  g_free (label);
}

TesseraLoraRow *
lora_row_new (const char *file)
{
  TesseraLoraRow *self = g_object_new (TESSERA_TYPE_LORA_ROW, NULL);
  const char *dot = strrchr (file, '.');
  g_autofree char *name = g_strndup (file, dot != NULL ? (gsize)(dot - file) : strlen (file));

  self->file = g_strdup (file);
  gtk_label_set_label (self->name, name);
  gtk_widget_set_tooltip_text (GTK_WIDGET (self->name), file);
  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (self), name);
  /* Translators: %s is the name of a LoRA, in all four */
  name_control (self->active, g_strdup_printf (_ ("Use %s"), name));
  name_control (self->scale, g_strdup_printf (_ ("Strength of %s"), name));
  name_control (self->remove, g_strdup_printf (_ ("Remove %s"), name));
  name_control (self->info, g_strdup_printf (_ ("What is left out of %s"), name));
  update (self);
  return self;
}

static void
lora_row_dispose (GObject *object)
{
  TesseraLoraRow *self = TESSERA_LORA_ROW (object);

  g_cancellable_cancel (self->checking);
  g_clear_object (&self->checking);
  gtk_widget_dispose_template (GTK_WIDGET (object), TESSERA_TYPE_LORA_ROW);
  G_OBJECT_CLASS (lora_row_parent_class)->dispose (object);
}

static void
lora_row_finalize (GObject *object)
{
  g_free (TESSERA_LORA_ROW (object)->file);
  G_OBJECT_CLASS (lora_row_parent_class)->finalize (object);
}

static void
lora_row_class_init (TesseraLoraRowClass *klass)
{
  GtkWidgetClass *widget_class = GTK_WIDGET_CLASS (klass);

  G_OBJECT_CLASS (klass)->dispose = lora_row_dispose;
  G_OBJECT_CLASS (klass)->finalize = lora_row_finalize;

  signals[CHANGED] = g_signal_new ("changed", TESSERA_TYPE_LORA_ROW, G_SIGNAL_RUN_LAST, 0, NULL,
                                   NULL, NULL, G_TYPE_NONE, 0);
  signals[REMOVE] = g_signal_new ("remove", TESSERA_TYPE_LORA_ROW, G_SIGNAL_RUN_LAST, 0, NULL, NULL,
                                  NULL, G_TYPE_NONE, 0);

  gtk_widget_class_set_template_from_resource (widget_class,
                                               "/io/github/tesseraimage/Tessera/lora-row.ui");
  gtk_widget_class_bind_template_child (widget_class, TesseraLoraRow, name);
  gtk_widget_class_bind_template_child (widget_class, TesseraLoraRow, text);
  gtk_widget_class_bind_template_child (widget_class, TesseraLoraRow, details);
  gtk_widget_class_bind_template_child (widget_class, TesseraLoraRow, info);
  gtk_widget_class_bind_template_child (widget_class, TesseraLoraRow, remove);
  gtk_widget_class_bind_template_child (widget_class, TesseraLoraRow, active);
  gtk_widget_class_bind_template_child (widget_class, TesseraLoraRow, scale);
  gtk_widget_class_bind_template_child (widget_class, TesseraLoraRow, strength);
}

static void
lora_row_init (TesseraLoraRow *self)
{
  self->available = TRUE;
  gtk_widget_init_template (GTK_WIDGET (self));
  wheel_pass_on (GTK_WIDGET (self));
  gtk_scale_add_mark (self->scale, 0, GTK_POS_BOTTOM, NULL);
  gtk_scale_add_mark (self->scale, 1, GTK_POS_BOTTOM, NULL);
  gtk_scale_set_format_value_func (self->scale, format_strength, NULL, NULL);
  g_signal_connect_object (self->active, "notify::active", G_CALLBACK (on_active), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->strength, "value-changed", G_CALLBACK (on_strength), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->remove, "clicked", G_CALLBACK (on_remove), self,
                           G_CONNECT_SWAPPED);
}
