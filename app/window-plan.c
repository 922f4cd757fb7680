/* SPDX-License-Identifier: Apache-2.0
 *
 * What the next picture will take, and what to do if that is too much.
 */
#include "app/window-private.h"

#include <glib/gi18n.h>

#define PLAN_DELAY      120  /* ms after the last change, so that typing plans once */
#define MEMORY_INTERVAL 1000 /* ms */

/* Pool thread, one at a time. */
static void
read_shares_in_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  TesseraWindow *self = source;
  const EngineDevice *device = data;
  g_autofree NvmlMemory *shares = g_new0 (NvmlMemory, 1);

  if (self->nvml == NULL)
    self->nvml = nvml_open (NVML_LIBRARY);
  if (self->nvml != NULL && nvml_read (self->nvml, device->name, device->total_memory, shares))
    g_task_return_pointer (task, g_steal_pointer (&shares), g_free);
  else
    g_task_return_pointer (task, NULL, NULL);
}

static void
on_shares_read (GObject *source, GAsyncResult *result, gpointer data)
{
  TesseraWindow *self = TESSERA_WINDOW (source);
  g_autofree NvmlMemory *shares = g_task_propagate_pointer (G_TASK (result), NULL);

  self->reading_shares = FALSE;
  self->no_shares = shares == NULL; /* a driver does not come while the program runs */
  if (self->worker != NULL)         /* not disposed of meanwhile */
    memory_gauge_set_shares (self->gauge, shares);
}

static void
read_shares (TesseraWindow *self, const EngineDevice *device)
{
  g_autoptr (GTask) task = NULL;

  if (!device->gpu || self->reading_shares || self->no_shares)
    return;
  self->reading_shares = TRUE;
  task = g_task_new (self, NULL, on_shares_read, NULL);
  g_task_set_task_data (task, g_memdup2 (device, sizeof *device), g_free);
  g_task_run_in_thread (task, read_shares_in_thread);
}

void
window_update_memory (TesseraWindow *self)
{
  EngineMemory memory;
  EngineDevice device;

  if (!worker_get_memory (self->worker, &memory, &device))
    return;
  memory_gauge_set_memory (self->gauge, &memory, &device);
  read_shares (self, &device);
}

static gboolean
on_memory_timeout (gpointer data)
{
  window_update_memory (data);
  return G_SOURCE_CONTINUE;
}

void
window_watch_memory (TesseraWindow *self)
{
  self->memory_source = g_timeout_add (MEMORY_INTERVAL, on_memory_timeout, self);
}

/* Takes over what the plan advises; "_Use SVDQuant, 768 × 768" (transfer full), or NULL. */
static char *
take_advice (WindowAdvice *advice, const WorkerPlan *plan)
{
  advice->there = plan != NULL && plan->advised;
  if (!advice->there)
    return NULL;
  advice->precision = plan->precision;
  advice->width = plan->width;
  advice->height = plan->height;
  return g_strdup_printf (/* Translators: a precision, width, height */
                          _ ("_Use %s, %d × %d"), precision_label (plan->precision), plan->width,
                          plan->height);
}

static void
show_advice (TesseraWindow *self, const WorkerPlan *plan)
{
  g_autofree char *text = take_advice (&self->next, plan);

  if (text != NULL)
    gtk_button_set_label (self->advice, text);
  gtk_widget_set_visible (GTK_WIDGET (self->advice), text != NULL);
}

void
window_use_advice (TesseraWindow *self, const WindowAdvice *advice)
{
  if (!advice->there)
    return;
  controls_set_size (self->controls, advice->width, advice->height);
  controls_set_run (self->controls,
                    advice->precision == ENGINE_PRECISION_SVDQUANT ? RUN_SVDQUANT : RUN_BF16);
}

void
window_show_way_out (TesseraWindow *self, const WorkerPlan *plan)
{
  g_autofree char *text = take_advice (&self->failed, plan);

  if (text != NULL && message_page_get_state (self->problem) == MESSAGE_MEMORY)
    message_page_offer (self->problem, text, "win.use-way-out");
}

static void
on_way_out_found (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (TesseraWindow) self = data;
  WorkerPlan plan;

  if (worker_plan_finish (TESSERA_WORKER (source), result, &plan, NULL) && self->worker != NULL)
    window_show_way_out (self, &plan);
}

void
window_plan_way_out (TesseraWindow *self, const EngineRequest *request)
{
  self->failed.there = FALSE;
  worker_plan_async (self->worker, request, TRUE, NULL, on_way_out_found, g_object_ref (self));
}

void
window_show_plan (TesseraWindow *self, const WorkerPlan *plan)
{
  memory_gauge_set_plan (self->gauge, plan != NULL ? &plan->plan : NULL);
  self->fits = plan == NULL || plan->plan.fits;
  show_advice (self, plan);
  window_update_actions (self);
}

static void
on_planned (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (TesseraWindow) self = data;
  WorkerPlan plan;
  const gboolean ok = worker_plan_finish (TESSERA_WORKER (source), result, &plan, NULL);

  /* Settings have changed again since this was asked. */
  if (g_task_get_cancellable (G_TASK (result)) != self->planning)
    return;
  g_clear_object (&self->planning);
  window_show_plan (self, ok ? &plan : NULL);
}

static gboolean
plan_now (gpointer data)
{
  TesseraWindow *self = data;
  EngineRequest request;

  self->plan_source = 0;
  controls_get_request (self->controls, &request);
  self->planning = g_cancellable_new ();
  worker_plan_async (self->worker, &request, FALSE, self->planning, on_planned,
                     g_object_ref (self));
  return G_SOURCE_REMOVE;
}

void
window_plan (TesseraWindow *self)
{
  g_cancellable_cancel (self->planning);
  g_clear_object (&self->planning);
  g_clear_handle_id (&self->plan_source, g_source_remove);
  if (self->has_model)
    self->plan_source = g_timeout_add (PLAN_DELAY, plan_now, self);
}
