/* SPDX-License-Identifier: Apache-2.0
 *
 * doctor.h - why the graphics card cannot compute, and what mends it
 *
 * Looking and judging are apart: doctor_look gathers what the machine shows (files, device nodes,
 * answers of the driver library), doctor_judge draws conclusions from that and touches nothing.
 * Only the first cause in the chain card, driver, access, age is reported: the rest follows from
 * it. Works in builds without CUDA, since the driver library is opened at run time.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

#define DOCTOR_OLDEST_SM 75 /* compute capability * 10 that kernels/cuda begins at */

typedef enum
{
  DOCTOR_OK,
  DOCTOR_WARNING, /* something will be slow or not fit */
  DOCTOR_PROBLEM, /* a card is there and cannot be used */
} DoctorState;

typedef enum
{
  DOCTOR_GPU_READY,
  DOCTOR_NO_CARD,
  DOCTOR_NO_DRIVER,         /* a card, but not NVIDIA's kernel module */
  DOCTOR_NO_LIBRARY,        /* the kernel module, but no libcuda */
  DOCTOR_EXTENSION_MISSING, /* Flatpak: no driver extension */
  DOCTOR_EXTENSION_DIFFERS, /* Flatpak: one of another version than the host's driver */
  DOCTOR_DRIVER_TOO_OLD,    /* older than this build's CUDA runtime needs */
  DOCTOR_DRIVER_MISMATCH,   /* library and kernel module differ: updated, not restarted */
  DOCTOR_DRIVER_FAILED,     /* an error that tells nothing more */
  DOCTOR_UVM_NOT_LOADED,    /* error 999: kernel module nvidia_uvm */
  DOCTOR_NO_ACCESS,         /* device nodes missing or closed to this user */
  DOCTOR_CARD_TOO_OLD,
  DOCTOR_NO_KERNELS, /* this build was made without CUDA */
  DOCTOR_GPU_MEMORY,
  DOCTOR_LITTLE_GPU_MEMORY,
  DOCTOR_MEMORY,
  DOCTOR_LITTLE_MEMORY,
  DOCTOR_DISK,
  DOCTOR_LITTLE_DISK,
  DOCTOR_SIMD,
  DOCTOR_NO_SIMD,
  DOCTOR_N_CODES,
} DoctorCode;

/* Where to look. All zero means this machine and this build. */
typedef struct
{
  const char *root;     /* in place of "/", for tests */
  const char *library;  /* in place of "libcuda.so.1" */
  const char *data_dir; /* where models are kept; NULL = the user's data folder */
  int needed_cuda;      /* CUDA version of the runtime, 13000; 0 = this build's */
} DoctorPlace;

typedef struct
{
  char *name;
  int sm;         /* compute capability * 10 */
  guint64 memory; /* bytes */
} DoctorCard;

/* What was seen. NULL strings were not there. */
typedef struct
{
  gboolean flatpak;
  char *distribution;   /* ID of os-release, the host's in a Flatpak */
  char *pci;            /* "0000:01:00.0 (device 0x2504, driver nouveau)" */
  char *module_version; /* of the loaded kernel module: "580.82.07" */
  gboolean uvm;         /* nvidia_uvm is loaded */
  char *extension;      /* version of the Flatpak driver extension: "580-82-07" */
  char *closed_node;    /* device node that cannot be opened */
  int closed_errno;     /* and why; ENOENT = it is not there */
  char *closed_group;   /* group that may open it */
  char *library_error;  /* why libcuda did not load; NULL = it did */
  int driver_cuda;      /* cuDriverGetVersion: 12040; 0 = not known */
  int init_error;       /* of cuInit, or of counting devices */
  GPtrArray *cards;     /* DoctorCard, as the driver lists them */
  int needed_cuda;      /* 0 = built without CUDA */
  guint64 memory;       /* MemTotal, bytes; 0 = not known */
  guint64 disk;         /* free bytes in data_dir */
  gboolean disk_known;
  char *data_dir;
  char *processor;
  gboolean avx2, avx512; /* avx2 includes FMA */
} DoctorEvidence;

typedef struct
{
  DoctorCode code;
  DoctorState state;
  const char *title; /* English, static */
  char *evidence;    /* what was seen, one sentence, in the language of the app that binds one */
  char *remedy;      /* what to do, the same way, one or two sentences; NULL: nothing is to do */
  char *command;     /* to be typed as it is; NULL if there is none */
} DoctorFinding;

/* Never fails: what cannot be read was not seen (transfer full). May take a second: libcuda is
 * opened and stays loaded. (any thread) */
DoctorEvidence *doctor_look (const DoctorPlace *place);
void doctor_evidence_free (DoctorEvidence *self); /* NULL is a no-op */

/* Findings in the order in which they matter (transfer full: g_ptr_array_unref). */
GPtrArray *doctor_judge (const DoctorEvidence *evidence);

/* "driver-too-old": stable, for machines. */
const char *doctor_code_name (DoctorCode code);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (DoctorEvidence, doctor_evidence_free)

G_END_DECLS
