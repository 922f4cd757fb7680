/* SPDX-License-Identifier: Apache-2.0
 *
 * The history and the queue's journal: what is on disk is what there is.
 */
#include "app/generation/journal.h"
#include "app/history/history.h"
#include "harness.h"

#include <glib/gstdio.h>

typedef struct
{
  char *folder;
  TesseraHistory *history;
  TesseraEntry *added;
  GError *error;
  gboolean answered;
} Fixture;

static guint
length (Fixture *f)
{
  return g_list_model_get_n_items (G_LIST_MODEL (f->history));
}

static const char *
name_at (Fixture *f, guint position)
{
  g_autoptr (TesseraEntry) entry = g_list_model_get_item (G_LIST_MODEL (f->history), position);

  return entry_get_name (entry);
}

static void
write_picture (const char *folder, const char *name)
{
  g_autoptr (TesseraPicture) picture = landscape (80, 64, ENGINE_PRECISION_BF16, 0);
  g_autofree char *path = g_build_filename (folder, name, NULL);

  g_assert_true (picture_save (picture, path, NULL));
}

static void
set_up (Fixture *f, gconstpointer data)
{
  f->folder = make_folder ();
  write_picture (f->folder, "20260101-100000-000-bf16.png");
  write_picture (f->folder, "20260101-100000-000-svdquant.png");
  write_picture (f->folder, "20260102-100000-000-bf16.png");
  write_picture (f->folder, ".hidden.png");
  f->history = history_new (f->folder);
  WAIT_FOR (!history_get_loading (f->history));
}

static void
tear_down (Fixture *f, gconstpointer data)
{
  while (g_main_context_iteration (NULL, FALSE))
    ;
  g_clear_object (&f->history);
  g_clear_error (&f->error);
  remove_folder (f->folder);
  g_free (f->folder);
}

static void
test_order_and_twins (Fixture *f, gconstpointer data)
{
  g_autoptr (TesseraEntry) newest = g_list_model_get_item (G_LIST_MODEL (f->history), 0);
  g_autoptr (TesseraEntry) half = g_list_model_get_item (G_LIST_MODEL (f->history), 1);
  TesseraEntry *twin = history_find_twin (f->history, half);

  g_assert_cmpuint (length (f), ==, 3);
  g_assert_cmpstr (entry_get_name (newest), ==, "20260102-100000-000-bf16.png");
  g_assert_cmpstr (entry_get_name (half), ==, "20260101-100000-000-svdquant.png");
  g_assert_null (history_find_twin (f->history, newest));
  g_assert_nonnull (twin);
  g_assert_cmpstr (entry_get_name (twin), ==, "20260101-100000-000-bf16.png");
}

static void
on_added (GObject *source, GAsyncResult *result, gpointer data)
{
  Fixture *f = data;

  f->added = history_add_finish (TESSERA_HISTORY (source), result, &f->error);
  f->answered = TRUE;
}

static void
on_loaded (GObject *source, GAsyncResult *result, gpointer data)
{
  TesseraPicture **picture = data;

  *picture = entry_load_finish (TESSERA_ENTRY (source), result, NULL);
  g_assert_nonnull (*picture);
}

/* Whatever the clock does, names grow. */
static void
test_stem (void)
{
  g_autoptr (GDateTime) night = g_date_time_new_utc (2026, 10, 25, 2, 59, 59.5);
  g_autoptr (GDateTime) hour_before = g_date_time_add_hours (night, -1);
  g_autofree char *first = history_stem_at (night, NULL);
  g_autofree char *same = history_stem_at (night, first);
  g_autofree char *before = history_stem_at (hour_before, same);
  g_autofree char *next_day = history_stem_at (hour_before, "20261231-235959-999");
  g_autofree char *foreign = history_stem_at (night, "a name");

  g_assert_cmpstr (first, ==, "20261025-025959-500");
  g_assert_cmpstr (same, ==, "20261025-025959-501");
  g_assert_cmpstr (before, ==, "20261025-025959-502");
  g_assert_cmpstr (next_day, ==, "20270101-000000-000");
  g_assert_cmpstr (foreign, ==, first);
}

/* What was asked for can be read from the file. */
static void
test_add (Fixture *f, gconstpointer data)
{
  g_autoptr (TesseraPicture) made = landscape (96, 64, ENGINE_PRECISION_SVDQUANT, 0);
  g_autofree char *stem = history_new_stem (f->history);
  g_autofree char *other = history_new_stem (f->history);
  g_autoptr (TesseraEntry) read = NULL;
  g_autoptr (TesseraPicture) picture = NULL;

  g_assert_cmpstr (stem, <, other);
  history_add_async (f->history, made, stem, on_added, f);
  WAIT_FOR (f->answered);
  g_assert_no_error (f->error);
  g_assert_cmpuint (length (f), ==, 4);
  g_assert_cmpstr (name_at (f, 0), ==, entry_get_name (f->added));

  read = entry_new (entry_get_path (f->added), NULL);
  entry_load_async (read, NULL, on_loaded, &picture);
  WAIT_FOR (picture != NULL);
  g_assert_true (g_bytes_equal (image_get_bytes (picture_get_image (picture)),
                                image_get_bytes (picture_get_image (made))));
  g_assert_cmpstr (picture_get_request (picture)->prompt, ==, "Hills above a lake at sunset");
  g_assert_cmpuint (picture_get_request (picture)->seed, ==, 42);
  g_assert_cmpint (picture_get_request (picture)->precision, ==, ENGINE_PRECISION_SVDQUANT);
  g_assert_cmpfloat (picture_get_facts (picture)->seconds, ==, 4.1);
  g_assert_cmpstr (picture_get_facts (picture)->pair, ==, "20260101-120000-000");
  g_assert_cmpstr (picture_get_facts (picture)->kernels, ==, "made up");
}

/* A folder that cannot be written: an error, no entry, nothing half-written. */
static void
test_add_fails (Fixture *f, gconstpointer data)
{
  g_autoptr (TesseraPicture) made = landscape (96, 64, ENGINE_PRECISION_BF16, 0);
  g_autofree char *file = g_build_filename (f->folder, "file", NULL);
  g_autofree char *below = g_build_filename (file, "below", NULL);
  g_autoptr (TesseraHistory) history = NULL;

  g_assert_true (g_file_set_contents (file, "x", 1, NULL));
  history = history_new (below);
  history_add_async (history, made, "20260103-100000-000", on_added, f);
  WAIT_FOR (f->answered && !history_get_loading (history));
  g_assert_nonnull (f->error);
  g_assert_null (f->added);
  g_assert_cmpuint (g_list_model_get_n_items (G_LIST_MODEL (history)), ==, 0);
}

/* Out of sight at once, gone from the disk only when it is forgotten. */
static void
test_remove (Fixture *f, gconstpointer data)
{
  g_autoptr (TesseraEntry) entry = g_list_model_get_item (G_LIST_MODEL (f->history), 0);

  history_remove (f->history, entry);
  g_assert_cmpuint (length (f), ==, 2);
  g_assert_true (g_file_test (entry_get_path (entry), G_FILE_TEST_EXISTS));
  history_bring_back (f->history, entry);
  g_assert_cmpuint (length (f), ==, 3);
  g_assert_cmpstr (name_at (f, 0), ==, entry_get_name (entry));

  history_remove (f->history, entry);
  history_forget (f->history, entry);
  WAIT_FOR (!g_file_test (entry_get_path (entry), G_FILE_TEST_EXISTS));
  history_bring_back (f->history, entry);
  g_assert_cmpuint (length (f), ==, 2);
}

/* Others may write into the folder and delete from it. */
static void
test_watched (Fixture *f, gconstpointer data)
{
  g_autofree char *path = g_build_filename (f->folder, "20260101-100000-000-bf16.png", NULL);

  write_picture (f->folder, "20260104-100000-000-bf16.png");
  WAIT_FOR (length (f) == 4);
  g_assert_cmpstr (name_at (f, 0), ==, "20260104-100000-000-bf16.png");
  g_unlink (path);
  WAIT_FOR (length (f) == 3);
}

static void
test_unreadable (Fixture *f, gconstpointer data)
{
  g_autofree char *path = g_build_filename (f->folder, "20260109-100000-000-bf16.png", NULL);
  g_autoptr (TesseraEntry) entry = NULL;

  g_assert_true (g_file_set_contents (path, "not a picture", -1, NULL));
  WAIT_FOR (length (f) == 4);
  entry = g_list_model_get_item (G_LIST_MODEL (f->history), 0);
  entry_ensure_thumbnail (entry);
  WAIT_FOR (g_str_has_suffix (entry_get_label (entry), "cannot be read"));
  g_assert_null (entry_get_thumbnail (entry));
}

/* -- Journal ------------------------------------------------------------------------------------
 */

static void
test_journal (void)
{
  g_autofree char *folder = make_folder ();
  g_autofree char *path = g_build_filename (folder, "below", "queue.json", NULL);
  g_autoptr (GPtrArray) jobs = g_ptr_array_new_with_free_func (g_object_unref);
  g_autoptr (GPtrArray) read = NULL;
  EngineRequest request = small_request ();
  Journal *journal = journal_new (path);

  g_assert_null (journal_new (path)); /* a second program keeps its hands off */
  for (guint i = 0; i < 3; i++)
    {
      request.seed = G_MAXUINT64 - i;
      request.precision = i % 2;
      g_ptr_array_add (jobs, job_new (&request, i == 1 ? "20260101-120000-000" : NULL));
      journal_write (journal, jobs);
    }
  journal_free (journal);
  read = journal_read (path);
  g_assert_cmpuint (read->len, ==, 3);
  for (guint i = 0; i < 3; i++)
    {
      g_assert_cmpuint (job_get_request (read->pdata[i])->seed, ==, G_MAXUINT64 - i);
      g_assert_cmpint (job_get_request (read->pdata[i])->precision, ==, i % 2);
    }
  g_assert_cmpstr (job_get_pair (read->pdata[1]), ==, "20260101-120000-000");
  g_assert_null (job_get_pair (read->pdata[0]));
  remove_folder (folder);
}

/* Whatever somebody wrote into the file: no crash, no job that cannot run, no path in a name. */
static void
test_damaged_journal (void)
{
  static const char *const texts[] = {
    "",
    "{",
    "[]",
    "null",
    "{\"jobs\":7}",
    "{\"jobs\":[1,null,{}]}",
    "{\"jobs\":[{\"request\":{\"width\":1}}]}",
    "{\"jobs\":[{\"request\":{\"steps\":\"many\"}}]}",
  };
  g_autofree char *folder = make_folder ();
  g_autofree char *path = g_build_filename (folder, "queue.json", NULL);
  g_autofree char *aside = g_strconcat (path, ".unread", NULL);
  g_autoptr (GPtrArray) jobs = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    {
      g_autoptr (GPtrArray) none = NULL;
      g_autofree char *kept = NULL;

      g_assert_true (g_file_set_contents (path, texts[i], -1, NULL));
      none = journal_read (path);
      g_assert_cmpuint (none->len, ==, 0);
      g_assert_true (g_file_get_contents (aside, &kept, NULL, NULL));
      g_assert_cmpstr (kept, ==, texts[i]);
    }
  g_assert_true (g_file_set_contents (
      path, "{\"jobs\":[{\"request\":{\"schema\":\"tessera.request/v1\"},\"pair\":\"../../x\"}]}",
      -1, NULL));
  jobs = journal_read (path);
  g_assert_cmpuint (jobs->len, ==, 1);
  g_assert_null (job_get_pair (jobs->pdata[0]));
  remove_folder (folder);
}

int
main (int argc, char *argv[])
{
  g_test_init (&argc, &argv, NULL);
#define ADD(name, function)                                                                        \
  g_test_add ("/history/" name, Fixture, NULL, set_up, function, tear_down)
  ADD ("order-and-twins", test_order_and_twins);
  ADD ("add", test_add);
  ADD ("add-fails", test_add_fails);
  ADD ("remove", test_remove);
  ADD ("watched", test_watched);
  ADD ("unreadable", test_unreadable);
#undef ADD
  g_test_add_func ("/history/stem", test_stem);
  g_test_add_func ("/journal/write-and-read", test_journal);
  g_test_add_func ("/journal/damaged", test_damaged_journal);
  return g_test_run ();
}
