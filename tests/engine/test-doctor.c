/* SPDX-License-Identifier: Apache-2.0
 *
 * test-doctor.c - every cause, from made-up machines: a folder in place of "/", a fake libcuda
 */
#include "engine/computer/doctor.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <glib/gstdio.h>
#include <libintl.h>
#include <locale.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NOBODY 65534

/* What a machine shows. Zero is a healthy one with a card, but for what is named. */
typedef struct
{
  const char *name;
  const char *driver;  /* FAKE_CUDA; NULL: the library is not there */
  const char *module;  /* version of the kernel module; NULL: not loaded */
  const char *sandbox; /* contents of /.flatpak-info */
  const char *release; /* ID of os-release */
  gboolean no_card, no_uvm, closed, no_node, old_cpu, little_memory;
  int cuda; /* what the build needs; 0 = 13.0; -1 = built without */
  DoctorCode expected;
  const char *command, *evidence; /* must be in it; NULL: there is no command; not looked at */
} Machine;

#define HEALTHY "13000 0 1 86 12600"
#define FLATPAK_580                                                                                \
  "[Application]\nname=io.github.tesseraimage.Tessera\n\n[Instance]\n"                             \
  "runtime-extensions=org.freedesktop.Platform.GL.default=abc;"                                    \
  "org.freedesktop.Platform.GL.nvidia-580-82-07=def\n"

static const Machine machines[] = {
  { .name = "healthy",
    .driver = HEALTHY,
    .module = "580.82.07",
    .expected = DOCTOR_GPU_READY,
    .evidence = "NVIDIA Test 0, compute capability 8.6, driver 580.82.07" },
  { .name = "no-card", .no_card = TRUE, .expected = DOCTOR_NO_CARD },
  { .name = "no-card-but-library",
    .driver = "13000 100 0 0 0",
    .no_card = TRUE,
    .expected = DOCTOR_NO_CARD },
  { .name = "no-driver",
    .release = "debian",
    .expected = DOCTOR_NO_DRIVER,
    .command = "sudo apt install nvidia-driver",
    .evidence = "driver nouveau" },
  { .name = "no-driver-unknown-system", .release = "plan9", .expected = DOCTOR_NO_DRIVER },
  { .name = "no-driver-but-library",
    .driver = "13000 100 0 0 0",
    .release = "fedora",
    .expected = DOCTOR_NO_DRIVER,
    .command = "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda" },
  { .name = "no-library",
    .module = "580.82.07",
    .release = "debian",
    .expected = DOCTOR_NO_LIBRARY,
    .command = "sudo apt install libcuda1" },
  { .name = "driver-too-old",
    .driver = "12040 0 1 86 12600",
    .module = "550.54.14",
    .release = "ubuntu",
    .expected = DOCTOR_DRIVER_TOO_OLD,
    .command = "sudo ubuntu-drivers install",
    .evidence = "550.54.14 supports CUDA 12.4; CUDA 13.0 is needed" },
  { .name = "driver-of-the-same-major",
    .driver = "12040 0 1 86 12600",
    .module = "550.54.14",
    .cuda = 12000,
    .expected = DOCTOR_GPU_READY },
  { .name = "driver-updated-not-restarted",
    .driver = "13000 803 0 0 0",
    .module = "575.51.02",
    .expected = DOCTOR_DRIVER_MISMATCH,
    .command = "systemctl reboot" },
  { .name = "extension-missing",
    .sandbox = "[Instance]\nruntime-extensions=org.freedesktop.Platform.GL.default=abc\n",
    .module = "580.82.07",
    .expected = DOCTOR_EXTENSION_MISSING,
    .command = "flatpak install flathub org.freedesktop.Platform.GL.nvidia-580-82-07" },
  { .name = "extension-differs-no-library",
    .sandbox = FLATPAK_580,
    .module = "585.10",
    .expected = DOCTOR_EXTENSION_DIFFERS,
    .command = "flatpak install flathub org.freedesktop.Platform.GL.nvidia-585-10",
    .evidence = "585.10, the sandbox's is 580-82-07" },
  { .name = "extension-differs-mismatch",
    .driver = "13000 803 0 0 0",
    .sandbox = FLATPAK_580,
    .module = "575.51.02",
    .expected = DOCTOR_EXTENSION_DIFFERS,
    .command = "flatpak install flathub org.freedesktop.Platform.GL.nvidia-575-51-02" },
  { .name = "extension-fits",
    .driver = HEALTHY,
    .sandbox = FLATPAK_580,
    .module = "580.82.07",
    .expected = DOCTOR_GPU_READY },
  { .name = "uvm-not-loaded",
    .driver = "13000 999 0 0 0",
    .module = "580.82.07",
    .no_uvm = TRUE,
    .expected = DOCTOR_UVM_NOT_LOADED,
    .command = "sudo modprobe nvidia_uvm",
    .evidence = "CUDA error 999" },
  { .name = "uvm-not-loaded-in-sandbox",
    .driver = "13000 999 0 0 0",
    .sandbox = FLATPAK_580,
    .module = "580.82.07",
    .no_uvm = TRUE,
    .expected = DOCTOR_UVM_NOT_LOADED,
    .command = "sudo modprobe nvidia_uvm" },
  { .name = "failed-for-another-reason",
    .driver = "13000 999 0 0 0",
    .module = "580.82.07",
    .expected = DOCTOR_DRIVER_FAILED,
    .command = "sudo dmesg | grep -i nvrm" },
  { .name = "no-access",
    .driver = "13000 100 0 0 0",
    .module = "580.82.07",
    .closed = TRUE,
    .expected = DOCTOR_NO_ACCESS,
    .command = "",
    .evidence = "/dev/nvidiactl cannot be opened: Permission denied" },
  { .name = "no-node",
    .driver = "13000 100 0 0 0",
    .module = "580.82.07",
    .no_node = TRUE,
    .expected = DOCTOR_NO_ACCESS,
    .command = "sudo nvidia-modprobe -u -c=0",
    .evidence = "/dev/nvidia0 cannot be opened: No such file or directory" },
  { .name = "no-node-in-sandbox",
    .driver = "13000 100 0 0 0",
    .sandbox = FLATPAK_580,
    .module = "580.82.07",
    .no_node = TRUE,
    .expected = DOCTOR_NO_ACCESS,
    .command = "flatpak override --user --device=dri io.github.tesseraimage.Tessera" },
  { .name = "card-too-old",
    .driver = "13000 0 1 61 11000",
    .module = "580.82.07",
    .expected = DOCTOR_CARD_TOO_OLD,
    .evidence = "compute capability 6.1; 7.5 is needed" },
  { .name = "built-without-cuda",
    .driver = HEALTHY,
    .module = "580.82.07",
    .cuda = -1,
    .expected = DOCTOR_NO_KERNELS },
  { .name = "little-gpu-memory",
    .driver = "13000 0 2 89 6400",
    .module = "580.82.07",
    .expected = DOCTOR_LITTLE_GPU_MEMORY,
    .evidence = "6.4 GB; published models need 8 GB" },
  { .name = "little-memory",
    .driver = HEALTHY,
    .module = "580.82.07",
    .little_memory = TRUE,
    .expected = DOCTOR_LITTLE_MEMORY,
    .evidence = "4.1 GB" },
  { .name = "no-simd",
    .driver = HEALTHY,
    .module = "580.82.07",
    .old_cpu = TRUE,
    .expected = DOCTOR_NO_SIMD,
    .evidence = "Old Processor has no AVX2" },
};

/* -- making a machine ---------------------------------------------------------------------------
 */

static char *
put (const char *root, const char *path, const char *text)
{
  char *full = g_build_filename (root, path, NULL);
  g_autofree char *dir = g_path_get_dirname (full);
  g_autoptr (GError) error = NULL;

  g_assert_cmpint (g_mkdir_with_parents (dir, 0755), ==, 0);
  g_file_set_contents (full, text, -1, &error);
  g_assert_no_error (error);
  return full;
}

static void
put_card (const char *root)
{
  const char *device = "sys/bus/pci/devices/0000:01:00.0";
  g_autofree char *vendor = g_build_filename (device, "vendor", NULL);
  g_autofree char *class = g_build_filename (device, "class", NULL);
  g_autofree char *id = g_build_filename (device, "device", NULL);
  g_autofree char *link = g_build_filename (root, device, "driver", NULL);

  g_free (put (root, vendor, "0x10de\n"));
  g_free (put (root, class, "0x030000\n"));
  g_free (put (root, id, "0x2504\n"));
  g_assert_cmpint (symlink ("../../../bus/pci/drivers/nouveau", link), ==, 0);
}

static void
put_module (const char *root, const Machine *m)
{
  g_autofree char *version = g_strdup_printf (
      "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  %s  Release Build\n"
      "GCC version:  gcc version 12.2.0\n",
      m->module);

  g_free (put (root, "proc/driver/nvidia/version", version));
  if (!m->no_uvm)
    g_free (put (root, "proc/modules", "nvidia_uvm 4096 0 - Live 0x0\nnvidia 1 0 - Live 0x0\n"));
  if (!m->no_node)
    g_free (put (root, "dev/nvidia0", ""));
  g_free (put (root, "dev/nvidiactl", ""));
  if (!m->no_uvm)
    g_free (put (root, "dev/nvidia-uvm", ""));
}

static char *
make_root (const Machine *m)
{
  g_autoptr (GError) error = NULL;
  char *root = g_dir_make_tmp ("tessera-doctor-XXXXXX", &error);
  g_autofree char *release = NULL, *cpu = NULL;

  g_assert_no_error (error);
  g_assert_cmpint (g_chmod (root, 0755), ==, 0);
  release = g_strdup_printf ("NAME=\"Test\"\nID=%s\n", m->release != NULL ? m->release : "test");
  g_free (put (root, m->sandbox != NULL ? "run/host/os-release" : "etc/os-release", release));
  if (m->sandbox != NULL)
    g_free (put (root, ".flatpak-info", m->sandbox));
  if (!m->no_card)
    put_card (root);
  if (m->module != NULL)
    put_module (root, m);
  cpu = g_strdup_printf ("model name\t: %s\nflags\t\t: fpu sse2 %s\n",
                         m->old_cpu ? "Old Processor" : "New Processor",
                         m->old_cpu ? "avx" : "avx avx2 fma");
  g_free (put (root, "proc/cpuinfo", cpu));
  g_free (put (root, "proc/meminfo",
               m->little_memory ? "MemTotal:        4000000 kB\n"
                                : "MemTotal:       32000000 kB\nMemFree: 1 kB\n"));
  return root;
}

static void
remove_tree (const char *path)
{
  g_autoptr (GDir) dir = NULL;
  const char *name;

  if (!g_file_test (path, G_FILE_TEST_IS_SYMLINK))
    dir = g_dir_open (path, 0, NULL);
  while (dir != NULL && (name = g_dir_read_name (dir)) != NULL)
    {
      g_autofree char *child = g_build_filename (path, name, NULL);

      remove_tree (child);
    }
  g_assert_cmpint (g_remove (path), ==, 0);
}

/* -- the cases ----------------------------------------------------------------------------------
 */

static const DoctorFinding *
get_finding (GPtrArray *findings, DoctorCode code)
{
  for (guint i = 0; i < findings->len; i++)
    {
      const DoctorFinding *finding = g_ptr_array_index (findings, i);

      if (finding->code == code)
        return finding;
    }
  return NULL;
}

static GPtrArray *
examine (const char *root, const Machine *m)
{
  const DoctorPlace place = {
    .root = root,
    .library = m->driver != NULL ? g_getenv ("TESSERA_FAKE_CUDA") : "/nowhere/libcuda.so.1",
    .data_dir = root,
    .needed_cuda = m->cuda == 0 ? 13000 : m->cuda,
  };
  g_autoptr (DoctorEvidence) evidence = NULL;

  if (m->driver != NULL)
    g_setenv ("FAKE_CUDA", m->driver, TRUE);
  evidence = doctor_look (&place);
  if (m->cuda < 0)
    evidence->needed_cuda = 0;
  return doctor_judge (evidence);
}

static void
test_machine (gconstpointer data)
{
  const Machine *m = data;
  g_autofree char *root = make_root (m);
  g_autofree char *node = g_build_filename (root, "dev/nvidiactl", NULL);
  g_autoptr (GPtrArray) findings = NULL;
  const DoctorFinding *finding;
  gboolean was_root = geteuid () == 0;

  if (m->closed)
    {
      g_assert_cmpint (g_chmod (node, 0), ==, 0);
      if (was_root)
        g_assert_cmpint (seteuid (NOBODY), ==, 0);
    }
  findings = examine (root, m);
  if (m->closed && was_root)
    g_assert_cmpint (seteuid (0), ==, 0);

  finding = get_finding (findings, m->expected);
  for (guint i = 0; finding == NULL && i < findings->len; i++)
    {
      const DoctorFinding *other = g_ptr_array_index (findings, i);

      g_test_message ("found %s: %s", doctor_code_name (other->code), other->evidence);
    }
  g_assert_nonnull (finding);
  if (m->command != NULL && m->command[0] != '\0')
    g_assert_cmpstr (finding->command, ==, m->command);
  else if (m->command == NULL)
    g_assert_null (finding->command);
  if (m->evidence != NULL && strstr (finding->evidence, m->evidence) == NULL)
    g_error ("\"%s\" is not in \"%s\"", m->evidence, finding->evidence);
  /* Whatever is not all right says what to do. */
  for (guint i = 0; i < findings->len; i++)
    {
      finding = g_ptr_array_index (findings, i);
      g_assert_true ((finding->state == DOCTOR_OK) == (finding->remedy == NULL));
      g_assert_nonnull (finding->title);
    }
  remove_tree (root);
}

/* The node's group is the one to join. */
static void
test_group (void)
{
  const Machine m = { .driver = "13000 100 0 0 0", .module = "580.82.07" };
  g_autofree char *root = NULL, *node = NULL;
  g_autoptr (GPtrArray) findings = NULL;
  const DoctorFinding *finding;

  if (geteuid () != 0)
    {
      g_test_skip ("only root can give a file to a group it is not in");
      return;
    }
  root = make_root (&m);
  node = g_build_filename (root, "dev/nvidiactl", NULL);
  g_assert_cmpint (chown (node, 0, 1), ==, 0); /* daemon, everywhere */
  g_assert_cmpint (g_chmod (node, 0660), ==, 0);
  g_assert_cmpint (seteuid (NOBODY), ==, 0);
  findings = examine (root, &m);
  g_assert_cmpint (seteuid (0), ==, 0);
  finding = get_finding (findings, DOCTOR_NO_ACCESS);
  g_assert_nonnull (finding);
  g_assert_cmpstr (finding->command, ==, "sudo usermod -aG daemon \"$USER\"");
  remove_tree (root);
}

/* Evidence made by hand: disks cannot be filled for a test. */
static void
test_little_disk (void)
{
  g_autoptr (DoctorEvidence) evidence = doctor_look (NULL);
  g_autoptr (GPtrArray) findings = NULL;
  const DoctorFinding *finding;

  g_assert_true (evidence->disk_known);
  evidence->disk = G_GUINT64_CONSTANT (3000000000);
  findings = doctor_judge (evidence);
  finding = get_finding (findings, DOCTOR_LITTLE_DISK);
  g_assert_nonnull (finding);
  g_assert_nonnull (strstr (finding->evidence, "3.0 GB left"));
}

/* The program itself, with the fake driver where the loader looks first. */
static void
test_program (void)
{
  const char *argv[] = { g_getenv ("TESSERA_CLI"), "doctor", "--json", NULL };
  g_auto (GStrv) env = g_get_environ ();
  g_autofree char *folder = g_path_get_dirname (g_getenv ("TESSERA_FAKE_CUDA"));
  g_autofree char *output = NULL, *complaint = NULL;
  g_autoptr (GError) error = NULL;
  cJSON *root, *first;
  int status = 0;

  env = g_environ_setenv (env, "LD_LIBRARY_PATH", folder, TRUE);
  env = g_environ_setenv (env, "FAKE_CUDA", "99000 0 1 61 8000", TRUE);
  g_spawn_sync (NULL, (char **)argv, env, G_SPAWN_DEFAULT, NULL, NULL, &output, &complaint, &status,
                &error);
  g_assert_no_error (error);
  g_assert_true (WIFEXITED (status));
  g_assert_cmpint (WEXITSTATUS (status), ==, 1);
  g_assert_nonnull (strstr (complaint, "the graphics card cannot be used"));
  root = cJSON_Parse (output);
  g_assert_nonnull (root);
  g_assert_cmpint (cJSON_GetObjectItem (root, "problems")->valueint, ==, 1);
  first = cJSON_GetArrayItem (cJSON_GetObjectItem (root, "findings"), 0);
  g_assert_cmpstr (cJSON_GetObjectItem (first, "code")->valuestring, ==, "card-too-old");
  cJSON_Delete (root);
}

/* In a program that binds the app's translations, findings speak its language. */
static void
test_language (void)
{
  const char *locale_dir = g_getenv ("TESSERA_LOCALE_DIR");
  g_autoptr (GPtrArray) cards = g_ptr_array_new (), findings = NULL;
  const DoctorEvidence evidence = { .driver_cuda = 12040, .needed_cuda = 13000, .cards = cards };
  const DoctorFinding *finding;

  if (!g_file_test (locale_dir, G_FILE_TEST_IS_DIR))
    {
      g_test_skip ("this build has no translations");
      return;
    }
  if (!g_test_subprocess ())
    {
      g_test_trap_subprocess (NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
      g_test_trap_assert_passed ();
      return;
    }
  g_setenv ("LANGUAGE", "de", TRUE);
  setlocale (LC_ALL, "");
  bindtextdomain ("tessera", locale_dir);
  bind_textdomain_codeset ("tessera", "UTF-8");
  textdomain ("tessera");
  findings = doctor_judge (&evidence);
  finding = get_finding (findings, DOCTOR_DRIVER_TOO_OLD);
  g_assert_cmpstr (finding->evidence, ==,
                   "Der Treiber unterstützt CUDA 12.4; nötig ist CUDA 13.0.");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  for (guint i = 0; i < G_N_ELEMENTS (machines); i++)
    {
      g_autofree char *path = g_strdup_printf ("/doctor/%s", machines[i].name);

      g_test_add_data_func (path, &machines[i], test_machine);
    }
  g_test_add_func ("/doctor/group", test_group);
  g_test_add_func ("/doctor/little-disk", test_little_disk);
  g_test_add_func ("/doctor/language", test_language);
  g_test_add_func ("/doctor/program", test_program);
  return g_test_run ();
}
