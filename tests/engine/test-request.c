/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests: what is refused, and that they survive JSON and A1111 text.
 */
#include "engine/engine.h"

#include <math.h>
#include <string.h>

static EngineRequest
sample (void)
{
  EngineRequest r = ENGINE_REQUEST_INIT;

  r.prompt = "a \"red\" fox, Steps: 3\nin the snow, 雪";
  r.negative = "blurry";
  r.precision = ENGINE_PRECISION_SVDQUANT;
  r.width = 640;
  r.height = 1024;
  r.steps = 20;
  r.seed = G_MAXUINT64 - 1;
  r.noise = ENGINE_NOISE_TORCH_CUDA;
  r.guidance = 3.5;
  r.cfg_normalization = 1.0;
  r.cfg_truncation = 0.75;
  return r;
}

static void
assert_refused (EngineRequest r, const char *word)
{
  g_autoptr (GError) error = NULL;

  g_assert_false (engine_request_validate (&r, &error));
  g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST);
  g_assert_nonnull (strstr (error->message, word));
}

#define REFUSE(member, value, word)                                                                \
  G_STMT_START                                                                                     \
  {                                                                                                \
    EngineRequest request = sample ();                                                             \
    request.member = value;                                                                        \
    assert_refused (request, word);                                                                \
  }                                                                                                \
  G_STMT_END

static void
test_validate (void)
{
  EngineRequest r = sample ();
  g_autofree char *long_text = g_strnfill ((1 << 20) + 1, 'x');

  g_assert_true (engine_request_validate (&r, NULL));
  REFUSE (prompt, NULL, "prompt");
  REFUSE (prompt, long_text, "1 MiB");
  REFUSE (prompt, "\xff\xfe", "UTF-8");
  REFUSE (width, 48, "width");
  REFUSE (width, 1000, "multiple of 16");
  REFUSE (height, 4096, "height");
  REFUSE (height, -64, "height");
  REFUSE (steps, 0, "steps");
  REFUSE (steps, 101, "steps");
  REFUSE (guidance, NAN, "guidance");
  REFUSE (guidance, -1, "guidance");
  REFUSE (cfg_truncation, 1.5, "truncation");
}

static void
assert_same (const EngineRequest *a, const EngineRequest *b)
{
  const char *what = NULL;

  if (!engine_request_comparable (a, b, &what))
    g_error ("the requests differ in %s", what);
}

static void
test_json (void)
{
  EngineRequest r = sample ();
  g_autofree char *json = engine_request_to_json (&r);
  g_autoptr (GError) error = NULL;
  g_autoptr (EngineRequest) back = engine_request_from_json (json, strlen (json), &error);

  g_assert_no_error (error);
  assert_same (&r, back);
  g_assert_cmpint (back->precision, ==, r.precision);
  g_assert_cmpuint (back->seed, ==, r.seed);
  g_assert_cmpstr (back->negative, ==, r.negative);
}

/* Of a LoRA the name goes into the record, and no path ever comes out of one. */
static void
test_json_loras (void)
{
  const EngineLora loras[]
      = { { "/home/somebody/loras/ink & wash.safetensors", 0.75 }, { "b.safetensors", -1.0 } };
  static const char *const texts[] = {
    "{\"loras\": {}}",
    "{\"loras\": [1]}",
    "{\"loras\": [{}]}",
    "{\"loras\": [{\"name\": 1}]}",
    "{\"loras\": [{\"name\": \"\"}]}",
    "{\"loras\": [{\"name\": \"..\"}]}",
    "{\"loras\": [{\"name\": \"/etc/passwd\"}]}",
    "{\"loras\": [{\"name\": \"../x.safetensors\"}]}",
    "{\"loras\": [{\"name\": \"x\", \"strength\": \"1\"}]}",
    "{\"loras\": [{\"name\": \"x\", \"strength\": 9}]}",
    "{\"loras\": [{\"name\":\"x\"},{\"name\":\"x\"},{\"name\":\"x\"},{\"name\":\"x\"},"
    "{\"name\":\"x\"},{\"name\":\"x\"},{\"name\":\"x\"},{\"name\":\"x\"},{\"name\":\"x\"}]}"
  };
  EngineRequest r = sample ();
  g_autofree char *json = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (EngineRequest) back = NULL, copy = NULL;
  const char *what = NULL;

  r.loras = loras;
  r.n_loras = G_N_ELEMENTS (loras);
  copy = engine_request_copy (&r);
  assert_same (&r, copy);
  json = engine_request_to_json (copy);
  g_assert_null (strstr (json, "somebody"));
  back = engine_request_from_json (json, strlen (json), &error);
  g_assert_no_error (error);
  g_assert_cmpuint (back->n_loras, ==, 2);
  g_assert_cmpstr (back->loras[0].file, ==, "ink & wash.safetensors");
  g_assert_cmpfloat (back->loras[0].strength, ==, 0.75);
  g_assert_cmpstr (back->loras[1].file, ==, "b.safetensors");
  g_assert_cmpfloat (back->loras[1].strength, ==, -1.0);
  g_assert_false (engine_request_comparable (&r, back, &what));
  g_assert_cmpstr (what, ==, "LoRA");
  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    {
      g_autoptr (GError) refused = NULL;

      g_assert_null (engine_request_from_json (texts[i], strlen (texts[i]), &refused));
      g_assert_error (refused, ENGINE_ERROR, ENGINE_ERROR_REQUEST);
    }
}

/* As other programs write them: in the prompt. */
static void
test_a1111_loras (void)
{
  const EngineLora loras[] = { { "/loras/ink.safetensors", 0.75 }, { "b.safetensors", 1.0 } };
  EngineRequest r = sample ();
  g_autofree char *text = NULL, *other = NULL;
  g_autoptr (EngineRequest) back = NULL, foreign = NULL;

  r.loras = loras;
  r.n_loras = G_N_ELEMENTS (loras);
  text = engine_request_to_a1111 (&r, NULL);
  back = engine_request_from_a1111 (text, strlen (text), NULL, NULL);
  g_assert_cmpstr (back->prompt, ==, r.prompt);
  g_assert_cmpuint (back->n_loras, ==, 2);
  g_assert_cmpstr (back->loras[0].file, ==, "ink.safetensors");
  g_assert_cmpfloat (back->loras[0].strength, ==, 0.75);
  g_assert_cmpfloat (back->loras[1].strength, ==, 1.0);
  other = g_strdup ("<lora:a/../b:1> a <lora:x> fox <lora:y:0.5:0.1> <lora:z:99>\nSteps: 8");
  foreign = engine_request_from_a1111 (other, strlen (other), NULL, NULL);
  g_assert_cmpuint (foreign->n_loras, ==, 1);
  g_assert_cmpstr (foreign->loras[0].file, ==, "x.safetensors");
  g_assert_cmpstr (foreign->prompt, ==, "<lora:a/../b:1> a fox <lora:y:0.5:0.1> <lora:z:99>");
}

static void
test_json_hostile (void)
{
  static const char *const texts[] = { "",
                                       "[]",
                                       "null",
                                       "{",
                                       "{\"width\": \"640\"}",
                                       "{\"width\": 1e300}",
                                       "{\"steps\": 2.5}",
                                       "{\"seed\": -1}",
                                       "{\"seed\": 9007199254740994}", /* a double may be off */
                                       "{\"seed\": \"18446744073709551616\"}",
                                       "{\"prompt\": 7}",
                                       "{\"noise\": \"white\"}",
                                       "{\"precision\": 4}",
                                       "{\"height\": 65}" };
  enum
  {
    WIDE = (4 << 20) + 1
  };
  g_autofree char *deep = g_strnfill (100000, '['), *wide = g_strnfill (WIDE, ' ');
  g_autoptr (EngineRequest) request = NULL;

  for (guint i = 0; i < G_N_ELEMENTS (texts); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_null (engine_request_from_json (texts[i], strlen (texts[i]), &error));
      g_assert_error (error, ENGINE_ERROR, ENGINE_ERROR_REQUEST);
    }
  g_assert_null (engine_request_from_json (deep, strlen (deep), NULL));
  memcpy (wide, "{\"prompt\":\"\"", 12);
  wide[WIDE - 1] = '}';
  g_assert_null (engine_request_from_json (wide, WIDE, NULL));
  wide[WIDE - 2] = '}';
  request = engine_request_from_json (wide, WIDE - 1, NULL);
  g_assert_nonnull (request);
}

static void
test_a1111 (void)
{
  EngineRequest r = sample ();
  g_autofree char *text = engine_request_to_a1111 (&r, "z_image_turbo");
  g_autofree char *ignored = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (EngineRequest) back = NULL;

  r.cfg_normalization = 0.0; /* the format has no word for these */
  r.cfg_truncation = 1.0;
  back = engine_request_from_a1111 (text, strlen (text), &ignored, &error);
  g_assert_no_error (error);
  assert_same (&r, back);
  g_assert_cmpstr (ignored, ==, "Model: z_image_turbo\n");
}

static void
test_a1111_foreign (void)
{
  static const char text[] = "masterpiece\nSteps: the first line\nNegative prompt: bad\n"
                             "Steps: 28, Sampler: DPM++ 2M, CFG scale: 7, Seed: 99, Size: 512x768, "
                             "Lora hashes: \"a: 1, b: 2\", RNG: CPU, Clip skip: 2";
  g_autofree char *ignored = NULL;
  g_autoptr (EngineRequest) r = engine_request_from_a1111 (text, strlen (text), &ignored, NULL);

  g_assert_nonnull (r);
  g_assert_cmpstr (r->prompt, ==, "masterpiece\nSteps: the first line");
  g_assert_cmpstr (r->negative, ==, "bad");
  g_assert_cmpint (r->steps, ==, 28);
  g_assert_cmpfloat (r->guidance, ==, 6.0);
  g_assert_cmpuint (r->seed, ==, 99);
  g_assert_cmpint (r->width, ==, 512);
  g_assert_cmpint (r->height, ==, 768);
  g_assert_cmpint (r->noise, ==, ENGINE_NOISE_TORCH_CPU);
  g_assert_cmpstr (ignored, ==, "Sampler: DPM++ 2M\nLora hashes: a: 1, b: 2\nClip skip: 2\n");
  g_assert_null (engine_request_from_a1111 ("no settings", 11, NULL, NULL));
}

static EngineRequest *
from_comfyui (const char *graph, char **ignored, GError **error)
{
  g_autofree char *json = g_strdelimit (g_strdup (graph), "'", '"');

  return engine_request_from_comfyui (json, strlen (json), ignored, error);
}

/* The graph of a plain text-to-picture run, with Python's NaN, a seed of 64 bits, a size and a
 * prompt behind links, and what has no equal here. */
static void
test_comfyui (void)
{
  g_autofree char *ignored = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (EngineRequest) r = from_comfyui (
      "{'1':{'class_type':'UNETLoader','inputs':{'unet_name':'z_image.safetensors'}},"
      "'2':{'class_type':'LoraLoaderModelOnly','inputs':{'model':['1',0],"
      "'lora_name':'z-image\\\\ink.safetensors','strength_model':0.6}},"
      "'57:11':{'class_type':'ModelSamplingAuraFlow','inputs':{'model':['2',0],'shift':5}},"
      "'12':{'class_type':'LoraLoader','inputs':{'model':['1',0],'lora_name':'elsewhere'}},"
      "'3':{'class_type':'KSampler','inputs':{'seed':18446744073709551615,'steps':9,'cfg':3.5,"
      "'sampler_name':'res_multistep','scheduler':'simple','denoise':1.0,'model':['57:11',0],"
      "'positive':['6',0],'negative':['7',0],'latent_image':['5',0]},'is_changed':[NaN]},"
      "'5':{'class_type':'EmptySD3LatentImage','inputs':{'width':768,'height':['8',0]}},"
      "'6':{'class_type':'CLIPTextEncode','inputs':{'text':['9',0]}},"
      "'7':{'class_type':'CLIPTextEncode','inputs':{'text':'blurry'}},"
      "'8':{'class_type':'PrimitiveInt','inputs':{'value':1360}},"
      "'9':{'class_type':'PrimitiveString','inputs':{'value':'a fox, NaN 12345678901234567890'}}}",
      &ignored, &error);

  g_assert_no_error (error);
  g_assert_cmpstr (r->prompt, ==, "a fox, NaN 12345678901234567890");
  g_assert_cmpstr (r->negative, ==, "blurry");
  g_assert_cmpuint (r->seed, ==, G_MAXUINT64);
  g_assert_cmpint (r->steps, ==, 9);
  g_assert_cmpint (r->width, ==, 768);
  g_assert_cmpint (r->height, ==, 1360);
  g_assert_cmpfloat (r->guidance, ==, 2.5);
  g_assert_cmpuint (r->n_loras, ==, 1);
  g_assert_cmpstr (r->loras[0].file, ==, "ink.safetensors");
  g_assert_cmpfloat (r->loras[0].strength, ==, 0.6);
  g_assert_cmpstr (
      ignored, ==,
      "Shift: 5\nLoRA: elsewhere\nSampler: res_multistep\nModel: z_image.safetensors\n");
}

/* The sampler in parts: noise, guider, sampler and sigmas are nodes of their own. */
static void
test_comfyui_custom (void)
{
  g_autofree char *ignored = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (EngineRequest) r = from_comfyui (
      "{'1':{'class_type':'SamplerCustomAdvanced','inputs':{'noise':['2',0],'guider':['3',0],"
      "'sampler':['4',0],'sigmas':['5',0],'latent_image':['6',0]}},"
      "'2':{'class_type':'RandomNoise','inputs':{'noise_seed':77}},"
      "'3':{'class_type':'BasicGuider','inputs':{'conditioning':['7',0]}},"
      "'4':{'class_type':'KSamplerSelect','inputs':{'sampler_name':'euler'}},"
      "'5':{'class_type':'BasicScheduler','inputs':{'scheduler':'beta','steps':4,'denoise':0.8}},"
      "'6':{'class_type':'EmptySD3LatentImage','inputs':{'width':1000,'height':1024}},"
      "'7':{'class_type':'FluxGuidance','inputs':{'conditioning':['8',0]}},"
      "'8':{'class_type':'CLIPTextEncode','inputs':{'text':'a pier'}}}",
      &ignored, &error);

  g_assert_no_error (error);
  g_assert_cmpstr (r->prompt, ==, "a pier");
  g_assert_cmpuint (r->seed, ==, 77);
  g_assert_cmpint (r->steps, ==, 4);
  g_assert_cmpint (r->width, ==, 1024); /* 1000 is no multiple of 16: the size stays */
  g_assert_cmpfloat (r->guidance, ==, 0.0);
  g_assert_cmpstr (ignored, ==, "Width: 1000\nSchedule type: beta\nDenoise: 0.8\n");
}

static void
test_comfyui_workflow (void)
{
  g_autofree char *ignored = NULL;
  g_autoptr (GError) error = NULL;
  g_autoptr (EngineRequest) r = from_comfyui (
      "{'nodes':[{'id':1,'type':'KSampler','widgets_values':[7,'fixed',9,1,'euler','simple',1],"
      "'inputs':[{'name':'positive','link':2},{'name':'latent_image','link':3},"
      "{'name':'model','link':5}]},"
      "{'id':4,'type':'ModelSamplingAuraFlow','widgets_values':[3],"
      "'inputs':[{'name':'model','link':6}]},"
      "{'id':5,'type':'LoraLoader','widgets_values':['ink.safetensors',-0.5,1]},"
      "{'id':2,'type':'CLIPTextEncode','widgets_values':['a \\'fox\\'']},"
      "{'id':3,'type':'EmptyLatentImage','widgets_values':[512,640,1]}],"
      "'links':[[2,2,0,1,0,'CONDITIONING'],[3,3,0,1,1,'LATENT'],'no link',[4],"
      "[5,4,0,1,2,'MODEL'],[6,5,0,4,0,'MODEL']]}",
      &ignored, &error);

  g_assert_no_error (error);
  g_assert_cmpstr (r->prompt, ==, "a \"fox\"");
  g_assert_cmpuint (r->seed, ==, 7);
  g_assert_cmpint (r->steps, ==, 9);
  g_assert_cmpint (r->width, ==, 512);
  g_assert_cmpint (r->height, ==, 640);
  g_assert_cmpuint (r->n_loras, ==, 1);
  g_assert_cmpstr (r->loras[0].file, ==, "ink.safetensors");
  g_assert_cmpfloat (r->loras[0].strength, ==, -0.5);
  g_assert_cmpstr (ignored, ==, "");
}

static void
test_comfyui_hostile (void)
{
  static const char *const refused[]
      = { "",      "[]",  "{}", "{'1':{'inputs':{'steps':3}}}", "{'nodes':[{}],'links':[[1,2]]}",
          "{'1':", "\xff" };
  g_autofree char *ignored = NULL;
  g_autoptr (EngineRequest) circle = NULL;

  for (gsize i = 0; i < G_N_ELEMENTS (refused); i++)
    {
      g_autoptr (GError) error = NULL;

      g_assert_null (from_comfyui (refused[i], NULL, &error));
      g_assert_nonnull (error);
    }
  /* Links in a circle, to nowhere, and of wrong types end the search for that value only. */
  circle = from_comfyui ("{'1':{'class_type':3,'inputs':{'latent_image':['1',0],'seed':['1',0],"
                         "'steps':['x',0],'positive':['1',0],'noise':7,'conditioning':['1',0],"
                         "'samples':['1',0],'cfg':'high','sampler_name':[[]],'denoise':null}}}",
                         &ignored, NULL);
  g_assert_nonnull (circle);
  g_assert_cmpstr (ignored, ==,
                   "Seed: unknown\nSteps: unknown\nWidth: unknown\nHeight: unknown\n"
                   "Prompt: not found in the graph\n");
}

static void
assert_differ (const EngineRequest *a, const EngineRequest *b, const char *in)
{
  const char *what = NULL;

  g_assert_false (engine_request_comparable (a, b, &what));
  g_assert_cmpstr (what, ==, in);
  g_assert_false (engine_request_comparable (b, a, NULL));
}

#define DIFFER(member, value, in)                                                                  \
  G_STMT_START                                                                                     \
  {                                                                                                \
    EngineRequest one = sample (), other = sample ();                                              \
    other.member = value;                                                                          \
    assert_differ (&one, &other, in);                                                              \
  }                                                                                                \
  G_STMT_END

/* What must be the same for two pictures to show a difference of precisions alone. */
static void
test_comparable (void)
{
  static const EngineLora loras[] = { { "a", 1.0 }, { "b", 1.0 }, { "a", 0.5 } };
  EngineRequest a = sample (), b = sample ();

  b.precision = ENGINE_PRECISION_BF16;
  assert_same (&a, &b);
  DIFFER (width, 656, "size");
  DIFFER (height, 1040, "size");
  DIFFER (prompt, "another", "prompt");
  DIFFER (seed, 1, "seed");
  DIFFER (noise, ENGINE_NOISE_TORCH_CPU, "noise");
  DIFFER (latents_file, "latents.safetensors", "noise");
  DIFFER (steps, 8, "steps");
  DIFFER (guidance, 3.0, "guidance");
  DIFFER (cfg_normalization, 0.5, "guidance");
  DIFFER (cfg_truncation, 0.5, "guidance");
  DIFFER (negative, NULL, "negative prompt");
  a.guidance = b.guidance = 0.0; /* nobody reads the negative prompt then */
  b.negative = NULL;
  assert_same (&a, &b);
  a.n_loras = b.n_loras = 1;
  a.loras = &loras[0];
  b.loras = &loras[1];
  assert_differ (&a, &b, "LoRA");
  b.loras = &loras[2];
  assert_differ (&a, &b, "LoRA");
  b.n_loras = 0;
  assert_differ (&a, &b, "LoRA");
}

int
main (int argc, char **argv)
{
  g_test_init (&argc, &argv, NULL);
  g_test_add_func ("/request/validate", test_validate);
  g_test_add_func ("/request/json", test_json);
  g_test_add_func ("/request/json-loras", test_json_loras);
  g_test_add_func ("/request/a1111-loras", test_a1111_loras);
  g_test_add_func ("/request/json-hostile", test_json_hostile);
  g_test_add_func ("/request/a1111", test_a1111);
  g_test_add_func ("/request/a1111-foreign", test_a1111_foreign);
  g_test_add_func ("/request/comfyui", test_comfyui);
  g_test_add_func ("/request/comfyui-custom", test_comfyui_custom);
  g_test_add_func ("/request/comfyui-workflow", test_comfyui_workflow);
  g_test_add_func ("/request/comfyui-hostile", test_comfyui_hostile);
  g_test_add_func ("/request/comparable", test_comparable);
  return g_test_run ();
}
