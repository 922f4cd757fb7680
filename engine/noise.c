/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/noise.h"

#include <math.h>
#include <string.h>

/* -- the Mersenne Twister of torch's CPU generator ------------------------------------------- */

#define MT_SIZE  624
#define MT_SHIFT 397

typedef struct
{
  guint32 state[MT_SIZE];
  guint next;
} Twister;

static void
twister_seed (Twister *self, guint32 seed)
{
  self->state[0] = seed;
  for (guint j = 1; j < MT_SIZE; j++)
    {
      guint32 previous = self->state[j - 1];

      self->state[j] = 1812433253u * (previous ^ (previous >> 30)) + j;
    }
  self->next = MT_SIZE;
}

static void
twister_advance (Twister *self)
{
  for (guint i = 0; i < MT_SIZE; i++)
    {
      guint32 mixed
          = (self->state[i] & 0x80000000u) | (self->state[(i + 1) % MT_SIZE] & 0x7fffffffu);

      self->state[i]
          = self->state[(i + MT_SHIFT) % MT_SIZE] ^ (mixed >> 1) ^ (mixed & 1 ? 0x9908b0dfu : 0u);
    }
  self->next = 0;
}

static guint32
twister_u32 (Twister *self)
{
  guint32 y;

  if (self->next == MT_SIZE)
    twister_advance (self);
  y = self->state[self->next++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

static guint64
twister_u64 (Twister *self)
{
  guint64 high = twister_u32 (self);

  return high << 32 | twister_u32 (self);
}

/* -- the Cephes polynomials of torch's AVX2 kernel: the libm would differ in the last bits ----- */

static float
poly_log (float x)
{
  static const float c[] = { 7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f,
                             -1.2420140846e-1f, 1.4249322787e-1f,  -1.6668057665e-1f,
                             2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f };
  int exponent;
  float m = frexpf (x, &exponent);
  float e, z, y;

  if (m < 0.707106781186547524f)
    {
      exponent--;
      m += m;
    }
  e = (float)exponent;
  m -= 1.0f;
  z = m * m;
  y = c[0];
  for (guint i = 1; i < G_N_ELEMENTS (c); i++)
    y = y * m + c[i];
  y = y * m * z;
  y += e * -2.12194440e-4f;
  y -= z * 0.5f;
  return (m + y) + e * 0.693359375f;
}

static void
poly_sincos (float t, float *sine, float *cosine)
{
  int j = ((int)(t * 1.27323954473516f) + 1) & ~1;
  float y = (float)j;
  float z, p, q;

  t -= y * 0.78515625f;
  t -= y * 2.4187564849853515625e-4f;
  t -= y * 3.77489497744594108e-8f;
  z = t * t;
  p = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z
      - z * 0.5f + 1.0f;
  q = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * t + t;
  *sine = ((j & 2) ? p : q) * ((j & 4) ? -1.0f : 1.0f);
  *cosine = ((j & 2) ? q : p) * (((j - 2) & 4) ? 1.0f : -1.0f);
}

/* Box-Muller on 16 uniforms in place: the first eight are radii, the last eight angles. */
static void
normals_16 (float *d)
{
  for (guint j = 0; j < 8; j++)
    {
      float radius = sqrtf (-2.0f * poly_log (1.0f - d[j]));
      float theta = (float)(2.0 * G_PI) * d[j + 8];
      float sine, cosine;

      poly_sincos (theta, &sine, &cosine);
      d[j] = radius * cosine;
      d[j + 8] = radius * sine;
    }
}

static float
uniform_24 (Twister *twister)
{
  return (float)(twister_u32 (twister) & 0xffffffu) * 0x1p-24f;
}

/* Fewer than 16 values take torch's scalar path: double precision, two normals a draw. */
static void
noise_few (Twister *twister, float *out, gsize n)
{
  for (gsize i = 0; i < n; i += 2)
    {
      double u1 = (double)(twister_u64 (twister) & ((G_GUINT64_CONSTANT (1) << 53) - 1)) * 0x1p-53;
      double u2 = (double)(twister_u64 (twister) & ((G_GUINT64_CONSTANT (1) << 53) - 1)) * 0x1p-53;
      double radius = sqrt (-2.0 * log1p (-u2));
      double theta = 2.0 * G_PI * u1;

      out[i] = (float)(radius * cos (theta));
      if (i + 1 < n)
        out[i + 1] = (float)(radius * sin (theta));
    }
}

void
noise_torch_cpu (guint64 seed, float *out, gsize n)
{
  g_autofree Twister *twister = g_new (Twister, 1);

  twister_seed (twister, (guint32)seed);
  if (n < 16)
    {
      noise_few (twister, out, n);
      return;
    }

  for (gsize i = 0; i < n; i++)
    out[i] = uniform_24 (twister);
  for (gsize base = 0; base + 16 <= n; base += 16)
    normals_16 (out + base);
  if (n % 16 != 0)
    {
      float *last = out + n - 16;

      for (guint i = 0; i < 16; i++)
        last[i] = uniform_24 (twister);
      normals_16 (last);
    }
}

/* -- Philox 4x32-10 of torch's CUDA generator ---------------------------------------------------
 */

static void
philox (guint32 counter[4], guint64 seed)
{
  guint32 k0 = (guint32)seed;
  guint32 k1 = (guint32)(seed >> 32);

  for (guint round = 0; round < 10; round++)
    {
      guint64 a = (guint64)0xd2511f53u * counter[0];
      guint64 b = (guint64)0xcd9e8d57u * counter[2];

      counter[0] = (guint32)(b >> 32) ^ counter[1] ^ k0;
      counter[1] = (guint32)b;
      counter[2] = (guint32)(a >> 32) ^ counter[3] ^ k1;
      counter[3] = (guint32)a;
      k0 += 0x9e3779b9u;
      k1 += 0xbb67ae85u;
    }
}

static void
box_muller (guint32 x, guint32 y, float out[2])
{
  float u = (float)x * 2.3283064e-10f + 2.3283064e-10f / 2.0f;
  float v = (float)y * (2.3283064e-10f * 6.2831855f) + 2.3283064e-10f * 6.2831855f / 2.0f;
  float s = sqrtf (-2.0f * logf (u));

  out[0] = s * sinf (v);
  out[1] = s * cosf (v);
}

void
noise_torch_cuda (guint64 seed, guint threads, float *out, gsize n)
{
  gsize wanted = (n + 255) / 256 * 256;
  gsize t_count = MIN (wanted, threads);
  gsize rounds = n > 0 ? (n - 1) / (4 * t_count) + 1 : 0;

  for (gsize k = 0; k < rounds; k++)
    for (gsize t = 0; t < t_count; t++)
      {
        guint32 counter[4]
            = { (guint32)k, (guint32)((guint64)k >> 32), (guint32)t, (guint32)((guint64)t >> 32) };
        float z[4];

        philox (counter, seed);
        box_muller (counter[0], counter[1], z);
        box_muller (counter[2], counter[3], z + 2);
        for (gsize i = 0; i < 4; i++)
          {
            gsize index = 4 * t_count * k + t + t_count * i;

            if (index < n)
              out[index] = z[i];
          }
      }
}
