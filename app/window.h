/* SPDX-License-Identifier: Apache-2.0
 *
 * window.h - the main window
 *
 * Shows what the queue, the history and the open model are at; owns none of them. All it can do is
 * an action of the group `win`, and all keys are in one table.
 */
#pragma once

#include "app/compare/compare-view.h"
#include "app/controls.h"
#include "app/generation/queue.h"
#include "app/message-page.h"

#include <adwaita.h>

G_BEGIN_DECLS

#define TESSERA_TYPE_WINDOW (window_get_type ())
G_DECLARE_FINAL_TYPE (TesseraWindow, window, TESSERA, WINDOW, AdwApplicationWindow)

typedef struct /* a key and what it does */
{
  const char *action;    /* detailed name */
  const char *accels[3]; /* ends with NULL */
  gboolean on_pictures;  /* only where pictures are: a text has its own use for the key */
} WindowShortcut;

/* `application` may be NULL (in tests). */
TesseraWindow *window_new (GtkApplication *application, TesseraWorker *worker,
                           TesseraHistory *history, TesseraQueue *queue, GSettings *settings);

/* A model is open and can be used; it is copied. */
void window_set_model (TesseraWindow *self, const ModelInfo *model);
/* There is none, and why. */
void window_show_message (TesseraWindow *self, MessageState state, const char *details);

/* What the next picture will take; NULL: not known. */
void window_show_plan (TesseraWindow *self, const WorkerPlan *plan);
/* What fits in place of a picture that did not, for the page that says so. */
void window_show_way_out (TesseraWindow *self, const WorkerPlan *plan);

/* Shows one picture, or two to be compared; NULL, NULL: the empty page. */
void window_show_picture (TesseraWindow *self, TesseraPicture *first, TesseraPicture *second);

/* Takes the settings of a PNG over and reports what was and was not. */
void window_restore_from (TesseraWindow *self, GFile *file);
void window_show_toast (TesseraWindow *self, const char *text);
void window_save_state (TesseraWindow *self); /* size, to the settings */

/* Seconds that a picture must have taken for its end to be worth a notification; 10 at first. */
void window_set_long_job (TesseraWindow *self, double seconds);

TesseraControls *window_get_controls (TesseraWindow *self);
TesseraCompareView *window_get_view (TesseraWindow *self);
/* Name of what fills the window: "message", "empty", "picture", "problem". */
const char *window_get_shown (TesseraWindow *self);

/* The table of keys, ended by an action of NULL. */
const WindowShortcut *window_get_shortcuts (void);

G_END_DECLS
