/* SPDX-License-Identifier: Apache-2.0 */
#include "app/history/history-strip.h"

#include <glib/gi18n.h>

#define SIDE          84 /* of a thumbnail, in pixels */
#define TOOLTIP_CHARS 200

struct _TesseraHistoryStrip
{
  GtkWidget parent_instance;

  /* Template Widgets */
  GtkListView *list;
  GtkWidget *scroller;

  /* Owned References */
  GtkSelectionModel *selection;
  GtkWidget *menu; /* popover, or NULL */
};

G_DEFINE_FINAL_TYPE (TesseraHistoryStrip, history_strip, GTK_TYPE_WIDGET)

enum
{
  CHOSEN,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

/* -- Cells --------------------------------------------------------------------------------------
 */

/* The beginning of a long prompt: a tooltip must not cover the window (transfer full). */
static char *
shorten (const char *text)
{
  g_autofree char *start = NULL;

  if (g_utf8_strlen (text, -1) <= TOOLTIP_CHARS)
    return g_strdup (text);
  start = g_utf8_substring (text, 0, TOOLTIP_CHARS);
  return g_strconcat (start, "…", NULL);
}

static void
show_entry (GtkListItem *item)
{
  TesseraEntry *entry = gtk_list_item_get_item (item);
  GtkWidget *picture = gtk_list_item_get_child (item);
  GdkTexture *thumbnail = entry_get_thumbnail (entry);
  g_autofree char *tooltip = shorten (entry_get_label (entry));

  gtk_picture_set_paintable (GTK_PICTURE (picture), thumbnail ? GDK_PAINTABLE (thumbnail) : NULL);
  gtk_picture_set_alternative_text (GTK_PICTURE (picture), entry_get_label (entry));
  gtk_accessible_update_property (GTK_ACCESSIBLE (picture), GTK_ACCESSIBLE_PROPERTY_LABEL,
                                  entry_get_label (entry), -1);
  gtk_widget_set_tooltip_text (picture, tooltip);
}

static void
popup_at (TesseraHistoryStrip *self, GtkWidget *cell, double x, double y)
{
  double strip_x, strip_y;

  gtk_widget_translate_coordinates (cell, GTK_WIDGET (self), x, y, &strip_x, &strip_y);
  gtk_popover_set_pointing_to (GTK_POPOVER (self->menu), &(GdkRectangle){ strip_x, strip_y, 1, 1 });
  gtk_popover_popup (GTK_POPOVER (self->menu));
}

gboolean
history_strip_popup_menu (TesseraHistoryStrip *self)
{
  GtkWidget *focus = gtk_root_get_focus (gtk_widget_get_root (GTK_WIDGET (self)));

  if (self->menu == NULL || focus == NULL
      || !gtk_widget_is_ancestor (focus, GTK_WIDGET (self->list)))
    return FALSE;
  popup_at (self, focus, gtk_widget_get_width (focus) / 2.0, gtk_widget_get_height (focus) / 2.0);
  return TRUE;
}

static void
on_cell_pressed (GtkListItem *item, int n_press, double x, double y, GtkGesture *gesture)
{
  GtkWidget *cell = gtk_list_item_get_child (item);
  TesseraHistoryStrip *self
      = TESSERA_HISTORY_STRIP (gtk_widget_get_ancestor (cell, TESSERA_TYPE_HISTORY_STRIP));

  if (self == NULL || self->menu == NULL)
    return;
  if (!gtk_list_item_get_selected (item))
    gtk_selection_model_select_item (self->selection, gtk_list_item_get_position (item), TRUE);
  popup_at (self, cell, x, y);
  gtk_gesture_set_state (gesture, GTK_EVENT_SEQUENCE_CLAIMED);
}

/* The file itself, so that a picture can be dragged into another program. */
static GdkContentProvider *
on_drag_prepare (GtkListItem *item, double x, double y, GtkDragSource *source)
{
  TesseraEntry *entry = gtk_list_item_get_item (item);
  GdkTexture *thumbnail;
  g_autoptr (GFile) file = NULL;

  if (entry == NULL)
    return NULL;
  thumbnail = entry_get_thumbnail (entry);
  file = g_file_new_for_path (entry_get_path (entry));
  if (thumbnail != NULL)
    gtk_drag_source_set_icon (source, GDK_PAINTABLE (thumbnail), 0, 0);
  return gdk_content_provider_new_typed (G_TYPE_FILE, file);
}

static void
on_setup (GtkListItemFactory *factory, GtkListItem *item)
{
  GtkWidget *picture = gtk_picture_new ();
  GtkGesture *press = gtk_gesture_click_new ();
  GtkDragSource *drag = gtk_drag_source_new ();

  gtk_widget_set_size_request (picture, SIDE, SIDE);
  gtk_widget_set_valign (picture, GTK_ALIGN_CENTER);
  gtk_picture_set_can_shrink (GTK_PICTURE (picture), TRUE);
  gtk_picture_set_content_fit (GTK_PICTURE (picture), GTK_CONTENT_FIT_COVER);
  gtk_widget_set_overflow (picture, GTK_OVERFLOW_HIDDEN);
  gtk_widget_add_css_class (picture, "thumbnail");
  gtk_gesture_single_set_button (GTK_GESTURE_SINGLE (press), GDK_BUTTON_SECONDARY);
  g_signal_connect_swapped (press, "pressed", G_CALLBACK (on_cell_pressed), item);
  gtk_widget_add_controller (picture, GTK_EVENT_CONTROLLER (press));
  g_signal_connect_swapped (drag, "prepare", G_CALLBACK (on_drag_prepare), item);
  gtk_widget_add_controller (picture, GTK_EVENT_CONTROLLER (drag));
  gtk_list_item_set_child (item, picture);
}

static void
on_bind (GtkListItemFactory *factory, GtkListItem *item)
{
  TesseraEntry *entry = gtk_list_item_get_item (item);

  g_signal_connect_object (entry, "notify", G_CALLBACK (show_entry), item, G_CONNECT_SWAPPED);
  entry_ensure_thumbnail (entry);
  show_entry (item);
}

static void
on_unbind (GtkListItemFactory *factory, GtkListItem *item)
{
  g_signal_handlers_disconnect_by_func (gtk_list_item_get_item (item), show_entry, item);
}

/* -- Selection ----------------------------------------------------------------------------------
 */

static void
on_selection_changed (TesseraHistoryStrip *self)
{
  g_signal_emit (self, signals[CHOSEN], 0);
}

/* The entry at a selected position; the history outlives the use of it. */
static TesseraEntry *
nth_selected (TesseraHistoryStrip *self, GtkBitset *selected, guint n)
{
  g_autoptr (TesseraEntry) entry = NULL;

  if (n >= gtk_bitset_get_size (selected))
    return NULL;
  entry = g_list_model_get_item (G_LIST_MODEL (self->selection), gtk_bitset_get_nth (selected, n));
  return entry;
}

void
history_strip_get_chosen (TesseraHistoryStrip *self, TesseraEntry **first, TesseraEntry **second)
{
  g_autoptr (GtkBitset) selected = NULL;

  *first = *second = NULL;
  if (self->selection == NULL)
    return;
  selected = gtk_selection_model_get_selection (self->selection);
  *first = nth_selected (self, selected, 0);
  *second = nth_selected (self, selected, 1);
}

static void
select_position (TesseraHistoryStrip *self, guint position)
{
  gtk_selection_model_select_item (self->selection, position, TRUE);
  gtk_widget_activate_action (GTK_WIDGET (self->list), "list.scroll-to-item", "u", position);
}

void
history_strip_choose (TesseraHistoryStrip *self, TesseraEntry *entry)
{
  guint n = g_list_model_get_n_items (G_LIST_MODEL (self->selection));

  if (entry == NULL)
    gtk_selection_model_unselect_all (self->selection);
  for (guint i = 0; entry != NULL && i < n; i++)
    {
      g_autoptr (TesseraEntry) at = g_list_model_get_item (G_LIST_MODEL (self->selection), i);

      if (at == entry)
        {
          select_position (self, i);
          return;
        }
    }
}

void
history_strip_choose_at (TesseraHistoryStrip *self, guint position)
{
  const guint n = g_list_model_get_n_items (G_LIST_MODEL (self->selection));

  if (n > 0)
    select_position (self, MIN (position, n - 1));
}

GPtrArray *
history_strip_get_selected (TesseraHistoryStrip *self, guint *position)
{
  g_autoptr (GtkBitset) selected = gtk_selection_model_get_selection (self->selection);
  const guint n = gtk_bitset_get_size (selected);
  GPtrArray *entries = g_ptr_array_new_with_free_func (g_object_unref);

  for (guint i = 0; i < n; i++)
    g_ptr_array_add (entries, g_list_model_get_item (G_LIST_MODEL (self->selection),
                                                     gtk_bitset_get_nth (selected, i)));
  *position = n > 0 ? gtk_bitset_get_minimum (selected) : 0;
  return entries;
}

void
history_strip_move (TesseraHistoryStrip *self, int offset)
{
  g_autoptr (GtkBitset) selected = gtk_selection_model_get_selection (self->selection);
  const int n = g_list_model_get_n_items (G_LIST_MODEL (self->selection));
  int position = -1;

  if (n == 0)
    return;
  if (!gtk_bitset_is_empty (selected))
    position = gtk_bitset_get_minimum (selected);
  select_position (self, position < 0 ? 0 : CLAMP (position + offset, 0, n - 1));
}

void
history_strip_set_history (TesseraHistoryStrip *self, TesseraHistory *history, GMenuModel *menu)
{
  g_return_if_fail (TESSERA_IS_HISTORY_STRIP (self) && self->selection == NULL);

  self->selection
      = GTK_SELECTION_MODEL (gtk_multi_selection_new (g_object_ref (G_LIST_MODEL (history))));
  gtk_list_view_set_model (self->list, self->selection);
  g_signal_connect_object (self->selection, "selection-changed", G_CALLBACK (on_selection_changed),
                           self, G_CONNECT_SWAPPED);
  if (menu == NULL)
    return;
  self->menu = gtk_popover_menu_new_from_model (menu);
  gtk_popover_set_has_arrow (GTK_POPOVER (self->menu), FALSE);
  gtk_widget_set_halign (self->menu, GTK_ALIGN_START);
  gtk_widget_set_parent (self->menu, GTK_WIDGET (self));
}

static void
history_strip_dispose (GObject *object)
{
  TesseraHistoryStrip *self = TESSERA_HISTORY_STRIP (object);

  g_clear_pointer (&self->menu, gtk_widget_unparent);
  if (self->list != NULL)
    gtk_list_view_set_model (self->list, NULL);
  g_clear_object (&self->selection);
  gtk_widget_dispose_template (GTK_WIDGET (self), TESSERA_TYPE_HISTORY_STRIP);
  G_OBJECT_CLASS (history_strip_parent_class)->dispose (object);
}

static void
history_strip_class_init (TesseraHistoryStripClass *klass)
{
  GtkWidgetClass *widget_class = GTK_WIDGET_CLASS (klass);

  G_OBJECT_CLASS (klass)->dispose = history_strip_dispose;

  signals[CHOSEN] = g_signal_new ("chosen", TESSERA_TYPE_HISTORY_STRIP, G_SIGNAL_RUN_LAST, 0, NULL,
                                  NULL, NULL, G_TYPE_NONE, 0);

  gtk_widget_class_set_template_from_resource (widget_class,
                                               "/io/github/tesseraimage/Tessera/history-strip.ui");
  gtk_widget_class_bind_template_child (widget_class, TesseraHistoryStrip, list);
  gtk_widget_class_bind_template_child (widget_class, TesseraHistoryStrip, scroller);
}

static void
history_strip_init (TesseraHistoryStrip *self)
{
  GtkListItemFactory *factory = gtk_signal_list_item_factory_new ();

  gtk_widget_init_template (GTK_WIDGET (self));
  g_signal_connect (factory, "setup", G_CALLBACK (on_setup), NULL);
  g_signal_connect (factory, "bind", G_CALLBACK (on_bind), NULL);
  g_signal_connect (factory, "unbind", G_CALLBACK (on_unbind), NULL);
  gtk_list_view_set_factory (self->list, factory);
  g_object_unref (factory);
}
