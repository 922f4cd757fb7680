/* SPDX-License-Identifier: Apache-2.0 */
#include "app/history/picture.h"

#include "app/generation/job.h"

#include <cjson/cJSON.h>
#include <glib/gi18n.h>

struct _TesseraPicture
{
  GObject parent_instance;

  /* Owned, set once */
  Image *image;
  GdkTexture *texture;
  EngineRequest *request;
  char *device, *model, *kernels, *pair;
  char *report;
  PictureFacts facts; /* its strings are the four above */
};

G_DEFINE_FINAL_TYPE (TesseraPicture, picture, G_TYPE_OBJECT)

GdkTexture *
texture_from_image (Image *image)
{
  const int width = image_get_width (image), height = image_get_height (image);

  return gdk_memory_texture_new (width, height, GDK_MEMORY_R8G8B8, image_get_bytes (image),
                                 3 * (gsize)width);
}

TesseraPicture *
picture_new (Image *image, const EngineRequest *request, const PictureFacts *facts)
{
  TesseraPicture *self = g_object_new (TESSERA_TYPE_PICTURE, NULL);

  self->image = image_ref (image);
  self->texture = texture_from_image (image);
  self->request = request != NULL ? engine_request_copy (request) : NULL;
  if (facts != NULL)
    {
      self->device = g_strdup (facts->device);
      self->model = g_strdup (facts->model);
      self->kernels = g_strdup (facts->kernels);
      self->pair = g_strdup (facts->pair);
      self->facts.seconds = facts->seconds;
      self->facts.encoder_bits = facts->encoder_bits;
    }
  self->facts.device = self->device;
  self->facts.model = self->model;
  self->facts.kernels = self->kernels;
  self->facts.pair = self->pair;
  return self;
}

static const char *
string_in (const cJSON *object, const char *key)
{
  return cJSON_GetStringValue (cJSON_GetObjectItemCaseSensitive (object, key));
}

TesseraPicture *
picture_load (const char *path, GError **error)
{
  g_auto (ImageInfo) info = { NULL };
  g_autoptr (Image) image = image_load_png (path, &info, error);
  PictureFacts facts = { 0 };
  TesseraPicture *self;
  cJSON *json;

  if (image == NULL)
    return NULL;
  json = info.details != NULL ? cJSON_Parse (info.details) : NULL;
  if (json != NULL)
    {
      const cJSON *seconds = cJSON_GetObjectItemCaseSensitive (json, "seconds");

      const cJSON *bits = cJSON_GetObjectItemCaseSensitive (json, "text_encoder_bits");

      facts.encoder_bits = cJSON_IsNumber (bits) ? (int)CLAMP (bits->valuedouble, 0, 16) : 0;
      facts.seconds = cJSON_IsNumber (seconds) ? CLAMP (seconds->valuedouble, 0, 1e6) : 0;
      facts.device = string_in (json, "device");
      facts.model = string_in (json, "model");
      facts.kernels = string_in (json, "kernels");
      facts.pair = string_in (json, "pair");
    }
  self = picture_new (image, info.request, &facts);
  self->report = g_steal_pointer (&info.report);
  cJSON_Delete (json);
  return self;
}

/* The request's JSON object with the facts added (transfer full: cJSON_free). */
static char *
details (TesseraPicture *self)
{
  g_autofree char *request = engine_request_to_json (self->request);
  cJSON *json = cJSON_Parse (request);
  char *text;

  if (json == NULL)
    return NULL;
  if (self->facts.seconds > 0)
    cJSON_AddNumberToObject (json, "seconds", self->facts.seconds);
  if (self->device != NULL)
    cJSON_AddStringToObject (json, "device", self->device);
  if (self->model != NULL)
    cJSON_AddStringToObject (json, "model", self->model);
  if (self->kernels != NULL)
    cJSON_AddStringToObject (json, "kernels", self->kernels);
  if (self->facts.encoder_bits > 0)
    cJSON_AddNumberToObject (json, "text_encoder_bits", self->facts.encoder_bits);
  if (self->pair != NULL)
    cJSON_AddStringToObject (json, "pair", self->pair);
  text = cJSON_PrintUnformatted (json);
  cJSON_Delete (json);
  return text;
}

gboolean
picture_save (TesseraPicture *self, const char *path, GError **error)
{
  ImageInfo info = { .request = self->request };
  gboolean ok;

  if (self->request == NULL)
    return image_save_png (self->image, path, NULL, error);
  info.details = details (self);
  ok = image_save_png (self->image, path, &info, error);
  cJSON_free (info.details);
  return ok;
}

static const char *
name_of_way (TesseraPicture *self)
{
  const char *arithmetic = engine_get_arithmetic (self->kernels != NULL ? self->kernels : "");

  if (self->request == NULL)
    return _ ("Unknown settings");
  if (self->request->precision == ENGINE_PRECISION_SVDQUANT && g_str_equal (arithmetic, "fast"))
    /* Translators: computed in a way that rounds more than the model file asks for */
    return _ ("SVDQuant (fast)");
  return precision_label (self->request->precision);
}

char *
picture_caption (TesseraPicture *self)
{
  const char *label = name_of_way (self);

  if (self->facts.seconds <= 0)
    return g_strdup (label);
  /* Translators: how a picture was made and how long it took: "BF16, 9.4 s" */
  return g_strdup_printf (_ ("%s, %.1f s"), label, self->facts.seconds);
}

/* `line` (transfer full) may be NULL. */
static void
add_line (GString *text, char *line)
{
  if (line != NULL && text->len > 0)
    g_string_append_c (text, '\n');
  if (line != NULL)
    g_string_append (text, line);
  g_free (line);
}

static char *
describe_arithmetic (const char *arithmetic)
{
  if (g_str_equal (arithmetic, "fast"))
    return g_strdup (_ ("Arithmetic: fast, with more rounding than the model file asks for"));
  if (g_str_equal (arithmetic, "exact"))
    return g_strdup (_ ("Arithmetic: exact, the model file’s own"));
  return NULL;
}

char *
picture_describe (TesseraPicture *self)
{
  GString *text = g_string_new (NULL);
  const EngineRequest *request = self->request;

  if (request != NULL)
    {
      g_autofree char *seed = g_strdup_printf ("%" G_GUINT64_FORMAT, request->seed);

      add_line (text, g_strdup_printf (_ ("Size: %d × %d"), request->width, request->height));
      add_line (text, g_strdup_printf (_ ("Steps: %d"), request->steps));
      add_line (text, g_strdup_printf (_ ("Seed: %s"), seed));
      for (guint i = 0; i < request->n_loras; i++)
        /* Translators: name of a file, and how strongly it was applied */
        add_line (text, g_strdup_printf (_ ("LoRA: %s, strength %.2f"), request->loras[i].file,
                                         request->loras[i].strength));
    }
  if (self->model != NULL)
    add_line (text, g_strdup_printf (_ ("Model: %s"), self->model));
  if (self->device != NULL)
    add_line (text, g_strdup_printf (_ ("Device: %s"), self->device));
  if (self->kernels != NULL)
    add_line (text, describe_arithmetic (engine_get_arithmetic (self->kernels)));
  if (self->kernels != NULL)
    /* Translators: %s names the way in which layers are computed, like "cuda-bf16-wgmma" */
    add_line (text, g_strdup_printf (_ ("Computed by: %s"), self->kernels));
  if (self->facts.encoder_bits > 0)
    add_line (text, g_strdup_printf (_ ("Text encoder: %d bit"), self->facts.encoder_bits));
  return g_string_free (text, FALSE);
}

Image *
picture_get_image (TesseraPicture *self)
{
  return self->image;
}

GdkTexture *
picture_get_texture (TesseraPicture *self)
{
  return self->texture;
}

const EngineRequest *
picture_get_request (TesseraPicture *self)
{
  return self->request;
}

const PictureFacts *
picture_get_facts (TesseraPicture *self)
{
  return &self->facts;
}

gboolean
picture_is_ours (TesseraPicture *self)
{
  return self->report == NULL || g_str_has_prefix (self->report, "Read from Tessera's");
}

const char *
picture_get_report (TesseraPicture *self)
{
  return self->report;
}

static void
picture_finalize (GObject *object)
{
  TesseraPicture *self = TESSERA_PICTURE (object);

  g_clear_pointer (&self->image, image_unref);
  g_clear_object (&self->texture);
  engine_request_free (self->request);
  g_free (self->device);
  g_free (self->model);
  g_free (self->kernels);
  g_free (self->pair);
  g_free (self->report);
  G_OBJECT_CLASS (picture_parent_class)->finalize (object);
}

static void
picture_class_init (TesseraPictureClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = picture_finalize;
}

static void
picture_init (TesseraPicture *self)
{
}
