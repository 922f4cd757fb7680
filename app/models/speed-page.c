/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/speed-page.h"

#include "app/compat.h"
#include "app/memory/memory-gauge.h"
#include "app/models/models.h"

#include <glib/gi18n.h>

#define INTERVAL 200 /* ms between two looks at the progress */

struct _TesseraSpeedPage
{
  AdwPreferencesPage parent_instance;

  /* Owned References */
  TesseraWorker *worker;
  GSettings *settings;
  GCancellable *cancellable; /* NULL unless it runs */
  SpeedProgress *progress;
  Speed *speed;      /* what is shown */
  GPtrArray *groups; /* widgets of the figures */

  /* Of the page */
  GtkWidget *button, *save;
  AdwPreferencesGroup *head;
  AdwActionRow *state;
  GtkProgressBar *bar;

  guint source;
  double patience;
};

G_DEFINE_FINAL_TYPE (TesseraSpeedPage, speed_page, ADW_TYPE_PREFERENCES_PAGE)

/* -- Figures ------------------------------------------------------------------------------------
 */

static void
add_figure (AdwPreferencesGroup *group, const char *title, const char *explanation, char *value)
{
  GtkWidget *row = adw_action_row_new (), *label = gtk_label_new (value);

  adw_preferences_row_set_use_markup (ADW_PREFERENCES_ROW (row), FALSE);
  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (row), title);
  if (explanation != NULL)
    adw_action_row_set_subtitle (ADW_ACTION_ROW (row), explanation);
  gtk_widget_add_css_class (label, "numeric");
  gtk_label_set_selectable (GTK_LABEL (label), TRUE);
  adw_action_row_add_suffix (ADW_ACTION_ROW (row), label);
  adw_preferences_group_add (group, row);
  g_free (value);
}

static char *
format_seconds (double seconds)
{
  if (seconds < 1)
    return g_strdup_printf (_ ("%.0f ms"), 1000 * seconds);
  return g_strdup_printf (seconds < 100 ? _ ("%.2f s") : _ ("%.0f s"), seconds);
}

/* "84 %": how much of a step is what the device cannot do without. */
static void
add_share (AdwPreferencesGroup *group, const Benchmark *run)
{
  g_autofree char *floor = format_seconds (benchmark_floor (run));
  g_autofree char *text = g_strdup_printf (
      /* Translators: first a time, then a rate of computing */
      _ ("The products of a step alone: %s, at the %.3g TFLOP/s of a bare 16-bit product"), floor,
      run->product_rate * 1e-12);

  if (benchmark_floor (run) > 0)
    add_figure (group, _ ("Share of the floor"), text,
                g_strdup_printf (_ ("%.0f %%"), 100 * benchmark_share (run)));
}

static void
add_precision (TesseraSpeedPage *self, EnginePrecision precision)
{
  const Benchmark *runs = self->speed->runs[precision], *longest = &runs[SPEED_N_STEPS - 1];
  AdwPreferencesGroup *group;
  guint64 peak = 0;

  if (longest->request == NULL)
    return;
  group = ADW_PREFERENCES_GROUP (adw_preferences_group_new ());
  adw_preferences_group_set_title (group, precision_label (precision));
  add_figure (group, _ ("A step"), NULL, format_seconds (longest->median.step));
  for (int i = 0; i < SPEED_N_STEPS; i++)
    {
      g_autofree char *title = g_strdup_printf (
          ngettext ("An image of %d step", "An image of %d steps", SPEED_STEPS[i]), SPEED_STEPS[i]);

      add_figure (group, title, NULL, format_seconds (runs[i].median.total));
      peak = MAX (peak, runs[i].memory.peak);
    }
  add_figure (group, _ ("The first image"), _ ("Of 8 steps, with the model still to be loaded"),
              format_seconds (runs[0].open + runs[0].first.total));
  add_figure (group, _ ("Most memory held"), NULL, format_memory (peak));
  add_share (group, longest);
  adw_preferences_page_add (ADW_PREFERENCES_PAGE (self), group);
  g_ptr_array_add (self->groups, group);
}

void
speed_page_show (TesseraSpeedPage *self, Speed *speed)
{
  const Benchmark *any;
  g_autofree char *text = NULL;

  g_return_if_fail (TESSERA_IS_SPEED_PAGE (self) && speed != NULL);

  g_clear_pointer (&self->speed, speed_free);
  self->speed = speed;
  for (guint i = 0; i < self->groups->len; i++)
    adw_preferences_page_remove (ADW_PREFERENCES_PAGE (self), self->groups->pdata[i]);
  g_ptr_array_set_size (self->groups, 0);
  add_precision (self, ENGINE_PRECISION_BF16);
  add_precision (self, ENGINE_PRECISION_SVDQUANT);
  gtk_widget_set_sensitive (self->save, TRUE);

  any = &speed->runs[0][0];
  if (any->request == NULL)
    any = &speed->runs[1][0];
  /* Translators: name of a device, width, height */
  text = g_strdup_printf (_ ("%s, images of %d × %d"), any->device.name, any->request->width,
                          any->request->height);
  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (self->state), text);
}

/* -- Running ------------------------------------------------------------------------------------
 */

gboolean
speed_page_is_running (TesseraSpeedPage *self)
{
  return self->cancellable != NULL;
}

static void
update (TesseraSpeedPage *self)
{
  const gboolean running = speed_page_is_running (self);

  gtk_widget_set_visible (GTK_WIDGET (self->bar), running);
  gtk_button_set_label (GTK_BUTTON (self->button), running ? _ ("_Cancel") : _ ("_Start"));
}

static gboolean
on_timeout (gpointer data)
{
  TesseraSpeedPage *self = data;
  const int permille = g_atomic_int_get (&self->progress->permille);
  const int run = g_atomic_int_get (&self->progress->run);
  const int steps = SPEED_STEPS[run % SPEED_N_STEPS];
  g_autofree char *text = NULL;

  if (permille == 0)
    text = g_strdup (_ ("Looking for the size that suits"));
  else if (permille < 0)
    text = g_strdup (_ ("Waiting for the image that is being made"));
  else
    /* Translators: a precision, and a number of steps */
    text = g_strdup_printf (
        ngettext ("Measuring %s with %d step", "Measuring %s with %d steps", steps),
        precision_label (run / SPEED_N_STEPS), steps);
  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (self->state), text);
  gtk_progress_bar_set_fraction (self->bar, MAX (permille, 0) / 1000.0);
  return G_SOURCE_CONTINUE;
}

static void
on_measured (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (TesseraSpeedPage) self = data;
  g_autoptr (GError) error = NULL;
  Speed *speed = speed_measure_finish (result, &error);

  /* Cancelled, and perhaps begun anew. */
  if (self->cancellable == NULL || g_task_get_cancellable (G_TASK (result)) != self->cancellable)
    {
      speed_free (speed);
      return;
    }
  g_clear_object (&self->cancellable);
  g_clear_handle_id (&self->source, g_source_remove);
  if (speed != NULL)
    speed_page_show (self, speed);
  else
    adw_preferences_row_set_title (ADW_PREFERENCES_ROW (self->state), error->message);
  update (self);
}

void
speed_page_set_patience (TesseraSpeedPage *self, double seconds)
{
  self->patience = seconds;
}

void
speed_page_start (TesseraSpeedPage *self)
{
  g_autofree char *model = models_choose (self->settings);

  if (speed_page_is_running (self))
    return;
  self->cancellable = g_cancellable_new ();
  g_clear_pointer (&self->progress, speed_progress_unref);
  self->progress = speed_progress_new ();
  self->source = g_timeout_add (INTERVAL, on_timeout, self);
  speed_measure_async (self->worker, model, self->patience, self->progress, self->cancellable,
                       on_measured, g_object_ref (self));
  on_timeout (self);
  update (self);
}

void
speed_page_cancel (TesseraSpeedPage *self)
{
  if (!speed_page_is_running (self))
    return;
  g_cancellable_cancel (self->cancellable);
  g_clear_object (&self->cancellable);
  g_clear_handle_id (&self->source, g_source_remove);
  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (self->state), _ ("Cancelled"));
  update (self);
}

static void
on_clicked (TesseraSpeedPage *self)
{
  if (speed_page_is_running (self))
    speed_page_cancel (self);
  else
    speed_page_start (self);
}

/* -- Saving -------------------------------------------------------------------------------------
 */

/* A few kilobytes: written at once, and so never changed under the writing. */
static void
on_file_chosen (GFile *file, gpointer data)
{
  g_autoptr (TesseraSpeedPage) self = data;
  g_autofree char *path = file != NULL ? g_file_get_path (file) : NULL;
  g_autoptr (GError) error = NULL;

  if (path != NULL && self->speed != NULL && !speed_save (self->speed, path, &error))
    adw_preferences_row_set_title (ADW_PREFERENCES_ROW (self->state), error->message);
}

static void
on_save (TesseraSpeedPage *self)
{
  compat_save_file (GTK_WINDOW (gtk_widget_get_root (GTK_WIDGET (self))), _ ("Save Figures"),
                    "tessera-benchmark.json", on_file_chosen, g_object_ref (self));
}

const Speed *
speed_page_get_shown (TesseraSpeedPage *self)
{
  return self->speed;
}

/* -- Type ---------------------------------------------------------------------------------------
 */

TesseraSpeedPage *
speed_page_new (TesseraWorker *worker, GSettings *settings)
{
  TesseraSpeedPage *self = g_object_new (TESSERA_TYPE_SPEED_PAGE, NULL);

  self->worker = g_object_ref (worker);
  self->settings = g_object_ref (settings);
  return self;
}

static void
speed_page_dispose (GObject *object)
{
  TesseraSpeedPage *self = TESSERA_SPEED_PAGE (object);

  g_cancellable_cancel (self->cancellable);
  g_clear_object (&self->cancellable);
  g_clear_handle_id (&self->source, g_source_remove);
  g_clear_object (&self->worker);
  g_clear_object (&self->settings);
  G_OBJECT_CLASS (speed_page_parent_class)->dispose (object);
}

static void
speed_page_finalize (GObject *object)
{
  TesseraSpeedPage *self = TESSERA_SPEED_PAGE (object);

  g_clear_pointer (&self->progress, speed_progress_unref);
  g_clear_pointer (&self->speed, speed_free);
  g_ptr_array_unref (self->groups);
  G_OBJECT_CLASS (speed_page_parent_class)->finalize (object);
}

static void
speed_page_class_init (TesseraSpeedPageClass *klass)
{
  G_OBJECT_CLASS (klass)->dispose = speed_page_dispose;
  G_OBJECT_CLASS (klass)->finalize = speed_page_finalize;
}

static GtkWidget *
make_buttons (TesseraSpeedPage *self)
{
  GtkWidget *box = gtk_box_new (GTK_ORIENTATION_HORIZONTAL, 6);

  self->save = gtk_button_new_with_mnemonic (_ ("Sa_ve…"));
  self->button = gtk_button_new_with_mnemonic (_ ("_Start"));
  gtk_widget_set_sensitive (self->save, FALSE);
  gtk_widget_add_css_class (self->save, "flat");
  gtk_widget_set_valign (box, GTK_ALIGN_CENTER);
  g_signal_connect_swapped (self->save, "clicked", G_CALLBACK (on_save), self);
  g_signal_connect_swapped (self->button, "clicked", G_CALLBACK (on_clicked), self);
  gtk_box_append (GTK_BOX (box), self->save);
  gtk_box_append (GTK_BOX (box), self->button);
  return box;
}

static void
speed_page_init (TesseraSpeedPage *self)
{
  AdwPreferencesPage *page = ADW_PREFERENCES_PAGE (self);

  self->patience = 10;
  self->groups = g_ptr_array_new ();
  self->head = ADW_PREFERENCES_GROUP (adw_preferences_group_new ());
  self->state = ADW_ACTION_ROW (adw_action_row_new ());
  self->bar = GTK_PROGRESS_BAR (gtk_progress_bar_new ());
  adw_preferences_group_set_title (self->head, _ ("Benchmark This Computer"));
  adw_preferences_group_set_description (
      self->head, _ ("Makes images of 1024 × 1024 with 8 and 20 steps, or smaller ones that fit, "
                     "in each precision. Whatever else the computer does meanwhile counts."));
  adw_preferences_group_set_header_suffix (self->head, make_buttons (self));
  adw_preferences_row_set_use_markup (ADW_PREFERENCES_ROW (self->state), FALSE);
  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (self->state), _ ("Not measured yet"));
  gtk_widget_set_valign (GTK_WIDGET (self->bar), GTK_ALIGN_CENTER);
  gtk_accessible_update_property (GTK_ACCESSIBLE (self->bar), GTK_ACCESSIBLE_PROPERTY_LABEL,
                                  _ ("Progress of the benchmark"), -1);
  adw_action_row_add_suffix (self->state, GTK_WIDGET (self->bar));
  adw_preferences_group_add (self->head, GTK_WIDGET (self->state));
  adw_preferences_page_add (page, self->head);
  adw_preferences_page_set_name (page, "speed");
  adw_preferences_page_set_title (page, _ ("Speed"));
  adw_preferences_page_set_icon_name (page, "power-profile-performance-symbolic");
  update (self);
}
