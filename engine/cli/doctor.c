/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/cli.h"

#include "engine/computer/doctor.h"
#include "engine/engine.h"
#include "engine/files/json.h"

#include <stdio.h>

static const char *const states[] = {
  [DOCTOR_OK] = "ok",
  [DOCTOR_WARNING] = "warning",
  [DOCTOR_PROBLEM] = "problem",
};

static void
add_text (cJSON *item, const char *key, const char *text)
{
  if (text != NULL)
    cJSON_AddStringToObject (item, key, text);
  else
    cJSON_AddNullToObject (item, key);
}

static void
print_findings_json (GPtrArray *findings, guint problems)
{
  g_autoptr (cJSON) root = cJSON_CreateObject ();
  cJSON *list;

  cJSON_AddNumberToObject (root, "problems", problems);
  list = cJSON_AddArrayToObject (root, "findings");
  for (guint i = 0; i < findings->len; i++)
    {
      const DoctorFinding *finding = g_ptr_array_index (findings, i);
      cJSON *item = cJSON_CreateObject ();

      cJSON_AddItemToArray (list, item);
      add_text (item, "code", doctor_code_name (finding->code));
      add_text (item, "state", states[finding->state]);
      add_text (item, "title", finding->title);
      add_text (item, "evidence", finding->evidence);
      add_text (item, "remedy", finding->remedy);
      add_text (item, "command", finding->command);
    }
  cli_print_json (root);
}

static void
print_finding (const DoctorFinding *finding)
{
  printf ("%-8s %s\n", states[finding->state], finding->title);
  printf ("         %s\n", finding->evidence);
  if (finding->remedy != NULL)
    printf ("         %s\n", finding->remedy);
  if (finding->command != NULL)
    printf ("             %s\n", finding->command);
}

gboolean
cli_doctor (int argc, char **argv, GError **error)
{
  g_autofree char *data_dir = NULL;
  gboolean json = FALSE;
  const GOptionEntry entries[] = {
    { "json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON", NULL },
    { "models", 0, 0, G_OPTION_ARG_FILENAME, &data_dir,
      "Where models are kept (default: the user's data folder)", "DIR" },
    { NULL },
  };
  g_autoptr (DoctorEvidence) evidence = NULL;
  g_autoptr (GPtrArray) findings = NULL;
  guint problems = 0;

  if (!cli_parse (
          argc, argv,
          "Says whether this machine can make pictures well, and what mends what is wrong.\n"
          "Fails if a graphics card is there but cannot be used.",
          entries, NULL, NULL, error))
    return FALSE;
  evidence = doctor_look (&(DoctorPlace){ .data_dir = data_dir });
  findings = doctor_judge (evidence);
  for (guint i = 0; i < findings->len; i++)
    problems += ((const DoctorFinding *)g_ptr_array_index (findings, i))->state == DOCTOR_PROBLEM;
  if (json)
    print_findings_json (findings, problems);
  else
    for (guint i = 0; i < findings->len; i++)
      print_finding (g_ptr_array_index (findings, i));
  if (problems == 0)
    return TRUE;
  g_set_error_literal (error, ENGINE_ERROR, ENGINE_ERROR_NO_DEVICE,
                       "the graphics card cannot be used; see above for what mends it");
  return FALSE;
}
