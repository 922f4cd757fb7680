/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/computer/doctor.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MAX_FILE  (1 << 20)
#define MAX_CARDS 16

/* -- files --------------------------------------------------------------------------------------
 */

/* Small files under the root only; the kernel's say their size is 0, so it is not asked. */
static char *
read_text (const char *root, const char *path)
{
  g_autofree char *full = g_build_filename (root, path, NULL);
  g_autofree char *text = g_malloc (MAX_FILE + 1);
  gsize length = 0;
  gssize got;
  int fd = open (full, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

  if (fd < 0)
    return NULL;
  while (length < MAX_FILE && (got = read (fd, text + length, MAX_FILE - length)) > 0)
    length += (gsize)got;
  close (fd);
  text[length] = '\0';
  return g_utf8_make_valid (text, (gssize)strlen (text));
}

/* First capture of a pattern, or NULL. */
static char *
find (const char *text, const char *pattern)
{
  g_autoptr (GRegex) regex = NULL;
  g_autoptr (GMatchInfo) match = NULL;

  if (text == NULL)
    return NULL;
  regex = g_regex_new (pattern, G_REGEX_MULTILINE, 0, NULL);
  if (!g_regex_match (regex, text, 0, &match))
    return NULL;
  return g_match_info_fetch (match, 1);
}

/* -- the card and its kernel module -------------------------------------------------------------
 */

static void
look_at_pci (DoctorEvidence *self, const char *root)
{
  g_autofree char *folder = g_build_filename (root, "sys/bus/pci/devices", NULL);
  g_autoptr (GDir) dir = g_dir_open (folder, 0, NULL);
  const char *name;

  while (dir != NULL && self->pci == NULL && (name = g_dir_read_name (dir)) != NULL)
    {
      g_autofree char *device = g_build_filename (folder, name, NULL);
      g_autofree char *vendor = read_text (device, "vendor");
      g_autofree char *class = read_text (device, "class");
      g_autofree char *id = read_text (device, "device");
      g_autofree char *link = g_build_filename (device, "driver", NULL);
      g_autofree char *target = g_file_read_link (link, NULL);
      g_autofree char *driver = target != NULL ? g_path_get_basename (target) : NULL;

      /* NVIDIA, and a display controller: cards also hold audio and USB. */
      if (vendor == NULL || class == NULL || !g_str_has_prefix (vendor, "0x10de")
          || !g_str_has_prefix (class, "0x03"))
        continue;
      self->pci = g_strdup_printf ("%s (device %s, driver %s)", name,
                                   id != NULL ? g_strchomp (id) : "unknown",
                                   driver != NULL ? driver : "none");
    }
}

static void
look_at_modules (DoctorEvidence *self, const char *root)
{
  g_autofree char *version = read_text (root, "proc/driver/nvidia/version");
  g_autofree char *in_sys = read_text (root, "sys/module/nvidia/version");
  g_autofree char *modules = read_text (root, "proc/modules");
  g_autofree char *majors = read_text (root, "proc/devices");
  g_autofree char *uvm_module = find (modules, "^(nvidia_uvm) ");
  g_autofree char *uvm_major = find (majors, "^ *\\d+ (nvidia-uvm)$");

  self->module_version = find (version, "Kernel Module.*? (\\d+\\.\\d+(?:\\.\\d+)?)");
  if (self->module_version == NULL)
    self->module_version = find (in_sys, "^(\\d+\\.\\d+(?:\\.\\d+)?)$");
  /* A driver that is part of the kernel image is no module but has its device number. */
  self->uvm = uvm_module != NULL || uvm_major != NULL;
}

/* Opening is the only proof: a container may forbid what the mode bits allow. */
static void
look_at_node (DoctorEvidence *self, const char *root, const char *node)
{
  g_autofree char *path = g_build_filename (root, node, NULL);
  struct stat status;
  int fd;

  if (self->closed_node != NULL)
    return;
  fd = open (path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (fd >= 0)
    {
      close (fd);
      return;
    }
  self->closed_errno = errno;
  self->closed_node = g_strconcat ("/", node, NULL);
  if (stat (path, &status) == 0 && (status.st_mode & (S_IRGRP | S_IWGRP)) == (S_IRGRP | S_IWGRP))
    {
      char buffer[4096];
      struct group group, *found = NULL;

      if (getgrgid_r (status.st_gid, &group, buffer, sizeof buffer, &found) == 0 && found != NULL)
        self->closed_group = g_strdup (found->gr_name);
    }
}

/* -- the driver library -------------------------------------------------------------------------
 */

typedef struct
{
  int (*driver_version) (int *version);
  int (*init) (unsigned flags);
  int (*count) (int *count);
  int (*name) (char *name, int length, int device);
  int (*attribute) (int *value, int attribute, int device);
  int (*memory) (size_t *bytes, int device);
} Driver;

/* CUdevice_attribute */
#define CAPABILITY_MAJOR 75
#define CAPABILITY_MINOR 76

static gboolean
load_driver (Driver *driver, const char *library, char **error)
{
  void *handle = dlopen (library, RTLD_NOW | RTLD_LOCAL);
  const struct
  {
    const char *name;
    gsize offset;
  } symbols[] = {
    { "cuDriverGetVersion", G_STRUCT_OFFSET (Driver, driver_version) },
    { "cuInit", G_STRUCT_OFFSET (Driver, init) },
    { "cuDeviceGetCount", G_STRUCT_OFFSET (Driver, count) },
    { "cuDeviceGetName", G_STRUCT_OFFSET (Driver, name) },
    { "cuDeviceGetAttribute", G_STRUCT_OFFSET (Driver, attribute) },
    { "cuDeviceTotalMem_v2", G_STRUCT_OFFSET (Driver, memory) },
  };

  if (handle == NULL)
    {
      *error = g_strdup (dlerror ());
      return FALSE;
    }
  /* Never closed: the driver keeps threads and exit handlers of its own. */
  for (guint i = 0; i < G_N_ELEMENTS (symbols); i++)
    {
      void *symbol = dlsym (handle, symbols[i].name);

      if (symbol == NULL)
        {
          *error = g_strdup_printf ("%s has no %s", library, symbols[i].name);
          return FALSE;
        }
      memcpy (G_STRUCT_MEMBER_P (driver, symbols[i].offset), &symbol, sizeof symbol);
    }
  return TRUE;
}

static void
card_free (gpointer data)
{
  DoctorCard *card = data;

  g_free (card->name);
  g_free (card);
}

static void
look_at_driver (DoctorEvidence *self, const char *library)
{
  Driver driver = { NULL };
  int count = 0;

  if (!load_driver (&driver, library, &self->library_error))
    return;
  if (driver.driver_version (&self->driver_cuda) != 0)
    self->driver_cuda = 0;
  self->init_error = driver.init (0);
  if (self->init_error == 0)
    self->init_error = driver.count (&count);
  for (int i = 0; self->init_error == 0 && i < MIN (count, MAX_CARDS); i++)
    {
      DoctorCard *card = g_new0 (DoctorCard, 1);
      char name[256] = "";
      int major = 0, minor = 0;
      size_t memory = 0;

      if (driver.name (name, sizeof name - 1, i) == 0)
        card->name = g_utf8_make_valid (name, -1);
      else
        card->name = g_strdup ("graphics card");
      if (driver.attribute (&major, CAPABILITY_MAJOR, i) == 0
          && driver.attribute (&minor, CAPABILITY_MINOR, i) == 0)
        card->sm = major * 10 + minor;
      if (driver.memory (&memory, i) == 0)
        card->memory = memory;
      g_ptr_array_add (self->cards, card);
    }
}

/* -- the rest of the machine --------------------------------------------------------------------
 */

static void
look_at_sandbox (DoctorEvidence *self, const char *root)
{
  g_autofree char *info = read_text (root, ".flatpak-info");
  g_autofree char *gl = g_build_filename (root, "usr/lib/x86_64-linux-gnu/GL", NULL);
  g_autoptr (GDir) dir = NULL;
  g_autofree char *release = NULL;
  const char *name;

  self->flatpak = info != NULL;
  release = read_text (root, self->flatpak ? "run/host/os-release" : "etc/os-release");
  self->distribution = find (release, "^ID=\"?([a-z0-9._-]+)");
  if (!self->flatpak)
    return;
  self->extension = find (info, "^runtime-extensions=.*\\.GL\\.nvidia-([0-9-]+)");
  dir = g_dir_open (gl, 0, NULL);
  while (dir != NULL && self->extension == NULL && (name = g_dir_read_name (dir)) != NULL)
    if (g_str_has_prefix (name, "nvidia-"))
      self->extension = g_strdup (name + strlen ("nvidia-"));
}

static void
look_at_processor (DoctorEvidence *self, const char *root)
{
  g_autofree char *cpu = read_text (root, "proc/cpuinfo");
  g_autofree char *memory = read_text (root, "proc/meminfo");
  g_autofree char *avx2 = find (cpu, "^flags\\s*:.*\\b(avx2)\\b");
  g_autofree char *fma = find (cpu, "^flags\\s*:.*\\b(fma)\\b");
  g_autofree char *avx512 = find (cpu, "^flags\\s*:.*\\b(avx512bw)\\b");
  g_autofree char *total = find (memory, "^MemTotal:\\s*(\\d{1,15}) kB");

  self->processor = find (cpu, "^model name\\s*: *(.+)$");
  self->avx2 = avx2 != NULL && fma != NULL;
  self->avx512 = self->avx2 && avx512 != NULL;
  if (total != NULL)
    self->memory = g_ascii_strtoull (total, NULL, 10) * 1024;
}

/* The folder may not exist yet: its nearest parent is on the same disk. */
static void
look_at_disk (DoctorEvidence *self, const char *data_dir)
{
  g_autofree char *dir = g_strdup (data_dir);
  struct statvfs status;

  self->data_dir = g_strdup (data_dir);
  while (statvfs (dir, &status) != 0)
    {
      char *parent = g_path_get_dirname (dir);
      gboolean top = g_str_equal (parent, dir);

      g_free (dir);
      dir = parent;
      if (top)
        return;
    }
  self->disk_known = TRUE;
  self->disk = (guint64)status.f_bavail * status.f_frsize;
}

DoctorEvidence *
doctor_look (const DoctorPlace *place)
{
  DoctorEvidence *self = g_new0 (DoctorEvidence, 1);
  const char *root = place != NULL && place->root != NULL ? place->root : "/";
  const char *library = place != NULL ? place->library : NULL;
  const char *data_dir = place != NULL ? place->data_dir : NULL;
  static const char *const nodes[] = { "dev/nvidiactl", "dev/nvidia0", "dev/nvidia-uvm" };

  self->cards = g_ptr_array_new_with_free_func (card_free);
  self->needed_cuda = place != NULL ? place->needed_cuda : 0;
#ifdef CUDA_RUNTIME_MAJOR
  /* Any driver of the runtime's own major version will do. */
  if (self->needed_cuda == 0)
    self->needed_cuda = CUDA_RUNTIME_MAJOR * 1000;
#endif
  look_at_sandbox (self, root);
  look_at_pci (self, root);
  look_at_driver (self, library != NULL ? library : "libcuda.so.1");
  /* After the driver, which makes missing nodes itself where it may, and loads nvidia_uvm. */
  look_at_modules (self, root);
  for (guint i = 0; i < G_N_ELEMENTS (nodes); i++)
    look_at_node (self, root, nodes[i]);
  look_at_processor (self, root);
  look_at_disk (self, data_dir != NULL ? data_dir : g_get_user_data_dir ());
  return self;
}

void
doctor_evidence_free (DoctorEvidence *self)
{
  if (self == NULL)
    return;
  g_free (self->distribution);
  g_free (self->pci);
  g_free (self->module_version);
  g_free (self->extension);
  g_free (self->closed_node);
  g_free (self->closed_group);
  g_free (self->library_error);
  g_free (self->data_dir);
  g_free (self->processor);
  g_ptr_array_unref (self->cards);
  g_free (self);
}
