/* SPDX-License-Identifier: Apache-2.0
 *
 * The `parameters` text that most programs write into their pictures: the prompt's lines, perhaps
 * "Negative prompt: ", and a last line of "Key: value, Key: value".
 */
#include "engine/engine.h"

#include <string.h>

#define MAX_TEXT (1 << 20)
#define ENDING   ".safetensors"

/* CFG scales count from 1, guidance from 0 (spec z-image 1.6). */
#define CFG_OF_GUIDANCE(g) ((g) + 1.0)

/* LoRAs stand in the prompt: " <lora:NAME:STRENGTH>", the name without its ending. */
static void
add_loras (GString *text, const EngineRequest *r)
{
  for (guint i = 0; i < r->n_loras; i++)
    {
      g_autofree char *name = g_filename_display_basename (r->loras[i].file);
      char strength[G_ASCII_DTOSTR_BUF_SIZE];

      if (g_str_has_suffix (name, ENDING))
        name[strlen (name) - strlen (ENDING)] = '\0';
      if (strpbrk (name, "<>:\n") == NULL)
        g_string_append_printf (
            text, " <lora:%s:%s>", name,
            g_ascii_formatd (strength, sizeof strength, "%g", r->loras[i].strength));
    }
}

char *
engine_request_to_a1111 (const EngineRequest *r, const char *model_name)
{
  GString *text = g_string_new (r->prompt);
  char cfg[G_ASCII_DTOSTR_BUF_SIZE];

  add_loras (text, r);
  if (r->guidance > 0 && r->negative != NULL && *r->negative != '\0')
    g_string_append_printf (text, "\nNegative prompt: %s", r->negative);
  g_ascii_formatd (cfg, sizeof cfg, "%g", CFG_OF_GUIDANCE (r->guidance));
  g_string_append_printf (text,
                          "\nSteps: %d, Sampler: Euler, Schedule type: Simple, CFG scale: %s, "
                          "Seed: %" G_GUINT64_FORMAT ", Size: %dx%d",
                          r->steps, cfg, r->seed, r->width, r->height);
  if (model_name != NULL && strpbrk (model_name, ",:\"\n") == NULL)
    g_string_append_printf (text, ", Model: %s", model_name);
  g_string_append_printf (text, ", RNG: %s, Version: Tessera %s",
                          r->noise == ENGINE_NOISE_TORCH_CUDA ? "NV" : "CPU", TESSERA_VERSION);
  return g_string_free (text, FALSE);
}

typedef struct
{
  EngineRequest *request; /* strings owned */
  GString *ignored;
} Restore;

static void
ignore (Restore *self, const char *key, const char *value)
{
  g_string_append_printf (self->ignored, "%s: %s\n", key, value);
}

/* A whole number in [low, high], or nothing changes and the value is reported as ignored. */
static void
take_int (Restore *self, const char *key, const char *value, int low, int high, int *out)
{
  gint64 number;

  if (g_ascii_string_to_signed (value, 10, low, high, &number, NULL))
    *out = (int)number;
  else
    ignore (self, key, value);
}

static void
take_size (Restore *self, const char *value)
{
  g_auto (GStrv) sides = g_strsplit (value, "x", 2);
  guint64 width, height;

  if (g_strv_length (sides) == 2
      && g_ascii_string_to_unsigned (sides[0], 10, ENGINE_REQUEST_MIN_SIZE, ENGINE_REQUEST_MAX_SIZE,
                                     &width, NULL)
      && g_ascii_string_to_unsigned (sides[1], 10, ENGINE_REQUEST_MIN_SIZE, ENGINE_REQUEST_MAX_SIZE,
                                     &height, NULL)
      && width % 16 == 0 && height % 16 == 0)
    {
      self->request->width = (int)width;
      self->request->height = (int)height;
    }
  else
    ignore (self, "Size", value);
}

static void
take_setting (Restore *self, const char *key, const char *value)
{
  EngineRequest *r = self->request;

  if (g_str_equal (key, "Steps"))
    take_int (self, key, value, 1, ENGINE_REQUEST_MAX_STEPS, &r->steps);
  else if (g_str_equal (key, "Seed"))
    {
      if (!g_ascii_string_to_unsigned (value, 10, 0, G_MAXUINT64, &r->seed, NULL))
        ignore (self, key, value);
    }
  else if (g_str_equal (key, "Size"))
    take_size (self, value);
  else if (g_str_equal (key, "CFG scale"))
    {
      double cfg = g_ascii_strtod (value, NULL);

      if (cfg >= 1.0 && cfg <= 51.0)
        r->guidance = cfg - 1.0;
      else
        ignore (self, key, value);
    }
  else if (g_str_equal (key, "RNG"))
    r->noise = g_str_equal (value, "CPU") ? ENGINE_NOISE_TORCH_CPU : ENGINE_NOISE_TORCH_CUDA;
  else if (!(g_str_equal (key, "Sampler") && g_str_equal (value, "Euler"))
           && !(g_str_equal (key, "Schedule type") && g_str_equal (value, "Simple"))
           && !g_str_equal (key, "Version"))
    ignore (self, key, value);
}

/* "Key: value, Key: "quoted, value", ..." */
static void
take_settings (Restore *self, const char *line)
{
  const char *p = line;

  while (*p != '\0')
    {
      const char *colon = strchr (p, ':');
      g_autofree char *key = NULL;
      g_autofree char *value = NULL;
      const char *start, *end;

      if (colon == NULL)
        break;
      key = g_strstrip (g_strndup (p, (gsize)(colon - p)));
      start = colon + 1 + strspn (colon + 1, " ");
      if (*start == '"')
        {
          for (end = ++start; *end != '\0' && *end != '"'; end++)
            if (*end == '\\' && end[1] != '\0')
              end++;
        }
      else
        end = start + strcspn (start, ",");
      value = g_strstrip (g_strndup (start, (gsize)(end - start)));
      take_setting (self, key, value);
      p = end + strcspn (end, ",");
      p += strspn (p, ", ");
    }
}

/* The LoRA that a tag's inside, "NAME" or "NAME:STRENGTH", stands for; FALSE if it cannot be one.
 */
static gboolean
read_lora (const char *inside, gsize length, EngineLora *out)
{
  g_autofree char *text = g_strndup (inside, length);
  char *colon = strchr (text, ':'), *end = NULL;

  *out = (EngineLora){ .strength = 1.0 };
  if (colon != NULL)
    {
      *colon = '\0';
      out->strength = g_ascii_strtod (colon + 1, &end);
      if (end == colon + 1 || *end != '\0' || !(out->strength >= -8.0 && out->strength <= 8.0))
        return FALSE;
    }
  if (*text == '\0' || strlen (text) > 200 || strchr (text, '/') != NULL)
    return FALSE;
  out->file = g_strconcat (text, ENDING, NULL);
  return TRUE;
}

/* Takes the LoRAs out of the prompt, with one space each; what only looks like one stays. */
static void
take_loras (EngineRequest *r, char *prompt)
{
  static const char mark[] = "<lora:";
  EngineLora *loras = g_new0 (EngineLora, ENGINE_REQUEST_MAX_LORAS);
  char *tag = prompt;

  r->loras = loras;
  while ((tag = strstr (tag, mark)) != NULL && r->n_loras < ENGINE_REQUEST_MAX_LORAS)
    {
      char *inside = tag + strlen (mark), *end = strchr (inside, '>');
      gboolean good = end != NULL && read_lora (inside, (gsize)(end - inside), &loras[r->n_loras]);

      if (!good)
        {
          tag = inside;
          continue;
        }
      r->n_loras++;
      if (tag > prompt && tag[-1] == ' ')
        tag--;
      memmove (tag, end + 1, strlen (end + 1) + 1);
    }
}

EngineRequest *
engine_request_from_a1111 (const char *text, gsize length, char **ignored, GError **error)
{
  static const EngineRequest initial = ENGINE_REQUEST_INIT;
  g_autoptr (EngineRequest) request = engine_request_copy (&initial);
  g_autoptr (GString) report = g_string_new (NULL);
  g_autofree char *whole = NULL;
  Restore restore = { request, report };
  char *settings = NULL, *negative;

  if (length > MAX_TEXT || !g_utf8_validate_len (text, length, NULL))
    {
      g_set_error_literal (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
                           "the parameters text is too long or not valid UTF-8");
      return NULL;
    }
  whole = g_strndup (text, length);

  /* The last line that begins with "Steps: " is the settings; a prompt may quote one before. */
  for (char *line = whole; line != NULL;
       line = strchr (line, '\n') ? strchr (line, '\n') + 1 : NULL)
    if (g_str_has_prefix (line, "Steps: "))
      settings = line;
  if (settings == NULL)
    {
      g_set_error_literal (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST,
                           "the parameters text has no line that begins with \"Steps: \"");
      return NULL;
    }
  if (settings > whole)
    settings[-1] = '\0';
  settings[strcspn (settings, "\n")] = '\0';

  negative = settings > whole ? g_strrstr (whole, "\nNegative prompt: ") : NULL;
  if (negative != NULL)
    {
      *negative = '\0';
      request->negative = g_strdup (negative + strlen ("\nNegative prompt: "));
    }
  g_free ((char *)request->prompt);
  if (settings > whole)
    take_loras (request, whole);
  request->prompt = g_strdup (settings > whole ? whole : "");
  take_settings (&restore, settings);

  if (!engine_request_validate (request, error))
    return NULL;
  if (ignored != NULL)
    *ignored = g_strdup (report->str);
  return g_steal_pointer (&request);
}
