/* SPDX-License-Identifier: Apache-2.0
 *
 * bench-memory.h - what the parts of bench-memory share
 */
#pragma once

#include "engine/engine.h"

#include <cjson/cJSON.h>

G_BEGIN_DECLS

#define GIB           ((guint64)1 << 30)
#define BENCH_N_CAPS  5
#define BENCH_N_TYPES 3
#define BENCH_N_SIZES 3

typedef struct
{
  const char *model, *device, *only, *parts, *output;
  char *calibration;
  Engine *engines[BENCH_N_TYPES];              /* NULL: this type cannot be run */
  Image *images[BENCH_N_TYPES][BENCH_N_SIZES]; /* (owned) of the resident runs */
  gint64 begun, deadline;
  int prompt; /* a new one each time, so that none is remembered */
  int failures;
  int largest; /* of the pictures */
  cJSON *root;
} Bench;

extern const guint64 bench_caps[BENCH_N_CAPS];
extern const char *const bench_types[BENCH_N_TYPES];

/* NULL, and says why, if this device cannot run the type. text_encoder: as in EngineOptions. */
Engine *bench_open (Bench *self, int type, const char *text_encoder);
EngineRequest bench_request (int type, int width, int height, int steps);
/* Words enough for 128 tokens; the first one makes the prompt a new one of the same embeddings'
 * length, but of other embeddings (transfer full). */
char *bench_prompt (int first);
/* The most that two pictures' values differ by, of 255; 256 if they cannot be compared. */
int bench_difference (const Image *a, const Image *b);

void bench_fail (Bench *self, const char *what, const char *why);
/* Writes what is known so far. */
void bench_save (Bench *self);

/* bench-memory-random.c: random requests at every cap, as many at each. They are run in portions,
 * those of a type and level, at one cap or (-1) all. NULL: there are none, and all but _new do
 * nothing. */
typedef struct _Randoms Randoms;

Randoms *bench_random_new (Bench *bench);
/* Draws a type's pictures with everything resident, to compare with. */
void bench_random_residents (Randoms *self, int type);
void bench_random_run (Randoms *self, int type, EngineOffload level, int cap, gint64 deadline);
/* Gives back what the type's engine holds, and notes what the process still has. */
void bench_random_settle (Randoms *self, int type);
/* Says how many there were. */
void bench_random_free (Randoms *self);

/* bench-memory-squeeze.c: requests while another program takes the device's memory. That program
 * is this one, called with BENCH_TAKE and a device. */
#define BENCH_TAKE "--take"
void bench_squeeze (Bench *self);
int bench_take_main (const char *device);

G_END_DECLS
