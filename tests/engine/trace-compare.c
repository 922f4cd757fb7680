/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/engine/trace-compare.h"

#include <math.h>

static void
find_both (Safetensors *actual, Safetensors *golden, const char *name, Tensor *a, Tensor *g)
{
  if (!safetensors_find (golden, name, g))
    g_error ("the golden file has no %s", name);
  if (!safetensors_find (actual, name, a))
    g_error ("the trace has no %s", name);
  if (!tensor_same_shape (a, g))
    g_error ("%s has another shape than the golden one", name);
}

double
trace_relative_rms (Safetensors *actual, Safetensors *golden, const char *name)
{
  double difference = 0.0, size = 0.0;
  Tensor a, g;

  find_both (actual, golden, name, &a, &g);
  for (int64_t i = 0; i < tensor_count (&g); i++)
    {
      double expected = tensor_get (&g, i), d = tensor_get (&a, i) - expected;

      difference += d * d;
      size += expected * expected;
    }
  return sqrt (difference / size);
}

double
trace_largest_difference (Safetensors *actual, Safetensors *golden, const char *name)
{
  double largest = 0.0;
  Tensor a, g;

  find_both (actual, golden, name, &a, &g);
  for (int64_t i = 0; i < tensor_count (&g); i++)
    {
      double d = fabs ((double)tensor_get (&a, i) - tensor_get (&g, i));

      largest = d <= largest ? largest : d; /* a NaN wins */
    }
  return largest;
}

double
trace_equal_share (Safetensors *actual, Safetensors *golden, const char *name)
{
  int64_t equal = 0;
  Tensor a, g;

  find_both (actual, golden, name, &a, &g);
  for (int64_t i = 0; i < tensor_count (&g); i++)
    equal += tensor_get (&a, i) == tensor_get (&g, i);
  return (double)equal / (double)tensor_count (&g);
}
