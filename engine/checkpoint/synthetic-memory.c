/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "engine/checkpoint/synthetic-memory.h"

#include "engine/engine.h"
#include "kernels/tensor.h"

#include <errno.h>
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#define SPREAD      0.02f /* standard deviation of weights */
#define CODE_SPREAD 4.18f /* of INT4 codes */
#define E2M1_SPREAD 2.93f /* of NVFP4 codes' values */
#define BYTE_SPREAD 73.9f /* of all bytes; of the table for 4 bit: 65 */
#define E4M3_MEAN   162.0f
#define E4M3_FIRST  0x6c        /* 96 */
#define E4M3_COUNT  12          /* numbers from there to 240 */
#define STEP        (4096 * 37) /* from one tensor's start to the next one's */

typedef struct
{
  char *memory;
  gsize bytes;
  gsize next; /* where the next tensor starts in the block */
} Window;

struct _SyntheticMemory
{
  Window windows[SYNTHETIC_N_KINDS];
};

/* -- numbers ------------------------------------------------------------------------------------
 */

static guint64
next_number (guint64 *state)
{
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

/* 0 to 1. */
static float
uniform (guint64 *state)
{
  return (float)(next_number (state) >> 40) * 0x1p-24f;
}

/* Sum of four uniforms from one number: near enough to a normal. */
static float
small_normal (guint64 *state)
{
  guint64 number = next_number (state);
  float sum = 0.0f;

  for (int i = 0; i < 4; i++)
    sum += (float)((number >> (16 * i)) & 0xffff) / 65536.0f - 0.5f;
  return sum * SPREAD * 1.7320508f; /* four uniforms have variance 1/3 */
}

static float
one_of (SyntheticKind kind, guint64 *state)
{
  switch (kind)
    {
    case SYNTHETIC_NORMAL:
      return small_normal (state);
    case SYNTHETIC_INT4_SCALES:
      return SPREAD / CODE_SPREAD * (0.5f + uniform (state));
    case SYNTHETIC_BYTE_SCALES:
      return SPREAD / BYTE_SPREAD * (0.5f + uniform (state));
    case SYNTHETIC_NVFP4_OUTER:
      return SPREAD / (E2M1_SPREAD * E4M3_MEAN);
    case SYNTHETIC_SMOOTH:
      return exp2f (2.0f * uniform (state) - 1.0f);
    default:
      return 1.0f;
    }
}

/* Sixteen codes; those of value 8 become 0. */
static guint64
sixteen_codes (guint64 *state)
{
  const guint64 ones = 0x1111111111111111u;
  guint64 codes = next_number (state), differ = codes ^ (ones << 3);
  guint64 same = ~(differ | differ >> 1 | differ >> 2 | differ >> 3) & ones;

  return codes ^ same << 3;
}

static void
fill (SyntheticKind kind, void *block, gsize bytes)
{
  guint64 state = 0x9e3779b97f4a7c15u;

  if (kind == SYNTHETIC_CODES)
    for (gsize i = 0; i < bytes / sizeof (guint64); i++)
      ((guint64 *)block)[i] = sixteen_codes (&state);
  else if (kind == SYNTHETIC_BYTES)
    for (gsize i = 0; i < bytes / sizeof (guint64); i++)
      ((guint64 *)block)[i] = next_number (&state);
  else if (kind == SYNTHETIC_NVFP4_SCALES)
    for (gsize i = 0; i < bytes; i++)
      ((guint8 *)block)[i] = (guint8)(E4M3_FIRST + (next_number (&state) >> 32) % E4M3_COUNT);
  else
    for (gsize i = 0; i < bytes / sizeof (guint16); i++)
      ((guint16 *)block)[i] = bf16_from_float (one_of (kind, &state));
}

/* -- windows ------------------------------------------------------------------------------------
 */

/* Bytes of a block, a multiple of every page size, and of the longest tensor of that kind. */
static const struct
{
  gsize block, longest;
} sizes[SYNTHETIC_N_KINDS] = {
  [SYNTHETIC_NORMAL] = { 64 << 20, 1 << 30 },
  [SYNTHETIC_ONES] = { 128 << 10, 128 << 10 },
  [SYNTHETIC_CODES] = { 16 << 20, 64 << 20 },
  [SYNTHETIC_INT4_SCALES] = { 1 << 20, 16 << 20 },
  [SYNTHETIC_NVFP4_SCALES] = { 1 << 20, 16 << 20 },
  [SYNTHETIC_NVFP4_OUTER] = { 64 << 10, 64 << 10 },
  [SYNTHETIC_SMOOTH] = { 128 << 10, 128 << 10 },
  [SYNTHETIC_BYTES] = { 16 << 20, 64 << 20 },
  [SYNTHETIC_BYTE_SCALES] = { 1 << 20, 16 << 20 },
};

static gboolean
fill_file (int file, SyntheticKind kind)
{
  gsize bytes = sizes[kind].block;
  void *block;

  if (ftruncate (file, (off_t)bytes) != 0)
    return FALSE;
  block = mmap (NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (block == MAP_FAILED)
    return FALSE;
  fill (kind, block, bytes);
  return munmap (block, bytes) == 0;
}

/* A window that holds the longest tensor from any place in the block. */
static gboolean
map_window (Window *self, SyntheticKind kind, int file)
{
  gsize block = sizes[kind].block;
  gsize bytes = (sizes[kind].longest / block + 2) * block;
  void *memory = mmap (NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

  if (memory == MAP_FAILED)
    return FALSE;
  self->memory = memory;
  self->bytes = bytes;
  for (gsize at = 0; at < bytes; at += block)
    if (mmap (self->memory + at, block, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)
      return FALSE;
  return TRUE;
}

static void
window_clear (Window *self)
{
  if (self->memory != NULL)
    munmap (self->memory, self->bytes);
  *self = (Window){ 0 };
}

static gboolean
window_init (Window *self, SyntheticKind kind, GError **error)
{
  int file = memfd_create ("synthetic-weights", MFD_CLOEXEC);
  gboolean ok = file >= 0 && fill_file (file, kind) && map_window (self, kind, file);

  if (!ok)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY, "cannot make up weights: %s",
                   g_strerror (errno));
      window_clear (self);
    }
  if (file >= 0)
    close (file);
  return ok;
}

SyntheticMemory *
synthetic_memory_new (void)
{
  return g_new0 (SyntheticMemory, 1);
}

void
synthetic_memory_free (SyntheticMemory *self)
{
  if (self == NULL)
    return;
  for (int kind = 0; kind < SYNTHETIC_N_KINDS; kind++)
    window_clear (&self->windows[kind]);
  g_free (self);
}

void *
synthetic_memory_take (SyntheticMemory *self, SyntheticKind kind, gsize bytes, GError **error)
{
  Window *window = &self->windows[kind];
  void *place;

  if (bytes > sizes[kind].longest)
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_MEMORY,
                   "cannot make up a tensor of %" G_GSIZE_FORMAT " bytes", bytes);
      return NULL;
    }
  if (window->memory == NULL && !window_init (window, kind, error))
    return NULL;
  place = window->memory + window->next;
  window->next = (window->next + STEP) % sizes[kind].block;
  return place;
}
