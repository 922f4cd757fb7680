/* SPDX-License-Identifier: Apache-2.0
 *
 * The gallery: one page, no network, a slider for each pair.
 *
 * A baseline's picture is in the page once, however many pictures lie over it: it is the background
 * of a class. The slider moves a custom property, and the page's style does the rest; the script
 * has one line for each control.
 */
#include "engine/cli/bench-quality.h"

#include <glib/gstdio.h>
#include <math.h>

/* Beyond this a page is too heavy to open, and points to the pictures beside it instead. */
#define MAX_EMBEDDED ((guint64)96 << 20)

static const char style[]
    = ":root{color-scheme:light dark;--line:#8886}\n"
      "body{font:16px/1.5 system-ui,sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem}\n"
      "pre{white-space:pre-wrap;padding:.75rem 1rem;border:1px solid var(--line);"
      "border-radius:.5rem}\n"
      ".scroll{overflow-x:auto}\n"
      "table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n"
      "th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;"
      "white-space:nowrap}\n"
      "th:first-child,td:first-child{text-align:left}\n"
      ".prompts :is(th,td):nth-child(2){text-align:left}\n"
      ".prompts td:last-child{white-space:normal;text-align:left}\n"
      ".pairs{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));"
      "gap:1.5rem}\n"
      "figure{margin:0;max-width:48rem;--cut:50%}\n"
      ".pair{position:relative;overflow:hidden;border-radius:.5rem;background-size:100% 100%}\n"
      ".pair img{display:block;width:100%;height:auto;clip-path:inset(0 0 0 var(--cut))}\n"
      ".pair::after{content:\"\";position:absolute;inset:0 auto 0 var(--cut);width:2px;"
      "margin-left:-1px;background:#fff;mix-blend-mode:difference}\n"
      ".difference .pair{filter:brightness(4)}\n"
      ".difference .pair img{clip-path:none;mix-blend-mode:difference}\n"
      ".difference .pair::after{display:none}\n"
      "input[type=range]{width:100%;margin:.5rem 0}\n"
      ".failed{padding:2rem;border:1px solid var(--line);border-radius:.5rem}\n"
      "figcaption{font-size:.875rem}\n";

static const char script[]
    = "for (const figure of document.querySelectorAll ('figure')) {\n"
      "  const slider = figure.querySelector ('input[type=range]');\n"
      "  const toggle = figure.querySelector ('input[type=checkbox]');\n"
      "  if (!slider) continue;\n"
      "  const move = () => figure.style.setProperty ('--cut', slider.value + '%');\n"
      "  slider.addEventListener ('input', move);\n"
      "  toggle.addEventListener ('change', () =>\n"
      "    figure.classList.toggle ('difference', toggle.checked));\n"
      "  move ();\n"
      "}\n";

static void
append_escaped (GString *html, const char *text)
{
  g_autofree char *escaped = g_markup_escape_text (text, -1);

  g_string_append (html, escaped);
}

static guint64
file_size (const char *path)
{
  GStatBuf info;

  return g_stat (path, &info) == 0 ? (guint64)info.st_size : 0;
}

static gboolean
can_embed (const QualityRun *run)
{
  guint64 sum = 0;

  for (guint i = 0; i < run->configurations->len; i++)
    for (guint p = 0; p < run->prompts->len; p++)
      {
        g_autofree char *path
            = quality_row_path (run, g_ptr_array_index (run->configurations, i), p, ".png");

        sum += file_size (path);
      }
  return sum <= MAX_EMBEDDED;
}

/* An address of a picture: the picture itself, or its place beside the page. */
static void
append_picture (GString *html, const QualityRun *run, const QualityConfiguration *c, guint p,
                gboolean embed)
{
  g_autofree char *path = quality_row_path (run, c, p, ".png");
  g_autofree char *bytes = NULL, *text = NULL;
  gsize length;

  if (embed && g_file_get_contents (path, &bytes, &length, NULL))
    {
      text = g_base64_encode ((const guchar *)bytes, length);
      g_string_append (html, "data:image/png;base64,");
      g_string_append (html, text);
    }
  else
    g_string_append_printf (html, "%s/%03u.png", c->folder, p + 1);
}

static void
append_table (GString *html, const QualityTable *table)
{
  g_autofree char *name = g_ascii_strdown (table->title, -1);

  g_string_append_printf (html, "<h2>%s</h2>\n<div class=\"scroll\"><table class=\"%s\">\n",
                          table->title, name);
  for (guint i = 0; i < table->cells->len; i++)
    {
      const char *tag = i < table->columns ? "th" : "td";

      if (i % table->columns == 0)
        g_string_append (html, "<tr>");
      g_string_append_printf (html, "<%s>", tag);
      append_escaped (html, g_ptr_array_index (table->cells, i));
      g_string_append_printf (html, "</%s>", tag);
      if ((i + 1) % table->columns == 0)
        g_string_append (html, "</tr>\n");
    }
  g_string_append (html, "</table></div>\n");
  if (table->note != NULL)
    {
      g_string_append (html, "<p>");
      append_escaped (html, table->note);
      g_string_append (html, "</p>\n");
    }
}

/* -- pairs ---------------------------------------------------------------------------------------
 */

static void
append_caption (GString *html, const char *baseline, const QualityConfiguration *c,
                const QualityRow *row)
{
  g_autofree char *flip = quality_number (row->metrics.flip, 4, "");
  g_autofree char *lpips = quality_number (row->metrics.lpips, 4, ".");
  g_autofree char *psnr = quality_number (row->metrics.psnr, 2, " dB");

  g_string_append (html, "<figcaption>");
  append_escaped (html, baseline);
  g_string_append (html, " on the left, ");
  append_escaped (html, c->label);
  g_string_append (html, " on the right. ");
  if (row->metrics.pixels_changed == 0)
    g_string_append (html, "The pictures are equal.");
  else
    g_string_append_printf (html, "PSNR %s, FLIP %s%s%s", psnr, flip,
                            isfinite (row->metrics.lpips) ? ", LPIPS " : ".",
                            isfinite (row->metrics.lpips) ? lpips : "");
  g_string_append (html, "</figcaption>\n");
}

static void
append_pair (GString *html, const QualityRun *run, const QualityConfiguration *c, guint p,
             gboolean embed)
{
  const QualityConfiguration *baseline = g_ptr_array_index (run->configurations, 0);
  const QualityRow *row = &c->rows[p];
  const char *error = row->error != NULL ? row->error : baseline->rows[p].error;

  g_string_append (html, "<figure>\n");
  if (!row->compared)
    {
      g_string_append (html, "<p class=\"failed\">");
      append_escaped (html, c->label);
      g_string_append (html, ": there is no pair. ");
      append_escaped (html, error != NULL ? error : "");
      g_string_append (html, "</p>\n</figure>\n");
      return;
    }
  g_string_append_printf (html, "<div class=\"pair base%u\"><img alt=\"", p + 1);
  append_escaped (html, c->label);
  g_string_append_printf (html, "\" width=\"%d\" height=\"%d\" src=\"", run->request.width,
                          run->request.height);
  append_picture (html, run, c, p, embed);
  g_string_append (html, "\"></div>\n<input type=\"range\" min=\"0\" max=\"100\" value=\"50\" "
                         "step=\"0.5\" aria-label=\"");
  append_escaped (html, baseline->label);
  g_string_append (html, " against ");
  append_escaped (html, c->label);
  g_string_append (html, "\">\n");
  append_caption (html, baseline->label, c, row);
  g_string_append (html, "<label><input type=\"checkbox\"> Difference, four times as bright"
                         "</label>\n</figure>\n");
}

/* One class for each of the baseline's pictures. */
static void
append_baselines (GString *html, const QualityRun *run, gboolean embed)
{
  const QualityConfiguration *baseline = g_ptr_array_index (run->configurations, 0);

  for (guint p = 0; p < run->prompts->len; p++)
    {
      if (!baseline->rows[p].done)
        continue;
      g_string_append_printf (html, ".base%u{background-image:url(", p + 1);
      append_picture (html, run, baseline, p, embed);
      g_string_append (html, ")}\n");
    }
}

static void
append_gallery (GString *html, const QualityRun *run, gboolean embed)
{
  g_string_append (html, "<h2>Gallery</h2>\n");
  if (!embed)
    g_string_append (html, "<p>The pictures are beside this page; keep them together.</p>\n");
  for (guint p = 0; p < run->prompts->len; p++)
    {
      const QualityPrompt *prompt = g_ptr_array_index (run->prompts, p);

      g_string_append (html, "<section>\n<h3>");
      append_escaped (html, prompt->name);
      g_string_append (html, "</h3>\n<p>");
      append_escaped (html, prompt->text);
      g_string_append (html, "</p>\n<div class=\"pairs\">\n");
      for (guint i = 1; i < run->configurations->len; i++)
        append_pair (html, run, g_ptr_array_index (run->configurations, i), p, embed);
      g_string_append (html, "</div>\n</section>\n");
    }
}

char *
quality_html (const QualityRun *run)
{
  GString *html = g_string_new ("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n"
                                "<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
                                "content=\"width=device-width\">\n"
                                "<title>What precision costs and gains</title>\n<style>\n");
  g_autoptr (GPtrArray) tables = quality_tables (run);
  g_autofree char *banner = quality_banner (run);
  const gboolean embed = can_embed (run);

  g_string_append (html, style);
  append_baselines (html, run, embed);
  g_string_append (html, "</style>\n</head>\n<body>\n<h1>What precision costs and gains</h1>\n"
                         "<pre>");
  append_escaped (html, banner);
  g_string_append (html, "</pre>\n");
  for (guint i = 0; i < tables->len; i++)
    append_table (html, g_ptr_array_index (tables, i));
  append_gallery (html, run, embed);
  g_string_append (html, "<script>\n");
  g_string_append (html, script);
  g_string_append (html, "</script>\n</body>\n</html>\n");
  return g_string_free (html, FALSE);
}
