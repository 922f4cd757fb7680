/* SPDX-License-Identifier: Apache-2.0
 *
 * picture.h - a finished picture with what is known of how it was made
 *
 * Immutable, so it can be shared by the view, the history and the clipboard.
 */
#pragma once

#include "engine/picture/image.h"

#include <gdk/gdk.h>

G_BEGIN_DECLS

#define TESSERA_TYPE_PICTURE (picture_get_type ())
G_DECLARE_FINAL_TYPE (TesseraPicture, picture, TESSERA, PICTURE, GObject)

/* Facts that are not part of the request. Strings may be NULL and are copied. */
typedef struct
{
  double seconds;      /* 0 = unknown */
  const char *device;  /* "cpu", "NVIDIA GeForce RTX 4090" */
  const char *model;   /* name of the model */
  const char *kernels; /* what computed the transformer's layers: "cuda-bf16-wgmma" */
  int encoder_bits;    /* of a text encoder of fewer than its own; 0 = unknown, or its own */
  const char *pair;    /* id shared with the other half of a comparison */
} PictureFacts;

/* Takes references and copies; `request` may be NULL for a PNG that says nothing. */
TesseraPicture *picture_new (Image *image, const EngineRequest *request, const PictureFacts *facts);

/* Reads a PNG and what it says; blocks, so call it from a pool thread. */
TesseraPicture *picture_load (const char *path, GError **error);
/* Writes a PNG that says how it was made; blocks as well. */
gboolean picture_save (TesseraPicture *self, const char *path, GError **error);

Image *picture_get_image (TesseraPicture *self);
GdkTexture *picture_get_texture (TesseraPicture *self); /* borrowed, no copy of the pixels */
const EngineRequest *picture_get_request (TesseraPicture *self); /* may be NULL */
const PictureFacts *picture_get_facts (TesseraPicture *self);
gboolean
picture_is_ours (TesseraPicture *self); /* its settings are Tessera's, nothing is guessed */
const char *picture_get_report (TesseraPicture *self); /* what was read from where; NULL if made */

/* "BF16, 9.4 s" (transfer full). */
char *picture_caption (TesseraPicture *self);

/* How it was made, a line for each thing that is known (transfer full). */
char *picture_describe (TesseraPicture *self);

/* Shares the image's bytes (transfer full). */
GdkTexture *texture_from_image (Image *image);

G_END_DECLS
