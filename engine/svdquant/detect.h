/* SPDX-License-Identifier: Apache-2.0
 *
 * detect.h - which of the 4-bit formats a file is in, from the names and types of its tensors
 *
 * What a file says of itself is not trusted (spec svdquant 3). Formats that look alike but are
 * something else (3.4) are refused by name.
 */
#pragma once

#include "engine/files/json.h"
#include "engine/files/safetensors.h"

G_BEGIN_DECLS

typedef enum
{
  SVDQ_DENSE,       /* no quantised linear */
  SVDQ_CANONICAL,   /* our own: row-major, vectors logical (3.6) */
  SVDQ_NUNCHAKU,    /* published single file: fused linears, packed (2) */
  SVDQ_LITE,        /* Nunchaku Lite: separate linears, packed (3.2) */
  SVDQ_VLLM_PACKED, /* vllm-omni: row-major, but vectors still packed (3.1) */
  SVDQ_VLLM,        /* vllm-omni: row-major, vectors logical */
  SVDQ_KITCHEN,     /* Comfy kitchen, natural layout (3.3) */
} SvdqKind;

/* "Nunchaku", "Tessera canonical", ... */
const char *svdq_kind_name (SvdqKind kind);

/* `prefix` is what the transformer's names begin with. The two vllm-omni kinds cannot be told apart
 * by names: SVDQ_VLLM stands for either. Errors: ENGINE_ERROR_MODEL naming file and format. */
gboolean svdq_detect (Safetensors *file, const char *prefix, SvdqKind *kind, GError **error);

/* Refuses a `config.json` of a transformer whose quantization_config asks for another method;
 * understands maps by component, too (3.1). `path` is for the message. */
gboolean svdq_check_config (const cJSON *config, const char *path, GError **error);

G_END_DECLS
