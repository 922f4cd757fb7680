/* SPDX-License-Identifier: Apache-2.0
 *
 * The file in which the app's unfinished jobs survive. Every job of it can be asked for, and what
 * is written of them is read again in full.
 */
#include "app/generation/journal.h"
#include "tests/fuzz/fuzz.h"

static GLogWriterOutput
keep_quiet (GLogLevelFlags level, const GLogField *fields, gsize n_fields, gpointer data)
{
  return level & G_LOG_FLAG_FATAL ? g_log_writer_default (level, fields, n_fields, data)
                                  : G_LOG_WRITER_HANDLED;
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  static gboolean quiet;
  const char *path;
  g_autoptr (GPtrArray) jobs = NULL, again = NULL;
  Journal *journal;

  if (!quiet)
    g_log_set_writer_func (keep_quiet, NULL, NULL); /* once a process */
  quiet = TRUE;
  path = fuzz_file ("queue.json", data, size);
  jobs = journal_read (path);
  if (jobs->len == 0)
    return 0;
  journal = journal_new (path);
  journal_write (journal, jobs);
  journal_free (journal);
  again = journal_read (path);
  g_assert_cmpuint (again->len, ==, jobs->len);
  for (guint i = 0; i < jobs->len; i++)
    {
      g_assert_true (engine_request_validate (job_get_request (again->pdata[i]), NULL));
      g_assert_true (engine_request_comparable (job_get_request (jobs->pdata[i]),
                                                job_get_request (again->pdata[i]), NULL));
      g_assert_cmpstr (job_get_pair (jobs->pdata[i]), ==, job_get_pair (again->pdata[i]));
    }
  return 0;
}
