/* SPDX-License-Identifier: Apache-2.0
 *
 * model-fetch.h - all files of a model of the catalogue: found on this computer, or fetched
 *
 * model_index.json comes last: until then the folder is no model. A run that ended early, in
 * whatever way, goes on where it was when there is another.
 */
#pragma once

#include "app/fetch/fetch.h"

#include "engine/checkpoint/catalogue.h"

G_BEGIN_DECLS

typedef struct _ModelFetch ModelFetch;

typedef struct
{
  guint64 done, total; /* bytes there and in all, as far as known */
  guint64 fetched;     /* of those there, by this run */
  gboolean looking;    /* for files that are here, which takes a while where they are */
} ModelFetchProgress;

/* `dir`: where the model shall be; it must be there when it runs. `options` may be NULL. */
ModelFetch *model_fetch_new (Catalogue *catalogue, const CatalogueModel *model, const char *dir,
                             const FetchOptions *options);
void model_fetch_free (ModelFetch *self); /* NULL is a no-op */

/* Does it; blocking, one run at a time. `folders`: where to look for files before the network is
 * asked, NULL-terminated, may be NULL. Errors: fetch_run's and adopt_file's; G_IO_ERROR_NO_SPACE
 * before anything is fetched if the disk has no room for the rest. */
gboolean model_fetch_run (ModelFetch *self, const char *const *folders, GCancellable *cancellable,
                          GError **error);

/* (any thread) */
void model_fetch_get_progress (ModelFetch *self, ModelFetchProgress *progress);
/* Hosts contacted so far, as fetch_get_hosts has them (transfer full: g_strfreev). (any thread) */
char **model_fetch_get_hosts (ModelFetch *self);

G_END_DECLS
