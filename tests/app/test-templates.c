/* SPDX-License-Identifier: Apache-2.0
 *
 * One of each widget is created, shown and destroyed, with every warning fatal: that finds wrong
 * names in templates, missing icons' sizes, children that nobody frees.
 */
#include "app/history/history-strip.h"
#include "app/history/restore-report.h"
#include "app/memory/memory-bar.h"
#include "app/memory/memory-gauge.h"
#include "app/run-bar.h"
#include "app/window.h"
#include "harness.h"

#include <string.h>

static void
test_widget (gconstpointer data)
{
  const GType type = GPOINTER_TO_SIZE (data);
  GtkWidget *window = gtk_window_new ();
  GtkWidget *widget = g_object_new (type, NULL);

  g_object_add_weak_pointer (G_OBJECT (widget), (gpointer *)&widget);
  gtk_window_set_child (GTK_WINDOW (window), widget);
  gtk_window_present (GTK_WINDOW (window));
  settle (window);
  g_assert_true (gtk_widget_get_mapped (widget) || !gtk_widget_get_visible (widget));
  gtk_window_destroy (GTK_WINDOW (window));
  while (g_main_context_iteration (NULL, FALSE))
    ;
  g_assert_null (widget);
}

/* The parts of a text between brackets are modifiers; their order does not matter. */
static gboolean
same_key (const char *a, const char *b)
{
  guint key_a, key_b;
  GdkModifierType state_a, state_b;

  return gtk_accelerator_parse (a, &key_a, &state_a) && gtk_accelerator_parse (b, &key_b, &state_b)
         && key_a == key_b && state_a == state_b;
}

static void
collect_keys (GtkWidget *widget, GPtrArray *keys)
{
  if (GTK_IS_SHORTCUTS_SHORTCUT (widget))
    {
      g_autofree char *accelerator = NULL;
      g_auto (GStrv) parts = NULL;

      g_object_get (widget, "accelerator", &accelerator, NULL);
      parts = g_strsplit (accelerator, " ", -1);
      for (int i = 0; parts[i] != NULL; i++)
        g_ptr_array_add (keys, g_strdup (parts[i]));
    }
  for (GtkWidget *child = gtk_widget_get_first_child (widget); child != NULL;
       child = gtk_widget_get_next_sibling (child))
    collect_keys (child, keys);
}

/* The help names the first key of each action, and no key that does nothing. */
static void
test_help (void)
{
  g_autoptr (GtkBuilder) builder
      = gtk_builder_new_from_resource ("/io/github/tesseraimage/Tessera/gtk/help-overlay.ui");
  GtkWidget *help = GTK_WIDGET (gtk_builder_get_object (builder, "help_overlay"));
  g_autoptr (GPtrArray) keys = g_ptr_array_new_with_free_func (g_free);

  collect_keys (help, keys);
  g_assert_cmpuint (keys->len, >, 20);
  for (const WindowShortcut *s = window_get_shortcuts (); s->action != NULL; s++)
    {
      gboolean found = FALSE;

      for (guint i = 0; i < keys->len && !found; i++)
        found = same_key (keys->pdata[i], s->accels[0]);
      if (!found)
        g_error ("the help does not name %s, the key of %s", s->accels[0], s->action);
    }
  for (guint i = 0; i < keys->len; i++)
    {
      /* Those of the divider are GtkScale's own. */
      gboolean found
          = g_str_equal (keys->pdata[i], "Left") || g_str_equal (keys->pdata[i], "Right");

      for (const WindowShortcut *s = window_get_shortcuts (); s->action != NULL && !found; s++)
        for (int j = 0; s->accels[j] != NULL; j++)
          found |= same_key (keys->pdata[i], s->accels[j]);
      if (!found)
        g_error ("the help names %s, which does nothing", (char *)keys->pdata[i]);
    }
  gtk_window_destroy (GTK_WINDOW (help));
}

/* How many spin buttons and scales below `widget` would take the wheel to themselves; `seen`: of
 * how many. */
static guint
count_wheel_takers (GtkWidget *widget, guint *seen)
{
  guint n = 0;

  if (GTK_IS_SPIN_BUTTON (widget) || GTK_IS_SCALE (widget))
    {
      g_autoptr (GListModel) controllers = gtk_widget_observe_controllers (widget);

      *seen += 1;
      for (guint i = 0; i < g_list_model_get_n_items (controllers); i++)
        {
          g_autoptr (GtkEventController) controller = g_list_model_get_item (controllers, i);

          n += GTK_IS_EVENT_CONTROLLER_SCROLL (controller)
               && gtk_event_controller_get_propagation_phase (controller) != GTK_PHASE_NONE;
        }
    }
  for (GtkWidget *child = gtk_widget_get_first_child (widget); child != NULL;
       child = gtk_widget_get_next_sibling (child))
    n += count_wheel_takers (child, seen);
  return n;
}

/* Who scrolls through the settings must not change them. */
static void
test_wheel (void)
{
  GtkWidget *controls = g_object_ref_sink (g_object_new (TESSERA_TYPE_CONTROLS, NULL));
  guint seen = 0;

  g_assert_cmpuint (count_wheel_takers (controls, &seen), ==, 0);
  g_assert_cmpuint (seen, >=, 7);
  g_object_unref (controls);
}

int
main (int argc, char *argv[])
{
  GType types[] = {
    TESSERA_TYPE_CANVAS,     TESSERA_TYPE_COMPARE_VIEW,   TESSERA_TYPE_CONTROLS,
    TESSERA_TYPE_MEMORY_BAR, TESSERA_TYPE_MEMORY_GAUGE,   TESSERA_TYPE_MESSAGE_PAGE,
    TESSERA_TYPE_RUN_BAR,    TESSERA_TYPE_RESTORE_REPORT, TESSERA_TYPE_HISTORY_STRIP,
    TESSERA_TYPE_LORA_LIST,
  };

  init_display (&argc, &argv);

  for (gsize i = 0; i < G_N_ELEMENTS (types); i++)
    {
      g_autofree char *path = g_strdup_printf ("/templates/%s", g_type_name (types[i]));

      g_test_add_data_func (path, GSIZE_TO_POINTER (types[i]), test_widget);
    }
  g_test_add_func ("/templates/help", test_help);
  g_test_add_func ("/templates/wheel", test_wheel);
  return g_test_run ();
}
