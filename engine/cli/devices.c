/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/cli.h"

#include "engine/engine.h"

#include <stdio.h>

static void
add_device (cJSON *list, const EngineDevice *device)
{
  cJSON *item = cJSON_CreateObject ();
  cJSON *files;

  cJSON_AddItemToArray (list, item);
  cJSON_AddStringToObject (item, "id", device->id);
  cJSON_AddStringToObject (item, "name", device->name);
  cJSON_AddBoolToObject (item, "gpu", device->gpu);
  cJSON_AddNumberToObject (item, "sm", device->sm);
  cJSON_AddNumberToObject (item, "total_memory", (double)device->total_memory);
  cJSON_AddNumberToObject (item, "free_memory", (double)device->free_memory);
  cJSON_AddBoolToObject (item, "usable", device->usable);
  cJSON_AddStringToObject (item, "reason", device->reason);
  files = cJSON_AddObjectToObject (item, "files");
  for (int i = 0; i < ENGINE_N_FILE_TYPES && device->files[i].type != NULL; i++)
    {
      cJSON *file = cJSON_AddObjectToObject (files, device->files[i].type);

      cJSON_AddStringToObject (file, "backend", device->files[i].backend);
      cJSON_AddStringToObject (file, "path", device->files[i].path);
      cJSON_AddStringToObject (file, "speed", device->files[i].speed);
    }
}

static void
print_device (const EngineDevice *device)
{
  g_autofree char *total = cli_format_bytes (device->total_memory);
  g_autofree char *unused = cli_format_bytes (device->free_memory);

  printf ("%-8s %s", device->id, device->name);
  if (device->total_memory > 0)
    printf (", %s, %s free", total, unused);
  if (!device->usable)
    printf (" (not usable: %s)", device->reason);
  puts ("");
  for (int i = 0; i < ENGINE_N_FILE_TYPES && device->files[i].type != NULL; i++)
    if (device->files[i].speed[0] != '\0')
      printf ("         %-5s files: %s (%s)%s%s\n", device->files[i].type, device->files[i].path,
              device->files[i].backend, i > 0 ? ", against bf16 " : "",
              i > 0 ? device->files[i].speed : "");
    else
      printf ("         %-5s files: cannot be run here\n", device->files[i].type);
}

gboolean
cli_devices (int argc, char **argv, GError **error)
{
  gboolean json = FALSE;
  const GOptionEntry entries[] = {
    { "json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON", NULL },
    { NULL },
  };
  g_autoptr (GArray) devices = NULL;
  cJSON *root, *list;

  if (!cli_parse (argc, argv, "Lists what can compute on this machine, the CPU last.", entries,
                  NULL, NULL, error))
    return FALSE;
  devices = engine_list_devices ();
  if (!json)
    {
      for (guint i = 0; i < devices->len; i++)
        print_device (&g_array_index (devices, EngineDevice, i));
      return TRUE;
    }
  root = cJSON_CreateObject ();
  list = cJSON_AddArrayToObject (root, "devices");
  for (guint i = 0; i < devices->len; i++)
    add_device (list, &g_array_index (devices, EngineDevice, i));
  cli_print_json (root);
  cJSON_Delete (root);
  return TRUE;
}
