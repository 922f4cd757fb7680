/* SPDX-License-Identifier: Apache-2.0
 *
 * What the window asks of the desktop while a picture is made and when it is done: that the
 * computer stays awake, and a word to whoever is elsewhere.
 */
#include "fake-desktop.h"
#include "window-fixture.h"

#define AWAKE "Inhibit 5 An image is being made" /* not to log out (1), not to suspend (4) */
#define READY "Notify Image Ready|a red circle"

static FakeDesktop *
desktop_of (Fixture *f)
{
  return g_object_get_data (G_OBJECT (f->app), "desktop");
}

static void
generate (Fixture *f)
{
  controls_set_prompt (window_get_controls (f->window), "a red circle");
  fixture_activate (f, "generate");
}

/* While a picture is made, and no longer. */
static void
test_awake (Fixture *f, gconstpointer data)
{
  FakeDesktop *desktop = desktop_of (f);
  guint from = fake_desktop_count (desktop);

  fixture_open_tiny (f);
  g_assert_false (fake_desktop_was_asked (desktop, from, AWAKE));
  g_settings_set_int (f->settings, "steps", ENGINE_REQUEST_MAX_STEPS);
  generate (f);
  WAIT_FOR (fake_desktop_was_asked (desktop, from, AWAKE));
  g_assert_false (fake_desktop_was_asked (desktop, from, "Uninhibit"));
  fixture_activate (f, "cancel");
  WAIT_FOR (f->finished == 1);
  WAIT_FOR (fake_desktop_was_asked (desktop, from, "Uninhibit"));
}

/* The input focus goes to another window of the test. */
static GtkWidget *
look_away (Fixture *f)
{
  GtkWidget *elsewhere = gtk_window_new ();

  gtk_window_present (GTK_WINDOW (elsewhere));
  WAIT_FOR (gtk_window_is_active (GTK_WINDOW (elsewhere)));
  WAIT_FOR (!gtk_window_is_active (GTK_WINDOW (f->window)));
  return elsewhere;
}

/* Told when it is done, until the window is looked at again. */
static void
test_away (Fixture *f, gconstpointer data)
{
  FakeDesktop *desktop = desktop_of (f);
  guint from = fake_desktop_count (desktop);
  GtkWidget *elsewhere;

  fixture_open_tiny (f);
  window_set_long_job (f->window, 0);
  elsewhere = look_away (f);
  generate (f);
  WAIT_FOR (f->finished == 1);
  WAIT_FOR (fake_desktop_was_asked (desktop, from, READY));
  gtk_window_present (GTK_WINDOW (f->window));
  WAIT_FOR (fake_desktop_was_asked (desktop, from, "CloseNotification"));
  gtk_window_destroy (GTK_WINDOW (elsewhere));
}

/* Nobody who looks on, or who waited but a moment, is told. What comes after in the order of the
 * bus shows that nothing was said. */
static void
test_quiet (Fixture *f, gconstpointer data)
{
  FakeDesktop *desktop = desktop_of (f);
  g_autoptr (GNotification) last = g_notification_new ("The end");
  guint from = fake_desktop_count (desktop);
  GtkWidget *elsewhere;

  fixture_open_tiny (f);
  WAIT_FOR (gtk_window_is_active (GTK_WINDOW (f->window)));
  window_set_long_job (f->window, 0);
  generate (f);
  WAIT_FOR (f->finished == 1);
  window_set_long_job (f->window, 1e9);
  elsewhere = look_away (f);
  generate (f);
  WAIT_FOR (f->finished == 2);
  g_application_send_notification (G_APPLICATION (f->app), NULL, last);
  WAIT_FOR (fake_desktop_was_asked (desktop, from, "Notify The end|"));
  g_assert_false (fake_desktop_was_asked (desktop, from, READY));
  gtk_window_destroy (GTK_WINDOW (elsewhere));
}

int
main (int argc, char *argv[])
{
  g_autoptr (GtkApplication) app = NULL;
  FakeDesktop *desktop;
  int result;

  init_display (&argc, &argv);
  desktop = fake_desktop_new ();
  g_assert_nonnull (desktop);
  app = test_application ();
  g_object_set_data (G_OBJECT (app), "desktop", desktop);
#define ADD(name, function)                                                                        \
  g_test_add ("/desktop/" name, Fixture, app, fixture_set_up, function, fixture_tear_down)
  ADD ("awake", test_awake);
  ADD ("away", test_away);
  ADD ("quiet", test_quiet);
#undef ADD
  result = g_test_run ();
  fake_desktop_free (desktop);
  return result;
}
