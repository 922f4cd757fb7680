/* SPDX-License-Identifier: Apache-2.0
 *
 * catalogue.h - which models can be had, from where, and for which card
 *
 * Reads data/models/catalogue.json, or another file of that form. The text is not trusted: every
 * path stays below the model's folder, every address is HTTPS (or this machine's own), and numbers
 * have limits. Hashes are there only where they were published.
 */
#pragma once

#include <gio/gio.h>

G_BEGIN_DECLS

typedef struct
{
  char *path;       /* below the model's folder, '/' between names, never "..", never absolute */
  char *repository; /* "owner/name" */
  char *source;     /* path in the repository */
  char *hash;       /* lower case, or NULL */
  GChecksumType hash_type;
  guint64 size;    /* exact, or 0 if not known */
  guint64 about;   /* for display and for the check of free space; 0 if not known */
  gboolean shards; /* an index.json whose shards are to be fetched too */
} CatalogueFile;

typedef struct
{
  char *id; /* name of a folder: [a-z0-9.-] */
  char *name;
  char *precision;    /* "bf16" or "svdquant" */
  char *licence;      /* SPDX */
  char *page;         /* where it can be read about */
  int min_sm, max_sm; /* compute capability * 10 of cards that it is made for */
  guint64 min_memory; /* graphics memory, bytes */
  GPtrArray *files;   /* CatalogueFile, small ones first */
} CatalogueModel;

typedef struct
{
  char *name;
  char *url; /* with {repository} and {path} */
} CatalogueMirror;

typedef struct
{
  gatomicrefcount references;
  GPtrArray *mirrors; /* CatalogueMirror, in the order in which they are tried */
  GPtrArray *models;  /* CatalogueModel, what gives the first picture soonest first */
} Catalogue;

/* Parses (transfer full: catalogue_unref). `path` is for messages. Errors: ENGINE_ERROR_MODEL
 * naming file, model and cause. */
Catalogue *catalogue_parse (const char *text, gsize length, const char *path, GError **error);
Catalogue *catalogue_load (const char *path, GError **error);
/* A download's thread may need it longer than who loaded it. (any thread) */
Catalogue *catalogue_ref (Catalogue *self);
void catalogue_unref (Catalogue *self); /* NULL is a no-op */

const CatalogueModel *catalogue_find (const Catalogue *self, const char *id);

/* The first model made for a card; NULL if there is none. sm as in EngineDevice. */
const CatalogueModel *catalogue_recommend (const Catalogue *self, int sm, guint64 memory);

/* Sum of what is known of the files' sizes. */
guint64 catalogue_model_bytes (const CatalogueModel *model);

/* The file's address at a mirror (transfer full). */
char *catalogue_url (const CatalogueMirror *mirror, const CatalogueFile *file);

/* The files that an index.json names, as siblings of `index` (transfer full, CatalogueFile).
 * Errors: ENGINE_ERROR_MODEL. */
GPtrArray *
catalogue_shards (const CatalogueFile *index, const char *text, gsize length, GError **error);

/* TRUE if `path` names something below a folder and nothing else. */
gboolean catalogue_is_path (const char *path);
/* TRUE for https:, and for http: to this machine itself. */
gboolean catalogue_is_address (const char *url);

G_DEFINE_AUTOPTR_CLEANUP_FUNC (Catalogue, catalogue_unref)

G_END_DECLS
