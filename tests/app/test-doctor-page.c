/* SPDX-License-Identifier: Apache-2.0
 *
 * test-doctor-page.c - what a person sees of each thing that can be wrong
 */
#include "app/models/doctor-page.h"

#include "tests/app/harness.h"

#include "engine/computer/doctor.h"

/* One machine each, as doctor_look would have found it; the judging is the real one. */
static const struct
{
  const char *name;
  DoctorCode expected;
  DoctorEvidence seen;
  int sm; /* of its card; 0: none is seen */
  gboolean small, no_kernels;
} machines[] = {
  { "ready", DOCTOR_GPU_READY, .seen = { .module_version = (char *)"580.82.07" }, .sm = 86 },
  { "no-card", DOCTOR_NO_CARD, .seen = { .library_error = (char *)"no libcuda.so.1" } },
  { "no-driver", DOCTOR_NO_DRIVER,
    .seen = { .library_error = (char *)"no libcuda.so.1",
              .pci = (char *)"0000:01:00.0 (device 0x2504, driver nouveau)",
              .distribution = (char *)"debian" } },
  { "no-library", DOCTOR_NO_LIBRARY,
    .seen = { .library_error = (char *)"libcuda.so.1: cannot open shared object file",
              .module_version = (char *)"580.82.07",
              .distribution = (char *)"fedora" } },
  { "extension-missing", DOCTOR_EXTENSION_MISSING,
    .seen = { .library_error = (char *)"no libcuda.so.1",
              .flatpak = TRUE,
              .module_version = (char *)"580.82.07" } },
  { "extension-differs", DOCTOR_EXTENSION_DIFFERS,
    .seen = { .init_error = 803,
              .flatpak = TRUE,
              .extension = (char *)"575-51-02",
              .module_version = (char *)"580.82.07" } },
  { "driver-too-old", DOCTOR_DRIVER_TOO_OLD,
    .seen = { .driver_cuda = 12040,
              .module_version = (char *)"550.54.14",
              .distribution = (char *)"ubuntu" } },
  { "driver-mismatch", DOCTOR_DRIVER_MISMATCH,
    .seen = { .init_error = 803, .module_version = (char *)"575.51.02" } },
  { "uvm-not-loaded", DOCTOR_UVM_NOT_LOADED,
    .seen = { .init_error = 999, .module_version = (char *)"580.82.07" } },
  { "no-access", DOCTOR_NO_ACCESS,
    .seen = { .init_error = 100,
              .uvm = TRUE,
              .module_version = (char *)"580.82.07",
              .closed_node = (char *)"/dev/nvidia0",
              .closed_errno = 13,
              .closed_group = (char *)"video" } },
  { "card-too-old", DOCTOR_CARD_TOO_OLD, .seen = { .module_version = (char *)"580.82.07" },
    .sm = 61 },
  { "driver-failed", DOCTOR_DRIVER_FAILED,
    .seen = { .init_error = 999, .uvm = TRUE, .module_version = (char *)"580.82.07" } },
  { "little-gpu-memory", DOCTOR_GPU_READY, .seen = { .module_version = (char *)"580.82.07" },
    .sm = 86, .small = TRUE },
  { "no-kernels", DOCTOR_NO_KERNELS, .seen = { .module_version = (char *)"580.82.07" }, .sm = 86,
    .no_kernels = TRUE },
};

static void
test_shots (void)
{
  GtkWidget *window = adw_window_new ();
  TesseraDoctorPage *page = doctor_page_new ();

  gtk_window_set_default_size (GTK_WINDOW (window), 640, 560);
  adw_window_set_content (ADW_WINDOW (window), GTK_WIDGET (page));
  for (guint i = 0; i < G_N_ELEMENTS (machines); i++)
    {
      g_autofree char *name = g_strconcat ("doctor-", machines[i].name, NULL);
      DoctorCard card = { .name = (char *)"NVIDIA GeForce RTX 3060",
                          .sm = machines[i].sm,
                          .memory = machines[i].small ? G_GUINT64_CONSTANT (4100000000)
                                                      : G_GUINT64_CONSTANT (12600000000) };
      DoctorEvidence evidence = machines[i].seen;
      g_autoptr (GPtrArray) cards = g_ptr_array_new ();
      g_autoptr (GPtrArray) findings = NULL;

      if (card.sm > 0)
        g_ptr_array_add (cards, &card);
      evidence.cards = cards;
      evidence.needed_cuda = machines[i].no_kernels ? 0 : 13000;
      evidence.memory = i % 2 ? G_GUINT64_CONSTANT (4100000000) : G_GUINT64_CONSTANT (32800000000);
      evidence.disk_known = TRUE;
      evidence.disk = i % 2 ? G_GUINT64_CONSTANT (3000000000) : G_GUINT64_CONSTANT (90000000000);
      evidence.data_dir = (char *)"~/.local/share";
      evidence.processor = (char *)"Example Processor";
      evidence.avx2 = i % 2 == 0;
      findings = doctor_judge (&evidence);
      g_assert_cmpint (((DoctorFinding *)g_ptr_array_index (findings, 0))->code, ==,
                       machines[i].expected);
      doctor_page_show (page, findings);
      gtk_window_present (GTK_WINDOW (window));
      settle (window);
      check_shot (window, name);
    }
  gtk_window_destroy (GTK_WINDOW (window));
}

int
main (int argc, char **argv)
{
  init_display (&argc, &argv);
  g_test_add_func ("/doctor-page/shots", test_shots);
  return g_test_run ();
}
