/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/cli.h"

#include "engine/checkpoint/inspection.h"
#include "engine/engine.h"
#include "engine/picture/image.h"

#include <stdio.h>

static cJSON *
part_to_json (const InspectionPart *part)
{
  cJSON *object = cJSON_CreateObject ();
  cJSON *types;

  cJSON_AddStringToObject (object, "name", part->name);
  cJSON_AddStringToObject (object, "path", part->path);
  cJSON_AddStringToObject (object, "kind", part->kind);
  if (part->shards == 0)
    return object;
  if (part->precision != NULL)
    cJSON_AddStringToObject (object, "precision", part->precision);
  if (part->naming != NULL)
    cJSON_AddStringToObject (object, "naming", part->naming);
  cJSON_AddNumberToObject (object, "files", part->shards);
  cJSON_AddNumberToObject (object, "tensors", part->tensors);
  cJSON_AddNumberToObject (object, "parameters", (double)part->elements);
  cJSON_AddNumberToObject (object, "bytes", (double)part->bytes);
  if (part->format != NULL)
    {
      cJSON *svdq = cJSON_AddObjectToObject (object, "svdquant");

      cJSON_AddStringToObject (svdq, "format", part->format);
      cJSON_AddNumberToObject (svdq, "rank", part->rank);
      cJSON_AddNumberToObject (svdq, "weight_bytes", (double)part->code_bytes);
      cJSON_AddNumberToObject (svdq, "scale_bytes", (double)part->scale_bytes);
      cJSON_AddNumberToObject (svdq, "low_rank_bytes", (double)part->low_rank_bytes);
    }
  else if (part->rank > 0)
    cJSON_AddNumberToObject (object, "rank", part->rank);
  types = cJSON_AddArrayToObject (object, "types");
  for (guint i = 0; i < part->types->len; i++)
    {
      const InspectionType *type = &g_array_index (part->types, InspectionType, i);
      cJSON *item = cJSON_CreateObject ();

      cJSON_AddStringToObject (item, "type", type->dtype);
      cJSON_AddNumberToObject (item, "tensors", type->tensors);
      cJSON_AddNumberToObject (item, "parameters", (double)type->elements);
      cJSON_AddNumberToObject (item, "bytes", (double)type->bytes);
      cJSON_AddItemToArray (types, item);
    }
  return object;
}

static void
print_as_json (const Inspection *inspection)
{
  cJSON *root = cJSON_CreateObject ();
  cJSON *parts, *problems;

  cJSON_AddStringToObject (root, "path", inspection->path);
  cJSON_AddStringToObject (root, "kind", inspection->kind);
  if (inspection->shift > 0)
    cJSON_AddNumberToObject (root, "shift", inspection->shift);
  parts = cJSON_AddArrayToObject (root, "components");
  for (guint i = 0; i < inspection->parts->len; i++)
    cJSON_AddItemToArray (parts, part_to_json (g_ptr_array_index (inspection->parts, i)));
  problems = cJSON_AddArrayToObject (root, "problems");
  for (guint i = 0; i < inspection->problems->len; i++)
    cJSON_AddItemToArray (problems,
                          cJSON_CreateString (g_ptr_array_index (inspection->problems, i)));
  cli_print_json (root);
  cJSON_Delete (root);
}

static void
print_four_bit (const InspectionPart *part)
{
  g_autofree char *codes = cli_format_bytes (part->code_bytes);
  g_autofree char *scales = cli_format_bytes (part->scale_bytes);
  g_autofree char *low_rank = cli_format_bytes (part->low_rank_bytes);

  printf ("\n%16sformat: %s; 4-bit weights %s, scales %s, low-rank branch (rank %d) %s", "",
          part->format, codes, scales, part->rank, low_rank);
}

static void
print_part (const InspectionPart *part)
{
  g_autofree char *elements = cli_format_count (part->elements);
  g_autofree char *bytes = cli_format_bytes (part->bytes);

  printf ("  %-13s %s", part->name, part->kind);
  if (part->precision != NULL)
    printf (", %s", part->precision);
  if (part->naming != NULL)
    printf (", %s names", part->naming);
  if (part->format == NULL && part->rank > 0)
    printf (", rank %d", part->rank);
  if (part->shards > 0)
    {
      printf ("\n%16s%s parameters in %u tensors, %s", "", elements, part->tensors, bytes);
      if (part->shards > 1)
        printf (" in %u files", part->shards);
      printf ("\n%16s", "");
      for (guint i = 0; i < part->types->len; i++)
        {
          const InspectionType *type = &g_array_index (part->types, InspectionType, i);
          g_autofree char *size = cli_format_bytes (type->bytes);

          printf ("%s%s %s", i > 0 ? ", " : "", type->dtype, size);
        }
    }
  if (part->format != NULL)
    print_four_bit (part);
  puts ("");
}

static void
print_as_text (const Inspection *inspection)
{
  printf ("%s: %s", inspection->path, inspection->kind);
  if (inspection->shift > 0)
    printf (", shift %g%s", inspection->shift, inspection->shift == 3.0 ? " (distilled)" : "");
  puts ("");
  for (guint i = 0; i < inspection->parts->len; i++)
    print_part (g_ptr_array_index (inspection->parts, i));
  if (inspection->problems->len > 0)
    puts ("Problems:");
  for (guint i = 0; i < inspection->problems->len; i++)
    printf ("  %s\n", (char *)g_ptr_array_index (inspection->problems, i));
}

/* A picture: its size, and what its text chunks say of how it was made. */
static gboolean
inspect_picture (const char *path, gboolean json, GError **error)
{
  g_auto (ImageInfo) info = { 0 };
  g_autoptr (Image) image = image_load_png (path, &info, error);
  g_autofree char *request = NULL;

  if (image == NULL)
    return FALSE;
  request = info.request != NULL ? engine_request_to_json (info.request) : NULL;
  if (json)
    {
      cJSON *root = cJSON_CreateObject ();

      cJSON_AddStringToObject (root, "path", path);
      cJSON_AddStringToObject (root, "kind", "picture");
      cJSON_AddNumberToObject (root, "width", image_get_width (image));
      cJSON_AddNumberToObject (root, "height", image_get_height (image));
      cJSON_AddItemToObject (root, "request",
                             request != NULL ? cJSON_Parse (request) : cJSON_CreateNull ());
      cli_print_json (root);
      cJSON_Delete (root);
      return TRUE;
    }
  printf ("%s: picture of %d x %d\n", path, image_get_width (image), image_get_height (image));
  if (request != NULL)
    printf ("  request: %s\n", request);
  if (info.report != NULL)
    printf ("  %s\n", info.report);
  return TRUE;
}

gboolean
cli_inspect (int argc, char **argv, GError **error)
{
  gboolean json = FALSE;
  const char *path = NULL;
  const GOptionEntry entries[] = {
    { "json", 0, 0, G_OPTION_ARG_NONE, &json, "Print JSON", NULL },
    { NULL },
  };
  g_autoptr (Inspection) inspection = NULL;

  if (!cli_parse (argc, argv,
                  "Says what a model folder, a .safetensors file or a PNG is, what it holds, and "
                  "what it lacks.",
                  entries, "PATH", &path, error))
    return FALSE;
  if (g_str_has_suffix (path, ".png") && !g_file_test (path, G_FILE_TEST_IS_DIR))
    return inspect_picture (path, json, error);
  inspection = inspection_new (path, error);
  if (inspection == NULL)
    return FALSE;
  if (json)
    print_as_json (inspection);
  else
    print_as_text (inspection);
  if (inspection->problems->len == 0)
    return TRUE;
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL, "%s (%u problem%s in all)",
               (char *)g_ptr_array_index (inspection->problems, 0), inspection->problems->len,
               inspection->problems->len > 1 ? "s" : "");
  return FALSE;
}
