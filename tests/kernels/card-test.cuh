/* SPDX-License-Identifier: Apache-2.0
 *
 * card-test.cuh - what tests of SVDQuant on a card share: lines of TAP, and memory of the card
 *
 * Where the card refuses something, the test ends.
 */
#pragma once

#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SKIPPED 77

static const Ops *const ops = &ops_cuda;
static int n_tests, n_failed;

static inline void
ok (bool passed, const char *what)
{
  n_failed += !passed;
  printf ("%sok %d - %s\n", passed ? "" : "not ", ++n_tests, what);
  fflush (stdout);
}

static inline void
require (Stream *s, Status status, const char *what)
{
  if (status == STATUS_OK)
    return;
  printf ("Bail out! %s: %s (%s)\n", what, status_name (status), ops->detail (s));
  exit (1);
}

/* The first device. Where there is none that this build has kernels for, the test is skipped. */
static inline Stream *
open_device ()
{
  Stream *s = NULL;
  const Status status = ops->open (0, NULL, &s);
  if (status == STATUS_NO_DEVICE || status == STATUS_NO_DRIVER || status == STATUS_NOT_READY
      || status == STATUS_UNSUPPORTED || status == STATUS_DRIVER_TOO_OLD)
    {
      printf ("1..0 # SKIP %s\n", status_name (status));
      exit (SKIPPED);
    }
  require (s, status, "open");
  return s;
}

/* -- memory -------------------------------------------------------------------------------------
 */

static inline void
upload (Stream *s, void *memory, const void *host, size_t bytes)
{
  const Tensor from = tensor_1d (DTYPE_U8, const_cast<void *> (host), (int64_t)bytes);
  Tensor to = tensor_1d (DTYPE_U8, memory, (int64_t)bytes);
  if (bytes > 0)
    require (s, ops->upload (s, &from, &to), "upload");
}

static inline void
download (Stream *s, const void *memory, void *host, size_t bytes)
{
  const Tensor from = tensor_1d (DTYPE_U8, const_cast<void *> (memory), (int64_t)bytes);
  Tensor to = tensor_1d (DTYPE_U8, host, (int64_t)bytes);
  require (s, ops->download (s, &from, &to), "download");
}

/* Free with ops->free. */
static inline void *
to_device (Stream *s, const void *host, size_t bytes)
{
  void *memory = NULL;
  require (s, ops->alloc (s, bytes, &memory), "alloc");
  upload (s, memory, host, bytes);
  return memory;
}

/* `bytes` of 0xff: a NaN in every format. */
static inline void
poison (Stream *s, void *memory, size_t bytes)
{
  void *host = malloc (bytes);
  memset (host, 0xff, bytes);
  upload (s, memory, host, bytes);
  free (host);
}

static inline void *
poisoned (Stream *s, size_t bytes)
{
  void *memory = NULL;
  require (s, ops->alloc (s, bytes, &memory), "alloc");
  poison (s, memory, bytes);
  return memory;
}
