/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/computer/doctor.h"

#include <errno.h>
#include <string.h>

/* What the app binds; where nothing does, as in tessera-cli, all is English. */
#define GETTEXT_PACKAGE "tessera"
#include <glib/gi18n-lib.h>

/* The smallest published model: the text encoder's needed part is 7.84 GB in BF16, and runs before
 * the 4-bit transformer of 3.6 GB (specs z-image 1.5 and svdquant 2.1). A card sold with 8 GB says
 * a little more than 8e9 bytes. */
#define ENOUGH_GPU_MEMORY G_GUINT64_CONSTANT (8000000000)
#define ENOUGH_MEMORY     G_GUINT64_CONSTANT (8000000000)
#define ENOUGH_DISK       G_GUINT64_CONSTANT (12000000000) /* both files, and the decoder */

/* CUresult */
#define CUDA_NO_MEMORY           2
#define CUDA_INSUFFICIENT_DRIVER 35
#define CUDA_NO_DEVICE           100
#define CUDA_DRIVER_MISMATCH     803
#define CUDA_COMPAT_UNSUPPORTED  804

static const struct
{
  const char *name, *title;
  DoctorState state;
} codes[DOCTOR_N_CODES] = {
  [DOCTOR_GPU_READY] = { "gpu-ready", "The graphics card is ready", DOCTOR_OK },
  [DOCTOR_NO_CARD] = { "no-card", "There is no NVIDIA graphics card", DOCTOR_WARNING },
  [DOCTOR_NO_DRIVER] = { "no-driver", "The NVIDIA driver is not installed", DOCTOR_PROBLEM },
  [DOCTOR_NO_LIBRARY]
  = { "no-library", "The driver's library for computing is missing", DOCTOR_PROBLEM },
  [DOCTOR_EXTENSION_MISSING]
  = { "extension-missing", "The driver is missing from the sandbox", DOCTOR_PROBLEM },
  [DOCTOR_EXTENSION_DIFFERS]
  = { "extension-differs", "The sandbox has another driver than the computer", DOCTOR_PROBLEM },
  [DOCTOR_DRIVER_TOO_OLD] = { "driver-too-old", "The NVIDIA driver is too old", DOCTOR_PROBLEM },
  [DOCTOR_DRIVER_MISMATCH]
  = { "driver-mismatch", "The driver was updated but is not running yet", DOCTOR_PROBLEM },
  [DOCTOR_DRIVER_FAILED] = { "driver-failed", "The NVIDIA driver does not start", DOCTOR_PROBLEM },
  [DOCTOR_UVM_NOT_LOADED]
  = { "uvm-not-loaded", "The graphics driver is not ready for computing", DOCTOR_PROBLEM },
  [DOCTOR_NO_ACCESS] = { "no-access", "The graphics card may not be used", DOCTOR_PROBLEM },
  [DOCTOR_CARD_TOO_OLD] = { "card-too-old", "The graphics card is too old", DOCTOR_PROBLEM },
  [DOCTOR_NO_KERNELS] = { "no-kernels", "This build uses the processor only", DOCTOR_WARNING },
  [DOCTOR_GPU_MEMORY] = { "gpu-memory", "Graphics memory is sufficient", DOCTOR_OK },
  [DOCTOR_LITTLE_GPU_MEMORY]
  = { "little-gpu-memory", "There is little graphics memory", DOCTOR_WARNING },
  [DOCTOR_MEMORY] = { "memory", "Memory is sufficient", DOCTOR_OK },
  [DOCTOR_LITTLE_MEMORY] = { "little-memory", "There is little memory", DOCTOR_WARNING },
  [DOCTOR_DISK] = { "disk", "Disk space is sufficient", DOCTOR_OK },
  [DOCTOR_LITTLE_DISK] = { "little-disk", "There is little disk space", DOCTOR_WARNING },
  [DOCTOR_SIMD] = { "simd", "The processor has vector instructions", DOCTOR_OK },
  [DOCTOR_NO_SIMD] = { "no-simd", "The processor lacks vector instructions", DOCTOR_WARNING },
};

const char *
doctor_code_name (DoctorCode code)
{
  return codes[code].name;
}

static void
finding_free (gpointer data)
{
  DoctorFinding *self = data;

  g_free (self->evidence);
  g_free (self->remedy);
  g_free (self->command);
  g_free (self);
}

/* `remedy` and `command` may be NULL; evidence is taken over. */
static void
add (GPtrArray *findings, DoctorCode code, char *evidence, const char *remedy, const char *command)
{
  DoctorFinding *finding = g_new0 (DoctorFinding, 1);

  finding->code = code;
  finding->state = codes[code].state;
  finding->title = codes[code].title;
  finding->evidence = evidence;
  finding->remedy = g_strdup (remedy);
  finding->command = g_strdup (command);
  g_ptr_array_add (findings, finding);
}

/* -- commands, as the distributions have them ---------------------------------------------------
 */

typedef enum
{
  INSTALL_DRIVER,
  INSTALL_LIBRARY,
} Install;

static const char *
install_command (const char *distribution, Install what)
{
  static const struct
  {
    const char *distribution, *commands[2];
  } known[] = {
    { "debian", { "sudo apt install nvidia-driver", "sudo apt install libcuda1" } },
    { "ubuntu", { "sudo ubuntu-drivers install", "sudo ubuntu-drivers install" } },
    { "linuxmint", { "sudo ubuntu-drivers install", "sudo ubuntu-drivers install" } },
    { "fedora",
      { "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda",
        "sudo dnf install xorg-x11-drv-nvidia-cuda" } },
    { "arch", { "sudo pacman -S nvidia-open nvidia-utils", "sudo pacman -S nvidia-utils" } },
  };

  for (guint i = 0; distribution != NULL && i < G_N_ELEMENTS (known); i++)
    if (g_str_equal (distribution, known[i].distribution))
      return known[i].commands[what];
  return NULL;
}

/* Oldest driver of a CUDA release, from NVIDIA's compatibility table; NULL if not known here. */
static const char *
oldest_driver (int cuda)
{
  switch (cuda / 1000)
    {
    case 11:
      return "450.80";
    case 12:
      return "525.60";
    case 13:
      return "580.65";
    default:
      return NULL;
    }
}

/* As the extension is named: "580-82-07". */
static char *
host_version (const DoctorEvidence *e)
{
  return e->module_version != NULL ? g_strdelimit (g_strdup (e->module_version), ".", '-') : NULL;
}

static char *
extension_command (const DoctorEvidence *e)
{
  g_autofree char *version = host_version (e);

  return g_strdup_printf ("flatpak install flathub org.freedesktop.Platform.GL.nvidia-%s", version);
}

/* -- the chain: card, driver, access, age -------------------------------------------------------
 */

static gboolean
extension_differs (const DoctorEvidence *e)
{
  g_autofree char *host = host_version (e);

  return e->flatpak && e->extension != NULL && host != NULL && !g_str_equal (e->extension, host);
}

static void
judge_extension (const DoctorEvidence *e, GPtrArray *findings)
{
  g_autofree char *command = extension_command (e);

  if (e->extension == NULL)
    add (findings, DOCTOR_EXTENSION_MISSING,
         g_strdup_printf (_ ("The computer's driver is %s; the sandbox has none."),
                          e->module_version),
         _ ("Install the Flatpak driver extension of the same version, then start the app again."),
         command);
  else
    add (findings, DOCTOR_EXTENSION_DIFFERS,
         g_strdup_printf (_ ("The computer's driver is %s, the sandbox's is %s."),
                          e->module_version, e->extension),
         _ ("Install the Flatpak driver extension of the same version, then start the app again."),
         command);
}

static void
judge_missing_library (const DoctorEvidence *e, GPtrArray *findings)
{
  if (e->module_version != NULL && e->flatpak && (e->extension == NULL || extension_differs (e)))
    judge_extension (e, findings);
  else if (e->module_version != NULL)
    add (findings, DOCTOR_NO_LIBRARY,
         g_strdup_printf (_ ("The kernel module is version %s, but: %s."), e->module_version,
                          e->library_error),
         _ ("Install the part of the driver that contains libcuda.so.1, of the same version."),
         install_command (e->distribution, INSTALL_LIBRARY));
  else if (e->pci != NULL)
    add (findings, DOCTOR_NO_DRIVER,
         g_strdup_printf (_ ("The card at %s has no NVIDIA kernel module."), e->pci),
         _ ("Install NVIDIA's driver from the distribution, then restart the computer."),
         install_command (e->distribution, INSTALL_DRIVER));
  else
    add (findings, DOCTOR_NO_CARD, g_strdup (_ ("No NVIDIA card is on the PCI bus.")),
         _ ("Images are made by the processor, which takes much longer."), NULL);
}

static void
judge_old_driver (const DoctorEvidence *e, GPtrArray *findings)
{
  const char *oldest = oldest_driver (e->needed_cuda);
  int has = e->driver_cuda, needs = e->needed_cuda;
  char *evidence;
  g_autofree char *remedy = NULL;

  if (oldest != NULL)
    remedy = g_strdup_printf (_ ("Install driver %s or newer, then restart the computer."), oldest);
  else
    remedy = g_strdup (_ ("Install a newer driver, then restart the computer."));
  if (e->module_version != NULL)
    evidence = g_strdup_printf (_ ("The driver %s supports CUDA %d.%d; CUDA %d.%d is needed."),
                                e->module_version, has / 1000, has % 1000 / 10, needs / 1000,
                                needs % 1000 / 10);
  else
    evidence = g_strdup_printf (_ ("The driver supports CUDA %d.%d; CUDA %d.%d is needed."),
                                has / 1000, has % 1000 / 10, needs / 1000, needs % 1000 / 10);
  add (findings, DOCTOR_DRIVER_TOO_OLD, evidence, remedy,
       install_command (e->distribution, INSTALL_DRIVER));
}

static void
judge_closed_node (const DoctorEvidence *e, GPtrArray *findings)
{
  g_autofree char *command = NULL;
  const char *remedy;

  if (e->flatpak)
    {
      command = g_strdup ("flatpak override --user --device=dri io.github.tesseraimage.Tessera");
      remedy = _ ("Let the app use the graphics card, then start it again.");
    }
  else if (e->closed_errno == ENOENT)
    {
      command = g_strdup ("sudo nvidia-modprobe -u -c=0");
      remedy = _ ("Make the device nodes; in a container, pass the card on to it.");
    }
  else if (e->closed_group != NULL && !g_str_equal (e->closed_group, "root"))
    {
      command = g_strdup_printf ("sudo usermod -aG %s \"$USER\"", e->closed_group);
      remedy = _ ("Join the group that may use the card, then log in again.");
    }
  else
    {
      command = g_strdup_printf ("sudo chmod a+rw %s", e->closed_node);
      remedy = _ ("Let every user open the device node.");
    }
  add (findings, DOCTOR_NO_ACCESS,
       g_strdup_printf (_ ("%s cannot be opened: %s."), e->closed_node,
                        g_strerror (e->closed_errno)),
       remedy, command);
}

static void
judge_failed_start (const DoctorEvidence *e, GPtrArray *findings)
{
  int code = e->init_error != 0 ? e->init_error : CUDA_NO_DEVICE;
  gboolean node_missing = e->closed_node != NULL && e->module_version != NULL;
  /* Without the module its node cannot be there: that is not a matter of access. */
  gboolean uvm_node = node_missing && g_str_has_suffix (e->closed_node, "nvidia-uvm");

  if (extension_differs (e))
    judge_extension (e, findings);
  else if (code == CUDA_INSUFFICIENT_DRIVER || code == CUDA_COMPAT_UNSUPPORTED)
    judge_old_driver (e, findings);
  else if (code == CUDA_DRIVER_MISMATCH)
    add (findings, DOCTOR_DRIVER_MISMATCH,
         g_strdup_printf (_ ("The kernel module is version %s and does not match the library "
                             "(CUDA error %d)."),
                          e->module_version != NULL ? e->module_version : _ ("unknown"), code),
         _ ("Restart the computer."), "systemctl reboot");
  else if (node_missing && !(uvm_node && !e->uvm))
    judge_closed_node (e, findings);
  else if (!e->uvm && code != CUDA_NO_DEVICE && code != CUDA_NO_MEMORY)
    add (findings, DOCTOR_UVM_NOT_LOADED,
         g_strdup_printf (_ ("The kernel module nvidia_uvm is not loaded (CUDA error %d)."), code),
         e->flatpak
             ? _ ("Load the module on the computer itself; a sandbox cannot.")
             : _ ("Load the module. It is loaded by itself once nvidia-modprobe is installed."),
         "sudo modprobe nvidia_uvm");
  else if (code == CUDA_NO_DEVICE && e->pci == NULL)
    add (findings, DOCTOR_NO_CARD,
         g_strdup (_ ("The driver finds no NVIDIA card (CUDA error 100).")),
         _ ("Images are made by the processor, which takes much longer."), NULL);
  else if (code == CUDA_NO_DEVICE && e->module_version == NULL)
    add (findings, DOCTOR_NO_DRIVER,
         g_strdup_printf (_ ("The card at %s has no NVIDIA kernel module."), e->pci),
         _ ("Install NVIDIA's driver from the distribution, then restart the computer."),
         install_command (e->distribution, INSTALL_DRIVER));
  else
    add (findings, DOCTOR_DRIVER_FAILED,
         g_strdup_printf (_ ("Its start ended with CUDA error %d."), code),
         _ ("Restart the computer; if that does not help, the kernel's log says why."),
         "sudo dmesg | grep -i nvrm");
}

static const DoctorCard *
best_card (const DoctorEvidence *e)
{
  const DoctorCard *best = NULL;

  for (guint i = 0; i < e->cards->len; i++)
    {
      const DoctorCard *card = g_ptr_array_index (e->cards, i);
      gboolean able = card->sm >= DOCTOR_OLDEST_SM;

      if (best == NULL || (able && best->sm < DOCTOR_OLDEST_SM)
          || (able == (best->sm >= DOCTOR_OLDEST_SM) && card->memory > best->memory))
        best = card;
    }
  return best;
}

static void
judge_card (const DoctorEvidence *e, GPtrArray *findings)
{
  const DoctorCard *card = best_card (e);
  double gb = (double)card->memory / 1e9;

  if (card->sm < DOCTOR_OLDEST_SM)
    {
      add (findings, DOCTOR_CARD_TOO_OLD,
           g_strdup_printf (_ ("%s has compute capability %d.%d; %d.%d is needed."), card->name,
                            card->sm / 10, card->sm % 10, DOCTOR_OLDEST_SM / 10,
                            DOCTOR_OLDEST_SM % 10),
           _ ("A card of the RTX 20 series or newer is needed. Until then the processor is used."),
           NULL);
      return;
    }
  if (e->needed_cuda == 0)
    {
      add (findings, DOCTOR_NO_KERNELS, g_strdup_printf (_ ("%s is there and unused."), card->name),
           _ ("Install a build with CUDA, such as the Flatpak."), NULL);
      return;
    }
  add (findings, DOCTOR_GPU_READY,
       g_strdup_printf (_ ("%s, compute capability %d.%d, driver %s."), card->name, card->sm / 10,
                        card->sm % 10,
                        e->module_version != NULL ? e->module_version : _ ("unknown")),
       NULL, NULL);
  if (card->memory < ENOUGH_GPU_MEMORY)
    add (findings, DOCTOR_LITTLE_GPU_MEMORY,
         g_strdup_printf (_ ("%s has %.1f GB; published models need %.0f GB."), card->name, gb,
                          (double)ENOUGH_GPU_MEMORY / 1e9),
         _ ("Use the built-in model, or the processor for the published ones."), NULL);
  else
    add (findings, DOCTOR_GPU_MEMORY, g_strdup_printf (_ ("%s has %.1f GB."), card->name, gb), NULL,
         NULL);
}

static void
judge_gpu (const DoctorEvidence *e, GPtrArray *findings)
{
  if (e->library_error != NULL)
    judge_missing_library (e, findings);
  else if (e->driver_cuda > 0 && e->driver_cuda < e->needed_cuda && !extension_differs (e))
    judge_old_driver (e, findings);
  else if (e->init_error != 0 || e->cards->len == 0)
    judge_failed_start (e, findings);
  else
    judge_card (e, findings);
}

/* -- the rest of the machine --------------------------------------------------------------------
 */

static void
judge_machine (const DoctorEvidence *e, GPtrArray *findings)
{
  const char *processor = e->processor != NULL ? e->processor : _ ("The processor");

  if (e->memory > 0 && e->memory < ENOUGH_MEMORY)
    add (findings, DOCTOR_LITTLE_MEMORY,
         g_strdup_printf (_ ("%.1f GB; published models need %.0f GB."), (double)e->memory / 1e9,
                          (double)ENOUGH_MEMORY / 1e9),
         _ ("Close other programs, or use the built-in model."), NULL);
  else if (e->memory > 0)
    add (findings, DOCTOR_MEMORY, g_strdup_printf (_ ("%.1f GB."), (double)e->memory / 1e9), NULL,
         NULL);
  if (e->disk_known && e->disk < ENOUGH_DISK)
    add (findings, DOCTOR_LITTLE_DISK,
         g_strdup_printf (_ ("%s has %.1f GB left; the smallest published model takes %.0f GB."),
                          e->data_dir, (double)e->disk / 1e9, (double)ENOUGH_DISK / 1e9),
         _ ("Free some space, or keep models in a folder on another disk."), NULL);
  else if (e->disk_known)
    add (findings, DOCTOR_DISK,
         g_strdup_printf (_ ("%s has %.1f GB left."), e->data_dir, (double)e->disk / 1e9), NULL,
         NULL);
  if (e->avx2)
    add (findings, DOCTOR_SIMD,
         g_strdup_printf (e->avx512 ? _ ("%s has AVX2 and AVX-512.") : _ ("%s has AVX2."),
                          processor),
         NULL, NULL);
  else
    add (findings, DOCTOR_NO_SIMD, g_strdup_printf (_ ("%s has no AVX2 with FMA."), processor),
         _ ("The processor's part of the work takes several times as long. In a virtual machine, "
            "pass the host's processor model on."),
         NULL);
}

GPtrArray *
doctor_judge (const DoctorEvidence *evidence)
{
  GPtrArray *findings = g_ptr_array_new_with_free_func (finding_free);

  judge_gpu (evidence, findings);
  judge_machine (evidence, findings);
  return findings;
}
