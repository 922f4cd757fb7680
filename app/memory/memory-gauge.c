/* SPDX-License-Identifier: Apache-2.0 */
#include "app/memory/memory-gauge.h"

#include "app/memory/memory-bar.h"

#include <glib/gi18n.h>

struct _TesseraMemoryGauge
{
  GtkWidget parent_instance;

  /* Template Widgets */
  GtkLabel *total, *forecast;
  TesseraMemoryBar *bar;

  EngineMemory memory;
  EngineDevice device;
  EnginePlan plan;
  NvmlMemory shares;
  gboolean has_memory, has_plan, has_shares;
};

G_DEFINE_FINAL_TYPE (TesseraMemoryGauge, memory_gauge, GTK_TYPE_WIDGET)

char *
format_memory (guint64 bytes)
{
  const double gibibytes = bytes / (1024.0 * 1024 * 1024);

  if (gibibytes < 0.1)
    return g_strdup_printf (_ ("%.0f MiB"), bytes / (1024.0 * 1024));
  return g_strdup_printf (_ ("%.1f GiB"), gibibytes);
}

/* `reserved` is all that the engine holds, and what it holds is for something or kept for later. */
static guint64
kept_for_later (const TesseraMemoryGauge *self)
{
  const guint64 in_use = self->memory.weights + self->memory.activations;

  return self->memory.reserved > in_use ? self->memory.reserved - in_use : 0;
}

static guint64
used_by_us (const TesseraMemoryGauge *self)
{
  return self->memory.weights + self->memory.activations + kept_for_later (self);
}

/* In a sandbox processes have other numbers, and the library's list does not know us. */
static guint64
used_by_others (const TesseraMemoryGauge *self)
{
  const guint64 used = self->device.total_memory - self->device.free_memory;
  const guint64 ours = used_by_us (self);

  if (self->has_shares && self->shares.ours >= ours)
    return MIN (self->shares.others, used);
  return used > ours ? used - ours : 0;
}

/* ", firefox 1.1 GB" for each of the largest (transfer full). */
static char *
list_others (const TesseraMemoryGauge *self)
{
  g_autoptr (GString) text = g_string_new (NULL);

  for (int i = 0; self->has_shares && i < self->shares.n_named; i++)
    {
      g_autofree char *amount = format_memory (self->shares.named[i].bytes);

      g_string_append_printf (text, "\n    %s: %s", self->shares.named[i].name, amount);
    }
  return g_strdup (text->str);
}

static void
show_total (TesseraMemoryGauge *self)
{
  const guint64 used = self->device.total_memory - self->device.free_memory;
  g_autofree char *used_text = format_memory (used);
  g_autofree char *total_text = format_memory (self->device.total_memory);
  g_autofree char *text = NULL;

  if (self->device.gpu)
    text = g_strdup_printf (_ ("Graphics memory: %s of %s"), used_text, total_text);
  else
    text = g_strdup_printf (_ ("Main memory: %s of %s"), used_text, total_text);
  gtk_label_set_label (self->total, text);
  gtk_accessible_update_property (GTK_ACCESSIBLE (self->bar), GTK_ACCESSIBLE_PROPERTY_LABEL, text,
                                  -1);
}

/* Who holds how much, for those who point at it. */
static void
show_owners (TesseraMemoryGauge *self)
{
  g_autofree char *weights = format_memory (self->memory.weights);
  g_autofree char *activations = format_memory (self->memory.activations);
  g_autofree char *reserved = format_memory (kept_for_later (self));
  g_autofree char *amount = format_memory (used_by_others (self));
  g_autofree char *names = list_others (self);
  g_autofree char *others = g_strconcat (amount, names, NULL);
  g_autofree char *peak = format_memory (self->memory.peak);
  g_autofree char *text = g_strdup_printf (
      /* Translators: amounts of memory, by what they are for */
      _ ("%s\nModel: %s\nWorking memory: %s\nReserved: %s\nOther programs: %s\n"
         "Most held in the last run: %s"),
      self->device.name, weights, activations, reserved, others, peak);

  gtk_widget_set_tooltip_text (GTK_WIDGET (self), text);
}

static void
show_forecast (TesseraMemoryGauge *self)
{
  g_autofree char *peak = NULL, *available = NULL, *text = NULL;

  gtk_widget_set_visible (GTK_WIDGET (self->forecast), self->has_plan);
  if (!self->has_plan)
    return;
  peak = format_memory (self->plan.peak);
  available = format_memory (self->plan.available);
  if (!self->plan.fits)
    text = g_strdup_printf (_ ("The next image needs %s, but %s are available"), peak, available);
  else if (self->plan.seconds >= 90)
    text = g_strdup_printf (_ ("The next image needs %s and about %.0f min"), peak,
                            self->plan.seconds / 60);
  else if (self->plan.seconds >= 1)
    text = g_strdup_printf (_ ("The next image needs %s and about %.0f s"), peak,
                            self->plan.seconds);
  else
    text = g_strdup_printf (_ ("The next image needs %s"), peak);
  gtk_label_set_label (self->forecast, text);
  /* A warning that is dimmed cannot be read. */
  gtk_widget_remove_css_class (GTK_WIDGET (self->forecast),
                               self->plan.fits ? "warning" : "dim-label");
  gtk_widget_add_css_class (GTK_WIDGET (self->forecast), self->plan.fits ? "dim-label" : "warning");
}

static void
update (TesseraMemoryGauge *self)
{
  const double total = self->device.total_memory;
  const guint64 others = used_by_others (self);
  double mark = -1;

  gtk_widget_set_visible (GTK_WIDGET (self->total), self->has_memory);
  gtk_widget_set_visible (GTK_WIDGET (self->bar), self->has_memory);
  show_forecast (self);
  if (!self->has_memory || total <= 0)
    return;
  show_total (self);
  show_owners (self);
  if (self->has_plan)
    mark = (others + self->plan.peak) / total;
  memory_bar_set (self->bar,
                  (double[]){ others / total, self->memory.weights / total,
                              self->memory.activations / total, kept_for_later (self) / total },
                  mark);
}

void
memory_gauge_set_memory (TesseraMemoryGauge *self, const EngineMemory *memory,
                         const EngineDevice *device)
{
  g_return_if_fail (TESSERA_IS_MEMORY_GAUGE (self));

  self->memory = *memory;
  self->device = *device;
  self->has_memory = TRUE;
  update (self);
}

void
memory_gauge_set_shares (TesseraMemoryGauge *self, const NvmlMemory *shares)
{
  g_return_if_fail (TESSERA_IS_MEMORY_GAUGE (self));

  self->has_shares = shares != NULL;
  if (shares != NULL)
    self->shares = *shares;
  update (self);
}

void
memory_gauge_set_plan (TesseraMemoryGauge *self, const EnginePlan *plan)
{
  g_return_if_fail (TESSERA_IS_MEMORY_GAUGE (self));

  self->has_plan = plan != NULL;
  if (plan != NULL)
    self->plan = *plan;
  update (self);
}

static void
memory_gauge_dispose (GObject *object)
{
  gtk_widget_dispose_template (GTK_WIDGET (object), TESSERA_TYPE_MEMORY_GAUGE);
  G_OBJECT_CLASS (memory_gauge_parent_class)->dispose (object);
}

static void
memory_gauge_class_init (TesseraMemoryGaugeClass *klass)
{
  GtkWidgetClass *widget_class = GTK_WIDGET_CLASS (klass);

  G_OBJECT_CLASS (klass)->dispose = memory_gauge_dispose;
  g_type_ensure (TESSERA_TYPE_MEMORY_BAR);
  gtk_widget_class_set_template_from_resource (widget_class,
                                               "/io/github/tesseraimage/Tessera/memory-gauge.ui");
  gtk_widget_class_bind_template_child (widget_class, TesseraMemoryGauge, total);
  gtk_widget_class_bind_template_child (widget_class, TesseraMemoryGauge, forecast);
  gtk_widget_class_bind_template_child (widget_class, TesseraMemoryGauge, bar);
}

static void
memory_gauge_init (TesseraMemoryGauge *self)
{
  gtk_widget_init_template (GTK_WIDGET (self));
  update (self);
}
