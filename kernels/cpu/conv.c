/* SPDX-License-Identifier: Apache-2.0
 *
 * Convolutions by oneDNN, in bands of rows.
 *
 * Activations are channels-last, and oneDNN's 3x3 kernels run at half speed on that layout. So a
 * band of rows is packed into oneDNN's own layout (8 or 16 channels together, see pack.c),
 * convolved there and unpacked into the output, while all of it is in the cache. 1x1 kernels, and
 * those of few input channels, are as fast on channels-last and run on the whole picture at once.
 *
 * A convolution of a picture enlarged twice reads each input value several times under different
 * taps. For each of the four positions in an output square the taps that meet the same input are
 * summed beforehand: four 2x2 convolutions of the small picture, 16 products a value instead of 36.
 */
#include "kernels/cpu/conv.h"
#include "kernels/cpu/primitives.h"

#include <string.h>

/* Input and output of a band together, for each thread: they must stay in the last-level cache. */
#define BAND_BYTES       ((int64_t)3 << 20)
#define BAND_MAX_THREADS 8
#define BAND_MIN_ROWS    4

/* Up to this many input channels oneDNN loses less on channels-last than packing costs. */
#define CHANNELS_LAST_MAX 32

#define MAX_PHASES 4

struct Conv
{
  int64_t c_out, c_in;
  int size;    /* of the kernel: 1, 2 (a phase of an enlarging one) or 3 */
  int stride;  /* 1 or 2 */
  int zoom;    /* 1 or 2: output squares of zoom x zoom pixels have their own weights each */
  int block;   /* channels packed together; 0 = channels-last, whole picture */
  bool rgb;    /* to 3 channels, which fill too little of oneDNN's vectors: see conv_to_rgb */
  float *bias; /* [Cout] or NULL */
  float *weights[MAX_PHASES];
  dnnl_memory_desc_t weight_layout;
};

/* One oneDNN convolution: the sizes of what it sees. Rows are padded by hand, columns by oneDNN. */
typedef struct
{
  int64_t rows_in, rows_out;
  int64_t width_in, width_out;
  int64_t pad_top, pad_left;
  bool accumulate; /* adds to what the output holds */
} ConvShape;

static dnnl_status_t
describe_conv (const Conv *conv, const ConvShape *shape, const dnnl_memory_desc_t *weight_layout,
               dnnl_convolution_desc_t *out)
{
  const int64_t size = conv->size;
  const int64_t stride = conv->stride;
  const dnnl_dims_t x_dims = { 1, conv->c_in, shape->rows_in, shape->width_in };
  const dnnl_dims_t weight_dims = { conv->c_out, conv->c_in, size, size };
  const dnnl_dims_t bias_dims = { conv->c_out };
  const dnnl_dims_t out_dims = { 1, conv->c_out, shape->rows_out, shape->width_out };
  const dnnl_dims_t strides = { stride, stride };
  const dnnl_dims_t before = { shape->pad_top, shape->pad_left };
  const dnnl_dims_t after
      = { (shape->rows_out - 1) * stride + size - shape->pad_top - shape->rows_in,
          (shape->width_out - 1) * stride + size - shape->pad_left - shape->width_in };
  const dnnl_format_tag_t tag = conv->block == 16  ? dnnl_nChw16c
                                : conv->block == 8 ? dnnl_nChw8c
                                                   : dnnl_nhwc;
  dnnl_memory_desc_t x, weight, bias, result;

  if (dnnl_memory_desc_init_by_tag (&x, 4, x_dims, dnnl_f32, tag) != dnnl_success
      || dnnl_memory_desc_init_by_tag (&weight, 4, weight_dims, dnnl_f32, dnnl_format_tag_any)
             != dnnl_success
      || dnnl_memory_desc_init_by_tag (&bias, 1, bias_dims, dnnl_f32, dnnl_x) != dnnl_success
      || dnnl_memory_desc_init_by_tag (&result, 4, out_dims, dnnl_f32, tag) != dnnl_success)
    return dnnl_invalid_arguments;
  return dnnl_convolution_forward_desc_init (out, dnnl_forward_inference, dnnl_convolution_direct,
                                             &x, weight_layout != NULL ? weight_layout : &weight,
                                             conv->bias != NULL ? &bias : NULL, &result, strides,
                                             before, after);
}

static Status
find_conv (Stream *s, const Conv *conv, const ConvShape *shape, Primitive **out)
{
  PrimitiveKey key = { { 'C', conv->c_in, conv->c_out, conv->size, conv->stride, conv->block,
                         shape->rows_in, shape->rows_out, shape->width_in, shape->width_out,
                         shape->pad_top, shape->pad_left, shape->accumulate, conv->bias != NULL } };
  dnnl_convolution_desc_t descriptor;

  *out = primitive_find (s, &key);
  if (*out != NULL)
    return STATUS_OK;
  CHECK (primitive_status (s, describe_conv (conv, shape, &conv->weight_layout, &descriptor),
                           "a convolution"));
  return primitive_add (s, &key, &descriptor, shape->accumulate, out);
}

/* -- preparing ---------------------------------------------------------------------------- */

/* The taps of a 3-tap kernel that meet input `tap` (0 or 1) of phase `phase` (0 or 1): output 2i
 * reads inputs i - 1, i, i; output 2i + 1 reads i, i, i + 1. */
static void
phase_taps (int phase, int tap, int *first, int *last)
{
  *first = tap == 0 ? 0 : 1 + phase;
  *last = tap == 0 ? phase : 2;
}

/* weight [Cout, Cin, 3, 3] -> out [Cout, Cin, 2, 2], taps summed. */
static void
sum_taps (const Conv *conv, const Tensor *weight, int phase_y, int phase_x, float *out)
{
  for (int64_t i = 0; i < conv->c_out * conv->c_in; i++)
    for (int ky = 0; ky < 2; ky++)
      for (int kx = 0; kx < 2; kx++)
        {
          int y0, y1, x0, x1;
          double sum = 0.0;

          phase_taps (phase_y, ky, &y0, &y1);
          phase_taps (phase_x, kx, &x0, &x1);
          for (int y = y0; y <= y1; y++)
            for (int x = x0; x <= x1; x++)
              sum += tensor_get (weight, i * 9 + y * 3 + x);
          out[i * 4 + ky * 2 + kx] = (float)sum;
        }
}

/* Asks oneDNN for the weights' layout, on a picture of a usual size. */
static Status
choose_layout (Stream *s, Conv *conv)
{
  const ConvShape usual = { .rows_in = (16 - 1) * conv->stride + conv->size,
                            .rows_out = 16,
                            .width_in = (64 - 1) * conv->stride + conv->size,
                            .width_out = 64 };
  PrimitiveKey key = { { 'L', conv->c_in, conv->c_out, conv->size, conv->stride, conv->block,
                         conv->bias != NULL } };
  Primitive *primitive = primitive_find (s, &key);

  if (primitive == NULL)
    {
      dnnl_convolution_desc_t descriptor;

      CHECK (
          primitive_status (s, describe_conv (conv, &usual, NULL, &descriptor), "a convolution"));
      CHECK (primitive_add (s, &key, &descriptor, false, &primitive));
    }
  conv->weight_layout = *primitive_layout (primitive, DNNL_ARG_WEIGHTS);
  return STATUS_OK;
}

/* plain [Cout, Cin, size, size] -> the chosen layout. */
static Status
reorder_weights (Stream *s, const Conv *conv, float *plain, float *out)
{
  const dnnl_dims_t dims = { conv->c_out, conv->c_in, conv->size, conv->size };
  dnnl_memory_desc_t layout;
  dnnl_memory_t from = NULL;
  dnnl_memory_t to = NULL;
  dnnl_primitive_desc_t description = NULL;
  dnnl_primitive_t reorder = NULL;
  dnnl_status_t status = dnnl_memory_desc_init_by_tag (&layout, 4, dims, dnnl_f32, dnnl_oihw);

  if (status == dnnl_success)
    status = dnnl_memory_create (&from, &layout, s->engine, plain);
  if (status == dnnl_success)
    status = dnnl_memory_create (&to, &conv->weight_layout, s->engine, out);
  if (status == dnnl_success)
    status = dnnl_reorder_primitive_desc_create (&description, &layout, s->engine,
                                                 &conv->weight_layout, s->engine, NULL);
  if (status == dnnl_success)
    status = dnnl_primitive_create (&reorder, description);
  if (status == dnnl_success)
    {
      const dnnl_exec_arg_t args[] = { { DNNL_ARG_FROM, from }, { DNNL_ARG_TO, to } };

      status = dnnl_primitive_execute (reorder, s->queue, 2, args);
    }
  if (status == dnnl_success)
    status = dnnl_stream_wait (s->queue);
  if (reorder != NULL)
    dnnl_primitive_destroy (reorder);
  if (description != NULL)
    dnnl_primitive_desc_destroy (description);
  if (from != NULL)
    dnnl_memory_destroy (from);
  if (to != NULL)
    dnnl_memory_destroy (to);
  return primitive_status (s, status, "the layout of a convolution's weights");
}

/* plain [Cout, Cin, 3, 3] -> [Cout, 3, 3, Cin]. */
static void
channels_last_weights (const Conv *conv, const float *plain, float *out)
{
  for (int64_t c_out = 0; c_out < conv->c_out; c_out++)
    for (int64_t c_in = 0; c_in < conv->c_in; c_in++)
      for (int tap = 0; tap < 9; tap++)
        out[(c_out * 9 + tap) * conv->c_in + c_in] = plain[(c_out * conv->c_in + c_in) * 9 + tap];
}

static Status
take_weights (Stream *s, const ConvSource *source, Conv *conv)
{
  int64_t count = conv->c_out * conv->c_in * conv->size * conv->size;
  void *memory, *plain;

  if (source->bias.data != NULL)
    {
      Tensor to = tensor_1d (DTYPE_F32, NULL, conv->c_out);

      CHECK (cpu_alloc (s, tensor_bytes (&to), &memory));
      conv->bias = to.data = memory;
      if (host_convert (&source->bias, &to) != STATUS_OK)
        return cpu_fail (s, STATUS_UNSUPPORTED, "the bias of a convolution does not fit it");
    }
  if (!conv->rgb)
    CHECK (choose_layout (s, conv));
  CHECK (cpu_scratch (s, (size_t)count * sizeof (float), &plain));
  for (int phase = 0; phase < conv->zoom * conv->zoom; phase++)
    {
      Tensor to = tensor_1d (DTYPE_F32, plain, count);

      CHECK (cpu_alloc (s,
                        conv->rgb ? (size_t)count * sizeof (float)
                                  : dnnl_memory_desc_get_size (&conv->weight_layout),
                        &memory));
      conv->weights[phase] = memory;
      if (conv->zoom == 2)
        sum_taps (conv, &source->weight, phase / 2, phase % 2, plain);
      else if (host_convert (&source->weight, &to) != STATUS_OK)
        return cpu_fail (s, STATUS_UNSUPPORTED, "no convolutions of %s",
                         dtype_name (source->weight.dtype));
      if (conv->rgb)
        channels_last_weights (conv, plain, memory);
      else
        CHECK (reorder_weights (s, conv, plain, memory));
    }
  return STATUS_OK;
}

/* oneDNN may pad channels to a multiple of its vectors. */
uint64_t
cpu_conv_bytes (const ConvSource *source)
{
  const int64_t *shape = source->weight.shape;
  uint64_t lanes = 16, phases = source->upsample ? 4 : 1;
  uint64_t out = ((uint64_t)shape[0] + lanes - 1) / lanes * lanes;
  uint64_t in = ((uint64_t)shape[1] + lanes - 1) / lanes * lanes;

  return phases * out * in * (uint64_t)(shape[2] * shape[3]) * sizeof (float) + out * sizeof (float)
         + sizeof (Conv);
}

Status
cpu_conv_prepare (Stream *s, const ConvSource *source, Conv **out)
{
  const Tensor *weight = &source->weight;
  int64_t size = weight->shape[2];
  Status status;
  void *memory;
  Conv *conv;

  *out = NULL;
  if (weight->rank != 4 || weight->shape[3] != size || (size != 1 && size != 3)
      || (source->stride != 1 && source->stride != 2)
      || (source->upsample && (size != 3 || source->stride != 1)))
    return cpu_fail (s, STATUS_UNSUPPORTED, "a convolution of an unknown kind");
  CHECK (cpu_alloc (s, sizeof *conv, &memory));
  conv = memory;
  *conv = (Conv){ .c_out = weight->shape[0],
                  .c_in = weight->shape[1],
                  .size = source->upsample ? 2 : (int)size,
                  .stride = source->stride,
                  .zoom = source->upsample ? 2 : 1 };
  if (size == 3 && source->stride == 1 && !source->upsample && conv->c_out == 3)
    conv->rgb = true;
  else if (source->upsample || (size == 3 && conv->c_in > CHANNELS_LAST_MAX))
    conv->block = s->caps.avx512 ? 16 : 8;
  status = take_weights (s, source, conv);
  if (status != STATUS_OK)
    {
      cpu_conv_release (s, conv);
      return status;
    }
  *out = conv;
  return STATUS_OK;
}

void
cpu_conv_release (Stream *s, Conv *conv)
{
  if (conv == NULL)
    return;
  for (int phase = 0; phase < MAX_PHASES; phase++)
    host_free (&s->memory, conv->weights[phase]);
  host_free (&s->memory, conv->bias);
  host_free (&s->memory, conv);
}

/* -- running ------------------------------------------------------------------------------ */

static void
copy_rows (Stream *s, const Tensor *from, Tensor *to)
{
#pragma omp parallel for num_threads(s->threads) if (tensor_count(to) > PARALLEL_MIN)
  for (int64_t row = 0; row < to->shape[0]; row++)
    {
      Tensor source = tensor_rows (from, row, 1);
      Tensor target = tensor_rows (to, row, 1);

      memcpy (target.data, source.data, tensor_bytes (&target));
    }
}

static Status
conv_whole (Stream *s, const Conv *conv, const Tensor *x, const Tensor *residual, Tensor *out)
{
  int64_t pad = conv->size == 3 && conv->stride == 1 ? 1 : 0;
  const ConvShape shape = { .rows_in = x->shape[0],
                            .rows_out = out->shape[0],
                            .width_in = x->shape[1],
                            .width_out = out->shape[1],
                            .pad_top = pad,
                            .pad_left = pad,
                            .accumulate = residual != NULL };
  Primitive *primitive;

  CHECK (find_conv (s, conv, &shape, &primitive));
  if (residual != NULL && residual->data != out->data)
    copy_rows (s, residual, out);
  return primitive_run (s, primitive, x->data, conv->weights[0], conv->bias, out->data);
}

static Status
conv_rgb (Stream *s, const Conv *conv, const Tensor *x, const Tensor *residual, Tensor *out)
{
  int64_t row_in = x->shape[1] * conv->c_in;
  int64_t row_out = out->shape[1] * 3;
  const float *in = x->data;
  float *to = out->data;
  void *scratch;

  /* A row on the side, since the residual may lie where the row goes. */
  CHECK (cpu_scratch (s, (size_t)(s->threads * row_out) * sizeof (float), &scratch));
#pragma omp parallel for num_threads(s->threads) if (tensor_count(x) > PARALLEL_MIN)
  for (int64_t y = 0; y < x->shape[0]; y++)
    {
      const float *rows[] = { y > 0 ? in + (y - 1) * row_in : NULL, in + y * row_in,
                              y + 1 < x->shape[0] ? in + (y + 1) * row_in : NULL };
      float *row = (float *)scratch + cpu_thread () * row_out;

      s->simd->conv_to_rgb (rows, x->shape[1], conv->c_in, conv->weights[0], conv->bias, row);
      if (residual != NULL)
        for (int64_t i = 0; i < row_out; i++)
          row[i] += ((const float *)residual->data)[y * row_out + i];
      memcpy (to + y * row_out, row, (size_t)row_out * sizeof (float));
    }
  return STATUS_OK;
}

/* Rows [first, first + rows) of one phase, where rows are the phase's own. */
static Status
conv_band (Stream *s, const Conv *conv, int phase, int64_t first, int64_t rows, const Tensor *x,
           const Tensor *residual, Tensor *out)
{
  int phase_y = phase / 2;
  int phase_x = phase % 2;
  bool centred = conv->size == 3 && conv->stride == 1;
  const ConvShape shape = { .rows_in = (rows - 1) * conv->stride + conv->size,
                            .rows_out = rows,
                            .width_in = x->shape[1],
                            .width_out = out->shape[1] / conv->zoom,
                            .pad_left = centred || (conv->zoom == 2 && phase_x == 0) ? 1 : 0 };
  int64_t above = centred || (conv->zoom == 2 && phase_y == 0) ? 1 : 0;
  int64_t in_count = packed_count (conv->c_in, conv->block, shape.rows_in, shape.width_in);
  int64_t out_count = packed_count (conv->c_out, conv->block, rows, shape.width_out);
  Primitive *primitive;
  void *memory;
  float *packed;

  CHECK (find_conv (s, conv, &shape, &primitive));
  CHECK (cpu_scratch (s, (size_t)(in_count + out_count) * sizeof (float), &memory));
  packed = memory;
  pack_rows (s, x, first * conv->stride - above, shape.rows_in, conv->block, packed);
  CHECK (primitive_run (s, primitive, packed, conv->weights[phase], conv->bias, packed + in_count));
  unpack_rows (s, packed + in_count, conv->block, rows, shape.width_out,
               &(Placement){ first * conv->zoom + phase_y, phase_x, conv->zoom }, residual, out);
  return STATUS_OK;
}

static bool
sizes_match (const Conv *conv, const Tensor *x, const Tensor *residual, const Tensor *out)
{
  if (x->rank != 3 || out->rank != 3 || x->dtype != DTYPE_F32 || out->dtype != DTYPE_F32
      || x->shape[2] != conv->c_in || out->shape[2] != conv->c_out)
    return false;
  for (int axis = 0; axis < 2; axis++)
    if (out->shape[axis] != x->shape[axis] * conv->zoom / conv->stride || out->shape[axis] < 1)
      return false;
  return residual == NULL || tensor_same_shape (residual, out);
}

Status
cpu_conv2d (Stream *s, const Conv *conv, const Tensor *x, const Tensor *residual, Tensor *out)
{
  int64_t phase_rows, row_bytes, band;

  if (!sizes_match (conv, x, residual, out))
    return cpu_fail (s, STATUS_UNSUPPORTED, "a convolution's input or output has a wrong shape");
  if (conv->rgb)
    return conv_rgb (s, conv, x, residual, out);
  if (conv->block == 0)
    return conv_whole (s, conv, x, residual, out);

  phase_rows = out->shape[0] / conv->zoom;
  row_bytes = (conv->stride * x->shape[1] * conv->c_in + out->shape[1] / conv->zoom * conv->c_out)
              * (int64_t)sizeof (float);
  band = BAND_BYTES * (s->threads < BAND_MAX_THREADS ? s->threads : BAND_MAX_THREADS) / row_bytes;
  band = band < BAND_MIN_ROWS ? BAND_MIN_ROWS : band;
  for (int64_t first = 0; first < phase_rows; first += band)
    for (int phase = 0; phase < conv->zoom * conv->zoom; phase++)
      {
        int64_t rows = phase_rows - first < band ? phase_rows - first : band;

        CHECK (conv_band (s, conv, phase, first, rows, x, residual, out));
      }
  return STATUS_OK;
}
