/* SPDX-License-Identifier: Apache-2.0 */
#include "app/controls.h"

#include "app/wheel.h"

#include <adwaita.h>
#include <glib/gi18n.h>

struct _TesseraControls
{
  GtkWidget parent_instance;

  /* Template Widgets */
  GtkTextView *prompt;
  GtkWidget *scroller, *prompt_hint, *guidance_group, *width_row, *height_row;
  GtkToggleButton *run_bf16, *run_svdquant, *run_both;
  GtkLabel *precision_reason;
  AdwComboRow *size, *noise, *device, *offload, *arithmetic, *encoder;
  GtkEditable *negative, *seed;
  GtkSwitch *new_seed;
  TesseraLoraList *loras;
  GtkAdjustment *steps, *width, *height, *batch, *guidance, *memory_limit, *idle_minutes;

  /* Owned References */
  GSettings *settings;
  GPtrArray *device_ids; /* of char *, in the order of the rows */
  char *prompt_text;     /* what controls_get_request lends out */

  int encoder_bits[3]; /* in the order of the rows */
  gboolean uses_guidance, settled;
};

G_DEFINE_FINAL_TYPE (TesseraControls, controls, GTK_TYPE_WIDGET)

enum
{
  CHANGED,
  N_SIGNALS
};

static guint signals[N_SIGNALS];

/* Aspect ratios at about one megapixel, for which the model was trained, and smaller squares for
 * slower machines. The last row is for any other size. */
static const struct
{
  const char *name;
  int width, height;
} PRESETS[] = {
  { N_ ("Square"), 1024, 1024 },       { N_ ("Landscape 4:3"), 1152, 864 },
  { N_ ("Landscape 3:2"), 1248, 832 }, { N_ ("Wide 16:9"), 1360, 768 },
  { N_ ("Portrait 3:4"), 864, 1152 },  { N_ ("Portrait 2:3"), 832, 1248 },
  { N_ ("Tall 9:16"), 768, 1360 },     { N_ ("Square"), 768, 768 },
  { N_ ("Square"), 512, 512 },         { N_ ("Square"), 256, 256 },
};

#define CUSTOM G_N_ELEMENTS (PRESETS)

static void
emit_changed (TesseraControls *self)
{
  if (self->settled)
    g_signal_emit (self, signals[CHANGED], 0);
}

/* -- Size ---------------------------------------------------------------------------------------
 */

static guint
find_preset (int width, int height)
{
  guint i;

  for (i = 0; i < CUSTOM; i++)
    if (PRESETS[i].width == width && PRESETS[i].height == height)
      break;
  return i;
}

static void
fill_sizes (TesseraControls *self)
{
  g_autoptr (GtkStringList) model = gtk_string_list_new (NULL);

  for (guint i = 0; i < CUSTOM; i++)
    gtk_string_list_take (model, g_strdup_printf (/* Translators: a named size in pixels */
                                                  _ ("%s, %d × %d"), _ (PRESETS[i].name),
                                                  PRESETS[i].width, PRESETS[i].height));
  gtk_string_list_append (model, _ ("Custom"));
  adw_combo_row_set_model (self->size, G_LIST_MODEL (model));
}

static void
on_size_selected (TesseraControls *self)
{
  const guint row = adw_combo_row_get_selected (self->size);

  gtk_widget_set_visible (self->width_row, row == CUSTOM);
  gtk_widget_set_visible (self->height_row, row == CUSTOM);
  if (row < CUSTOM)
    {
      gtk_adjustment_set_value (self->width, PRESETS[row].width);
      gtk_adjustment_set_value (self->height, PRESETS[row].height);
    }
}

void
controls_set_size (TesseraControls *self, int width, int height)
{
  g_return_if_fail (TESSERA_IS_CONTROLS (self));

  adw_combo_row_set_selected (self->size, find_preset (width, height));
  gtk_adjustment_set_value (self->width, width);
  gtk_adjustment_set_value (self->height, height);
}

/* -- Seed ---------------------------------------------------------------------------------------
 */

/* 32 bits: what people can still read out to each other, and other programs take. */
void
controls_draw_seed (TesseraControls *self)
{
  controls_set_seed (self, g_random_int ());
}

void
controls_set_seed (TesseraControls *self, guint64 seed)
{
  g_autofree char *text = g_strdup_printf ("%" G_GUINT64_FORMAT, seed);

  g_return_if_fail (TESSERA_IS_CONTROLS (self));

  gtk_editable_set_text (self->seed, text);
}

static gboolean
read_seed (TesseraControls *self, guint64 *seed)
{
  return g_ascii_string_to_unsigned (gtk_editable_get_text (self->seed), 10, 0, G_MAXUINT64, seed,
                                     NULL);
}

static void
on_seed_changed (TesseraControls *self)
{
  guint64 seed;

  if (read_seed (self, &seed))
    {
      gtk_widget_remove_css_class (GTK_WIDGET (self->seed), "error");
      if (self->settings != NULL)
        g_settings_set_uint64 (self->settings, "seed", seed);
    }
  else
    {
      gtk_widget_add_css_class (GTK_WIDGET (self->seed), "error");
    }
  emit_changed (self);
}

/* -- Prompt and precision -----------------------------------------------------------------------
 */

static const char *
read_prompt (TesseraControls *self)
{
  GtkTextBuffer *buffer = gtk_text_view_get_buffer (self->prompt);

  g_free (self->prompt_text);
  g_object_get (buffer, "text", &self->prompt_text, NULL);
  return self->prompt_text;
}

static void
on_prompt_changed (TesseraControls *self)
{
  GtkTextBuffer *buffer = gtk_text_view_get_buffer (self->prompt);

  gtk_widget_set_visible (self->prompt_hint, gtk_text_buffer_get_char_count (buffer) == 0);
  if (self->settings != NULL)
    g_settings_set_string (self->settings, "prompt", read_prompt (self));
  emit_changed (self);
}

void
controls_set_prompt (TesseraControls *self, const char *prompt)
{
  g_return_if_fail (TESSERA_IS_CONTROLS (self));

  gtk_text_buffer_set_text (gtk_text_view_get_buffer (self->prompt), prompt, -1);
}

void
controls_focus_prompt (TesseraControls *self)
{
  gtk_widget_grab_focus (GTK_WIDGET (self->prompt));
}

RunPrecision
controls_get_run (TesseraControls *self)
{
  if (gtk_toggle_button_get_active (self->run_both))
    return RUN_BOTH;
  return gtk_toggle_button_get_active (self->run_svdquant) ? RUN_SVDQUANT : RUN_BF16;
}

void
controls_set_run (TesseraControls *self, RunPrecision run)
{
  GtkToggleButton *buttons[] = { self->run_bf16, self->run_svdquant, self->run_both };

  g_return_if_fail (TESSERA_IS_CONTROLS (self) && run < G_N_ELEMENTS (buttons));

  if (gtk_widget_get_sensitive (GTK_WIDGET (buttons[run])))
    gtk_toggle_button_set_active (buttons[run], TRUE);
}

static void
on_run_toggled (TesseraControls *self, GtkToggleButton *button)
{
  if (!gtk_toggle_button_get_active (button))
    return;
  if (self->settings != NULL)
    g_settings_set_enum (self->settings, "precision", controls_get_run (self));
  emit_changed (self);
}

/* Says why a precision cannot be chosen where the choice is made. */
static void
allow_precision (GtkToggleButton *button, gboolean allowed, const char *reason)
{
  gtk_widget_set_sensitive (GTK_WIDGET (button), allowed);
  gtk_widget_set_tooltip_text (GTK_WIDGET (button), allowed ? NULL : reason);
}

/* What there is to choose from; why not, or why not what was chosen, is said in the row. */
static void
show_encoders (TesseraControls *self, const ModelInfo *model)
{
  g_autoptr (GtkStringList) names = gtk_string_list_new (NULL);
  const gboolean settled = self->settled;
  const char *reason = _ ("Of fewer bits it needs less memory");
  guint n = 0, selected = 0;

  gtk_string_list_append (names, _ ("As published"));
  self->encoder_bits[n++] = 16;
  for (guint i = 0; model != NULL && i < G_N_ELEMENTS (model->encoders); i++)
    if (model->encoders[i])
      {
        gtk_string_list_append (names, i == 0 ? _ ("8 bit") : _ ("4 bit"));
        selected = model->encoder_bits == (i == 0 ? 8 : 4) ? n : selected;
        self->encoder_bits[n++] = i == 0 ? 8 : 4;
      }
  if (n == 1)
    reason = _ ("This model’s folder “text_encoders” has none of fewer bits");
  else if (model->encoder_reason != NULL)
    reason = model->encoder_reason;
  self->settled = FALSE;
  adw_combo_row_set_model (self->encoder, G_LIST_MODEL (names));
  adw_combo_row_set_selected (self->encoder, selected);
  adw_action_row_set_subtitle (ADW_ACTION_ROW (self->encoder), reason);
  gtk_widget_set_sensitive (GTK_WIDGET (self->encoder), n > 1);
  self->settled = settled;
}

void
controls_set_model (TesseraControls *self, const ModelInfo *model)
{
  const gboolean bf16 = model == NULL || model->supports[ENGINE_PRECISION_BF16];
  const gboolean svdquant = model == NULL || model->supports[ENGINE_PRECISION_SVDQUANT];
  const char *missing = !bf16 ? "BF16" : "SVDQuant";
  g_autofree char *reason = NULL;

  g_return_if_fail (TESSERA_IS_CONTROLS (self));

  /* Translators: %s is BF16 or SVDQuant */
  reason = g_strdup_printf (_ ("This model or device cannot run %s"), missing);
  allow_precision (self->run_bf16, bf16, model ? model->reason[0] : NULL);
  allow_precision (self->run_svdquant, svdquant, model ? model->reason[1] : NULL);
  allow_precision (self->run_both, bf16 && svdquant, reason);
  gtk_label_set_label (self->precision_reason, reason);
  gtk_widget_set_visible (GTK_WIDGET (self->precision_reason), !bf16 || !svdquant);
  if (model != NULL && !svdquant)
    gtk_toggle_button_set_active (self->run_bf16, TRUE);
  else if (model != NULL && !bf16)
    gtk_toggle_button_set_active (self->run_svdquant, TRUE);
  else if (self->settings != NULL)
    controls_set_run (self, g_settings_get_enum (self->settings, "precision"));

  /* A processor computes where the weights are. */
  gtk_widget_set_visible (GTK_WIDGET (self->offload), model != NULL && model->device.gpu);
  gtk_widget_set_visible (GTK_WIDGET (self->arithmetic), model != NULL && model->arithmetics);
  show_encoders (self, model);
  lora_list_set_model (self->loras, model != NULL ? model->path : NULL);
  self->uses_guidance = model != NULL && model->guidance;
  gtk_widget_set_visible (self->guidance_group, self->uses_guidance);
  emit_changed (self);
}

/* -- Device -------------------------------------------------------------------------------------
 */

void
controls_set_devices (TesseraControls *self, GArray *devices)
{
  g_autoptr (GtkStringList) names = gtk_string_list_new (NULL);
  g_autofree char *chosen
      = self->settings ? g_settings_get_string (self->settings, "device") : g_strdup ("auto");
  guint selected = 0;

  g_ptr_array_set_size (self->device_ids, 0);
  g_ptr_array_add (self->device_ids, g_strdup ("auto"));
  gtk_string_list_append (names, _ ("Automatic"));
  for (guint i = 0; i < devices->len; i++)
    {
      const EngineDevice *device = &g_array_index (devices, EngineDevice, i);

      if (!device->usable)
        continue;
      if (g_str_equal (device->id, chosen))
        selected = self->device_ids->len;
      g_ptr_array_add (self->device_ids, g_strdup (device->id));
      gtk_string_list_append (names, device->gpu ? device->name : _ ("Processor"));
    }
  adw_combo_row_set_model (self->device, G_LIST_MODEL (names));
  adw_combo_row_set_selected (self->device, selected);
}

static void
on_device_selected (TesseraControls *self)
{
  const guint row = adw_combo_row_get_selected (self->device);

  if (self->settled && self->settings != NULL && row < self->device_ids->len)
    g_settings_set_string (self->settings, "device", self->device_ids->pdata[row]);
}

/* -- Request ------------------------------------------------------------------------------------
 */

void
controls_get_request (TesseraControls *self, EngineRequest *request)
{
  static const EngineRequest initial = ENGINE_REQUEST_INIT;

  g_return_if_fail (TESSERA_IS_CONTROLS (self));

  *request = initial;
  request->prompt = read_prompt (self);
  request->precision
      = controls_get_run (self) == RUN_SVDQUANT ? ENGINE_PRECISION_SVDQUANT : ENGINE_PRECISION_BF16;
  request->width = gtk_adjustment_get_value (self->width);
  request->height = gtk_adjustment_get_value (self->height);
  request->steps = gtk_adjustment_get_value (self->steps);
  if (!read_seed (self, &request->seed))
    request->seed = 0;
  request->noise = adw_combo_row_get_selected (self->noise) == 1 ? ENGINE_NOISE_TORCH_CUDA
                                                                 : ENGINE_NOISE_TORCH_CPU;
  request->loras = lora_list_get (self->loras, &request->n_loras);
  if (self->uses_guidance)
    {
      request->negative = gtk_editable_get_text (self->negative);
      request->guidance = gtk_adjustment_get_value (self->guidance);
    }
}

void
controls_set_request (TesseraControls *self, const EngineRequest *request, char **ignored)
{
  g_autoptr (GString) lines = g_string_new (NULL);
  const RunPrecision run
      = request->precision == ENGINE_PRECISION_SVDQUANT ? RUN_SVDQUANT : RUN_BF16;

  g_return_if_fail (TESSERA_IS_CONTROLS (self));

  controls_set_prompt (self, request->prompt);
  controls_set_size (self, request->width, request->height);
  gtk_adjustment_set_value (self->steps, request->steps);
  controls_set_seed (self, request->seed);
  gtk_switch_set_active (self->new_seed, FALSE);
  adw_combo_row_set_selected (self->noise, request->noise == ENGINE_NOISE_TORCH_CUDA);
  lora_list_set (self->loras, request->loras, request->n_loras, lines);
  controls_set_run (self, run);
  if (controls_get_run (self) != run)
    g_string_append_printf (lines, _ ("Precision: this model or device cannot run %s\n"),
                            precision_label (request->precision));
  if (self->uses_guidance)
    {
      gtk_editable_set_text (self->negative, request->negative ? request->negative : "");
      gtk_adjustment_set_value (self->guidance, request->guidance);
    }
  else if (request->guidance > 0)
    {
      g_string_append (lines, _ ("Guidance and negative prompt: this model has none\n"));
    }
  if (ignored != NULL)
    *ignored = g_string_free (g_steal_pointer (&lines), FALSE);
}

TesseraLoraList *
controls_get_loras (TesseraControls *self)
{
  return self->loras;
}

int
controls_get_batch (TesseraControls *self)
{
  return gtk_adjustment_get_value (self->batch);
}

gboolean
controls_get_new_seed (TesseraControls *self)
{
  return gtk_switch_get_active (self->new_seed);
}

/* -- Settings -----------------------------------------------------------------------------------
 */

void
controls_bind_settings (TesseraControls *self, GSettings *settings)
{
  const GSettingsBindFlags both = G_SETTINGS_BIND_DEFAULT;
  g_autofree char *prompt = g_settings_get_string (settings, "prompt");

  g_return_if_fail (TESSERA_IS_CONTROLS (self) && self->settings == NULL);

  self->settled = FALSE;
  controls_set_prompt (self, prompt);
  controls_set_seed (self, g_settings_get_uint64 (settings, "seed"));
  controls_set_size (self, g_settings_get_int (settings, "width"),
                     g_settings_get_int (settings, "height"));
  controls_set_run (self, g_settings_get_enum (settings, "precision"));
  adw_combo_row_set_selected (self->noise, g_settings_get_enum (settings, "noise"));
  adw_combo_row_set_selected (self->offload, g_settings_get_enum (settings, "offload"));
  lora_list_bind_settings (self->loras, settings);
  adw_combo_row_set_selected (self->arithmetic, g_settings_get_enum (settings, "arithmetic"));
  self->settings = g_object_ref (settings);
  g_settings_bind (settings, "width", self->width, "value", both);
  g_settings_bind (settings, "height", self->height, "value", both);
  g_settings_bind (settings, "steps", self->steps, "value", both);
  g_settings_bind (settings, "batch", self->batch, "value", both);
  g_settings_bind (settings, "guidance", self->guidance, "value", both);
  g_settings_bind (settings, "memory-limit", self->memory_limit, "value", both);
  g_settings_bind (settings, "idle-minutes", self->idle_minutes, "value", both);
  g_settings_bind (settings, "new-seed", self->new_seed, "active", both);
  g_settings_bind (settings, "negative-prompt", self->negative, "text", both);
  self->settled = TRUE;
  emit_changed (self);
}

static void
on_noise_selected (TesseraControls *self)
{
  if (self->settled && self->settings != NULL)
    g_settings_set_enum (self->settings, "noise", adw_combo_row_get_selected (self->noise));
  emit_changed (self);
}

static void
on_offload_selected (TesseraControls *self)
{
  if (self->settled && self->settings != NULL)
    g_settings_set_enum (self->settings, "offload", adw_combo_row_get_selected (self->offload));
}

static void
on_arithmetic_selected (TesseraControls *self)
{
  if (self->settled && self->settings != NULL)
    g_settings_set_enum (self->settings, "arithmetic",
                         adw_combo_row_get_selected (self->arithmetic));
}

static void
on_encoder_selected (TesseraControls *self)
{
  const guint row = adw_combo_row_get_selected (self->encoder);

  if (self->settled && self->settings != NULL && row < G_N_ELEMENTS (self->encoder_bits))
    g_settings_set_enum (self->settings, "text-encoder", self->encoder_bits[row]);
}

/* -- Type ---------------------------------------------------------------------------------------
 */

static void
controls_dispose (GObject *object)
{
  TesseraControls *self = TESSERA_CONTROLS (object);

  self->settled = FALSE;
  g_clear_object (&self->settings);
  gtk_widget_dispose_template (GTK_WIDGET (self), TESSERA_TYPE_CONTROLS);
  G_OBJECT_CLASS (controls_parent_class)->dispose (object);
}

static void
controls_finalize (GObject *object)
{
  TesseraControls *self = TESSERA_CONTROLS (object);

  g_ptr_array_unref (self->device_ids);
  g_free (self->prompt_text);
  G_OBJECT_CLASS (controls_parent_class)->finalize (object);
}

static void
controls_class_init (TesseraControlsClass *klass)
{
  GObjectClass *object_class = G_OBJECT_CLASS (klass);
  GtkWidgetClass *widget_class = GTK_WIDGET_CLASS (klass);
  static const struct
  {
    const char *name;
    gssize offset;
  } children[] = {
#define CHILD(name) { #name, G_STRUCT_OFFSET (TesseraControls, name) }
    CHILD (scroller),         CHILD (prompt),       CHILD (prompt_hint),
    CHILD (guidance_group),   CHILD (width_row),    CHILD (height_row),
    CHILD (run_bf16),         CHILD (run_svdquant), CHILD (run_both),
    CHILD (precision_reason), CHILD (size),         CHILD (noise),
    CHILD (device),           CHILD (negative),     CHILD (seed),
    CHILD (new_seed),         CHILD (steps),        CHILD (width),
    CHILD (height),           CHILD (batch),        CHILD (guidance),
    CHILD (memory_limit),     CHILD (offload),      CHILD (idle_minutes),
    CHILD (arithmetic),       CHILD (loras),        CHILD (encoder),
#undef CHILD
  };

  object_class->dispose = controls_dispose;
  object_class->finalize = controls_finalize;

  signals[CHANGED] = g_signal_new ("changed", TESSERA_TYPE_CONTROLS, G_SIGNAL_RUN_LAST, 0, NULL,
                                   NULL, NULL, G_TYPE_NONE, 0);

  g_type_ensure (TESSERA_TYPE_LORA_LIST);
  gtk_widget_class_set_template_from_resource (widget_class,
                                               "/io/github/tesseraimage/Tessera/controls.ui");
  for (gsize i = 0; i < G_N_ELEMENTS (children); i++)
    gtk_widget_class_bind_template_child_full (widget_class, children[i].name, FALSE,
                                               children[i].offset);
}

static void
controls_init (TesseraControls *self)
{
  GtkAdjustment *plain[4];

  gtk_widget_init_template (GTK_WIDGET (self));
  wheel_pass_on (GTK_WIDGET (self));
  self->device_ids = g_ptr_array_new_with_free_func (g_free);
  fill_sizes (self);

  plain[0] = self->steps;
  plain[1] = self->width;
  plain[2] = self->height;
  plain[3] = self->guidance;
  for (gsize i = 0; i < G_N_ELEMENTS (plain); i++)
    g_signal_connect_object (plain[i], "value-changed", G_CALLBACK (emit_changed), self,
                             G_CONNECT_SWAPPED);
  g_signal_connect_object (gtk_text_view_get_buffer (self->prompt), "changed",
                           G_CALLBACK (on_prompt_changed), self, G_CONNECT_SWAPPED);
  g_signal_connect_object (self->loras, "changed", G_CALLBACK (emit_changed), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->size, "notify::selected", G_CALLBACK (on_size_selected), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->noise, "notify::selected", G_CALLBACK (on_noise_selected), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->offload, "notify::selected", G_CALLBACK (on_offload_selected),
                           self, G_CONNECT_SWAPPED);
  g_signal_connect_object (self->encoder, "notify::selected", G_CALLBACK (on_encoder_selected),
                           self, G_CONNECT_SWAPPED);
  g_signal_connect_object (self->arithmetic, "notify::selected",
                           G_CALLBACK (on_arithmetic_selected), self, G_CONNECT_SWAPPED);
  g_signal_connect_object (self->device, "notify::selected", G_CALLBACK (on_device_selected), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->seed, "changed", G_CALLBACK (on_seed_changed), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->run_bf16, "toggled", G_CALLBACK (on_run_toggled), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->run_svdquant, "toggled", G_CALLBACK (on_run_toggled), self,
                           G_CONNECT_SWAPPED);
  g_signal_connect_object (self->run_both, "toggled", G_CALLBACK (on_run_toggled), self,
                           G_CONNECT_SWAPPED);
  self->settled = TRUE;
}
