/* SPDX-License-Identifier: Apache-2.0
 *
 * application.h - the program: command line, D-Bus, and the objects that outlive the window
 */
#pragma once

#include <adwaita.h>

G_BEGIN_DECLS

#define TESSERA_TYPE_APPLICATION (application_get_type ())
G_DECLARE_FINAL_TYPE (TesseraApplication, application, TESSERA, APPLICATION, AdwApplication)

TesseraApplication *application_new (void);

G_END_DECLS
