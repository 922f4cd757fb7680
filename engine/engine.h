/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.h - text in, picture out
 *
 * An Engine serves one model folder. It loads what a request needs, when it needs it, and keeps
 * it while it fits; text encoder and decoder are shared by both precisions.
 * No threads, no globals: call it from one thread at a time. Functions marked (any thread) are
 * the exceptions.
 *
 *   g_autoptr (Engine) engine = engine_new ("Z-Image-Turbo", NULL, &error);
 *   EngineRequest request = ENGINE_REQUEST_INIT;
 *   request.prompt = "a lighthouse at dusk";
 *   g_autoptr (Image) image = engine_generate (engine, &request, NULL, NULL, NULL, &error);
 *   image_save_png (image, "lighthouse.png", NULL, &error);
 */
#pragma once

#include "engine/picture/image.h"
#include "engine/picture/request.h"

#include <gio/gio.h>

G_BEGIN_DECLS

#define ENGINE_ERROR (engine_error_quark ())

typedef enum /* what the user can do about it decides the code */
{
  ENGINE_ERROR_NO_DEVICE,   /* no usable GPU or driver */
  ENGINE_ERROR_UNSUPPORTED, /* this device cannot run this precision or size: offer another */
  ENGINE_ERROR_MODEL,       /* files missing or damaged: offer to choose or repair */
  ENGINE_ERROR_MEMORY,      /* does not fit: offer a smaller size or SVDQuant */
  ENGINE_ERROR_DEVICE_LOST, /* sticky GPU fault: only engine_free() is allowed now */
  ENGINE_ERROR_REQUEST,     /* the request itself is wrong: say which value */
  ENGINE_ERROR_CHANGED,     /* a file was rewritten after it was opened: offer to open it again */
} EngineError;

typedef enum
{
  ENGINE_PHASE_LOAD,
  ENGINE_PHASE_ENCODE,
  ENGINE_PHASE_DENOISE,
  ENGINE_PHASE_DECODE,
} EnginePhase;

#define ENGINE_N_PHASES 4

/* Where weights are that the device cannot hold all at once. */
typedef enum
{
  ENGINE_OFFLOAD_AUTO,   /* the fastest that fits */
  ENGINE_OFFLOAD_NONE,   /* all on the device */
  ENGINE_OFFLOAD_MODEL,  /* text encoder and transformer take turns there */
  ENGINE_OFFLOAD_STREAM, /* their blocks only pass through, one by one */
} EngineOffload;

#define ENGINE_N_OFFLOADS 4

typedef struct _Engine Engine;

/* How an Engine runs; NULL where it is taken means all zero. Strings are copied. */
typedef struct
{
  const char *device;            /* "auto" (or NULL), "cpu", "cuda", "cuda:N" */
  const char *transformer_file;  /* a transformer beside the folder's own; NULL = none */
  const char *text_encoder_file; /* one beside the folder's own, such as one in 8 or 4 bit; NULL =
                                    none */
  const char *svdquant_type; /* "int4", "nvfp4": the 4-bit transformer must be of this type, and of
                                several in the folder one is taken; NULL = what suits the device */
  const char *lora_folder;   /* where LoRA files are, besides the model's "loras"; NULL: the
                                user's tessera/loras */
  gboolean bf16_math;        /* CPU: BF16 matrix products; refused where the CPU has none */
  gboolean exact;        /* SVDQuant: the file's own arithmetic, also where a device has a faster
                            one; what made a picture is engine_get_kernels */
  int threads;           /* CPU: 0 = all cores */
  guint64 memory_budget; /* bytes of device memory the engine may hold; 0 = what is free */
  EngineOffload offload;
  const char *calibration_file; /* remembers how fast this device is, for plans; NULL = nothing is
                                   remembered */
  int planned_sm; /* > 0: nothing is opened, only engine_plan works: for a card of this compute
                     capability * 10, which need not be there, and memory_budget bytes */
} EngineOptions;

/* How a device runs one type of transformer file. Static strings. */
typedef struct
{
  const char *type;    /* "bf16", "int4", "nvfp4" */
  const char *backend; /* what computes it, or "" */
  const char *path;    /* "native", "fall-back", or "none" */
  const char *speed;   /* against BF16 on this device: "faster", "similar", "slower", or "" */
} EngineFileSupport;

#define ENGINE_N_FILE_TYPES 3

/* A device as the user sees it. */
typedef struct
{
  char id[16]; /* "cpu", "cuda:0": what EngineOptions.device takes */
  char name[128];
  gboolean gpu;
  int sm;                            /* CUDA compute capability * 10; 0 for the CPU */
  guint64 total_memory, free_memory; /* bytes */
  gboolean usable;                   /* FALSE: `reason` says why, in English */
  char reason[256];
  EngineFileSupport files[ENGINE_N_FILE_TYPES]; /* type NULL: not known, the device does not work */
} EngineDevice;

/* The parts of a model. */
typedef enum
{
  ENGINE_PART_TEXT_ENCODER,
  ENGINE_PART_TRANSFORMER,
  ENGINE_PART_DECODER,
} EnginePart;

#define ENGINE_N_PARTS 3

/* What becomes of a part's weights. */
typedef struct
{
  guint64 bytes;   /* on the device when all of it is there */
  gboolean leaves; /* the device when its phase is over */
  guint64 pinned;  /* leaves, and waits in this much host memory; 0 = it is loaded again */
  int blocks, streamed;
} EnginePlanPart;

/* Memory and time of a request, known from headers alone. Bytes of the device that computes, and
 * of what the engine holds there: the driver's own context comes on top. */
typedef struct
{
  guint64 weights;     /* held while the largest phase runs */
  guint64 activations; /* arena of the largest phase */
  guint64 working;     /* scratch and staging of the device */
  guint64 peak;        /* the most at any moment, scratch included */
  guint64 available;   /* what the device or the budget has */
  guint64 phase_peak[ENGINE_N_PHASES];
  gboolean fits;
  guint64 pinned; /* host memory that holds weights which are off the device */
  EnginePlanPart parts[ENGINE_N_PARTS];
  int band; /* of the decoder: rows of pixels; 0 = the whole picture at once */
  /* Estimates for a prompt that is new and a model that is loaded; 0 = not calibrated yet. [LOAD]
   * is what loading it would take first, and not part of `seconds`. */
  double phase_seconds[ENGINE_N_PHASES];
  double seconds;
} EnginePlan;

/* What the engine holds now, in bytes, for a gauge. */
typedef struct
{
  guint64 weights, activations, reserved;
  guint64 peak;   /* most held at once since the last engine_generate began */
  guint64 pinned; /* host memory that holds weights which are off the device */
} EngineMemory;

/* What became of one LoRA file of a request. Borrowed until the next generate. */
typedef struct
{
  const char *file; /* where it was found */
  double strength;
  guint applied;       /* layers of the file that are added to the model's */
  guint left_out;      /* that are not */
  const char *reasons; /* a line for each of those: its name and why; "" if there are none */
} EngineLoraReport;

/* A step's picture in the making: latents' estimate of the clean picture as a small RGB8 image.
 * Called on the engine's thread; `preview` is NULL where the phase has none, and borrowed. */
typedef void (*EngineProgress) (EnginePhase phase, guint step, guint n_steps, Image *preview,
                                gpointer user_data);

GQuark engine_error_quark (void);

/* To be called first in main: the CPU backend's OpenMP threads must sleep while they wait, or any
 * other busy program makes a picture take thirty times as long, and OpenMP reads that wish from the
 * environment before main. Starts the program anew with it, once. A model's file that is cut short
 * while it is read ends the program; from here on it says why. */
void engine_init_process (char **argv);

/* The folder of the model that comes with the program (transfer full: g_free), or NULL if it is not
 * there: beside the installed program, or in the source tree it was built in. (any thread) */
char *engine_find_builtin_model (void);

/* Opens a model folder: reads configs and headers only. Errors: ENGINE_ERROR_MODEL names the file
 * and what is wrong with it; G_FILE_ERROR_* if it cannot be read; ENGINE_ERROR_NO_DEVICE,
 * _UNSUPPORTED. */
Engine *engine_new (const char *model_dir, const EngineOptions *options, GError **error);
void engine_free (Engine *self); /* NULL is a no-op */

/* Runs a request from prompt to picture (transfer full). Loading is its first phase. When memory
 * turns out to be short on the way it goes on with less, at whatever offload level that takes; if
 * there is no way left, what has been computed is kept, and the same request goes on from there.
 * Errors: the codes above, G_IO_ERROR_CANCELLED, and G_IO_ERROR_* for files. `progress` may be
 * NULL.
 */
Image *engine_generate (Engine *self, const EngineRequest *request, EngineProgress progress,
                        gpointer user_data, GCancellable *cancellable, GError **error);

/* Writes every tensor of the next generations into a safetensors file when they end, for tests and
 * bug reports: token ids, embeddings, latents after each step, picture. NULL turns it off. */
void engine_set_trace (Engine *self, const char *path);

/* What `request` will take on this engine's device, and which way to run it at `offload`; FALSE
 * with an error if it is invalid. Does not wait for a request that runs. (any thread)
 */
gboolean engine_plan_at (Engine *self, const EngineRequest *request, EngineOffload offload,
                         EnginePlan *plan, GError **error);
/* At the engine's own level. (any thread) */
gboolean engine_plan (Engine *self, const EngineRequest *request, EnginePlan *plan, GError **error);

const char *engine_offload_name (EngineOffload offload); /* "auto", "none", "model", "stream" */

/* Where calibration_file belongs: in the user's cache folder (transfer full: g_free). */
char *engine_find_calibration_file (void);

/* Changes memory_budget and offload of EngineOptions. What is held beyond a smaller budget is given
 * back by the next request. */
void engine_set_limits (Engine *self, EngineOffload offload, guint64 memory_budget);

/* Gives all memory of the device and all pinned memory back, but for the driver's context; the next
 * request loads again. */
void engine_trim (Engine *self);

/* TRUE if the model, the build and the device can run `precision`; else the reason as an error. */
gboolean engine_supports (Engine *self, EnginePrecision precision, GError **error);

/* What computes the transformer's linear layers under `precision`, as shown to the user, such as
 * "cuda-bf16-wgmma" (static string); "" where engine_supports is FALSE. */
const char *engine_get_kernels (Engine *self, EnginePrecision precision);

/* What kernels of that name do with a file's 4-bit numbers: "fast" if they trade the file's own
 * arithmetic for speed, "exact" if they keep it, "" if they are none for such files. */
const char *engine_get_arithmetic (const char *kernels);
/* TRUE if this device has both for the model's SVDQuant file, so that EngineOptions.exact decides.
 */
gboolean engine_has_both_arithmetics (Engine *self);

/* What reads the prompts: 8 or 4 for a text encoder in so many bits, else 16. (any thread) */
int engine_get_text_encoder_bits (Engine *self);

/* The same of a file, from its header; 0 with ENGINE_ERROR_MODEL if it is no text encoder, or
 * G_FILE_ERROR_*. (any thread) */
int engine_find_text_encoder_bits (const char *path, GError **error);

/* TRUE if the model wants guidance and a negative prompt (the undistilled Z-Image). */
gboolean engine_uses_guidance (Engine *self);

/* Pixels a side that the model draws best, a size that requests may have. (any thread) */
int engine_get_native_size (Engine *self);

/* What became of the LoRA files of the last generate, at most `max` of them; returns how
 * many there are. */
guint engine_get_loras (Engine *self, EngineLoraReport *reports, guint max);

/* Which layers of a LoRA file, named as in a request, would be added to this model's, and how many
 * would not: a line for each of those as in EngineLoraReport (transfer full: g_free). All of the
 * file is read. NULL with ENGINE_ERROR_MODEL if it is not there, damaged, or none for this model.
 * (any thread) */
char *
engine_check_lora (Engine *self, const char *file, guint *applied, guint *left_out, GError **error);

void engine_get_memory (Engine *self, EngineMemory *memory); /* (any thread) */
void engine_get_device (Engine *self, EngineDevice *device); /* (any thread) */

/* All devices, the CPU last (transfer full: g_array_unref). Element: EngineDevice. (any thread) */
GArray *engine_list_devices (void);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Engine, engine_free)

G_END_DECLS
