/* SPDX-License-Identifier: Apache-2.0
 *
 * LoRA files in the window: what comes into the list, into requests and out of pictures again.
 */
#include "app/history/restore-report.h"
#include "app/lora/lora-folder.h"
#include "engine/files/safetensors.h"
#include "window-fixture.h"

#include <glib/gstdio.h>
#include <string.h>

#define WIDTH 192 /* of the small model's layers */
#define RANK  2

/* Adds a pair of factors for a layer with `width` inputs. */
static void
add_layer (SafetensorsWriter *writer, const char *layer, int64_t width, const float *numbers)
{
  g_autofree char *down = g_strconcat ("transformer.", layer, ".lora_A.weight", NULL);
  g_autofree char *up = g_strconcat ("transformer.", layer, ".lora_B.weight", NULL);
  const int64_t down_shape[] = { RANK, width }, up_shape[] = { WIDTH, RANK };

  safetensors_writer_add (writer, down, DTYPE_F32, 2, down_shape, numbers);
  safetensors_writer_add (writer, up, DTYPE_F32, 2, up_shape, numbers);
}

/* Writes a LoRA of layers for a model of this width, as `name` in `folder`. */
static char *
write_lora (const char *folder, const char *name, int64_t width, const char *const *layers)
{
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autofree float *numbers = g_new (float, RANK *WIDTH);
  g_autoptr (GError) error = NULL;
  char *path = g_build_filename (folder, name, NULL);

  for (guint i = 0; i < RANK * WIDTH; i++)
    numbers[i] = (float)(i % 7) * 0.05f - 0.15f;
  for (guint i = 0; layers[i] != NULL; i++)
    add_layer (writer, layers[i], width, numbers);
  g_mkdir_with_parents (folder, 0700);
  safetensors_writer_write (writer, path, &error);
  g_assert_no_error (error);
  return path;
}

static const char *const ONE[] = { "layers.0.attention.to_q", NULL };
static const char *const TWO[] = { "layers.0.attention.to_q", "layers.0.attention.to_k", NULL };
static const char *const STRANGE[]
    = { "layers.0.attention.to_q", "layers.99.attention.to_q", NULL };

/* In the user's folder; it goes with the test's home. */
static void
have_lora (const char *name, int64_t width, const char *const *layers)
{
  g_autofree char *folder = lora_folder_get ();

  g_free (write_lora (folder, name, width, layers));
}

static gboolean
is_in_folder (const char *name)
{
  g_autofree char *folder = lora_folder_get ();
  g_autofree char *path = g_build_filename (folder, name, NULL);

  return g_file_test (path, G_FILE_TEST_EXISTS);
}

static void
empty_folder (void)
{
  g_autofree char *folder = lora_folder_get ();

  remove_folder (folder);
}

static TesseraLoraList *
list_of (Fixture *f)
{
  return controls_get_loras (window_get_controls (f->window));
}

static TesseraLoraRow *
row_of (Fixture *f, const char *file)
{
  TesseraLoraRow *row = lora_list_find (list_of (f), file);

  g_assert_nonnull (row);
  return row;
}

static gboolean
says (Fixture *f, const char *file, const char *text)
{
  return strstr (lora_row_get_text (row_of (f, file)), text) != NULL;
}

static void
set_up (Fixture *f, gconstpointer data)
{
  empty_folder ();
  have_lora ("good.safetensors", WIDTH, TWO);
  fixture_set_up (f, data);
  fixture_open_tiny (f);
}

/* -- What is in a picture -----------------------------------------------------------------------
 */

static void
test_used (Fixture *f, gconstpointer data)
{
  EngineRequest request;
  TesseraPicture *picture;
  g_autofree char *description = NULL;

  controls_get_request (window_get_controls (f->window), &request);
  g_assert_cmpuint (request.n_loras, ==, 0);
  lora_row_set_active (row_of (f, "good.safetensors"), TRUE);
  WAIT_FOR (says (f, "good.safetensors", "Applied to 2 layers"));
  lora_row_set_strength (row_of (f, "good.safetensors"), 0.5);
  g_assert_cmpstr (adw_expander_row_get_subtitle (ADW_EXPANDER_ROW (list_of (f))), ==, "1 in use");
  fixture_activate (f, "generate");
  WAIT_FOR (f->finished == 1);
  picture = compare_view_get_first (window_get_view (f->window));
  g_assert_nonnull (picture);
  g_assert_cmpuint (picture_get_request (picture)->n_loras, ==, 1);
  g_assert_cmpstr (picture_get_request (picture)->loras[0].file, ==, "good.safetensors");
  g_assert_cmpfloat (picture_get_request (picture)->loras[0].strength, ==, 0.5);
  description = picture_describe (picture);
  g_assert_nonnull (strstr (description, "LoRA: good.safetensors, strength 0.50"));
}

/* What does not fit is said and stays out; the picture is made all the same. */
static void
test_misfits (Fixture *f, gconstpointer data)
{
  TesseraPicture *picture;

  have_lora ("other model.safetensors", WIDTH / 2, ONE);
  have_lora ("partly.safetensors", WIDTH, STRANGE);
  lora_list_rescan (list_of (f));
  lora_row_set_active (row_of (f, "other model.safetensors"), TRUE);
  lora_row_set_active (row_of (f, "partly.safetensors"), TRUE);
  WAIT_FOR (says (f, "partly.safetensors", "Applied to 1 layer, 1 left out"));
  WAIT_FOR (says (f, "other model.safetensors", "Not applied"));
  g_assert_false (lora_row_is_used (row_of (f, "other model.safetensors")));
  g_assert_cmpstr (adw_expander_row_get_subtitle (ADW_EXPANDER_ROW (list_of (f))), ==,
                   "1 of 2 in use");
  WAIT_FOR (fixture_enabled (f, "generate"));
  fixture_activate (f, "generate");
  WAIT_FOR (f->finished == 1);
  picture = compare_view_get_first (window_get_view (f->window));
  g_assert_nonnull (picture);
  g_assert_cmpuint (picture_get_request (picture)->n_loras, ==, 1);
  g_assert_cmpstr (picture_get_request (picture)->loras[0].file, ==, "partly.safetensors");
}

static void
test_most (Fixture *f, gconstpointer data)
{
  for (guint i = 0; i < ENGINE_REQUEST_MAX_LORAS; i++)
    {
      g_autofree char *name = g_strdup_printf ("number %u.safetensors", i);

      have_lora (name, WIDTH, ONE);
    }
  lora_list_rescan (list_of (f));
  for (guint i = 0; i < ENGINE_REQUEST_MAX_LORAS; i++)
    {
      g_autofree char *name = g_strdup_printf ("number %u.safetensors", i);
      GObject *last = gtk_widget_get_template_child (GTK_WIDGET (row_of (f, "good.safetensors")),
                                                     TESSERA_TYPE_LORA_ROW, "active");

      g_assert_true (gtk_widget_get_sensitive (GTK_WIDGET (last)));
      lora_row_set_active (row_of (f, name), TRUE);
      g_assert_cmpint (gtk_widget_get_sensitive (GTK_WIDGET (last)), ==,
                       i + 1 < ENGINE_REQUEST_MAX_LORAS);
    }
}

/* -- Back from a picture ------------------------------------------------------------------------
 */

/* What is there comes on in the picture's order, and what is not is said. */
static void
test_restored (Fixture *f, gconstpointer data)
{
  const EngineLora loras[] = { { "zebra.safetensors", -0.75 },
                               { "gone.safetensors", 1.0 },
                               { "good.safetensors", 3.0 } };
  EngineRequest request = small_request ();
  g_autofree char *ignored = NULL;

  have_lora ("zebra.safetensors", WIDTH, ONE);
  request.loras = loras;
  request.n_loras = G_N_ELEMENTS (loras);
  controls_set_request (window_get_controls (f->window), &request, &ignored);
  g_assert_nonnull (strstr (ignored, "gone.safetensors"));
  g_assert_null (strstr (ignored, "zebra"));
  g_assert_true (says (f, "gone.safetensors", "not on this computer"));
  controls_get_request (window_get_controls (f->window), &request);
  g_assert_cmpuint (request.n_loras, ==, 2);
  g_assert_cmpstr (request.loras[0].file, ==, "zebra.safetensors");
  g_assert_cmpfloat (request.loras[0].strength, ==, -0.75);
  g_assert_cmpstr (request.loras[1].file, ==, "good.safetensors");
  g_assert_cmpfloat (request.loras[1].strength, ==, 3.0);

  /* Once the file is there it is used, without a word more. */
  have_lora ("gone.safetensors", WIDTH, ONE);
  lora_list_rescan (list_of (f));
  controls_get_request (window_get_controls (f->window), &request);
  g_assert_cmpuint (request.n_loras, ==, 3);
  g_assert_cmpstr (request.loras[1].file, ==, "gone.safetensors");

  request = small_request ();
  controls_set_request (window_get_controls (f->window), &request, NULL);
  controls_get_request (window_get_controls (f->window), &request);
  g_assert_cmpuint (request.n_loras, ==, 0);
}

/* A file dropped on the window says which LoRA it lacks. */
static void
test_reported (Fixture *f, gconstpointer data)
{
  const EngineLora lora = { "gone.safetensors", 1.0 };
  EngineRequest request = small_request ();
  g_autoptr (TesseraPicture) plain = landscape (64, 64, ENGINE_PRECISION_BF16, 0), picture = NULL;
  g_autofree char *path = g_build_filename (f->folder, "dropped.png", NULL);
  g_autoptr (GFile) file = g_file_new_for_path (path);
  TesseraRestoreReport *report = TESSERA_RESTORE_REPORT (
      gtk_widget_get_template_child (GTK_WIDGET (f->window), TESSERA_TYPE_WINDOW, "report"));

  request.loras = &lora;
  request.n_loras = 1;
  picture = picture_new (picture_get_image (plain), &request, NULL);
  g_assert_true (picture_save (picture, path, NULL));
  window_restore_from (f->window, file);
  WAIT_FOR (restore_report_is_shown (report));
  g_assert_nonnull (strstr (restore_report_get_text (report), "gone.safetensors"));
  WAIT_FOR (fixture_enabled (f, "generate"));
}

static void
test_remembered (Fixture *f, gconstpointer data)
{
  EngineRequest request;
  g_autoptr (GVariant) value = NULL;

  lora_row_set_strength (row_of (f, "good.safetensors"), 1.25);
  lora_row_set_active (row_of (f, "good.safetensors"), TRUE);
  gtk_window_destroy (GTK_WINDOW (f->window));
  value = g_settings_get_value (f->settings, "loras");
  g_assert_cmpuint (g_variant_n_children (value), ==, 1);
  f->window = window_new (f->app, f->worker, f->history, f->queue, f->settings);
  controls_get_request (window_get_controls (f->window), &request);
  g_assert_cmpuint (request.n_loras, ==, 1);
  g_assert_cmpfloat (request.loras[0].strength, ==, 1.25);
}

/* -- Coming and going ---------------------------------------------------------------------------
 */

static void
press_remove (Fixture *f, const char *file)
{
  g_signal_emit_by_name (gtk_widget_get_template_child (GTK_WIDGET (row_of (f, file)),
                                                        TESSERA_TYPE_LORA_ROW, "remove"),
                         "clicked");
}

static void
test_removed (Fixture *f, gconstpointer data)
{
  have_lora ("second.safetensors", WIDTH, ONE);
  lora_list_rescan (list_of (f));
  press_remove (f, "good.safetensors");
  g_assert_null (lora_list_find (list_of (f), "good.safetensors"));
  lora_list_rescan (list_of (f));
  g_assert_null (lora_list_find (list_of (f), "good.safetensors"));
  g_assert_true (is_in_folder ("good.safetensors"));
  fixture_activate (f, "undo-remove-lora");
  row_of (f, "good.safetensors");

  /* A second removal makes the first final, and only that. */
  press_remove (f, "good.safetensors");
  press_remove (f, "second.safetensors");
  g_assert_false (is_in_folder ("good.safetensors"));
  g_assert_true (is_in_folder ("second.safetensors"));
  fixture_activate (f, "undo-remove-lora");
  row_of (f, "second.safetensors");
}

typedef struct
{
  char *name;
  GError *error;
  gboolean done;
} Added;

static void
on_added (GObject *source, GAsyncResult *result, gpointer data)
{
  Added *added = data;

  g_clear_pointer (&added->name, g_free);
  g_clear_error (&added->error);
  added->name = lora_folder_add_finish (result, &added->error);
  added->done = TRUE;
}

static void
add_file (Added *added, const char *path)
{
  g_autofree char *folder = lora_folder_get ();
  g_autoptr (GFile) file = g_file_new_for_path (path);

  added->done = FALSE;
  lora_folder_add_async (folder, file, NULL, on_added, added);
  WAIT_FOR (added->done);
}

/* A file is copied once; another of the same name beside it; what is no LoRA not at all. */
static void
test_added (Fixture *f, gconstpointer data)
{
  g_autofree char *style = write_lora (f->folder, "style.safetensors", WIDTH, ONE);
  g_autofree char *model = tiny_model ();
  g_autofree char *transformer
      = g_build_filename (model, "transformer", "diffusion_pytorch_model.safetensors", NULL);
  g_autofree char *text = g_build_filename (f->folder, "text.safetensors", NULL);
  Added added = { 0 };

  add_file (&added, style);
  g_assert_no_error (added.error);
  g_assert_cmpstr (added.name, ==, "style.safetensors");
  add_file (&added, style);
  g_assert_cmpstr (added.name, ==, "style.safetensors");
  g_free (write_lora (f->folder, "style.safetensors", WIDTH, TWO));
  add_file (&added, style);
  g_assert_cmpstr (added.name, ==, "style 2.safetensors");
  g_unlink (style);
  g_assert_true (is_in_folder ("style.safetensors") && is_in_folder ("style 2.safetensors"));

  add_file (&added, transformer);
  g_assert_null (added.name);
  g_assert_nonnull (strstr (added.error->message, "no LoRA"));
  g_assert_true (g_file_set_contents (text, "no weights", -1, NULL));
  add_file (&added, text);
  g_assert_nonnull (added.error);
  g_assert_false (is_in_folder ("text.safetensors"));
  g_clear_error (&added.error);

  lora_list_use (list_of (f), "style 2.safetensors");
  g_assert_true (lora_row_get_active (row_of (f, "style 2.safetensors")));
}

/* -- How it looks -------------------------------------------------------------------------------
 */

static void
test_shot (Fixture *f, gconstpointer data)
{
  const EngineLora loras[] = { { "watercolour.safetensors", 0.8 },
                               { "lineart of an old master.safetensors", 1.0 },
                               { "not here.safetensors", 1.0 } };
  AdwStyleManager *style = adw_style_manager_get_default ();
  EngineRequest request = small_request ();

  have_lora ("watercolour.safetensors", WIDTH, TWO);
  have_lora ("lineart of an old master.safetensors", WIDTH, STRANGE);
  request.loras = loras;
  request.n_loras = G_N_ELEMENTS (loras);
  controls_set_request (window_get_controls (f->window), &request, NULL);
  adw_expander_row_set_expanded (ADW_EXPANDER_ROW (list_of (f)), TRUE);
  WAIT_FOR (says (f, "watercolour.safetensors", "Applied"));
  WAIT_FOR (says (f, "lineart of an old master.safetensors", "left out"));
  fixture_check_controls (f, "window-loras");
  adw_style_manager_set_color_scheme (style, ADW_COLOR_SCHEME_FORCE_DARK);
  fixture_check_controls (f, "window-loras-dark");
  adw_style_manager_set_color_scheme (style, ADW_COLOR_SCHEME_DEFAULT);
}

int
main (int argc, char *argv[])
{
  g_autoptr (GtkApplication) app = NULL;

  init_display (&argc, &argv);
  app = test_application ();
#define ADD(name, function)                                                                        \
  g_test_add ("/loras/" name, Fixture, app, set_up, function, fixture_tear_down)
  ADD ("used", test_used);
  ADD ("misfits", test_misfits);
  ADD ("most", test_most);
  ADD ("restored", test_restored);
  ADD ("reported", test_reported);
  ADD ("remembered", test_remembered);
  ADD ("removed", test_removed);
  ADD ("added", test_added);
  ADD ("shot", test_shot);
#undef ADD
  return g_test_run ();
}
