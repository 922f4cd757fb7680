/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/tokenizer/pretokenize.h"

#include <string.h>

/* GLib's normalisation is quadratic in runs of combining marks, which it sorts by insertion, and in
 * the length of a text in which much is composed. So long runs are sorted here, and the text is
 * handed over in chunks that end where nothing can reach across. */
#define LONG_RUN  32
#define MIN_CHUNK 256
#define MAX_CHUNK (16 * 1024) /* no writing has that many marks on one letter: cut anyway */

typedef enum
{
  LETTER,  /* \p{L} */
  NUMBER,  /* \p{N} */
  NEWLINE, /* CR and LF, which are white space too */
  SPACE,   /* the rest of \s */
  OTHER,
  END, /* of the text */
} Class;

/* Unicode's White_Space property, which is neither GLib's g_unichar_isspace nor a category. */
static gboolean
is_white_space (gunichar c)
{
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680
         || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f
         || c == 0x3000;
}

static Class
classify (gunichar c)
{
  if (c == '\r' || c == '\n')
    return NEWLINE;
  if (is_white_space (c))
    return SPACE;
  switch (g_unichar_type (c))
    {
    case G_UNICODE_LOWERCASE_LETTER:
    case G_UNICODE_MODIFIER_LETTER:
    case G_UNICODE_OTHER_LETTER:
    case G_UNICODE_TITLECASE_LETTER:
    case G_UNICODE_UPPERCASE_LETTER:
      return LETTER;
    case G_UNICODE_DECIMAL_NUMBER:
    case G_UNICODE_LETTER_NUMBER:
    case G_UNICODE_OTHER_NUMBER:
      return NUMBER;
    default:
      return OTHER;
    }
}

static Class
class_at (const char *at, const char *end)
{
  return at < end ? classify (g_utf8_get_char (at)) : END;
}

/* The first position from `at` on that is not of class `c`. */
static const char *
skip (const char *at, const char *end, Class c)
{
  while (class_at (at, end) == c)
    at = g_utf8_next_char (at);
  return at;
}

/* Length of a contraction after an apostrophe, in any case, or 0. U+017F folds to s. */
static gsize
match_contraction (const char *text, const char *end)
{
  gsize left = (gsize)(end - text);
  char a, b;

  if (left < 2 || text[0] != '\'')
    return 0;
  if (left >= 3 && memcmp (text + 1, "\305\277", 2) == 0)
    return 3;
  a = g_ascii_tolower (text[1]);
  if (a == 's' || a == 't' || a == 'm' || a == 'd')
    return 2;
  b = left >= 3 ? g_ascii_tolower (text[2]) : '\0';
  if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l'))
    return 3;
  return 0;
}

/* White space that belongs to no word: up to the last newline, or all but the last character,
 * which may lead the next word, or what there is. */
static const char *
match_white_space (const char *text, const char *end)
{
  const char *at = text, *last = text, *after_newline = NULL;
  Class c;

  while ((c = class_at (at, end)) == SPACE || c == NEWLINE)
    {
      last = at;
      at = g_utf8_next_char (at);
      if (c == NEWLINE)
        after_newline = at;
    }
  if (after_newline != NULL)
    return after_newline;
  return at == end || last == text ? at : last;
}

gsize
pretokenize_next (const char *text, gsize length)
{
  const char *end = text + length;
  const char *next = g_utf8_next_char (text);
  gsize contraction = match_contraction (text, end);
  Class first = class_at (text, end);
  Class second = class_at (next, end);
  const char *at;

  if (contraction > 0)
    return contraction;
  if (first == LETTER || (first != NUMBER && first != NEWLINE && second == LETTER))
    return (gsize)(skip (next, end, LETTER) - text);
  if (first == NUMBER)
    return (gsize)(next - text);
  if (first == OTHER || (*text == ' ' && second == OTHER))
    {
      at = skip (next, end, OTHER);
      return (gsize)(skip (at, end, NEWLINE) - text);
    }
  return (gsize)(match_white_space (text, end) - text);
}

/* Appends the combining marks [at, end) in the order of their classes, equal ones as they came. */
static void
append_sorted (GString *out, const char *at, const char *end)
{
  GString *buckets[256] = { NULL };

  for (; at < end; at = g_utf8_next_char (at))
    {
      gint c = g_unichar_combining_class (g_utf8_get_char (at)) & 255;

      if (buckets[c] == NULL)
        buckets[c] = g_string_new (NULL);
      g_string_append_unichar (buckets[c], g_utf8_get_char (at));
    }
  for (guint i = 0; i < G_N_ELEMENTS (buckets); i++)
    if (buckets[i] != NULL)
      {
        g_string_append_len (out, buckets[i]->str, (gssize)buckets[i]->len);
        g_string_free (buckets[i], TRUE);
      }
}

/* Canonical order for long runs of marks; it changes nothing that NFC would keep. */
static GString *
sort_long_runs (const char *text, gsize length)
{
  const char *end = text + length;
  GString *out = g_string_sized_new (length);

  for (const char *at = text; at < end;)
    {
      const char *run = at;
      gsize n = 0;

      while (at < end && g_unichar_combining_class (g_utf8_get_char (at)) != 0)
        {
          at = g_utf8_next_char (at);
          n++;
        }
      if (n > LONG_RUN)
        append_sorted (out, run, at);
      else
        g_string_append_len (out, run, at - run);
      if (at < end)
        {
          run = at;
          at = g_utf8_next_char (at);
          g_string_append_len (out, run, at - run);
        }
    }
  return out;
}

/* Characters of combining class 0 that may join the one before them all the same: second members
 * of canonical compositions up to Unicode 16, and what decomposes into such or into marks. */
static gboolean
joins_backward (gunichar c)
{
  static const gunichar ranges[][2] = {
    { 0x09be, 0x09be },   { 0x09d7, 0x09d7 },   { 0x0b3e, 0x0b3e },   { 0x0b56, 0x0b57 },
    { 0x0bbe, 0x0bbe },   { 0x0bd7, 0x0bd7 },   { 0x0cc2, 0x0cc2 },   { 0x0cd5, 0x0cd6 },
    { 0x0d3e, 0x0d3e },   { 0x0d57, 0x0d57 },   { 0x0dcf, 0x0dcf },   { 0x0ddf, 0x0ddf },
    { 0x0f73, 0x0f75 },   { 0x0f81, 0x0f81 },   { 0x102e, 0x102e },   { 0x1161, 0x1175 },
    { 0x11a8, 0x11c2 },   { 0x1b35, 0x1b35 },   { 0x11127, 0x11127 }, { 0x1133e, 0x1133e },
    { 0x11357, 0x11357 }, { 0x113b8, 0x113c9 }, { 0x114b0, 0x114b0 }, { 0x114ba, 0x114bd },
    { 0x115af, 0x115af }, { 0x11930, 0x11930 }, { 0x1611e, 0x16129 }, { 0x16d67, 0x16d68 },
  };

  for (guint i = 0; c >= ranges[0][0] && i < G_N_ELEMENTS (ranges); i++)
    if (c >= ranges[i][0] && c <= ranges[i][1])
      return TRUE;
  return FALSE;
}

/* The end of the chunk that starts at `at`; NUL, which GLib takes for the end, is in none. */
static const char *
find_chunk_end (const char *at, const char *end)
{
  const char *start = at;

  while (at < end && *at != '\0' && at - start < MAX_CHUNK)
    {
      gunichar c = g_utf8_get_char (at);

      if (at - start >= MIN_CHUNK && g_unichar_combining_class (c) == 0 && !joins_backward (c))
        break;
      at = g_utf8_next_char (at);
    }
  return at;
}

GString *
pretokenize_nfc (const char *text, gsize length)
{
  g_autoptr (GString) sorted = NULL;
  GString *out = g_string_sized_new (length);
  gsize ascii = 0;

  while (ascii < length && (guchar)text[ascii] < 0x80)
    ascii++;
  if (ascii == length)
    return g_string_append_len (out, text, (gssize)length);

  sorted = sort_long_runs (text, length);
  for (const char *at = sorted->str, *end = at + sorted->len; at < end;)
    {
      const char *chunk_end = find_chunk_end (at, end);
      g_autofree char *normal = g_utf8_normalize (at, chunk_end - at, G_NORMALIZE_NFC);

      g_string_append (out, normal);
      at = chunk_end;
      if (at < end && *at == '\0')
        g_string_append_c (out, *at++);
    }
  return out;
}

GString *
pretokenize_make_valid (const char *text, gsize length)
{
  const char *end = text + length;
  GString *out = g_string_sized_new (length);

  while (text < end)
    {
      const char *bad;

      g_utf8_validate_len (text, (gsize)(end - text), &bad);
      g_string_append_len (out, text, bad - text);
      if (bad < end && *bad == '\0') /* unreadable for GLib alone */
        g_string_append_c (out, '\0');
      else if (bad < end)
        g_string_append (out, "\357\277\275");
      text = bad < end ? bad + 1 : end;
    }
  return out;
}
