/* SPDX-License-Identifier: Apache-2.0 */
#include "app/memory/memory-bar.h"

struct _TesseraMemoryBar
{
  GtkWidget parent_instance;

  double parts[MEMORY_BAR_PARTS];
  double mark;
};

G_DEFINE_FINAL_TYPE (TesseraMemoryBar, memory_bar, GTK_TYPE_WIDGET)

void
memory_bar_set (TesseraMemoryBar *self, const double parts[MEMORY_BAR_PARTS], double mark)
{
  g_return_if_fail (TESSERA_IS_MEMORY_BAR (self));

  for (int i = 0; i < MEMORY_BAR_PARTS; i++)
    self->parts[i] = CLAMP (parts[i], 0, 1);
  self->mark = mark;
  gtk_widget_queue_draw (GTK_WIDGET (self));
}

/* From share `from` to share `to`, mirrored where reading goes to the left. */
static void
append (TesseraMemoryBar *self, GtkSnapshot *snapshot, const GdkRGBA *colour, double from,
        double to)
{
  const float width = gtk_widget_get_width (GTK_WIDGET (self));
  const float height = gtk_widget_get_height (GTK_WIDGET (self));
  const gboolean rtl = gtk_widget_get_direction (GTK_WIDGET (self)) == GTK_TEXT_DIR_RTL;
  const float x = rtl ? 1 - to : from;

  gtk_snapshot_append_color (snapshot, colour,
                             &GRAPHENE_RECT_INIT (x * width, 0, (to - from) * width, height));
}

static void
memory_bar_snapshot (GtkWidget *widget, GtkSnapshot *snapshot)
{
  static const float shades[MEMORY_BAR_PARTS] = { 0.32f, 1.0f, 0.7f, 0.45f };
  TesseraMemoryBar *self = TESSERA_MEMORY_BAR (widget);
  GtkStyleContext *style = gtk_widget_get_style_context (widget);
  const float width = gtk_widget_get_width (widget), height = gtk_widget_get_height (widget);
  GdkRGBA ink, accent;
  GskRoundedRect round;
  double at = 0;

  gtk_style_context_get_color (style, &ink);
  if (!gtk_style_context_lookup_color (style, "accent_bg_color", &accent))
    accent = ink;
  gsk_rounded_rect_init_from_rect (&round, &GRAPHENE_RECT_INIT (0, 0, width, height), height / 2);
  gtk_snapshot_push_rounded_clip (snapshot, &round);
  ink.alpha = 0.12f;
  append (self, snapshot, &ink, 0, 1);
  for (int i = 0; i < MEMORY_BAR_PARTS; i++)
    {
      const double end = MIN (at + self->parts[i], 1);
      GdkRGBA colour = i == 0 ? ink : accent;

      colour.alpha = shades[i];
      append (self, snapshot, &colour, at, end);
      at = end;
    }
  if (self->mark >= 0 && width > 0)
    {
      const double middle = CLAMP (self->mark, 0, 1 - 2 / width);

      gtk_style_context_get_color (style, &ink);
      append (self, snapshot, &ink, middle, middle + 2 / width);
    }
  gtk_snapshot_pop (snapshot);
}

static void
memory_bar_class_init (TesseraMemoryBarClass *klass)
{
  GtkWidgetClass *widget_class = GTK_WIDGET_CLASS (klass);

  widget_class->snapshot = memory_bar_snapshot;
  gtk_widget_class_set_css_name (widget_class, "memorybar");
  gtk_widget_class_set_accessible_role (widget_class, GTK_ACCESSIBLE_ROLE_IMG);
}

static void
memory_bar_init (TesseraMemoryBar *self)
{
  self->mark = -1;
}
