/* SPDX-License-Identifier: Apache-2.0
 *
 * harness.h - what the tests of the app share: waiting, models, pictures, golden shots
 */
#pragma once

#include "app/history/picture.h"

#include <gtk/gtk.h>

G_BEGIN_DECLS

/* Turns the main loop until `condition` holds. The limit is for tests that hang, not a measure. */
#define WAIT_FOR(condition)                                                                        \
  G_STMT_START                                                                                     \
  {                                                                                                \
    Patience patience_ = patience_begin ();                                                        \
    while (!(condition))                                                                           \
      if (!patience_turn (&patience_))                                                             \
        g_error ("%s:%d: waited too long for %s", __FILE__, __LINE__, #condition);                 \
    patience_end (&patience_);                                                                     \
  }                                                                                                \
  G_STMT_END

/* Drops the last reference of the test and waits until others have dropped theirs. */
#define WAIT_FOR_END_OF(object)                                                                    \
  G_STMT_START                                                                                     \
  {                                                                                                \
    gpointer weak_ = (object);                                                                     \
    g_object_add_weak_pointer (weak_, &weak_);                                                     \
    g_object_unref (object);                                                                       \
    WAIT_FOR (weak_ == NULL);                                                                      \
  }                                                                                                \
  G_STMT_END

typedef struct
{
  guint source;
  gint64 end;
} Patience;

Patience patience_begin (void);
gboolean patience_turn (Patience *self); /* one turn; FALSE when it is over */
void patience_end (Patience *self);

/* The folder of the small model, a copy of nothing (transfer full). */
char *tiny_model (void);
/* A small model that runs both precisions, or NULL where there is none (transfer full). */
char *model_of_both (void);
/* A request that takes a fraction of a second with a small model; its prompt is static. */
EngineRequest small_request (void);

/* A new empty folder, removed with all in it by remove_folder. */
char *make_folder (void);
void remove_folder (const char *folder);

/* A made-up landscape in smooth colours: no model's work, but the same on every machine. `error`
 * coarsens it, as fewer bits would. Its request is that of `precision`. */
TesseraPicture *landscape (int width, int height, EnginePrecision precision, int error);

/* Compares what `widget` looks like with tests/app/shots/NAME.png, which must be within a small
 * tolerance. With TESSERA_UPDATE_SHOTS set it writes that file instead. A shot that differs is left
 * in the current folder as NAME-actual.png. */
void check_shot (GtkWidget *widget, const char *name);
/* What `widget` looks like as RGB (transfer full). */
Image *render (GtkWidget *widget);

/* Lets GTK draw, so that sizes and contents are settled. */
void settle (GtkWidget *widget);

/* gtk_init or adw_init for tests that need a display, with settings fit for golden shots. Exits
 * with 77 where there is no display. */
void init_display (int *argc, char ***argv);

/* An application that is registered and has the app's style, icons and names of actions, but does
 * nothing (transfer full). */
GtkApplication *test_application (void);

G_END_DECLS
