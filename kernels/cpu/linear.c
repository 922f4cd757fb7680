/* SPDX-License-Identifier: Apache-2.0
 *
 * Linear layers with dense weights: oneDNN products on the weights as they are mapped.
 *
 * F32 weights are used in place. BF16 and F16 ones, and codes of 8 and 4 bit, are either widened
 * once (`resident`) or, panel by panel, on each call: a panel of output rows fits the processor's
 * caches, and its widening is hidden behind a product that uses it M times. With bf16_math the
 * roles change: BF16 is used in place, and what is not BF16 is narrowed.
 */
#include "kernels/cpu/primitives.h"

#include "kernels/weight-codes.h"

#include <string.h>

/* Bytes of a widened panel of weights for each thread, near the size of a second-level cache; and
 * what its rows are a multiple of, so that oneDNN's inner kernel has no remainder. */
#define PANEL_BYTES       ((int64_t)1 << 20)
#define PANEL_MAX_THREADS 16
#define PANEL_ROWS        32

/* Weights that a thread converts at a time; whole groups of codes. */
#define CONVERT_CHUNK 8192

/* With swiglu, both halves of this many columns and rows are kept before they are multiplied. */
#define SWIGLU_COLUMNS 512
#define SWIGLU_ROWS    1536

typedef struct
{
  Linear base;
  int n_parts;
  Tensor parts[LINEAR_MAX_PARTS];  /* views of the file or, where `owned`, of base.memory */
  Tensor scales[LINEAR_MAX_PARTS]; /* of parts that are codes: views of the file */
  bool owned[LINEAR_MAX_PARTS];
  float *bias; /* [N] or NULL */
  DType type;  /* of the products' operands: F32 or BF16 */
} DenseLinear;

static bool
dense_supports (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq)
{
  return caps->kind == DEVICE_CPU && svdq == NULL
         && (options == NULL || !options->bf16_math || caps->bf16);
}

static void
dense_release (Stream *s, Linear *linear)
{
  DenseLinear *self = (DenseLinear *)linear;

  if (self == NULL)
    return;
  host_free (&s->memory, linear->memory);
  host_free (&s->memory, self->bias);
  host_free (&s->memory, self);
}

/* `count` weights from element `first` on, of any floating type or of codes and `scales`, as the
 * products' operand type. Scales, like codes, may lie at any address. */
static void
convert_chunk (const Simd *simd, const Tensor *from, const Tensor *scales, int64_t first,
               int64_t count, DType type, void *to)
{
  bool pairs = from->dtype == DTYPE_U8;
  const void *at
      = (const char *)from->data + (size_t)first * dtype_size (from->dtype) / (pairs ? 2 : 1);
  float wide[CONVERT_CHUNK], *out = type == DTYPE_F32 ? to : wide;

  if (from->dtype == type)
    memcpy (to, at, (size_t)count * dtype_size (type));
  else if (from->dtype == DTYPE_BF16)
    simd->widen_bf16 (at, out, count);
  else if (from->dtype == DTYPE_F16)
    simd->widen_f16 (at, out, count);
  else if (from->dtype != DTYPE_F32)
    (pairs ? simd->expand_codes4 : simd->expand_codes8) (
        at, (const char *)scales->data + (size_t)(first / CODES_GROUP) * dtype_size (DTYPE_BF16),
        out, count);
  if (type == DTYPE_BF16 && from->dtype != DTYPE_BF16)
    simd->narrow_bf16 (from->dtype == DTYPE_F32 ? at : wide, to, count);
}

/* The same for any number of them, by all threads. */
static void
convert_weights (Stream *s, const Tensor *from, const Tensor *scales, int64_t first, int64_t count,
                 DType type, void *out)
{
#pragma omp parallel for num_threads(s->threads) if (count > PARALLEL_MIN)
  for (int64_t start = 0; start < count; start += CONVERT_CHUNK)
    convert_chunk (s->simd, from, scales, first + start,
                   count - start < CONVERT_CHUNK ? count - start : CONVERT_CHUNK, type,
                   (char *)out + (size_t)start * dtype_size (type));
}

/* Codes are read byte by byte, so they may lie anywhere. */
static Status
describe_codes (Stream *s, const LinearSource *source, DenseLinear *self)
{
  int i = self->n_parts;
  const Tensor *part = &source->parts[i], *scales = &source->scales[i];
  bool four = source->code_bits == 4;

  if (part->dtype != (four ? DTYPE_U8 : DTYPE_I8) || part->rank != 2
      || part->shape[1] != (four ? source->k / 2 : source->k) || source->k % CODES_GROUP != 0
      || scales->dtype != DTYPE_BF16 || scales->rank != 2 || scales->shape[0] != part->shape[0]
      || scales->shape[1] != source->k / CODES_GROUP)
    return cpu_fail (s, STATUS_UNSUPPORTED, "the codes of part %d of a linear layer do not fit it",
                     i);
  self->parts[i] = *part;
  self->scales[i] = *scales;
  self->n_parts = i + 1;
  self->owned[i] = source->resident;
  if (source->resident)
    self->parts[i] = tensor_2d (self->type, NULL, part->shape[0], source->k);
  return STATUS_OK;
}

/* What becomes of a part: a weight that is used as mapped must be of a known type and lie on a
 * multiple of its size. */
static Status
describe_part (Stream *s, const LinearSource *source, DenseLinear *self)
{
  int i = self->n_parts;
  const Tensor *part = &source->parts[i];
  bool known = part->dtype == DTYPE_F32 || part->dtype == DTYPE_BF16 || part->dtype == DTYPE_F16;
  bool aligned = (uintptr_t)part->data % dtype_size (part->dtype) == 0;

  if (!known)
    return cpu_fail (s, STATUS_UNSUPPORTED, "no linear layers of %s", dtype_name (part->dtype));
  if (part->rank != 2 || part->shape[1] != source->k)
    return cpu_fail (s, STATUS_UNSUPPORTED, "part %d of a linear layer has the wrong shape", i);

  self->parts[i] = *part;
  self->n_parts = i + 1;
  if (aligned && !source->fleeting && (part->dtype == self->type || !source->resident))
    return STATUS_OK;
  self->owned[i] = true;
  self->parts[i].dtype = aligned && source->resident ? self->type : part->dtype;
  return STATUS_OK;
}

static size_t
owned_bytes (const DenseLinear *self, int part)
{
  size_t bytes = self->owned[part] ? tensor_bytes (&self->parts[part]) : 0;

  return (bytes + HOST_ALIGNMENT - 1) / HOST_ALIGNMENT * HOST_ALIGNMENT;
}

static void
dense_move (Linear *linear, void *memory)
{
  DenseLinear *self = (DenseLinear *)linear;
  size_t offset = 0;

  linear->memory = memory;
  for (int i = 0; i < self->n_parts; i++)
    if (self->owned[i])
      {
        self->parts[i].data = memory != NULL ? (char *)memory + offset : NULL;
        offset += owned_bytes (self, i);
      }
}

static Status
copy_owned (Stream *s, const LinearSource *source, DenseLinear *self)
{
  void *memory;

  for (int i = 0; i < self->n_parts; i++)
    self->base.memory_bytes += owned_bytes (self, i);
  if (self->base.memory_bytes == 0)
    return STATUS_OK;
  CHECK (cpu_alloc (s, self->base.memory_bytes, &memory));
  dense_move (&self->base, memory);
  for (int i = 0; i < self->n_parts; i++)
    {
      const Tensor *from = &source->parts[i], *to = &self->parts[i];

      if (self->owned[i] && to->dtype != from->dtype)
        convert_weights (s, from, &source->scales[i], 0, tensor_count (to), to->dtype, to->data);
      else if (self->owned[i])
        memcpy (to->data, from->data, tensor_bytes (from));
    }
  return STATUS_OK;
}

static Status
take_source (Stream *s, const LinearSource *source, DenseLinear *self)
{
  int64_t rows = 0;
  void *bias;

  for (int i = 0; i < source->n_parts; i++)
    rows += source->parts[i].shape[0];
  if (rows != source->n || (source->swiglu && source->n % 2 != 0))
    return cpu_fail (s, STATUS_UNSUPPORTED, "a linear layer of %lld rows has parts of %lld",
                     (long long)source->n, (long long)rows);
  for (int i = 0; i < source->n_parts; i++)
    CHECK (source->code_bits != 0 ? describe_codes (s, source, self)
                                  : describe_part (s, source, self));
  CHECK (copy_owned (s, source, self));
  if (source->bias.data != NULL)
    {
      Tensor to = tensor_1d (DTYPE_F32, NULL, source->n);

      CHECK (cpu_alloc (s, tensor_bytes (&to), &bias));
      self->bias = to.data = bias;
      if (host_convert (&source->bias, &to) != STATUS_OK)
        return cpu_fail (s, STATUS_UNSUPPORTED, "the bias of a linear layer does not fit it");
    }
  return STATUS_OK;
}

/* As if the file had no type that can be used as mapped. */
static void
dense_measure (const LinearSource *source, LinearMemory *out)
{
  *out = (LinearMemory){ .weights = sizeof (DenseLinear), .swiglu = source->swiglu };
  if (source->resident)
    out->weights += (uint64_t)(source->n * source->k) * sizeof (float);
  else if (source->fleeting)
    out->weights += (uint64_t)(source->n * source->k) * dtype_size (DTYPE_BF16);
  if (source->bias.data != NULL)
    out->weights += (uint64_t)source->n * sizeof (float);
}

static Status
dense_prepare (Stream *s, const LinearSource *source, Linear **out)
{
  uint64_t before = s->memory.bytes;
  DenseLinear *self;
  Status status;
  void *memory;

  *out = NULL;
  if (source->svdq != NULL || source->n_parts < 1 || source->n_parts > LINEAR_MAX_PARTS)
    return cpu_fail (s, STATUS_UNSUPPORTED, "not a dense linear layer, nor one of codes");
  CHECK (cpu_alloc (s, sizeof *self, &memory));
  self = memory;
  *self = (DenseLinear){
    .base
    = { .backend = &linear_cpu_dense, .n = source->n, .k = source->k, .swiglu = source->swiglu },
    .type = s->options.bf16_math ? DTYPE_BF16 : DTYPE_F32
  };
  status = take_source (s, source, self);
  if (status != STATUS_OK)
    {
      dense_release (s, &self->base);
      return status;
    }
  self->base.bytes = s->memory.bytes - before;
  *out = &self->base;
  return STATUS_OK;
}

/* -- applying ----------------------------------------------------------------------------- */

/* What one call needs: operands, and scratch divided among its uses. */
typedef struct
{
  const DenseLinear *linear;
  bool swiglu;
  const void *x; /* [M, K], of the products' type */
  int64_t m;
  char *panel;  /* [panel_rows, K], of the products' type; twice with swiglu */
  float *pairs; /* [block_rows, 2 panel_rows], only with swiglu */
  int64_t panel_rows, block_rows;
} Work;

/* The rows [first, first + *count) of the stacked weights as the products' type. Lowers *count at
 * the end of a part, and to a panel when the rows must be converted into `panel`. */
static const void *
weight_rows (Stream *s, const Work *work, int64_t first, int64_t *count, char *panel)
{
  const DenseLinear *self = work->linear;
  const Tensor *part = self->parts, *scales = self->scales;
  int64_t k = self->base.k;

  for (; first >= part->shape[0]; part++, scales++)
    first -= part->shape[0];
  if (*count > part->shape[0] - first)
    *count = part->shape[0] - first;
  if (part->dtype == self->type)
    return (const char *)part->data + (size_t)(first * k) * dtype_size (part->dtype);
  if (*count > work->panel_rows)
    *count = work->panel_rows;
  convert_weights (s, part, scales, first * k, *count * k, self->type, panel);
  return panel;
}

static Status
apply_plain (Stream *s, const Work *work, float *out)
{
  const DenseLinear *self = work->linear;
  int64_t count;

  for (int64_t first = 0; first < self->base.n; first += count)
    {
      const void *weight;
      Product product;

      count = self->base.n - first;
      weight = weight_rows (s, work, first, &count, work->panel);
      product = (Product){ work->m, count, self->base.k, self->base.n, self->type == DTYPE_BF16 };
      CHECK (cpu_product (s, &product, work->x, weight,
                          self->bias != NULL ? self->bias + first : NULL, out + first));
    }
  return STATUS_OK;
}

/* Columns [first, first + count) of silu(w1 x) * w3 x, for all rows of x. */
static Status
swiglu_columns (Stream *s, const Work *work, int64_t first, int64_t count, const void *gate,
                const void *up, float *out)
{
  const DenseLinear *self = work->linear;
  int64_t f = self->base.n / 2;
  size_t x_row = (size_t)self->base.k * dtype_size (self->type);

  for (int64_t row = 0; row < work->m; row += work->block_rows)
    {
      int64_t rows = work->m - row < work->block_rows ? work->m - row : work->block_rows;
      Product product = { rows, count, self->base.k, 2 * count, self->type == DTYPE_BF16 };
      const char *x = (const char *)work->x + (size_t)row * x_row;
      const float *bias = self->bias;

      CHECK (cpu_product (s, &product, x, gate, bias != NULL ? bias + first : NULL, work->pairs));
      CHECK (cpu_product (s, &product, x, up, bias != NULL ? bias + f + first : NULL,
                          work->pairs + count));
#pragma omp parallel for num_threads(s->threads) if (rows * count > PARALLEL_MIN)
      for (int64_t i = 0; i < rows; i++)
        s->simd->silu_mul (work->pairs + i * 2 * count, work->pairs + (i * 2 + 1) * count,
                           out + (row + i) * f + first, count);
    }
  return STATUS_OK;
}

static Status
apply_swiglu (Stream *s, const Work *work, float *out)
{
  const DenseLinear *self = work->linear;
  int64_t f = self->base.n / 2;
  char *second = work->panel + (size_t)(work->panel_rows * self->base.k) * dtype_size (self->type);
  int64_t count;

  for (int64_t first = 0; first < f; first += count)
    {
      const void *gate, *up;
      int64_t up_count;

      count = f - first < work->panel_rows ? f - first : work->panel_rows;
      up_count = count;
      gate = weight_rows (s, work, first, &count, work->panel);
      up = weight_rows (s, work, f + first, &up_count, second);
      count = count < up_count ? count : up_count;
      CHECK (swiglu_columns (s, work, first, count, gate, up, out));
    }
  return STATUS_OK;
}

/* How many rows of weights are taken at a time, and with swiglu how many of x. */
static void
choose_blocks (const Stream *s, Work *work)
{
  const Linear *linear = &work->linear->base;
  int64_t threads = s->threads < PANEL_MAX_THREADS ? s->threads : PANEL_MAX_THREADS;
  int64_t row_bytes = linear->k * (int64_t)dtype_size (work->linear->type);
  int64_t n_blocks = (work->m + SWIGLU_ROWS - 1) / SWIGLU_ROWS;

  work->panel_rows = PANEL_BYTES * threads / row_bytes / PANEL_ROWS * PANEL_ROWS;
  if (work->panel_rows < 2 * PANEL_ROWS)
    work->panel_rows = 2 * PANEL_ROWS;
  if (work->swiglu)
    work->panel_rows = SWIGLU_COLUMNS;
  if (work->panel_rows > linear->n)
    work->panel_rows = linear->n;
  work->block_rows = (work->m + n_blocks - 1) / n_blocks;
}

/* Divides the scratch memory; fills x, panel, pairs. */
static Status
divide_scratch (Stream *s, const Tensor *x, Work *work)
{
  const DenseLinear *self = work->linear;
  int64_t k = self->base.k;
  size_t item = dtype_size (self->type);
  size_t x_bytes = self->type == DTYPE_BF16 ? (size_t)(work->m * k) * item : 0;
  size_t panel_bytes = 0;
  size_t pair_bytes = 0;
  char *scratch;
  void *memory;

  for (int i = 0; i < self->n_parts; i++)
    if (self->parts[i].dtype != self->type)
      panel_bytes = (size_t)(work->panel_rows * k) * item * (work->swiglu ? 2 : 1);
  if (work->swiglu)
    pair_bytes = (size_t)(work->block_rows * 2 * work->panel_rows) * sizeof (float);

  x_bytes = (x_bytes + 255) & ~(size_t)255;
  panel_bytes = (panel_bytes + 255) & ~(size_t)255;
  CHECK (cpu_scratch (s, x_bytes + panel_bytes + pair_bytes, &memory));
  scratch = memory;
  work->x = x->data;
  work->panel = scratch + x_bytes;
  work->pairs = (float *)(void *)(scratch + x_bytes + panel_bytes);
  if (self->type == DTYPE_BF16)
    {
      Tensor flat = tensor_1d (DTYPE_F32, x->data, work->m * k);

      convert_weights (s, &flat, NULL, 0, work->m * k, DTYPE_BF16, scratch);
      work->x = scratch;
    }
  return STATUS_OK;
}

static Status
dense_apply (Stream *s, const Linear *linear, const Tensor *x, Tensor *out)
{
  const DenseLinear *self = (const DenseLinear *)linear;
  Work work = { .linear = self, .m = tensor_count (x) / linear->k };
  int64_t columns;

  work.swiglu = linear->swiglu && tensor_count (out) == work.m * linear->n / 2;
  columns = work.swiglu ? linear->n / 2 : linear->n;
  if (x->dtype != DTYPE_F32 || out->dtype != DTYPE_F32 || tensor_count (x) != work.m * linear->k
      || tensor_count (out) != work.m * columns)
    return cpu_fail (s, STATUS_UNSUPPORTED, "a linear layer's input or output has a wrong shape");
  if (work.m == 0)
    return STATUS_OK;
  choose_blocks (s, &work);
  CHECK (divide_scratch (s, x, &work));
  return work.swiglu ? apply_swiglu (s, &work, out->data) : apply_plain (s, &work, out->data);
}

const LinearBackend linear_cpu_dense = {
  .name = "cpu",
  .keeps_source = true,
  .supports = dense_supports,
  .prepare_weights = dense_prepare,
  .apply = dense_apply,
  .release = dense_release,
  .move = dense_move,
  .measure = dense_measure,
};
