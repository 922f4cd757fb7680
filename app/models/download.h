/* SPDX-License-Identifier: Apache-2.0
 *
 * download.h - a model of the catalogue on its way to this computer
 *
 * Runs on a thread of its own and reports on the main thread, by the signal "changed" a few times a
 * second. Pausing, ending the program and losing power are the same: it goes on where it was. Only
 * what was not paused is marked as interrupted, for the next start to go on by itself.
 */
#pragma once

#include "app/fetch/fetch.h"

#include "engine/checkpoint/catalogue.h"

G_BEGIN_DECLS

typedef enum
{
  DOWNLOAD_IDLE,
  DOWNLOAD_RUNNING,
  DOWNLOAD_PAUSED,
  DOWNLOAD_FAILED,
  DOWNLOAD_DONE,
  DOWNLOAD_MOVING,
  DOWNLOAD_CHECKING,
} DownloadState;

typedef enum /* what came of the last check, until the model is fetched or moved */
{
  CHECK_NONE,
  CHECK_GOOD,
  CHECK_FAILED, /* not every file can be read: download_get_error */
  CHECK_MENDS,  /* a file was damaged or missing, and is on its way */
} DownloadCheck;

#define TESSERA_TYPE_DOWNLOAD (download_get_type ())
G_DECLARE_FINAL_TYPE (TesseraDownload, download, TESSERA, DOWNLOAD, GObject)

/* The model goes to MODELS_DIR/ID. */
TesseraDownload *download_new (Catalogue *catalogue, const CatalogueModel *model,
                               const char *models_dir, const FetchOptions *options);

/* Begins or goes on; nothing if it runs. `folders`: where to look for files before the network is
 * asked, NULL-terminated, may be NULL. It fails at once if the disk has no room for the rest. */
void download_start (TesseraDownload *self, const char *const *folders);
/* Ends a run as the user wants it, or a move, or a check; takes effect at once, "changed" follows.
 */
void download_pause (TesseraDownload *self);
/* The same at the end of the program: the next start shall go on. */
void download_interrupt (TesseraDownload *self);
/* TRUE if an earlier run of the program ended, in whatever way, while it was under way. */
gboolean download_was_interrupted (TesseraDownload *self);
gboolean download_any_interrupted (const char *models_dir); /* of whatever catalogue */

/* Moves a whole model to FOLDER/ID (move.h); its progress is download_get_progress's, a failure is
 * download_get_error's while it is again DOWNLOAD_DONE. */
void download_move (TesseraDownload *self, const char *folder);
/* Reads every file of a whole model (verify.h); its progress is download_get_progress's, what came
 * of it download_get_check's. What is damaged or missing is fetched again at once, as by
 * download_start. */
void download_check (TesseraDownload *self, const char *const *folders);
DownloadCheck download_get_check (TesseraDownload *self);
/* While DOWNLOAD_IDLE: it shall go to FOLDER/ID in place of MODELS_DIR/ID. Errors: move_prepare. */
gboolean download_set_folder (TesseraDownload *self, const char *folder, GError **error);

/* The model's folder is gone: as if it had never begun. Not while it runs. */
void download_forget (TesseraDownload *self);

DownloadState download_get_state (TesseraDownload *self);
const char *download_get_name (TesseraDownload *self); /* of the model */
const char *download_get_dir (TesseraDownload *self);  /* of the model */
const char *
download_get_error (TesseraDownload *self); /* of the last run, move or check, or NULL */
/* Bytes there and in all (0: not known yet), bytes a second, seconds left (-1: not known yet). */
void download_get_progress (TesseraDownload *self, guint64 *done, guint64 *total, double *rate,
                            int *seconds_left);
gboolean download_is_looking (TesseraDownload *self); /* for files that are here */
/* Bytes of the model on the disk, also of a download that does not run; reads its folders. (any
 * thread) */
guint64 download_get_bytes_here (TesseraDownload *self);
/* Hosts contacted so far, as fetch_get_hosts has them (transfer full: g_strfreev). */
char **download_get_hosts (TesseraDownload *self);

G_END_DECLS
