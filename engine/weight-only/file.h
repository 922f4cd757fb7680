/* SPDX-License-Identifier: Apache-2.0
 *
 * file.h - text encoders in 8 or 4 bit: the file format, and its linears
 *
 * A safetensors file of the reference's names. A linear `base` is BASE.codes, I8 [N, K] or U8
 * [N, K/2], and BASE.scales, BF16 [N, K / CODES_GROUP] (kernels/weight-codes.h) instead of
 * BASE.weight; norms and embeddings are as the model had them; what the encoder never uses is left
 * out. The metadata WEIGHT_ONLY_KEY makes it such a file: JSON with version, bits, group, and where
 * the weights are from.
 */
#pragma once

#include "engine/files/safetensors.h"

G_BEGIN_DECLS

#define WEIGHT_ONLY_KEY    "tessera_text_encoder"
#define WEIGHT_ONLY_CODES  ".codes"
#define WEIGHT_ONLY_SCALES ".scales"

/* Bits of the file's codes, 8 or 4; 0 for a file that has none. FALSE with ENGINE_ERROR_MODEL for a
 * file of this format that this program cannot read. */
gboolean weight_only_read_bits (Safetensors *file, int *bits, GError **error);

/* The metadata's text (transfer full). `source`: the weights' file name, and the SHA-256 of the
 * tensors it was made from. */
char *weight_only_describe (int bits, const char *source, const char *sha256);

/* TRUE if the file has the linear `base` as codes. */
gboolean weight_only_has (Safetensors *file, const char *base);

/* Views of the linear's codes and scales, whose types and shapes are those of n x k in `bits`.
 * FALSE with ENGINE_ERROR_MODEL naming file and tensor. No number is read. */
gboolean weight_only_find (Safetensors *file, const char *base, int bits, int64_t n, int64_t k,
                           Tensor *codes, Tensor *scales, GError **error);

/* FALSE with ENGINE_ERROR_MODEL unless all scales are finite. */
gboolean weight_only_check_scales (Safetensors *file, const char *base, const Tensor *scales,
                                   GError **error);

G_END_DECLS
