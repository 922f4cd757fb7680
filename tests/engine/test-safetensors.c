/* SPDX-License-Identifier: Apache-2.0
 *
 * test-safetensors.c - reading what is whole, refusing what is not, writing
 */
#include "engine/engine.h"
#include "engine/files/safetensors.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static char *
data_path (const char *name)
{
  return g_build_filename (g_getenv ("TESSERA_TEST_DATA"), name, NULL);
}

typedef struct
{
  const char *file;
  const char *cause; /* must be part of the message */
} Damage;

static const Damage damages[] = {
  { "empty.safetensors", "too few" },
  { "short.safetensors", "too few" },
  { "header-100mb.safetensors", "claims 100000000 bytes, the file has" },
  { "header-huge.safetensors", "claims 18446744073709551615 bytes, more than 100000000" },
  { "not-json.safetensors", "not valid JSON" },
  { "not-utf8.safetensors", "not valid UTF-8" },
  { "deep-json.safetensors", "nested too deeply" },
  { "metadata-type.safetensors", "__metadata__" },
  { "truncated.safetensors", "tensor b lies at bytes 8 to 16 of 10" },
  { "offset-outside.safetensors", "tensor a lies at bytes 4096 to 4104 of 8" },
  { "offset-overflow.safetensors", "tensor a has no valid data_offsets" },
  { "offset-negative.safetensors", "tensor a has no valid data_offsets" },
  { "offset-swapped.safetensors", "tensor a lies at bytes 8 to 0" },
  { "overlapping.safetensors", "tensors a and b overlap" },
  { "wrong-span.safetensors", "tensor a has 8 bytes, its shape and type F32 need 12" },
  { "absurd-shape.safetensors", "tensor a has an absurd shape" },
  { "many-axes.safetensors", "tensor a has no valid shape" },
  { "duplicate.safetensors", "tensor a is there twice" },
  { "no-dtype.safetensors", "tensor a has no dtype" },
  { "escape.safetensors.index.json", "tensor a is not mapped to a plain file name" },
  { "truncated-shard.safetensors.index.json", "truncated.safetensors: tensor b" },
  { "wrong-shard.safetensors.index.json", "tensor c is not in good.safetensors" },
  { "no-map.safetensors.index.json", "no weight_map" },
};

static void
test_damaged (gconstpointer data)
{
  const Damage *damage = data;
  g_autofree char *name = g_build_filename ("damaged", damage->file, NULL);
  g_autofree char *path = data_path (name);
  g_autoptr (GError) error = NULL;
  g_autoptr (Safetensors) file = safetensors_open (path, &error);

  g_assert_null (file);
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
  g_assert_nonnull (strstr (error->message, damage->cause));
  g_assert_nonnull (strstr (error->message, "/damaged/"));
}

/* A file of this header and so many bytes behind it. `excess` is added to the header's length. */
static void
write_raw (const char *path, const char *header, gsize payload, int excess)
{
  g_autoptr (GByteArray) bytes = g_byte_array_new ();
  g_autofree guint8 *zeros = g_malloc0 (payload + 1);
  guint64 length = GUINT64_TO_LE ((guint64)((gint64)strlen (header) + excess));

  g_byte_array_append (bytes, (const guint8 *)&length, sizeof length);
  g_byte_array_append (bytes, (const guint8 *)header, (guint)strlen (header));
  g_byte_array_append (bytes, zeros, (guint)payload);
  g_assert_true (g_file_set_contents (path, (const char *)bytes->data, (gssize)bytes->len, NULL));
}

#define U8(shape, begin, end)                                                                      \
  "{\"dtype\":\"U8\",\"shape\":[" #shape "],\"data_offsets\":[" #begin "," #end "]}"

/* What just fits is read, and one more or less is refused. */
static void
test_edges (void)
{
  static const struct
  {
    const char *header;
    gsize payload;
    int excess;
    const char *cause; /* NULL: it is read */
  } cases[] = {
    { "{\"a\":" U8 (4, 0, 4) "}", 4, 0, NULL },
    { "{\"a\":" U8 (4, 0, 4) "}", 3, 0, "tensor a lies at bytes 0 to 4 of 3" },
    { "{\"a\":" U8 (3, 0, 4) "}", 4, 0, "has 4 bytes, its shape and type U8 need 3" },
    { "{\"a\":" U8 (5, 0, 4) "}", 4, 0, "has 4 bytes, its shape and type U8 need 5" },
    { "{\"a\":" U8 (4, 0, 4) ",\"b\":" U8 (4, 4, 8) "}", 8, 0, NULL },
    { "{\"a\":" U8 (4, 0, 4) ",\"b\":" U8 (5, 3, 8) "}", 8, 0, "tensors a and b overlap" },
    { "{\"a\":" U8 (4, 0, 4) ",\"b\":" U8 (0, 2, 2) "}", 4, 0, NULL }, /* nothing lies there */
    { "{}", 0, 0, NULL },
    { "{}", 0, 1, "the header claims 3 bytes, the file has 10" },
    { "", 0, 0, "8 bytes are too few" },
  };
  g_autofree char *path = g_build_filename (g_get_tmp_dir (), "tessera-edge-XXXXXX", NULL);

  g_close (g_mkstemp (path), NULL);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;
      g_autoptr (Safetensors) file = NULL;

      write_raw (path, cases[i].header, cases[i].payload, cases[i].excess);
      file = safetensors_open (path, &error);
      g_test_message ("%s: %s", cases[i].header, error != NULL ? error->message : "is read");
      g_assert_true ((file != NULL) == (cases[i].cause == NULL));
      g_assert_true (file != NULL || strstr (error->message, cases[i].cause) != NULL);
    }
  g_unlink (path);
}

/* More axes than a view has: such a tensor can be listed, and nothing else. */
static void
test_five_axes (void)
{
  g_autofree char *path = g_build_filename (g_get_tmp_dir (), "tessera-axes-XXXXXX", NULL);
  g_autoptr (Safetensors) file = NULL;
  SafetensorsInfo info;
  Tensor tensor;

  g_close (g_mkstemp (path), NULL);
  write_raw (path,
             "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,2,1,1],\"data_offsets\":[0,8]},"
             "\"b\":{\"dtype\":\"F32\",\"shape\":[1,2,1,1],\"data_offsets\":[8,16]}}",
             16, 0);
  file = safetensors_open (path, NULL);
  g_assert_nonnull (file);
  g_assert_false (safetensors_find (file, "a", &tensor));
  g_assert_true (safetensors_info (file, "a", &info));
  g_assert_cmpint (info.rank, ==, 5);
  g_assert_true (safetensors_find (file, "b", &tensor));
  g_assert_cmpint (tensor.rank, ==, 4);
  g_unlink (path);
}

/* An index leads to its own folder only, and each tensor to the shard that it names. */
static void
test_shards (void)
{
  static const struct
  {
    const char *map, *cause;
  } cases[] = {
    { "{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}", NULL },
    { "{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\"}", "tensor b is not in 1.safetensors" },
    { "{\"a\":\"2.safetensors\",\"b\":\"2.safetensors\"}", "tensor a is not in 2.safetensors" },
    { "{\"a\":\"2.safetensors\",\"b\":\"1.safetensors\"}", "tensor a is not in 2.safetensors" },
    { "{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\",\"c\":\"2.safetensors\"}",
      "tensor c is not in 2.safetensors" },
    { "{\"a\":\".\"}", "tensor a is not mapped to a plain file name" },
    { "{\"a\":\"..\"}", "tensor a is not mapped to a plain file name" },
    { "{\"a\":\"\"}", "tensor a is not mapped to a plain file name" },
    { "{\"a\":7}", "tensor a is not mapped to a plain file name" },
  };
  g_autofree char *folder = g_dir_make_tmp ("safetensors-XXXXXX", NULL);
  g_autofree char *first = g_build_filename (folder, "1.safetensors", NULL);
  g_autofree char *second = g_build_filename (folder, "2.safetensors", NULL);
  g_autofree char *index = g_build_filename (folder, "model.safetensors.index.json", NULL);

  write_raw (
      first,
      "{\"__metadata__\":{\"from\":\"first\"},\"a\":" U8 (4, 0, 4) ",\"c\":" U8 (0, 4, 4) "}", 4,
      0);
  write_raw (second, "{\"__metadata__\":{\"from\":\"second\"},\"b\":" U8 (2, 0, 2) "}", 2, 0);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autofree char *text = g_strdup_printf ("{\"weight_map\":%s}", cases[i].map);
      g_autoptr (GError) error = NULL;
      g_autoptr (Safetensors) file = NULL;
      SafetensorsInfo info;

      g_assert_true (g_file_set_contents (index, text, -1, NULL));
      file = safetensors_open (index, &error);
      g_assert_true ((file != NULL) == (cases[i].cause == NULL));
      g_assert_true (file != NULL || strstr (error->message, cases[i].cause) != NULL);
      if (file == NULL)
        continue;
      g_assert_cmpuint (safetensors_bytes (file), ==, 6);
      g_assert_cmpstr (safetensors_metadata (file, "from"), ==, "first");
      g_assert_true (safetensors_info (file, "b", &info));
      g_assert_cmpstr (info.file, ==, second);
    }
  g_unlink (first);
  g_unlink (second);
  g_unlink (index);
  g_rmdir (folder);
}

/* Other containers are named, and a header of as many bytes as they begin with is none of them. */
static void
test_containers (void)
{
  static const struct
  {
    const char *bytes, *cause;
  } cases[] = { { "GGUF\3\0\0\0\0\0\0\0", "a GGUF file" },
                { "PK\3\4\24\0\0\0\10\0\0\0", "a PyTorch checkpoint (zip)" },
                { "\200\2}q\0(X\1\0\0\0a", "a PyTorch checkpoint (pickle)" } };
  g_autofree char *path = g_build_filename (g_get_tmp_dir (), "tessera-magic-XXXXXX", NULL);

  g_close (g_mkstemp (path), NULL);
  for (guint i = 0; i < G_N_ELEMENTS (cases); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_true (g_file_set_contents (path, cases[i].bytes, 12, NULL));
      g_assert_null (safetensors_open (path, &error));
      g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
      g_assert_nonnull (strstr (error->message, cases[i].cause));
    }
  g_unlink (path);
}

static void
test_absent (void)
{
  g_autofree char *path = data_path ("damaged/missing-shard.safetensors.index.json");
  g_autoptr (GError) error = NULL;
  g_autoptr (GError) folder_error = NULL;

  g_assert_null (safetensors_open (path, &error));
  g_assert_error (error, G_FILE_ERROR, G_FILE_ERROR_NOENT);
  g_assert_nonnull (strstr (error->message, "absent.safetensors"));
  g_assert_null (safetensors_open (g_getenv ("TESSERA_TEST_DATA"), &folder_error));
  g_assert_error (folder_error, ENGINE_ERROR, ENGINE_ERROR_MODEL);
}

/* The reference's own files: every tensor viewable, sum of views = payload. */
static void
test_model_file (void)
{
  g_autofree char *path = data_path ("tiny-zimage/transformer/diffusion_pytorch_model.safetensors");
  g_autoptr (GError) error = NULL;
  g_autoptr (Safetensors) file = safetensors_open (path, &error);
  guint64 bytes = 0;
  Tensor tensor;

  g_assert_no_error (error);
  g_assert_cmpuint (safetensors_count (file), ==, 73);
  for (guint i = 0; i < safetensors_count (file); i++)
    {
      g_assert_true (safetensors_find (file, safetensors_name (file, i), &tensor));
      bytes += tensor_bytes (&tensor);
    }
  g_assert_cmpuint (bytes, ==, safetensors_bytes (file));
  g_assert_true (safetensors_find (file, "layers.1.feed_forward.w2.weight", &tensor));
  g_assert_cmpint (tensor.dtype, ==, DTYPE_BF16);
  g_assert_cmpint (tensor.rank, ==, 2);
  g_assert_cmpint (tensor.shape[0], ==, 192);
  g_assert_cmpint (tensor.shape[1], ==, 512);
  g_assert_false (safetensors_find (file, "layers.2.feed_forward.w2.weight", &tensor));
}

static void
write_sample (const char *path)
{
  static const float wide[3] = { 1.5f, -2.0f, 3.25f };
  static const guint8 odd[5] = { 1, 2, 3, 4, 5 };
  static const gint64 ids[2] = { 151644, -1 };
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autoptr (GError) error = NULL;

  safetensors_writer_add (writer, "odd", DTYPE_U8, 1, (int64_t[]){ 5 }, odd);
  safetensors_writer_add (writer, "wide \"quoted\"", DTYPE_F32, 2, (int64_t[]){ 1, 3 }, wide);
  safetensors_writer_add (writer, "ids", DTYPE_I64, 1, (int64_t[]){ 2 }, ids);
  safetensors_writer_add (writer, "scalar", DTYPE_F32, 0, NULL, wide);
  safetensors_writer_add (writer, "none", DTYPE_F32, 1, (int64_t[]){ 0 }, NULL);
  safetensors_writer_metadata (writer, "note", "line\nbreak");
  safetensors_writer_write (writer, path, &error);
  g_assert_no_error (error);
}

static void
test_write (void)
{
  g_autofree char *folder = g_dir_make_tmp ("safetensors-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (folder, "sample.safetensors", NULL);
  g_autofree char *contents = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (Safetensors) file = NULL;
  guint64 header;
  Tensor tensor;

  write_sample (path);
  write_sample (path); /* over the first */
  file = safetensors_open (path, &error);
  g_assert_no_error (error);
  g_assert_cmpuint (safetensors_count (file), ==, 5);
  g_assert_cmpstr (safetensors_name (file, 0), ==, "ids"); /* the widest first, from a place */
  g_assert_cmpstr (safetensors_name (file, 4), ==, "odd"); /* where it can be read in place */
  g_assert_true (g_file_get_contents (path, &contents, NULL, NULL));
  memcpy (&header, contents, sizeof header);
  g_assert_cmpuint (GUINT64_FROM_LE (header) % sizeof header, ==, 0);
  g_assert_cmpstr (safetensors_metadata (file, "note"), ==, "line\nbreak");
  g_assert_null (safetensors_metadata (file, "absent"));
  g_assert_true (safetensors_find (file, "wide \"quoted\"", &tensor));
  g_assert_cmpfloat (tensor_get (&tensor, 1), ==, -2.0f);
  g_assert_true (safetensors_find (file, "ids", &tensor));
  g_assert_cmpint (((const gint64 *)tensor.data)[1], ==, -1);
  g_assert_true (safetensors_find (file, "scalar", &tensor));
  g_assert_cmpint (tensor.rank, ==, 0);
  g_assert_cmpfloat (tensor_get (&tensor, 0), ==, 1.5f);
  g_assert_true (safetensors_find (file, "none", &tensor));
  g_assert_cmpint (tensor_count (&tensor), ==, 0);
  g_unlink (path);
  g_assert_cmpint (g_rmdir (folder), ==, 0); /* and no temporary file is left */
}

/* A file beyond what the process may write stands for a full disk: write() fails half-way. */
static void
test_write_fails (void)
{
  g_autofree char *folder = g_dir_make_tmp ("safetensors-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (folder, "large.safetensors", NULL);
  g_autofree char *nowhere = g_build_filename (folder, "absent", "a.safetensors", NULL);
  g_autofree char *zeros = g_malloc0 (1 << 20);
  g_autoptr (SafetensorsWriter) writer = safetensors_writer_new ();
  g_autoptr (GError) error = NULL;
  g_autoptr (GError) absent = NULL;
  struct rlimit saved, small;

  safetensors_writer_add (writer, "zeros", DTYPE_U8, 1, (int64_t[]){ 1 << 20 }, zeros);
  g_assert_cmpint (getrlimit (RLIMIT_FSIZE, &saved), ==, 0);
  small = (struct rlimit){ .rlim_cur = 64 * 1024, .rlim_max = saved.rlim_max };
  signal (SIGXFSZ, SIG_IGN);
  g_assert_cmpint (setrlimit (RLIMIT_FSIZE, &small), ==, 0);
  g_assert_false (safetensors_writer_write (writer, path, &error));
  g_assert_cmpint (setrlimit (RLIMIT_FSIZE, &saved), ==, 0);
  g_assert_nonnull (error);
  g_assert_nonnull (strstr (error->message, path));

  g_assert_false (safetensors_writer_write (writer, nowhere, &absent));
  g_assert_error (absent, G_FILE_ERROR, G_FILE_ERROR_NOENT);
  g_assert_cmpint (g_rmdir (folder), ==, 0); /* nothing half-written stays */
}

/* Headers of any length are legal, so numbers can lie at odd addresses. */
static void
test_unaligned (void)
{
  static const char header[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
  g_autofree char *folder = g_dir_make_tmp ("safetensors-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (folder, "odd.safetensors", NULL);
  g_autoptr (GString) text = g_string_new (NULL);
  g_autoptr (Safetensors) file = NULL;
  guint64 length = GUINT64_TO_LE ((guint64)strlen (header));
  float value = 7.5f;
  Tensor tensor;

  while (length % 4 != 1)
    length++;
  g_string_append_len (text, (const char *)&length, sizeof length);
  g_string_append (text, header);
  while (text->len < length + 8)
    g_string_append_c (text, ' ');
  g_string_append_len (text, (const char *)&value, sizeof value);
  g_assert_true (g_file_set_contents (path, text->str, (gssize)text->len, NULL));
  file = safetensors_open (path, NULL);
  g_assert_nonnull (file);
  for (int i = 0; i < 2; i++)
    {
      g_assert_true (safetensors_find (file, "a", &tensor));
      g_assert_cmpuint ((guintptr)tensor.data % sizeof value, ==, 0);
      g_assert_cmpfloat (tensor_get (&tensor, 0), ==, 7.5f);
    }
  g_unlink (path);
  g_rmdir (folder);
}

/* Every prefix and every flipped byte of a real file is refused or read, never a crash. */
static void
test_mutations (void)
{
  g_autofree char *source = data_path ("schedule-golden.safetensors");
  g_autofree char *folder = g_dir_make_tmp ("safetensors-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (folder, "mutant.safetensors", NULL);
  g_autofree char *contents = NULL;
  g_autoptr (GRand) rand = g_rand_new_with_seed (20);
  gsize length;

  g_assert_true (g_file_get_contents (source, &contents, &length, NULL));
  for (int round = 0; round < 500; round++)
    {
      gsize at = (gsize)g_rand_int_range (rand, 0, (gint32)length);
      gsize kept = round % 2 == 0 ? length : at;
      char saved = contents[at];
      g_autoptr (Safetensors) file = NULL;
      Tensor tensor;

      contents[at] = (char)g_rand_int_range (rand, 0, 256);
      g_assert_true (g_file_set_contents_full (path, contents, (gssize)kept,
                                               G_FILE_SET_CONTENTS_NONE, 0600, NULL));
      contents[at] = saved;
      file = safetensors_open (path, NULL);
      for (guint i = 0; file != NULL && i < safetensors_count (file); i++)
        if (safetensors_find (file, safetensors_name (file, i), &tensor)
            && tensor_count (&tensor) > 0)
          tensor_get (&tensor, tensor_count (&tensor) - 1);
    }
  g_unlink (path);
  g_rmdir (folder);
}

/* Another file under the same name is none of ours; writing into the one that is mapped is. */
static void
test_rewritten (void)
{
  g_autofree char *good = data_path ("damaged/good.safetensors");
  g_autofree char *folder = g_dir_make_tmp ("rewritten-XXXXXX", NULL);
  g_autofree char *path = g_build_filename (folder, "a.safetensors", NULL);
  g_autofree char *bytes = NULL;
  g_autoptr (Safetensors) file = NULL, replaced = NULL;
  g_autoptr (GError) error = NULL;
  gsize length;

  g_assert_true (g_file_get_contents (good, &bytes, &length, NULL));
  g_assert_true (g_file_set_contents (path, bytes, (gssize)length, NULL));
  replaced = safetensors_open (path, NULL);
  g_assert_true (safetensors_check_unchanged (replaced, NULL));
  g_assert_true (g_file_set_contents (path, "another", -1, NULL)); /* renames */
  g_assert_true (safetensors_check_unchanged (replaced, NULL));
  g_unlink (path);
  g_assert_true (safetensors_check_unchanged (replaced, NULL));

  g_assert_true (g_file_set_contents (path, bytes, (gssize)length, NULL));
  file = safetensors_open (path, NULL);
  g_assert_true (safetensors_check_unchanged (file, NULL));
  g_assert_cmpint (truncate (path, (off_t)length - 1), ==, 0);
  g_assert_false (safetensors_check_unchanged (file, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_CHANGED);
  g_assert_nonnull (strstr (error->message, path));
  g_unlink (path);
  g_rmdir (folder);
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (damages); i++)
    {
      g_autofree char *name = g_strconcat ("/safetensors/damaged/", damages[i].file, NULL);
      g_test_add_data_func (name, &damages[i], test_damaged);
    }
  g_test_add_func ("/safetensors/absent", test_absent);
  g_test_add_func ("/safetensors/edges", test_edges);
  g_test_add_func ("/safetensors/five-axes", test_five_axes);
  g_test_add_func ("/safetensors/shards", test_shards);
  g_test_add_func ("/safetensors/containers", test_containers);
  g_test_add_func ("/safetensors/model-file", test_model_file);
  g_test_add_func ("/safetensors/write", test_write);
  g_test_add_func ("/safetensors/write-fails", test_write_fails);
  g_test_add_func ("/safetensors/unaligned", test_unaligned);
  g_test_add_func ("/safetensors/mutations", test_mutations);
  g_test_add_func ("/safetensors/rewritten", test_rewritten);
  return g_test_run ();
}
