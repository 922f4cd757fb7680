/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/computer/calibration.h"

#include "engine/files/atomic-file.h"
#include "engine/files/json.h"

#include <math.h>
#include <string.h>

#define MAX_POINTS 12
#define MAX_KINDS  64
#define MAX_BYTES  (1 << 20) /* of the file */
#define SAME_WORK  0.02      /* relative: points nearer than this are one */
#define NEWS       0.05      /* relative: changes of a forecast below this are not worth a write */

typedef struct
{
  double work, seconds;
} Point;

typedef struct
{
  Point points[MAX_POINTS]; /* by work, ascending */
  int n;
} Curve;

struct _Calibration
{
  GMutex lock;
  char *path, *device;
  GHashTable *curves; /* kind (owned) -> Curve (owned) */
  gboolean news;
};

/* -- curves -------------------------------------------------------------------------------------
 */

static double
curve_at (const Curve *c, double work)
{
  int i = 0;

  if (c->n == 0)
    return 0.0;
  while (i < c->n && c->points[i].work < work)
    i++;
  if (i == 0)
    return c->points[0].seconds * work / c->points[0].work;
  if (i == c->n)
    return c->points[i - 1].seconds * work / c->points[i - 1].work;
  return c->points[i - 1].seconds
         + (c->points[i].seconds - c->points[i - 1].seconds) * (work - c->points[i - 1].work)
               / (c->points[i].work - c->points[i - 1].work);
}

static void
remove_point (Curve *c, int i)
{
  memmove (&c->points[i], &c->points[i + 1], (gsize)(c->n - i - 1) * sizeof (Point));
  c->n--;
}

/* Room for one more: the inner point that is nearest to the one before it goes. */
static void
thin_out (Curve *c)
{
  int nearest = 1;

  for (int i = 2; i < c->n - 1; i++)
    if (c->points[i].work / c->points[i - 1].work
        < c->points[nearest].work / c->points[nearest - 1].work)
      nearest = i;
  remove_point (c, nearest);
}

static void
curve_add (Curve *c, double work, double seconds)
{
  int i = 0;

  for (i = 0; i < c->n; i++)
    if (fabs (c->points[i].work - work) <= SAME_WORK * work)
      {
        c->points[i].seconds = seconds;
        return;
      }
  if (c->n == MAX_POINTS)
    thin_out (c);
  for (i = c->n; i > 0 && c->points[i - 1].work > work; i--)
    c->points[i] = c->points[i - 1];
  c->points[i] = (Point){ work, seconds };
  c->n++;
}

static gboolean
is_valid (double work, double seconds)
{
  return isfinite (work) && isfinite (seconds) && work > 0 && seconds > 0 && work < 1e30
         && seconds < 1e9;
}

static Curve *
find_curve (Calibration *self, const char *kind)
{
  Curve *curve = g_hash_table_lookup (self->curves, kind);

  if (curve == NULL && g_hash_table_size (self->curves) < MAX_KINDS)
    {
      curve = g_new0 (Curve, 1);
      g_hash_table_insert (self->curves, g_strdup (kind), curve);
    }
  return curve;
}

/* -- the file -----------------------------------------------------------------------------------
 */

/* The whole file, or an empty object. */
static cJSON *
read_file (const char *path)
{
  cJSON *root = json_load (path, MAX_BYTES, NULL);

  if (cJSON_IsObject (root))
    return root;
  cJSON_Delete (root);
  return cJSON_CreateObject ();
}

static void
read_curve (Calibration *self, const cJSON *list)
{
  const cJSON *pair;

  cJSON_ArrayForEach (pair, list)
  {
    const cJSON *work = cJSON_GetArrayItem (pair, 0), *seconds = cJSON_GetArrayItem (pair, 1);
    Curve *curve = find_curve (self, list->string);

    if (curve != NULL && cJSON_IsNumber (work) && cJSON_IsNumber (seconds)
        && is_valid (work->valuedouble, seconds->valuedouble))
      curve_add (curve, work->valuedouble, seconds->valuedouble);
  }
}

Calibration *
calibration_new (const char *path, const char *device)
{
  Calibration *self = g_new0 (Calibration, 1);
  const cJSON *list;

  g_mutex_init (&self->lock);
  self->path = g_strdup (path);
  self->device = g_strdup (device);
  self->curves = g_hash_table_new_full (g_str_hash, g_str_equal, g_free, g_free);
  if (path != NULL)
    {
      g_autoptr (cJSON) root = read_file (path);

      cJSON_ArrayForEach (list, cJSON_GetObjectItemCaseSensitive (
                                    root, device)) if (cJSON_IsArray (list) && list->string != NULL)
          read_curve (self, list);
    }
  return self;
}

void
calibration_free (Calibration *self)
{
  if (self == NULL)
    return;
  g_hash_table_unref (self->curves);
  g_mutex_clear (&self->lock);
  g_free (self->path);
  g_free (self->device);
  g_free (self);
}

static cJSON *
curves_to_json (Calibration *self)
{
  cJSON *object = cJSON_CreateObject ();
  GHashTableIter iter;
  gpointer kind, curve;

  g_hash_table_iter_init (&iter, self->curves);
  while (g_hash_table_iter_next (&iter, &kind, &curve))
    {
      const Curve *c = curve;
      cJSON *list = cJSON_AddArrayToObject (object, kind);

      for (int i = 0; i < c->n; i++)
        cJSON_AddItemToArray (list, cJSON_CreateDoubleArray (
                                        (double[]){ c->points[i].work, c->points[i].seconds }, 2));
    }
  return object;
}

static gboolean
write_file (Calibration *self, GError **error)
{
  g_autofree char *folder = g_path_get_dirname (self->path);
  g_autoptr (cJSON) root = read_file (self->path);
  g_autofree char *text = NULL;

  cJSON_DeleteItemFromObjectCaseSensitive (root, self->device);
  cJSON_AddItemToObject (root, self->device, curves_to_json (self));
  text = json_print (root, FALSE);
  (void)g_mkdir_with_parents (folder, 0700); /* opening says what is wrong */
  return atomic_file_put_text (self->path, text, error);
}

/* -- use ----------------------------------------------------------------------------------------
 */

void
calibration_add (Calibration *self, const char *kind, double work, double seconds)
{
  Curve *curve;

  if (!is_valid (work, seconds))
    return;
  g_mutex_lock (&self->lock);
  curve = find_curve (self, kind);
  if (curve != NULL)
    {
      double before = curve_at (curve, work);

      curve_add (curve, work, seconds);
      self->news = self->news || fabs (before - seconds) > NEWS * seconds;
    }
  g_mutex_unlock (&self->lock);
}

double
calibration_predict (Calibration *self, const char *kind, double work)
{
  const Curve *curve;
  double seconds = 0.0;

  g_mutex_lock (&self->lock);
  curve = g_hash_table_lookup (self->curves, kind);
  if (curve != NULL)
    seconds = curve_at (curve, work);
  g_mutex_unlock (&self->lock);
  return seconds;
}

gboolean
calibration_save (Calibration *self, GError **error)
{
  gboolean ok = TRUE;

  g_mutex_lock (&self->lock);
  if (self->path != NULL && self->news)
    {
      ok = write_file (self, error);
      self->news = FALSE;
    }
  g_mutex_unlock (&self->lock);
  return ok;
}
