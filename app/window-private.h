/* SPDX-License-Identifier: Apache-2.0
 *
 * window-private.h - what the window's files share
 */
#pragma once

#include "app/history/history-strip.h"
#include "app/history/restore-report.h"
#include "app/memory/memory-gauge.h"
#include "app/run-bar.h"
#include "app/window.h"

G_BEGIN_DECLS

/* A setting that fits where the one at hand does not. */
typedef struct
{
  gboolean there; /* else there is none */
  EnginePrecision precision;
  int width, height;
} WindowAdvice;

struct _TesseraWindow
{
  AdwApplicationWindow parent_instance;

  /* Template Widgets */
  AdwToastOverlay *toasts;
  GtkWidget *right; /* all of the picture side */
  GtkWidget *view_switch;
  GtkStack *pages, *content;
  TesseraMessagePage *message, *empty, *problem;
  TesseraControls *controls;
  TesseraCompareView *view;
  TesseraMemoryGauge *gauge;
  GtkButton *advice;
  TesseraRunBar *run_bar;
  TesseraRestoreReport *report;
  TesseraHistoryStrip *strip;
  GtkRevealer *history_revealer;
  GtkMenuButton *menu_button;
  GMenuModel *entry_menu;

  /* Owned References */
  TesseraWorker *worker;
  TesseraHistory *history;
  TesseraQueue *queue;
  GSettings *settings;
  TesseraJob *job;        /* whose preview is followed */
  TesseraPicture *latest; /* the last one made, until its twin is */
  TesseraEntry *entry;    /* the one that is seen, or NULL */
  GPtrArray *removed;     /* entries that can still be brought back, or NULL */
  AdwToast *undo;         /* borrowed from the overlay: the offer to do so, or NULL */
  GCancellable *planning, *showing;
  Nvml *nvml; /* used by one pool thread at a time, and freed when there is none */

  gboolean has_model, fits;
  gboolean has_better;                /* there are better models than the one in use */
  gboolean reading_shares, no_shares; /* see memory_gauge_set_shares */
  WindowAdvice next, failed;          /* for what the controls ask for, and what did not fit */
  guint inhibited;                    /* cookie, or 0 */
  double long_job;                    /* seconds */
  guint plan_source, memory_source;
};

/* window.c */
void window_update_actions (TesseraWindow *self);

/* Says what was done, with a button to undo it. What could be undone before is to be made final by
 * the caller. */
void window_offer_undo (TesseraWindow *self, const char *text, const char *action);

/* window-plan.c */
void window_update_memory (TesseraWindow *self);
void window_watch_memory (TesseraWindow *self); /* from now on, until memory_source is removed */
void window_plan (TesseraWindow *self);         /* soon, what the controls ask for */
void window_use_advice (TesseraWindow *self, const WindowAdvice *advice);
/* Looks for a setting that fits in place of `request`, and offers it on the page. */
void window_plan_way_out (TesseraWindow *self, const EngineRequest *request);

/* window-history.c */
void window_show_chosen (TesseraWindow *self); /* what is selected in the strip */
void window_show_newest (TesseraWindow *self); /* of the history, if nothing is shown yet */
void window_forget_removed (TesseraWindow *self);

/* window-loras.c */
void window_connect_loras (TesseraWindow *self);
void window_choose_lora (TesseraWindow *self);
void window_add_lora (TesseraWindow *self, GFile *file); /* copies it, and uses it */

/* window-actions.c */
void window_add_actions (TesseraWindow *self);
void window_fullscreen_changed (TesseraWindow *self); /* by whomever */
void window_set_enabled (TesseraWindow *self, const char *action, gboolean enabled);

G_END_DECLS
