/* SPDX-License-Identifier: Apache-2.0 */
#include "app/models/doctor-page.h"

#include "engine/computer/doctor.h"

#include <glib/gi18n.h>

struct _TesseraDoctorPage
{
  AdwPreferencesPage parent_instance;

  AdwPreferencesGroup *group;
  GPtrArray *rows; /* widgets in the group */
  gboolean looked;
};

G_DEFINE_FINAL_TYPE (TesseraDoctorPage, doctor_page, ADW_TYPE_PREFERENCES_PAGE)

static const char *const TITLES[DOCTOR_N_CODES] = {
  [DOCTOR_GPU_READY] = N_ ("The Graphics Card Is Ready"),
  [DOCTOR_NO_CARD] = N_ ("No NVIDIA Graphics Card"),
  [DOCTOR_NO_DRIVER] = N_ ("No NVIDIA Driver"),
  [DOCTOR_NO_LIBRARY] = N_ ("The Driver Cannot Compute"),
  [DOCTOR_EXTENSION_MISSING] = N_ ("No Driver in the Sandbox"),
  [DOCTOR_EXTENSION_DIFFERS] = N_ ("Another Driver in the Sandbox"),
  [DOCTOR_DRIVER_TOO_OLD] = N_ ("The Driver Is Too Old"),
  [DOCTOR_DRIVER_MISMATCH] = N_ ("The Driver Was Updated"),
  [DOCTOR_DRIVER_FAILED] = N_ ("The Driver Does Not Start"),
  [DOCTOR_UVM_NOT_LOADED] = N_ ("The Graphics Driver Is Not Ready for Computing"),
  [DOCTOR_NO_ACCESS] = N_ ("No Access to the Graphics Card"),
  [DOCTOR_CARD_TOO_OLD] = N_ ("The Graphics Card Is Too Old"),
  [DOCTOR_NO_KERNELS] = N_ ("This Build Uses the Processor Only"),
  [DOCTOR_GPU_MEMORY] = N_ ("Enough Graphics Memory"),
  [DOCTOR_LITTLE_GPU_MEMORY] = N_ ("Little Graphics Memory"),
  [DOCTOR_MEMORY] = N_ ("Enough Memory"),
  [DOCTOR_LITTLE_MEMORY] = N_ ("Little Memory"),
  [DOCTOR_DISK] = N_ ("Enough Disk Space"),
  [DOCTOR_LITTLE_DISK] = N_ ("Little Disk Space"),
  [DOCTOR_SIMD] = N_ ("A Fast Processor"),
  [DOCTOR_NO_SIMD] = N_ ("A Slow Processor"),
};

static const char *const ICONS[] = {
  [DOCTOR_OK] = "emblem-ok-symbolic",
  [DOCTOR_WARNING] = "dialog-information-symbolic",
  [DOCTOR_PROBLEM] = "dialog-warning-symbolic",
};

static void
on_copy (GtkButton *button, gpointer data)
{
  gdk_clipboard_set_text (gtk_widget_get_clipboard (GTK_WIDGET (button)), data);
}

static void
add_row (TesseraDoctorPage *self, GtkWidget *row)
{
  g_ptr_array_add (self->rows, row);
  adw_preferences_group_add (self->group, row);
}

static void
add_command (TesseraDoctorPage *self, const char *command)
{
  GtkWidget *row = adw_action_row_new ();
  GtkWidget *button = gtk_button_new_from_icon_name ("edit-copy-symbolic");

  adw_preferences_row_set_use_markup (ADW_PREFERENCES_ROW (row), FALSE);
  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (row), command);
  gtk_widget_add_css_class (row, "monospace");
  gtk_widget_set_valign (button, GTK_ALIGN_CENTER);
  gtk_widget_add_css_class (button, "flat");
  gtk_widget_set_tooltip_text (button, _ ("Copy Command"));
  g_signal_connect_data (button, "clicked", G_CALLBACK (on_copy), g_strdup (command),
                         (GClosureNotify)(void (*) (void))g_free, G_CONNECT_DEFAULT);
  adw_action_row_add_suffix (ADW_ACTION_ROW (row), button);
  add_row (self, row);
}

static void
add_finding (TesseraDoctorPage *self, const DoctorFinding *finding)
{
  GtkWidget *row = adw_action_row_new ();
  GtkWidget *icon = gtk_image_new_from_icon_name (ICONS[finding->state]);
  g_autofree char *text = finding->remedy != NULL
                              ? g_strdup_printf ("%s\n%s", finding->evidence, finding->remedy)
                              : g_strdup (finding->evidence);

  adw_preferences_row_set_use_markup (ADW_PREFERENCES_ROW (row), FALSE);
  adw_preferences_row_set_title (ADW_PREFERENCES_ROW (row), _ (TITLES[finding->code]));
  adw_action_row_set_subtitle (ADW_ACTION_ROW (row), text);
  gtk_accessible_update_property (GTK_ACCESSIBLE (icon), GTK_ACCESSIBLE_PROPERTY_LABEL,
                                  finding->state == DOCTOR_OK ? _ ("In order") : _ ("Attention"),
                                  -1);
  adw_action_row_add_prefix (ADW_ACTION_ROW (row), icon);
  add_row (self, row);
  if (finding->command != NULL)
    add_command (self, finding->command);
}

void
doctor_page_show (TesseraDoctorPage *self, GPtrArray *findings)
{
  g_return_if_fail (TESSERA_IS_DOCTOR_PAGE (self));

  self->looked = TRUE;
  for (guint i = 0; i < self->rows->len; i++)
    adw_preferences_group_remove (self->group, g_ptr_array_index (self->rows, i));
  g_ptr_array_set_size (self->rows, 0);
  for (guint i = 0; i < findings->len; i++)
    add_finding (self, g_ptr_array_index (findings, i));
}

/* -- looking ------------------------------------------------------------------------------------
 */

static void
look_thread (GTask *task, gpointer source, gpointer data, GCancellable *cancellable)
{
  g_autoptr (DoctorEvidence) evidence = doctor_look (NULL);

  g_task_return_pointer (task, doctor_judge (evidence), (GDestroyNotify)g_ptr_array_unref);
}

static void
on_looked (GObject *source, GAsyncResult *result, gpointer data)
{
  g_autoptr (GPtrArray) findings = g_task_propagate_pointer (G_TASK (result), NULL);

  if (findings != NULL)
    doctor_page_show (TESSERA_DOCTOR_PAGE (source), findings);
}

static void
look (TesseraDoctorPage *self)
{
  g_autoptr (GTask) task = g_task_new (self, NULL, on_looked, NULL);

  self->looked = TRUE;
  g_task_run_in_thread (task, look_thread);
}

static void
doctor_page_map (GtkWidget *widget)
{
  TesseraDoctorPage *self = TESSERA_DOCTOR_PAGE (widget);

  GTK_WIDGET_CLASS (doctor_page_parent_class)->map (widget);
  if (!self->looked)
    look (self);
}

static void
doctor_page_finalize (GObject *object)
{
  g_ptr_array_unref (TESSERA_DOCTOR_PAGE (object)->rows);
  G_OBJECT_CLASS (doctor_page_parent_class)->finalize (object);
}

static void
doctor_page_class_init (TesseraDoctorPageClass *klass)
{
  G_OBJECT_CLASS (klass)->finalize = doctor_page_finalize;
  GTK_WIDGET_CLASS (klass)->map = doctor_page_map;
}

static void
doctor_page_init (TesseraDoctorPage *self)
{
  GtkWidget *again = gtk_button_new_with_mnemonic (_ ("_Look Again"));

  self->rows = g_ptr_array_new ();
  self->group = ADW_PREFERENCES_GROUP (adw_preferences_group_new ());
  gtk_widget_add_css_class (again, "flat");
  g_signal_connect_swapped (again, "clicked", G_CALLBACK (look), self);
  adw_preferences_group_set_header_suffix (self->group, again);
  adw_preferences_page_add (ADW_PREFERENCES_PAGE (self), self->group);
  adw_preferences_page_set_name (ADW_PREFERENCES_PAGE (self), "computer");
  adw_preferences_page_set_title (ADW_PREFERENCES_PAGE (self), _ ("Computer"));
  adw_preferences_page_set_icon_name (ADW_PREFERENCES_PAGE (self), "computer-symbolic");
}

TesseraDoctorPage *
doctor_page_new (void)
{
  return g_object_new (TESSERA_TYPE_DOCTOR_PAGE, NULL);
}
