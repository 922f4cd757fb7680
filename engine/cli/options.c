/* SPDX-License-Identifier: Apache-2.0
 *
 * Options that several commands take. A NULL text is an option that was not given: nothing changes.
 */
#include "engine/cli/cli.h"

#include "engine/checkpoint/inspection.h"

#include <string.h>

gboolean
cli_usage_error (GError **error, const char *format, ...)
{
  g_autofree char *message = NULL;
  va_list arguments;

  va_start (arguments, format);
  message = g_strdup_vprintf (format, arguments);
  va_end (arguments);
  g_set_error_literal (error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, message);
  return FALSE;
}

gboolean
cli_parse_size (const char *text, EngineRequest *r, GError **error)
{
  g_auto (GStrv) sides = NULL;
  guint64 width, height;

  if (text == NULL)
    return TRUE;
  sides = g_strsplit (text, "x", 2);
  if (g_strv_length (sides) != 2
      || !g_ascii_string_to_unsigned (sides[0], 10, 0, G_MAXINT, &width, NULL)
      || !g_ascii_string_to_unsigned (sides[1], 10, 0, G_MAXINT, &height, NULL))
    return cli_usage_error (error, "--size is \"%s\"; it must be WIDTHxHEIGHT, such as 1024x768",
                            text);
  r->width = (int)width;
  r->height = (int)height;
  return TRUE;
}

gboolean
cli_parse_choice (const char *option, const char *text, const char *const *names, int *out,
                  GError **error)
{
  g_autofree char *list = g_strjoinv (" or ", (char **)names);

  if (text == NULL)
    return TRUE;
  for (int i = 0; names[i] != NULL; i++)
    if (g_str_equal (text, names[i]))
      {
        *out = i;
        return TRUE;
      }
  return cli_usage_error (error, "%s is \"%s\"; it must be %s", option, text, list);
}

gboolean
cli_parse_precision (const char *text, EngineRequest *r, const char **svdquant_type, GError **error)
{
  static const char *const names[] = { "bf16", "svdquant", "int4", "nvfp4", NULL };
  static const char *const two[] = { "bf16", "svdquant", NULL };
  int choice = (int)r->precision;

  if (!cli_parse_choice ("--precision", text, svdquant_type != NULL ? names : two, &choice, error))
    return FALSE;
  r->precision = choice > 0 ? ENGINE_PRECISION_SVDQUANT : ENGINE_PRECISION_BF16;
  if (choice > ENGINE_PRECISION_SVDQUANT)
    *svdquant_type = names[choice];
  return TRUE;
}

gboolean
cli_check_png_name (const char *option, const char *path, GError **error)
{
  static const char *const others[]
      = { ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".jxl" };
  g_autofree char *name = path != NULL ? g_ascii_strdown (path, -1) : NULL;

  for (guint i = 0; name != NULL && i < G_N_ELEMENTS (others); i++)
    if (g_str_has_suffix (name, others[i]))
      return cli_usage_error (error, "%s is \"%s\"; only PNG is written, so name it FILE.png",
                              option, path);
  return TRUE;
}

/* Headers alone are read. A file that cannot be is the engine's to refuse. */
static gboolean
is_svdquant (const char *transformer)
{
  g_autoptr (Inspection) inspection = NULL;

  if (g_str_has_prefix (transformer, "synthetic:"))
    return TRUE;
  inspection = inspection_new (transformer, NULL);
  for (guint i = 0; inspection != NULL && i < inspection->parts->len; i++)
    {
      const InspectionPart *part = g_ptr_array_index (inspection->parts, i);

      if (part->precision != NULL && g_str_has_prefix (part->precision, "SVDQuant"))
        return TRUE;
    }
  return FALSE;
}

void
cli_choose_precision (Engine *engine, const char *told, const char *transformer, EngineRequest *r)
{
  if (told == NULL
      && ((transformer != NULL && is_svdquant (transformer))
          || (!engine_supports (engine, ENGINE_PRECISION_BF16, NULL)
              && engine_supports (engine, ENGINE_PRECISION_SVDQUANT, NULL))))
    r->precision = ENGINE_PRECISION_SVDQUANT;
}

gboolean
cli_parse_loras (char **texts, EngineRequest *r, GArray *loras, char ***files, GError **error)
{
  guint n = texts != NULL ? g_strv_length (texts) : 0;

  *files = g_new0 (char *, n + 1);
  for (guint i = 0; i < n; i++)
    {
      EngineLora lora = { .strength = 1.0 };
      const char *colon = strrchr (texts[i], ':');
      g_autofree char *name = NULL;
      char *end = NULL;

      if (colon != NULL && colon[1] != '\0' && strchr (colon, '/') == NULL)
        lora.strength = g_ascii_strtod (colon + 1, &end);
      if (end != NULL && *end != '\0')
        return cli_usage_error (error, "--lora is \"%s\"; it must be FILE or FILE:STRENGTH",
                                texts[i]);
      name = end != NULL ? g_strndup (texts[i], (gsize)(colon - texts[i])) : g_strdup (texts[i]);
      (*files)[i] = strchr (name, '/') != NULL || g_file_test (name, G_FILE_TEST_EXISTS)
                        ? g_canonicalize_filename (name, NULL)
                        : g_strdup (name);
      lora.file = (*files)[i];
      g_array_append_val (loras, lora);
    }
  r->loras = (const EngineLora *)(const void *)loras->data;
  r->n_loras = loras->len;
  return TRUE;
}

gboolean
cli_parse_arithmetic (const char *text, gboolean *exact, GError **error)
{
  static const char *const names[] = { "fast", "exact", NULL };
  int choice = *exact;

  if (!cli_parse_choice ("--arithmetic", text, names, &choice, error))
    return FALSE;
  *exact = choice == 1;
  return TRUE;
}

gboolean
cli_parse_bytes (const char *text, guint64 *out, GError **error)
{
  static const struct
  {
    const char *suffix;
    double factor;
  } units[] = { { "", 1 },     { "GiB", 0x1p30 }, { "MiB", 0x1p20 }, { "KiB", 0x1p10 },
                { "GB", 1e9 }, { "MB", 1e6 },     { "G", 0x1p30 },   { "M", 0x1p20 } };
  double value;
  char *end;

  if (text == NULL)
    return TRUE;
  value = g_ascii_strtod (text, &end);
  for (guint i = 0; i < G_N_ELEMENTS (units); i++)
    if (end != text && g_str_equal (end, units[i].suffix) && value > 0
        && value * units[i].factor < 0x1p60)
      {
        *out = (guint64)(value * units[i].factor);
        return TRUE;
      }
  return cli_usage_error (error, "\"%s\" is not an amount of memory, such as 16GiB", text);
}

gboolean
cli_parse_offload (const char *text, EngineOffload *out, GError **error)
{
  const char *names[ENGINE_N_OFFLOADS + 1] = { NULL };
  int choice = (int)*out;

  for (int i = 0; i < ENGINE_N_OFFLOADS; i++)
    names[i] = engine_offload_name ((EngineOffload)i);
  if (!cli_parse_choice ("--offload", text, names, &choice, error))
    return FALSE;
  *out = (EngineOffload)choice;
  return TRUE;
}
