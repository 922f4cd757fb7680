/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/picture/image.h"

struct _Image
{
  gatomicrefcount refs;
  int width, height;
  GBytes *bytes;
};

Image *
image_new (int width, int height, GBytes *bytes)
{
  Image *self;

  g_return_val_if_fail (width > 0 && height > 0, NULL);
  g_return_val_if_fail (g_bytes_get_size (bytes) == 3 * (gsize)width * (gsize)height, NULL);

  self = g_new0 (Image, 1);
  g_atomic_ref_count_init (&self->refs);
  self->width = width;
  self->height = height;
  self->bytes = g_bytes_ref (bytes);
  return self;
}

Image *
image_ref (Image *self)
{
  g_atomic_ref_count_inc (&self->refs);
  return self;
}

void
image_unref (Image *self)
{
  if (self == NULL || !g_atomic_ref_count_dec (&self->refs))
    return;
  g_bytes_unref (self->bytes);
  g_free (self);
}

int
image_get_width (const Image *self)
{
  return self->width;
}

int
image_get_height (const Image *self)
{
  return self->height;
}

GBytes *
image_get_bytes (const Image *self)
{
  return self->bytes;
}

void
image_info_clear (ImageInfo *info)
{
  g_clear_pointer (&info->request, engine_request_free);
  g_clear_pointer (&info->details, g_free);
  g_clear_pointer (&info->report, g_free);
}
