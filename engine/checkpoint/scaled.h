/* SPDX-License-Identifier: Apache-2.0
 *
 * scaled.h - weights that a file keeps in 8 or 4 bit with scales, as BF16
 *
 * What ComfyUI's repacks and their like hold (ComfyUI's QUANTIZATION.md, comfy-kitchen's layouts).
 * BASE.weight is one of these; its formats but FP8 are told by BASE.comfy_quant, a short JSON text,
 * or by the same text in the file's metadata:
 *
 *   FP8    F8_E4M3 or F8_E5M2, any shape    none, one, one a row, or one a block of a row
 *   MXFP8  F8_E4M3 [N, K]                   E8M0, one a block of 32, in tiles
 *   NVFP4  U8 [N, K/2], even k in the high  E4M3, one a block of 16, in tiles; one for all of
 *          four bits: E2M1                  them, weight_scale_2
 *   INT8   I8 [N, K]; perhaps rotated       one, or one a row
 *
 * Scales of activations are not needed. A tile is 128 rows of 4 scales (cuBLAS's layout). Rotated
 * weights were multiplied by a Hadamard matrix, group by group of K; it is its own inverse.
 */
#pragma once

#include "engine/files/safetensors.h"

G_BEGIN_DECLS

typedef enum
{
  SCALED_E4M3,
  SCALED_E5M2,
  SCALED_MXFP8,
  SCALED_NVFP4,
  SCALED_INT8,
} ScaledKind;

typedef struct
{
  ScaledKind kind;
  Tensor shape;         /* as it is to be: BF16, without data */
  const uint8_t *codes; /* view of the file, like `scale` */
  Tensor scale;         /* F32, BF16, F16; or bytes in tiles; data NULL: 1 */
  int64_t per_row;      /* scales a row, 0: one for all */
  float global;         /* besides */
  int rotation;         /* numbers that were rotated together, 0: none */
} ScaledWeight;

/* TRUE for a tensor of this kind; FALSE without an error for an ordinary one, and FALSE with
 * ENGINE_ERROR_MODEL for one that no format here explains. From headers and descriptions only. */
gboolean scaled_find (Safetensors *file, const char *name, ScaledWeight *out, GError **error);

/* TRUE for types of which scaled_find makes or refuses something. */
gboolean scaled_is_type (const char *dtype);

/* Checks that all scales are finite: ENGINE_ERROR_MODEL. */
gboolean
scaled_check (const ScaledWeight *self, Safetensors *file, const char *name, GError **error);

/* `rows` of its rows from `first` on; each number is rounded once. */
void scaled_expand (const ScaledWeight *self, int64_t first, int64_t rows, uint16_t *out);

/* The names of what belongs to the weight `name`, besides itself: endings, ended by NULL. */
extern const char *const scaled_companions[];

/* The format of the weight `base` as its description names it (transfer full), or NULL. */
char *scaled_describe (Safetensors *file, const char *base);

/* "FP8", ...: what the first such tensor of a file is, NULL if there is none. Static. */
const char *scaled_format (Safetensors *file);

/* TRUE for tensors that say how a file was made, or should be run, and hold no weights. */
gboolean scaled_is_note (const char *name);

G_END_DECLS
