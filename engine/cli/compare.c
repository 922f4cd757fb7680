/* SPDX-License-Identifier: Apache-2.0
 *
 * tessera-cli compare: how much two pictures differ
 */
#include "engine/cli/cli.h"

#include "engine/files/json.h"
#include "engine/metrics/metrics.h"

#include <math.h>
#include <stdio.h>

typedef struct
{
  char **paths; /* the two pictures */
  char *heatmap, *weights;
  double pixels_per_degree;
  gboolean json;
} Options;

static void
options_clear (Options *o)
{
  g_strfreev (o->paths);
  g_free (o->heatmap);
  g_free (o->weights);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (Options, options_clear)

/* A number, or null where it has no finite value. */
static void
add_number (cJSON *object, const char *key, double value)
{
  if (isfinite (value))
    cJSON_AddNumberToObject (object, key, value);
  else
    cJSON_AddNullToObject (object, key);
}

static void
print_as_json (const Metrics *m)
{
  g_autoptr (cJSON) root = cJSON_CreateObject ();

  add_number (root, "psnr", m->psnr);
  add_number (root, "ssim", m->ssim);
  add_number (root, "ms_ssim", m->ms_ssim);
  add_number (root, "flip", m->flip);
  add_number (root, "lpips", m->lpips);
  add_number (root, "mean_difference", m->mean_difference);
  add_number (root, "max_difference", m->max_difference);
  add_number (root, "pixels_changed", (double)m->pixels_changed);
  cli_print_json (root);
}

static void
print_metric (const char *name, double value, const char *absent)
{
  if (isfinite (value))
    printf ("%-9s%.4f\n", name, value);
  else
    printf ("%-9s%s\n", name, absent);
}

static void
print_as_text (const Metrics *m, const Options *o)
{
  if (isfinite (m->psnr))
    printf ("%-9s%.2f dB\n", "PSNR", m->psnr);
  else
    puts ("PSNR     none: the pictures are equal");
  print_metric ("SSIM", m->ssim, "none: the pictures are too small");
  print_metric ("MS-SSIM", m->ms_ssim, "none: the pictures are too small");
  print_metric ("FLIP", m->flip, "none");
  print_metric ("LPIPS", m->lpips,
                o->weights != NULL ? "none: the pictures are too small"
                                   : "none: needs --lpips-weights (see --help)");
  printf ("changed  %" G_GUINT64_FORMAT " pixels, by %.2f of 255 on average and %d at most\n",
          m->pixels_changed, m->mean_difference, m->max_difference);
}

static gboolean
compare (const Options *o, GError **error)
{
  MetricsOptions options = { .pixels_per_degree = o->pixels_per_degree };
  g_autoptr (MetricsLpips) lpips = NULL;
  g_autoptr (Image) a = image_load_png (o->paths[0], NULL, error);
  g_autoptr (Image) b = NULL, map = NULL;
  Metrics metrics;

  if (a == NULL)
    return FALSE;
  b = image_load_png (o->paths[1], NULL, error);
  if (b == NULL)
    return FALSE;
  if (o->weights != NULL)
    {
      options.lpips = lpips = metrics_lpips_open (o->weights, error);
      if (lpips == NULL)
        return FALSE;
      if (!metrics_lpips_is_published (lpips))
        g_printerr ("tessera-cli: the linear layers of %s are not those of LPIPS v0.1; the number "
                    "cannot be compared with others\n",
                    o->weights);
    }
  if (!metrics_compare (a, b, &options, NULL, &metrics, error))
    return FALSE;
  if (o->heatmap != NULL)
    {
      map = metrics_difference (a, b);
      if (!image_save_png (map, o->heatmap, NULL, error))
        return FALSE;
    }
  if (o->json)
    print_as_json (&metrics);
  else
    print_as_text (&metrics, o);
  return TRUE;
}

gboolean
cli_compare (int argc, char **argv, GError **error)
{
  g_auto (Options) o = { 0 };
  const GOptionEntry entries[] = {
    { "heatmap", 0, 0, G_OPTION_ARG_FILENAME, &o.heatmap,
      "Write a map of the differences, 0 to 64 of 255", "FILE.png" },
    { "lpips-weights", 0, 0, G_OPTION_ARG_FILENAME, &o.weights,
      "AlexNet and LPIPS' linear layers as safetensors", "FILE" },
    { "pixels-per-degree", 0, 0, G_OPTION_ARG_DOUBLE, &o.pixels_per_degree,
      "Viewing distance for FLIP (default: 67)", "N" },
    { "json", 0, 0, G_OPTION_ARG_NONE, &o.json, "Print JSON; a metric without a value is null",
      NULL },
    { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_FILENAME_ARRAY, &o.paths, NULL, "A.png B.png" },
    G_OPTION_ENTRY_NULL,
  };

  if (!cli_parse (argc, argv,
                  "Says how much two pictures differ: PSNR, SSIM, MS-SSIM, FLIP and LPIPS.\n\n"
                  "LPIPS needs weights that this program does not bring. The authors' Python "
                  "package makes the\nfile:\n"
                  "  import lpips, safetensors.torch as s\n"
                  "  s.save_model (lpips.LPIPS (net=\"alex\"), \"lpips-alex.safetensors\")",
                  entries, NULL, NULL, error))
    return FALSE;
  if (g_strv_length (o.paths != NULL ? o.paths : (char *[]){ NULL }) != 2)
    {
      g_set_error (error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, "two pictures are needed");
      return FALSE;
    }
  return cli_check_png_name ("--heatmap", o.heatmap, error) && compare (&o, error);
}
