/* SPDX-License-Identifier: Apache-2.0
 *
 * window-fixture.h - a main window with all that it needs, for the tests of what it does and of how
 * it looks
 */
#pragma once

#include "app/window.h"
#include "harness.h"

G_BEGIN_DECLS

typedef struct
{
  char *folder;
  GtkApplication *app;
  GSettings *settings;
  TesseraWorker *worker;
  TesseraHistory *history;
  TesseraQueue *queue;
  TesseraWindow *window;
  guint finished;
  gboolean stopped;
} Fixture;

/* For g_test_add; `data` is the application. */
void fixture_set_up (Fixture *f, gconstpointer data);
void fixture_tear_down (Fixture *f, gconstpointer data);

void fixture_reset_settings (GSettings *settings);
void fixture_open_tiny (Fixture *f); /* the small model, and waits until it can be used */

gboolean fixture_enabled (Fixture *f, const char *action);
void fixture_activate (Fixture *f, const char *action); /* which must be enabled */
const char *fixture_shown (Fixture *f);

/* A golden shot of the window with the end of its left pane in view, but without the memory, which
 * is this machine's. */
void fixture_check_controls (Fixture *f, const char *name);

G_END_DECLS
