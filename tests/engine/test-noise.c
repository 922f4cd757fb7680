/* SPDX-License-Identifier: Apache-2.0
 *
 * Noise and schedule against what torch and diffusers give.
 */
#include "engine/files/safetensors.h"
#include "engine/noise.h"
#include "engine/sampler.h"

#include <math.h>
#include <stdio.h>

#define LIMIT_CPU  3e-6
#define LIMIT_CUDA 1e-5
#define MAX_STEPS  100

static Safetensors *
open_golden (const char *name)
{
  g_autofree char *path = g_build_filename (g_getenv ("TESSERA_TEST_DATA"), name, NULL);
  g_autoptr (GError) error = NULL;
  Safetensors *file = safetensors_open (path, &error);

  g_assert_no_error (error);
  return file;
}

/* The file keeps only the first values of long ones; all n are computed. */
static double
largest_difference (const Tensor *golden, const float *values)
{
  double largest = 0.0;

  for (int64_t i = 0; i < tensor_count (golden); i++)
    largest = fmax (largest, fabs ((double)values[i] - tensor_get (golden, i)));
  return largest;
}

static void
test_randn (void)
{
  g_autoptr (Safetensors) file = open_golden ("torch-randn-golden.safetensors");

  g_assert_cmpuint (safetensors_count (file), >=, 60);
  for (guint i = 0; i < safetensors_count (file); i++)
    {
      const char *name = safetensors_name (file, i);
      g_autofree float *values = NULL;
      char kind[8];
      guint64 seed;
      gsize n;
      Tensor golden;

      g_assert_cmpint (sscanf (name, "%7[^.].seed%" G_GUINT64_FORMAT ".n%zu", kind, &seed, &n), ==,
                       3);
      g_assert_true (safetensors_find (file, name, &golden));
      values = g_new (float, n);
      if (g_str_equal (kind, "cpu"))
        noise_torch_cpu (seed, values, n);
      else
        noise_torch_cuda (seed, NOISE_CUDA_THREADS, values, n);
      g_test_message ("%s: %.1e", name, largest_difference (&golden, values));
      g_assert_cmpfloat (largest_difference (&golden, values), <=,
                         g_str_equal (kind, "cpu") ? LIMIT_CPU : LIMIT_CUDA);
    }
}

/* A picture has more values than many a card has threads. Each thread then draws four values at a
 * time, which lie as far apart as there are threads: one thread has them one behind another. */
static void
test_cuda_threads (void)
{
  enum
  {
    THREADS = 256,
    N = 6 * THREADS
  };
  float one[8], few[N], many[N];

  noise_torch_cuda (42, 1, one, G_N_ELEMENTS (one));
  noise_torch_cuda (42, THREADS, few, N);
  noise_torch_cuda (42, 100000, many, N);
  for (int i = 0; i < N / THREADS; i++)
    g_assert_cmpfloat (few[i * THREADS], ==, one[i]);
  g_assert_cmpmem (few, THREADS * sizeof *few, many, THREADS * sizeof *many);
  g_assert_cmpfloat (few[THREADS], !=, many[THREADS]);
}

static void
test_schedule (void)
{
  g_autoptr (Safetensors) file = open_golden ("schedule-golden.safetensors");
  guint checked = 0;

  for (guint i = 0; i < safetensors_count (file); i++)
    {
      const char *name = safetensors_name (file, i);
      gboolean is_time = g_str_has_suffix (name, "timesteps");
      float sigmas[MAX_STEPS + 1];
      double shift;
      int steps;
      Tensor golden;

      g_assert_cmpint (sscanf (name, "shift%lf.steps%d", &shift, &steps), ==, 2);
      g_assert_cmpint (steps, <=, MAX_STEPS);
      g_assert_true (safetensors_find (file, name, &golden));
      sampler_sigmas (steps, shift, sigmas);
      for (int64_t j = 0; j < tensor_count (&golden); j++, checked++)
        g_assert_cmpfloat (is_time ? sigmas[j] * 1000.0f : sigmas[j], ==, tensor_get (&golden, j));
    }
  g_assert_cmpuint (checked, >=, 500);
}

/* pred = pos + g (pos - neg), its norm held to that of pos (spec z-image 1.6). */
static void
test_guidance (void)
{
  const float positive[] = { 3.0f, 4.0f }, negative[] = { 1.0f, 4.0f };
  float v[2];

  sampler_guide (v, positive, negative, 2, 2.0, 0.0);
  g_assert_cmpfloat (v[0], ==, 7.0f);
  g_assert_cmpfloat (v[1], ==, 4.0f);
  sampler_guide (v, positive, negative, 2, 2.0, 1.0);
  g_assert_cmpfloat_with_epsilon (hypot (v[0], v[1]), 5.0, 1e-6);
  g_assert_cmpfloat_with_epsilon (v[0] / v[1], 7.0 / 4.0, 1e-6);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/noise/randn", test_randn);
  g_test_add_func ("/noise/cuda-threads", test_cuda_threads);
  g_test_add_func ("/sampler/schedule", test_schedule);
  g_test_add_func ("/sampler/guidance", test_guidance);
  return g_test_run ();
}
