/* SPDX-License-Identifier: Apache-2.0
 *
 * message-page.h - what is wrong and what to do, in place of what cannot be shown
 */
#pragma once

#include <gtk/gtk.h>

G_BEGIN_DECLS

typedef enum
{
  MESSAGE_WELCOME,     /* no model yet */
  MESSAGE_OPENING,     /* headers are being read */
  MESSAGE_INCOMPLETE,  /* the model is damaged or not one */
  MESSAGE_NO_DEVICE,   /* the chosen device is not there or its driver is not ready */
  MESSAGE_LOST,        /* the device failed; only a new start helps */
  MESSAGE_EMPTY,       /* no picture yet */
  MESSAGE_EMPTY_SMALL, /* the same, and there are better models than the one in use */
  MESSAGE_MAKING,      /* the first one is on its way */
  MESSAGE_MEMORY,      /* a picture did not fit */
  MESSAGE_FAILED,      /* a picture could not be made for another reason */
} MessageState;

#define TESSERA_TYPE_MESSAGE_PAGE (message_page_get_type ())
G_DECLARE_FINAL_TYPE (TesseraMessagePage, message_page, TESSERA, MESSAGE_PAGE, GtkWidget)

/* `details`: the engine's words, shown on demand; may be NULL. */
void message_page_show (TesseraMessagePage *self, MessageState state, const char *details);
MessageState message_page_get_state (TesseraMessagePage *self);
/* A way out that is known only now, before those that the page has; `label` is translated. Until
 * the next message_page_show. */
void message_page_offer (TesseraMessagePage *self, const char *label, const char *action);
/* A sentence with numbers in place of the usual one. */
void message_page_set_description (TesseraMessagePage *self, const char *text);

G_END_DECLS
