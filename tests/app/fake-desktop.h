/* SPDX-License-Identifier: Apache-2.0
 *
 * fake-desktop.h - the services of a desktop that the app calls: notifications and the session
 *
 * They answer on a thread and a connection of their own, for the app waits for some of the answers.
 * What was asked of them is remembered, a line for each call.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _FakeDesktop FakeDesktop;

/* Owns org.freedesktop.Notifications and org.gnome.SessionManager on the session bus; NULL if they
 * are taken. To be made before the application is registered. */
FakeDesktop *fake_desktop_new (void);
void fake_desktop_free (FakeDesktop *self);

/* TRUE if there was a call whose line is `line`, from the `from`th on: "Notify SUMMARY|BODY",
 * "CloseNotification", "Inhibit FLAGS REASON", "Uninhibit". */
gboolean fake_desktop_was_asked (FakeDesktop *self, guint from, const char *line);
guint fake_desktop_count (FakeDesktop *self); /* calls until now */

G_END_DECLS
