/* SPDX-License-Identifier: Apache-2.0
 *
 * Text encoders of fewer bits: found in a model's folder, chosen, used, and done without where they
 * cannot be.
 */
#include "app/models/models.h"
#include "engine/weight-only/quantize-encoder.h"
#include "tests/engine/model-copy.h"
#include "window-fixture.h"

#include <glib/gstdio.h>
#include <string.h>

typedef struct
{
  Fixture window; /* first, for its functions */
  char *model;
  ModelInfo *info;
} EncoderFixture;

/* An encoder of 8 bit beside the small model's own. */
static void
write_encoder (const char *model)
{
  g_autofree char *folder = g_build_filename (model, "text_encoders", NULL);
  g_autofree char *out = g_build_filename (folder, "small.safetensors", NULL);
  const QuantizeEncoderJob job = { .model = model, .out = out, .bits = 8 };
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (g_mkdir (folder, 0700), ==, 0);
  quantize_encoder (&job, NULL, NULL, NULL, &error);
  g_assert_no_error (error);
}

static void
set_up (EncoderFixture *f, gconstpointer data)
{
  fixture_set_up (&f->window, data);
  f->model = model_copy_new ();
  write_encoder (f->model);
  controls_set_size (window_get_controls (f->window.window), 64, 64);
  g_settings_set_int (f->window.settings, "steps", 2);
}

static void
tear_down (EncoderFixture *f, gconstpointer data)
{
  g_autofree char *folder = g_build_filename (f->model, "text_encoders", NULL);

  fixture_tear_down (&f->window, data);
  remove_folder (folder);
  model_copy_free (f->model);
  model_info_free (f->info);
}

static void
on_opened (GObject *source, GAsyncResult *result, gpointer data)
{
  EncoderFixture *f = data;
  g_autoptr (GError) error = NULL;

  f->info = worker_open_finish (TESSERA_WORKER (source), result, &error);
  g_assert_no_error (error);
  window_set_model (f->window.window, f->info);
  queue_set_model (f->window.queue, f->info);
}

static void
open_with (EncoderFixture *f, const char *encoder)
{
  EngineOptions options = { .device = "cpu", .text_encoder_file = encoder };

  g_clear_pointer (&f->info, model_info_free);
  worker_open_async (f->window.worker, f->model, &options, NULL, on_opened, f);
  WAIT_FOR (f->info != NULL);
}

static GtkWidget *
row_of (EncoderFixture *f)
{
  return GTK_WIDGET (gtk_widget_get_template_child (
      GTK_WIDGET (window_get_controls (f->window.window)), TESSERA_TYPE_CONTROLS, "encoder"));
}

static void
test_used (EncoderFixture *f, gconstpointer data)
{
  g_autofree char *encoder = models_find_text_encoder (f->model, 8);
  g_autofree char *description = NULL, *path = NULL;
  g_autoptr (TesseraPicture) again = NULL;
  g_autoptr (GError) error = NULL;
  TesseraPicture *picture;

  g_assert_nonnull (encoder);
  g_assert_null (models_find_text_encoder (f->model, 4));
  open_with (f, NULL);
  g_assert_cmpint (f->info->encoder_bits, ==, 16);
  g_assert_true (f->info->encoders[0]);
  g_assert_false (f->info->encoders[1]);
  g_assert_true (gtk_widget_get_sensitive (row_of (f)));
  g_object_set (row_of (f), "selected", 1, NULL);
  g_assert_cmpint (g_settings_get_enum (f->window.settings, "text-encoder"), ==, 8);

  open_with (f, encoder);
  adw_expander_row_set_expanded (
      ADW_EXPANDER_ROW (gtk_widget_get_ancestor (row_of (f), ADW_TYPE_EXPANDER_ROW)), TRUE);
  fixture_check_controls (&f->window, "window-advanced");
  g_assert_cmpint (f->info->encoder_bits, ==, 8);
  g_assert_cmpuint (adw_combo_row_get_selected (ADW_COMBO_ROW (row_of (f))), ==, 1);
  fixture_activate (&f->window, "generate");
  WAIT_FOR (f->window.finished == 1);
  picture = compare_view_get_first (window_get_view (f->window.window));
  g_assert_nonnull (picture);
  description = picture_describe (picture);
  g_assert_nonnull (strstr (description, "Text encoder: 8 bit"));
  path = g_build_filename (f->window.folder, "again.png", NULL);
  g_assert_true (picture_save (picture, path, &error));
  again = picture_load (path, &error);
  g_assert_no_error (error);
  g_assert_cmpint (picture_get_facts (again)->encoder_bits, ==, 8);
}

/* What is no text encoder for the model stands in nobody's way, and is told. */
static void
test_refused (EncoderFixture *f, gconstpointer data)
{
  g_autofree char *wrong
      = g_build_filename (f->model, "transformer", "diffusion_pytorch_model.safetensors", NULL);

  open_with (f, wrong);
  g_assert_cmpint (f->info->encoder_bits, ==, 16);
  g_assert_nonnull (f->info->encoder_reason);
  g_assert_cmpstr (adw_action_row_get_subtitle (ADW_ACTION_ROW (row_of (f))), ==,
                   f->info->encoder_reason);
}

/* Without a file there is no choice, and the row says why. */
static void
test_none (EncoderFixture *f, gconstpointer data)
{
  g_autofree char *folder = g_build_filename (f->model, "text_encoders", NULL);

  remove_folder (folder);
  open_with (f, NULL);
  g_assert_false (gtk_widget_get_sensitive (row_of (f)));
  g_assert_nonnull (
      strstr (adw_action_row_get_subtitle (ADW_ACTION_ROW (row_of (f))), "text_encoders"));
}

int
main (int argc, char *argv[])
{
  g_autoptr (GtkApplication) app = NULL;

  init_display (&argc, &argv);
  app = test_application ();
#define ADD(name, function)                                                                        \
  g_test_add ("/encoder/" name, EncoderFixture, app, set_up, function, tear_down)
  ADD ("used", test_used);
  ADD ("refused", test_refused);
  ADD ("none", test_none);
#undef ADD
  return g_test_run ();
}
