/* SPDX-License-Identifier: Apache-2.0
 *
 * request.h - all there is to say about a picture
 *
 * A plain struct, so it is also what a PNG carries and what the history reads back. Validation
 * lives here and nowhere else; `engine_generate` calls it first.
 */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

typedef enum
{
  ENGINE_PRECISION_BF16,
  ENGINE_PRECISION_SVDQUANT,
} EnginePrecision;

typedef enum
{
  ENGINE_NOISE_TORCH_CPU,  /* torch.Generator("cpu"): the same on every machine */
  ENGINE_NOISE_TORCH_CUDA, /* torch.Generator("cuda") of a large card: see noise.h */
} EngineNoise;

/* A LoRA: low-rank changes to the transformer, weighted by a strength. */
typedef struct
{
  const char *file; /* a path with '/', or the name of a file in one of the engine's LoRA folders */
  double strength;  /* 1 = as trained; -8 to 8 */
} EngineLora;

#define ENGINE_REQUEST_MAX_LORAS 8

/* Strings are borrowed by the struct unless it came from engine_request_copy or _from_json. */
typedef struct
{
  const char *prompt;   /* UTF-8; "" is allowed */
  const char *negative; /* NULL = ""; read only when guidance > 0 */
  EnginePrecision precision;
  int width, height; /* pixels, multiples of 16, 64 to 2048 */
  int steps;         /* 1 to 100 */
  guint64 seed;
  EngineNoise noise;
  double guidance;          /* pred = pos + g (pos - neg); 0 = off (spec z-image 1.6) */
  double cfg_normalization; /* 0 = off, else the largest ratio of norms */
  double cfg_truncation;    /* guidance is off at steps with 1 - sigma above it; 1 = never */
  const char *latents_file; /* start from `latents.init` in this safetensors file; NULL = seed */
  const EngineLora *loras;  /* n_loras of them, whose changes add up */
  guint n_loras;
} EngineRequest;

#define ENGINE_REQUEST_MIN_SIZE  64
#define ENGINE_REQUEST_MAX_SIZE  2048
#define ENGINE_REQUEST_MAX_STEPS 100

#define ENGINE_REQUEST_INIT                                                                        \
  {                                                                                                \
    .prompt = "", .width = 1024, .height = 1024, .steps = 8, .cfg_truncation = 1.0                 \
  }

/* FALSE with ENGINE_ERROR_REQUEST naming the value and what it may be. */
gboolean engine_request_validate (const EngineRequest *request, GError **error);

/* A deep copy (transfer full), freed by engine_request_free. */
EngineRequest *engine_request_copy (const EngineRequest *request);
void
engine_request_free (EngineRequest *request); /* NULL is a no-op; not for structs on the stack */

/* Equal in everything that decides the picture, but for precision: then two can be compared.
 * If not, *what names the first value that differs (static string). */
gboolean
engine_request_comparable (const EngineRequest *a, const EngineRequest *b, const char **what);

const char *engine_precision_name (EnginePrecision precision); /* "bf16", "svdquant" */
const char *engine_noise_name (EngineNoise noise);             /* "torch-cpu", "torch-cuda" */

/* One JSON object with a `schema` key (transfer full: g_free), and back (transfer full). The
 * parser treats its input as hostile: sizes are capped, wrong types are errors, unknown keys are
 * ignored, no path in it is ever followed: of LoRA files only the names are written and read. */
char *engine_request_to_json (const EngineRequest *request);
EngineRequest *engine_request_from_json (const char *json, gsize length, GError **error);

/* The A1111 `parameters` text (transfer full), and back; *ignored gets a line for each setting
 * that has no equal here (transfer full, may be NULL). */
char *engine_request_to_a1111 (const EngineRequest *request, const char *model_name);
EngineRequest *
engine_request_from_a1111 (const char *text, gsize length, char **ignored, GError **error);

/* The same from ComfyUI's graph: its chunk `prompt`, or its editor's `workflow`. */
EngineRequest *
engine_request_from_comfyui (const char *text, gsize length, char **ignored, GError **error);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (EngineRequest, engine_request_free)

G_END_DECLS
