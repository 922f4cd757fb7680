/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/computer/device.h"

#include "engine/linear.h"

#include <string.h>

#define MAX_GPUS 16

/* -- what a Status means ------------------------------------------------------------------------
 */

static EngineError
error_code (Status status)
{
  switch (status)
    {
    case STATUS_NO_MEMORY:
      return ENGINE_ERROR_MEMORY;
    case STATUS_NO_DEVICE:
    case STATUS_NO_DRIVER:
    case STATUS_DRIVER_TOO_OLD:
    case STATUS_NOT_READY:
      return ENGINE_ERROR_NO_DEVICE;
    case STATUS_DEVICE_LOST:
      return ENGINE_ERROR_DEVICE_LOST;
    case STATUS_OK:
    case STATUS_UNSUPPORTED:
    case STATUS_CANCELLED:
      break;
    }
  return ENGINE_ERROR_UNSUPPORTED;
}

static const char *
explain (Status status)
{
  switch (status)
    {
    case STATUS_NO_MEMORY:
      return "not enough memory; a smaller size may fit";
    case STATUS_UNSUPPORTED:
      return "this device or build cannot do it";
    case STATUS_NO_DEVICE:
      return "there is no such device";
    case STATUS_NO_DRIVER:
      return "no NVIDIA driver is installed";
    case STATUS_DRIVER_TOO_OLD:
      return "the NVIDIA driver is too old; a newer one is needed";
    case STATUS_NOT_READY:
      return "the graphics driver is not ready for computing: the kernel module nvidia_uvm is not "
             "loaded (as root: modprobe nvidia_uvm)";
    case STATUS_DEVICE_LOST:
      return "the graphics card stopped answering; the program must be restarted";
    case STATUS_OK:
    case STATUS_CANCELLED:
      break;
    }
  return status_name (status);
}

void
device_set_error (const Device *self, Status status, const char *doing, GError **error)
{
  const char *detail = self->ops != NULL ? self->ops->detail (self->stream) : "";

  if (status == STATUS_CANCELLED)
    g_set_error_literal (error, G_IO_ERROR, G_IO_ERROR_CANCELLED, "The operation was cancelled");
  else
    g_set_error (error, ENGINE_ERROR, error_code (status), "while %s: %s%s%s%s", doing,
                 explain (status), *detail ? " (" : "", detail, *detail ? ")" : "");
}

/* -- the list -----------------------------------------------------------------------------------
 */

static void
describe (const DeviceCaps *caps, EngineDevice *out)
{
  *out = (EngineDevice){
    .gpu = caps->kind == DEVICE_CUDA,
    .sm = caps->sm,
    .total_memory = caps->total_memory,
    .free_memory = caps->free_memory,
    .usable = TRUE,
  };
  g_strlcpy (out->name, caps->name, sizeof out->name);
  if (out->gpu)
    g_snprintf (out->id, sizeof out->id, "cuda:%d", caps->index);
  else
    g_strlcpy (out->id, "cpu", sizeof out->id);
}

void
device_describe (const Device *self, EngineDevice *out)
{
  describe (&self->caps, out);
}

/* What runs which type of file. */
static void
describe_files (const DeviceCaps *caps, EngineDevice *out)
{
  static const char *const types[ENGINE_N_FILE_TYPES] = { "bf16", "int4", "nvfp4" };
  const StreamOptions options = { 0 };

  for (int i = 0; i < ENGINE_N_FILE_TYPES; i++)
    {
      SvdqFormat format = i == 1 ? SVDQ_INT4 : SVDQ_NVFP4;
      LinearSupport support = linear_support (caps, &options, i == 0 ? NULL : &format);

      out->files[i] = (EngineFileSupport){ types[i], support.backend, support.path, support.speed };
    }
}

/* Notes the reason if no backend runs dense layers on it. */
static void
check_usable (const DeviceCaps *caps, EngineDevice *out)
{
  StreamOptions options = { 0 };

  if (linear_choose (caps, &options, NULL) != NULL)
    return;
  out->usable = FALSE;
  g_snprintf (out->reason, sizeof out->reason,
              "this build has no kernels for compute capability %d.%d", caps->sm / 10,
              caps->sm % 10);
}

GArray *
engine_list_devices (void)
{
  GArray *list = g_array_new (FALSE, TRUE, sizeof (EngineDevice));
  DeviceCaps caps;
  EngineDevice device;

#ifdef HAVE_CUDA
  for (int i = 0; i < MAX_GPUS; i++)
    {
      Status status = ops_cuda.query (i, &caps);

      if (status == STATUS_NO_DEVICE || (i > 0 && status != STATUS_OK))
        break;
      if (status == STATUS_OK)
        {
          describe (&caps, &device);
          describe_files (&caps, &device);
          check_usable (&caps, &device);
          g_array_append_val (list, device);
          continue;
        }
      /* A driver that does not work is worth a line; that there is none is not. */
      if (status != STATUS_NO_DRIVER)
        {
          device = (EngineDevice){ .gpu = TRUE };
          g_strlcpy (device.id, "cuda:0", sizeof device.id);
          g_strlcpy (device.name, "NVIDIA graphics card", sizeof device.name);
          g_strlcpy (device.reason, explain (status), sizeof device.reason);
          g_array_append_val (list, device);
        }
      break;
    }
#endif
  if (ops_cpu.query (0, &caps) == STATUS_OK)
    {
      describe (&caps, &device);
      describe_files (&caps, &device);
      check_usable (&caps, &device);
      g_array_append_val (list, device);
    }
  return list;
}

/* -- opening ------------------------------------------------------------------------------------
 */

/* "cuda" or "cuda:N" -> N; -1 if it is neither. */
static int
cuda_index (const char *name)
{
  guint64 index = 0;

  if (g_str_equal (name, "cuda"))
    return 0;
  if (g_str_has_prefix (name, "cuda:")
      && g_ascii_string_to_unsigned (name + 5, 10, 0, MAX_GPUS - 1, &index, NULL))
    return (int)index;
  return -1;
}

static Status
open_on (Device *self, const Ops *ops, int index)
{
  self->ops = ops;
  CHECK (ops->query (index, &self->caps));
  if (linear_choose (&self->caps, &self->options, NULL) == NULL)
    return STATUS_UNSUPPORTED;
  return ops->open (index, &self->options, &self->stream);
}

#ifdef HAVE_CUDA
static Status
open_gpu (Device *self, int index)
{
  return open_on (self, &ops_cuda, index);
}
#else
static Status
open_gpu (Device *self, int index)
{
  return STATUS_UNSUPPORTED; /* built without CUDA */
}
#endif

/* A card that only its memory and its generation are known of. */
static gboolean
open_planned (Device *self, int sm, GError **error)
{
#ifdef HAVE_CUDA
  self->ops = &ops_cuda;
  self->caps = (DeviceCaps){ .kind = DEVICE_CUDA,
                             .sm = sm,
                             .total_memory = self->options.memory_budget,
                             .free_memory = self->options.memory_budget,
                             .bf16 = sm >= 80 };
  g_snprintf (self->caps.name, sizeof self->caps.name, "a card of compute capability %d.%d",
              sm / 10, sm % 10);
  if (linear_choose (&self->caps, &self->options, NULL) != NULL)
    return TRUE;
#endif
  g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_UNSUPPORTED,
               "this build has no kernels for compute capability %d.%d", sm / 10, sm % 10);
  return FALSE;
}

gboolean
device_open (Device *self, const EngineOptions *options, GError **error)
{
  const char *name = options != NULL && options->device != NULL ? options->device : "auto";
  int index = cuda_index (name);
  Status status;

  *self = (Device){ 0 };
  if (options != NULL)
    self->options = (StreamOptions){ .bf16_math = options->bf16_math,
                                     .threads = options->threads,
                                     .exact = options->exact,
                                     .memory_budget = options->memory_budget };
  if (options != NULL && options->planned_sm > 0)
    return open_planned (self, options->planned_sm, error);
  if (index < 0 && !g_str_equal (name, "auto") && !g_str_equal (name, "cpu"))
    {
      g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_NO_DEVICE,
                   "there is no device \"%s\"; it can be auto, cpu, cuda or cuda:N", name);
      return FALSE;
    }
  if (g_str_equal (name, "auto") && open_gpu (self, 0) == STATUS_OK)
    return TRUE;
  status = index >= 0 ? open_gpu (self, index) : open_on (self, &ops_cpu, 0);
  if (status == STATUS_OK)
    return TRUE;

  self->stream = NULL;
  if (status == STATUS_UNSUPPORTED && self->options.bf16_math && index < 0)
    g_set_error_literal (error, ENGINE_ERROR, ENGINE_ERROR_UNSUPPORTED,
                         "this processor has no BF16 matrix products; use FP32 (--cpu-math fp32)");
  else if (status == STATUS_UNSUPPORTED && index >= 0 && self->ops == NULL)
    g_set_error_literal (error, ENGINE_ERROR, ENGINE_ERROR_UNSUPPORTED,
                         "this program was built without CUDA; it can compute on the processor "
                         "(--device cpu)");
  else if (status == STATUS_UNSUPPORTED && index >= 0)
    g_set_error (error, ENGINE_ERROR, ENGINE_ERROR_UNSUPPORTED,
                 "this build has no kernels for compute capability %d.%d", self->caps.sm / 10,
                 self->caps.sm % 10);
  else
    device_set_error (self, status, "opening the device", error);
  return FALSE;
}

void
device_close (Device *self)
{
  if (self->stream != NULL)
    self->ops->close (self->stream);
  *self = (Device){ 0 };
}
