/* SPDX-License-Identifier: Apache-2.0
 *
 * synthetic-memory.h - the numbers that made-up models consist of
 *
 * One small block of each kind of number, filled when it is first asked for and mapped again and
 * again behind itself, so that a tensor of any size is a view of it. Tensors overlap in memory;
 * they begin at different places of the block, so that no two neighbours are alike.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef enum
{
  SYNTHETIC_NORMAL,       /* BF16, standard deviation 0.02: products of normed rows stay near 1 */
  SYNTHETIC_ONES,         /* BF16, for norms */
  SYNTHETIC_CODES,        /* bytes of two 4-bit codes, never 8: what INT4 and NVFP4 never write */
  SYNTHETIC_INT4_SCALES,  /* BF16, so that codes times scales deviate by 0.02, too */
  SYNTHETIC_NVFP4_SCALES, /* E4M3, 96 to 240 */
  SYNTHETIC_NVFP4_OUTER,  /* BF16, all the same: brings the above down to 0.02 */
  SYNTHETIC_SMOOTH,       /* BF16, 0.5 to 2 */
  SYNTHETIC_BYTES,        /* codes of 8 bit */
  SYNTHETIC_BYTE_SCALES,  /* BF16, so that such codes, or table entries, deviate by 0.02, too */
  SYNTHETIC_N_KINDS,
} SyntheticKind;

typedef struct _SyntheticMemory SyntheticMemory;

SyntheticMemory *synthetic_memory_new (void);
void synthetic_memory_free (SyntheticMemory *self); /* NULL is a no-op */

/* `bytes` of numbers, another place with each call; they live as long as `self`. NULL with
 * ENGINE_ERROR_MEMORY. */
void *
synthetic_memory_take (SyntheticMemory *self, SyntheticKind kind, gsize bytes, GError **error);

G_END_DECLS
