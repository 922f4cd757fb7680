/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole program, started again and again: pictures are begun and cancelled at random moments,
 * files vanish from the history under its feet, and its window is closed while it is busy. Nothing
 * may be half-written then, and what was not finished must be there at the next start.
 */
#include "app/application.h"
#include "app/generation/journal.h"
#include "app/window.h"
#include "harness.h"

#include <glib/gstdio.h>

#define STARTS      8
#define GENERATIONS 25 /* in each of them */

typedef struct
{
  GApplication *app;
  GRand *rand;
  char *history;
  guint begun;
} Monkey;

static TesseraWindow *
window_of (Monkey *m)
{
  return TESSERA_WINDOW (gtk_application_get_active_window (GTK_APPLICATION (m->app)));
}

static gboolean
can (Monkey *m, const char *action)
{
  return g_action_group_get_action_enabled (G_ACTION_GROUP (window_of (m)), action);
}

static void
act (Monkey *m, const char *action)
{
  if (can (m, action))
    g_action_group_activate_action (G_ACTION_GROUP (window_of (m)), action, NULL);
}

static void
change_view (Monkey *m)
{
  static const char *const views[] = { "image", "side-by-side", "slider", "difference" };

  g_action_group_change_action_state (
      G_ACTION_GROUP (window_of (m)), "view",
      g_variant_new_string (views[g_rand_int_range (m->rand, 0, G_N_ELEMENTS (views))]));
}

/* Behind the program's back. */
static void
delete_a_file (Monkey *m)
{
  g_autoptr (GDir) dir = g_dir_open (m->history, 0, NULL);
  const char *name;
  int skip = g_rand_int_range (m->rand, 0, 5);

  while (dir != NULL && (name = g_dir_read_name (dir)) != NULL)
    if (g_str_has_suffix (name, ".png") && skip-- == 0)
      {
        g_autofree char *path = g_build_filename (m->history, name, NULL);

        g_unlink (path);
        return;
      }
}

static void
generate (Monkey *m)
{
  TesseraControls *controls = window_get_controls (window_of (m));

  controls_set_size (controls, 64 * g_rand_int_range (m->rand, 1, 4), 64);
  m->begun++;
  act (m, "generate");
}

/* One thing that a very quick and careless person does. */
static gboolean
on_turn (gpointer data)
{
  static const char *const others[]
      = { "previous", "next",     "delete", "undo-delete",    "blink",
          "zoom-in",  "zoom-fit", "copy",   "reuse-settings", "new-seed" };
  Monkey *m = data;
  const int dice = g_rand_int_range (m->rand, 0, 10);

  if (window_of (m) == NULL || !can (m, "generate"))
    return G_SOURCE_CONTINUE; /* the model is being opened */
  if (m->begun == GENERATIONS && can (m, "cancel"))
    {
      gtk_window_close (GTK_WINDOW (window_of (m)));
      return G_SOURCE_REMOVE;
    }
  if (dice < 3 || m->begun == GENERATIONS)
    {
      m->begun -= m->begun == GENERATIONS; /* the last one is done already: one more */
      generate (m);
    }
  else if (dice < 6)
    act (m, "cancel");
  else if (dice < 7)
    delete_a_file (m);
  else if (dice < 8)
    change_view (m);
  else
    act (m, others[g_rand_int_range (m->rand, 0, G_N_ELEMENTS (others))]);
  return G_SOURCE_CONTINUE;
}

/* Every file of the history is a whole picture, and there is nothing else. */
static void
check_history (const char *folder)
{
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;

  g_assert_nonnull (dir);
  while ((name = g_dir_read_name (dir)) != NULL)
    {
      g_autofree char *path = g_build_filename (folder, name, NULL);
      g_autoptr (GError) error = NULL;
      g_autoptr (TesseraPicture) picture = picture_load (path, &error);

      g_assert_no_error (error);
      g_assert_nonnull (picture_get_request (picture));
    }
}

static void
run_once (Monkey *m)
{
  char *arguments[] = { (char *)"tessera", NULL };
  guint source;

  m->app = G_APPLICATION (application_new ());
  m->begun = 0;
  source = g_timeout_add (3, on_turn, m);
  g_assert_cmpint (g_application_run (m->app, 1, arguments), ==, 0);
  g_assert_null (g_main_context_find_source_by_id (NULL, source));
  WAIT_FOR_END_OF (m->app);
}

static void
test_closed_while_busy (void)
{
  const char *data = g_get_user_data_dir ();
  g_autofree char *history = g_build_filename (data, "tessera", "history", NULL);
  g_autofree char *journal = g_build_filename (data, "tessera", "queue.json", NULL);
  g_autofree char *model = tiny_model ();
  g_autoptr (GSettings) settings = g_settings_new (APP_ID);
  g_autoptr (GRand) rand = g_rand_new_with_seed (20260202);
  Monkey monkey = { .rand = rand, .history = history };

  g_settings_set_string (settings, "model", model);
  g_settings_set_string (settings, "device", "cpu");
  g_settings_set_int (settings, "steps", 3);
  for (int i = 0; i < STARTS; i++)
    {
      g_autoptr (GPtrArray) left = NULL;

      run_once (&monkey);
      check_history (history);
      left = journal_read (journal);
      g_assert_cmpuint (left->len, >, 0); /* the one that the closing interrupted */
    }
}

int
main (int argc, char *argv[])
{
  init_display (&argc, &argv);
  g_test_add_func ("/application/closed-while-busy", test_closed_while_busy);
  return g_test_run ();
}
