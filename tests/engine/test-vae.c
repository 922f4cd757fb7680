/* SPDX-License-Identifier: Apache-2.0
 *
 * The encoder against the reference, and bands of the decoder against the whole.
 */
#include "tests/engine/cpu-model.h"

#include <math.h>

#define CHANNELS 16

static Vae *
load (CpuModel *self, gboolean decoder)
{
  Loader loader = cpu_model_loader (self, CHECKPOINT_VAE);
  Vae *vae;

  loader.resident = TRUE;
  vae = (decoder ? vae_new_decoder : vae_new_encoder) (&loader, checkpoint_vae (self->checkpoint));
  cpu_model_assert_loaded (&loader);
  return vae;
}

static void
test_encode (void)
{
  g_autofree char *path = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), "tiny-zimage-golden",
                                            "vae-encode.safetensors", NULL);
  g_autoptr (GError) error = NULL;
  g_autoptr (Safetensors) golden = safetensors_open (path, &error);
  CpuModel f;
  Vae *encoder;
  Tensor pixels, latents;
  int64_t height, width, area;
  double difference = 0.0, size = 0.0;
  g_autofree float *in = NULL;
  g_autofree float *out = NULL;

  g_assert_no_error (error);
  g_assert_true (safetensors_find (golden, "pixels", &pixels));
  g_assert_true (safetensors_find (golden, "latents", &latents));
  height = pixels.shape[1];
  width = pixels.shape[2];
  area = height * width;
  in = g_new (float, (gsize)(3 * area));
  out = g_new (float, (gsize)tensor_count (&latents));
  for (int64_t i = 0; i < area; i++)
    for (int64_t c = 0; c < 3; c++)
      in[i * 3 + c] = tensor_get (&pixels, c * area + i);

  cpu_model_open (&f, NULL, NULL, 64 << 20);
  encoder = load (&f, FALSE);
  g_assert_cmpint (
      vae_encode (&f.ctx, encoder, in, (int)(height / VAE_SCALE), (int)(width / VAE_SCALE), out),
      ==, STATUS_OK);
  for (int64_t i = 0; i < tensor_count (&latents); i++)
    {
      double expected = tensor_get (&latents, i);

      difference += (out[i] - expected) * (out[i] - expected);
      size += expected * expected;
    }
  g_test_message ("relative RMS %.1e", sqrt (difference / size));
  g_assert_cmpfloat (sqrt (difference / size), <=, 1e-4);
  vae_free (&f.ctx, encoder);
  cpu_model_close (&f);
}

static float *
decode (CpuModel *f, Vae *decoder, const float *latents, int height, int width, int band)
{
  gsize n = (gsize)(height * width * VAE_SCALE * VAE_SCALE * 3);
  float *pixels = g_new (float, n);

  for (gsize i = 0; i < n; i++)
    pixels[i] = NAN; /* every pixel must be written */
  g_assert_cmpint (vae_decode (&f->ctx, decoder, latents, height, width, band, pixels), ==,
                   STATUS_OK);
  for (gsize i = 0; i < n; i++)
    g_assert_false (isnan (pixels[i]));
  return pixels;
}

/* Bands have the moments of the whole picture, so they differ from it by roundings alone: far less
 * than the two steps of 255 that an eye could see as a seam. */
static void
test_bands (void)
{
  const int height = 20, width = 27, bands[] = { 1, 3, 8, 19, 20, 64 };
  gsize area = (gsize)(height * width), n = area * 64 * 3;
  g_autofree float *latents = g_new (float, CHANNELS *area);
  g_autofree float *whole = NULL;
  g_autofree guint8 *expected = g_new (guint8, n), *found = g_new (guint8, n);
  CpuModel f;
  Vae *decoder;

  for (gsize i = 0; i < CHANNELS * area; i++)
    latents[i] = sinf ((float)(i / area)) + 0.3f * sinf ((float)i * 0.37f);
  cpu_model_open (&f, NULL, NULL, 64 << 20);
  decoder = load (&f, TRUE);
  whole = decode (&f, decoder, latents, height, width, 0);
  vae_round_pixels (whole, n, expected);
  for (guint b = 0; b < G_N_ELEMENTS (bands); b++)
    {
      g_autofree float *banded = decode (&f, decoder, latents, height, width, bands[b]);
      float most = 0.0f;
      int steps = 0;

      vae_round_pixels (banded, n, found);
      for (gsize i = 0; i < n; i++)
        {
          most = MAX (most, fabsf (banded[i] - whole[i]));
          steps = MAX (steps, ABS (found[i] - expected[i]));
        }
      g_test_message ("bands of %d: %.1e, %d of 255", bands[b], (double)most, steps);
      g_assert_cmpint (steps, <=, 1);
      g_assert_cmpfloat (most, <=, 1e-4f);
    }
  vae_free (&f.ctx, decoder);
  cpu_model_close (&f);
}

static void
test_rounding (void)
{
  const float pixels[] = { -2.0f, -1.0f, 0.0f, 1.0f, 2.0f, NAN, 1.0f / 255.0f, 3.0f / 255.0f };
  const guint8 expected[] = { 0, 0, 128, 255, 255, 0, 128, 129 };
  guint8 rgb[G_N_ELEMENTS (pixels)];

  vae_round_pixels (pixels, G_N_ELEMENTS (pixels), rgb);
  g_assert_cmpmem (rgb, sizeof rgb, expected, sizeof expected);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/vae/encode", test_encode);
  g_test_add_func ("/vae/bands", test_bands);
  g_test_add_func ("/vae/rounding", test_rounding);
  return g_test_run ();
}
