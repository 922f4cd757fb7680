/* SPDX-License-Identifier: Apache-2.0
 *
 * wheel.h - the wheel moves the list and not the numbers in it
 */
#pragma once

#include <gtk/gtk.h>

G_BEGIN_DECLS

/* Spin buttons and scales below `widget` leave the wheel to what they are in: who scrolls over them
 * to get further down must not change a setting on the way. */
void wheel_pass_on (GtkWidget *widget);

G_END_DECLS
