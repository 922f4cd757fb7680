/* SPDX-License-Identifier: Apache-2.0
 *
 * download.h - a model of the catalogue on its way to this computer
 *
 * Runs on a thread of its own and reports on the main thread, by the signal "changed" a few times a
 * second. model_index.json comes last: until then the folder is no model. Pausing,
 * ending the program and losing power are the same: the next start goes on where it was.
 */
#pragma once

#include "app/fetch.h"

#include "engine/catalogue.h"

G_BEGIN_DECLS

typedef enum
{
  DOWNLOAD_IDLE,
  DOWNLOAD_RUNNING,
  DOWNLOAD_PAUSED,
  DOWNLOAD_FAILED,
  DOWNLOAD_DONE,
} DownloadState;

#define TESSERA_TYPE_DOWNLOAD (download_get_type ())
G_DECLARE_FINAL_TYPE (TesseraDownload, download, TESSERA, DOWNLOAD, GObject)

/* The model goes to MODELS_DIR/ID. */
TesseraDownload *download_new (Catalogue *catalogue, const CatalogueModel *model,
                               const char *models_dir, const FetchOptions *options);

/* Begins or goes on; nothing if it runs. `folders`: where to look for files before the network is
 * asked, NULL-terminated, may be NULL. */
void download_start (TesseraDownload *self, const char *const *folders);
void download_pause (TesseraDownload *self); /* takes effect at once; "changed" follows */

/* The model's folder is gone: as if it had never begun. Not while it runs. */
void download_forget (TesseraDownload *self);

DownloadState download_get_state (TesseraDownload *self);
const char *download_get_dir (TesseraDownload *self);   /* of the model */
const char *download_get_error (TesseraDownload *self); /* while DOWNLOAD_FAILED, else NULL */
/* Bytes there and in all (0: not known yet), bytes a second, seconds left (-1: not known yet). */
void download_get_progress (TesseraDownload *self, guint64 *done, guint64 *total, double *rate,
                            int *seconds_left);
/* Hosts contacted so far (transfer full: g_strfreev). */
char **download_get_hosts (TesseraDownload *self);

/* Reads every file of a model whose hash was published and compares; blocking. FALSE with
 * G_IO_ERROR_INVALID_DATA or _NOT_FOUND naming the first wrong file, which is deleted if `mend`. */
gboolean download_verify (const CatalogueModel *model, const char *dir, gboolean mend,
                          GCancellable *cancellable, GError **error);

G_END_DECLS
