/* SPDX-License-Identifier: Apache-2.0 */
#include "app/application.h"

#include "engine/engine.h"

#include <glib/gi18n.h>
#include <locale.h>

int
main (int argc, char *argv[])
{
  const char *locale_dir = g_getenv ("TESSERA_LOCALE_DIR"); /* of a build that is not installed */
  g_autoptr (TesseraApplication) application = NULL;

  engine_init_process (argv);
  setlocale (LC_ALL, "");
  bindtextdomain (GETTEXT_PACKAGE, locale_dir != NULL ? locale_dir : LOCALE_DIR);
  bind_textdomain_codeset (GETTEXT_PACKAGE, "UTF-8");
  textdomain (GETTEXT_PACKAGE);
  g_set_application_name (_ ("Tessera"));

  application = application_new ();
  return g_application_run (G_APPLICATION (application), argc, argv);
}
