/* SPDX-License-Identifier: Apache-2.0
 *
 * image.h - a finished picture
 *
 * RGB, 8 bits a channel, rows without padding, immutable and reference-counted; any thread.
 */
#pragma once

#include "engine/picture/request.h"

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct _Image Image;

/* Takes `bytes` (borrowed, a reference is kept) of exactly 3 * width * height. */
Image *image_new (int width, int height, GBytes *bytes);
Image *image_ref (Image *self);
void image_unref (Image *self); /* NULL is a no-op */
int image_get_width (const Image *self);
int image_get_height (const Image *self);
GBytes *image_get_bytes (const Image *self); /* borrowed */

/* What a PNG says about how it was made. Any member may be NULL; image_info_clear frees them. */
typedef struct
{
  EngineRequest *request; /* (owned) the request: from our chunk, A1111's or ComfyUI's */
  char *details;          /* (owned) our JSON chunk in full: engine, device, seconds, weights */
  char *report;           /* (owned) what was read from where, and what was ignored */
} ImageInfo;

void image_info_clear (ImageInfo *info);

/* Writes a PNG under a temporary name in the same folder, flushes it and renames it. Text chunks:
 * `parameters` (A1111) and `tessera` (JSON, `details`); `info` may be NULL. Errors: G_IO_ERROR_*
 * or G_FILE_ERROR_* naming the file; nothing half-written stays. */
gboolean image_save_png (Image *self, const char *path, const ImageInfo *info, GError **error);

/* Reads a PNG of any colour type and depth as RGB of 8 bits, without its transparency; hostile
 * input is refused with an error. `info` (may be NULL) gets what its text chunks say: ours, A1111's
 * or ComfyUI's. */
Image *image_load_png (const char *path, ImageInfo *info, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Image, image_unref)
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC (ImageInfo, image_info_clear)

G_END_DECLS
