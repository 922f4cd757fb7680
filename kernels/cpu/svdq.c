/* SPDX-License-Identifier: Apache-2.0
 *
 * SVDQuant linear layers on the processor: 8-bit integer products of 4-bit codes.
 *
 * Weights stay 4 bit in memory; the tiles of svdq-tile.c unpack them in registers. A slab of rows
 * is quantised, then its products are taken block by block, so that scratch memory is bounded and
 * each set of weights is read from memory once a slab.
 */
#include "kernels/cpu/stream.h"
#include "kernels/cpu/svdq-tile.h"
#include "kernels/svdq-math.h"

#include <string.h>

#define SLAB_ROWS  512 /* quantised at a time */
#define TASK_ROWS  64  /* of a task: their codes stay in the second-level cache */
#define TASK_BLOCK 8   /* blocks of outputs of a task */

typedef struct
{
  Linear base;
  SvdqFormat format;
  int rank;
  const SvdqTiles *tiles;
  void *memory;     /* owned; all below point into it */
  uint8_t *codes;   /* by block, see svdq-tile.h */
  uint16_t *scales; /* by block */
  uint16_t *down;   /* [R/16, K, 16] BF16 */
  uint16_t *up;     /* by block */
  float *smooth;    /* [K] */
  float *outer;     /* [N] */
  float *bias;      /* [N] or NULL */
} SvdqLinear;

static int64_t
group_of (SvdqFormat format)
{
  return format == SVDQ_INT4 ? SVDQ_INT4_GROUP : SVDQ_NVFP4_GROUP;
}

static bool
svdq_supports (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq)
{
  return caps->kind == DEVICE_CPU && svdq != NULL;
}

static void
svdq_release (Stream *s, Linear *linear)
{
  SvdqLinear *self = (SvdqLinear *)linear;

  if (self == NULL)
    return;
  host_free (&s->memory, self->memory);
  host_free (&s->memory, self);
}

/* -- from the file's order to blocks ---------------------------------------------------------- */

#define N_PARTS 7 /* of SvdqLinear.memory */

/* Where each part of the memory begins; returns how long it is. */
static size_t
place_parts (const LinearSource *source, size_t offsets[N_PARTS])
{
  size_t n = (size_t)source->n, k = (size_t)source->k, rank = (size_t)source->svdq->rank;
  size_t sizes[N_PARTS] = { n * k / 2,
                            n * k / (size_t)group_of (source->svdq->format) * sizeof (uint16_t),
                            k * rank * sizeof (uint16_t),
                            n * rank * sizeof (uint16_t),
                            k * sizeof (float),
                            n * sizeof (float),
                            source->bias.data != NULL ? n * sizeof (float) : 0 };
  size_t total = 0;

  for (int i = 0; i < N_PARTS; i++)
    {
      offsets[i] = total;
      total += (sizes[i] + 63) & ~(size_t)63;
    }
  return total;
}

static void
svdq_measure (const LinearSource *source, LinearMemory *out)
{
  size_t offsets[N_PARTS];

  *out = (LinearMemory){ .weights = place_parts (source, offsets), .swiglu = source->swiglu };
  out->weights += sizeof (SvdqLinear);
}

static Status
allocate (Stream *s, const LinearSource *source, SvdqLinear *self)
{
  size_t offsets[N_PARTS], total = place_parts (source, offsets);
  char *parts[N_PARTS];

  CHECK (cpu_alloc (s, total, &self->memory));
  for (int i = 0; i < N_PARTS; i++)
    parts[i] = (char *)self->memory + offsets[i];
  self->codes = (uint8_t *)parts[0];
  self->scales = (uint16_t *)(void *)parts[1];
  self->down = (uint16_t *)(void *)parts[2];
  self->up = (uint16_t *)(void *)parts[3];
  self->smooth = (float *)(void *)parts[4];
  self->outer = (float *)(void *)parts[5];
  self->bias = source->bias.data != NULL ? (float *)(void *)parts[6] : NULL;
  return STATUS_OK;
}

/* Eight codes of consecutive k, lowest first, become the low (0 to 3) and high (4 to 7) nibbles of
 * four bytes. */
static uint32_t
interleave (uint32_t codes)
{
  uint64_t halves = (codes & 0xffff) | (uint64_t)(codes >> 16) << 32;

  halves = (halves | halves << 8) & 0x00ff00ff00ff00ff;
  halves = (halves | halves << 4) & 0x0f0f0f0f0f0f0f0f;
  return (uint32_t)halves | (uint32_t)(halves >> 28);
}

/* Lane by lane in the inner loop, so that a block is written from one end to the other. */
static void
pack_codes (const SvdqLinear *self, const uint8_t *rows, uint8_t *block)
{
  int64_t k = self->base.k;
  uint32_t flip = self->format == SVDQ_INT4 ? SVDQ_INT4_OFFSET * 0x11111111u : 0;

  for (int64_t i = 0; i < k / 8; i++)
    for (int64_t lane = 0; lane < SVDQ_BLOCK; lane++, block += sizeof flip)
      {
        uint32_t codes;

        memcpy (&codes, rows + lane * k / 2 + i * 4, sizeof codes);
        codes = interleave (codes ^ flip);
        memcpy (block, &codes, sizeof codes);
      }
}

/* What an E4M3 byte is as BF16. */
typedef struct
{
  uint16_t bf16[256];
} ScaleTable;

/* The file has the scales of all rows side by side, too. */
static void
pack_scales (const SvdqLinear *self, const void *wscales, const ScaleTable *table, int64_t first,
             uint16_t *block)
{
  int64_t n = self->base.n, groups = self->base.k / group_of (self->format);

  for (int64_t g = 0; g < groups; g++, block += SVDQ_BLOCK)
    if (self->format == SVDQ_INT4)
      memcpy (block, (const uint16_t *)wscales + g * n + first, SVDQ_BLOCK * sizeof *block);
    else
      for (int64_t lane = 0; lane < SVDQ_BLOCK; lane++)
        block[lane] = table->bf16[((const uint8_t *)wscales)[g * n + first + lane]];
}

static void
pack_block (const SvdqLinear *self, const SvdqSource *source, const ScaleTable *table,
            int64_t block)
{
  int64_t k = self->base.k, groups = k / group_of (self->format), first = block * SVDQ_BLOCK;

  pack_codes (self, source->qweight + first * k / 2, self->codes + first * k / 2);
  pack_scales (self, source->wscales, table, first, self->scales + first * groups);
  for (int64_t row = first; row < first + SVDQ_BLOCK; row++)
    {
      for (int64_t r = 0; r < self->rank; r++)
        self->up[first * self->rank + r * SVDQ_BLOCK + row - first]
            = source->proj_up[row * self->rank + r];
      self->outer[row] = (source->outer != NULL ? source->outer[row] : 1.0f)
                         * (self->format == SVDQ_INT4 ? 1.0f : 0.25f);
    }
}

static void
pack (Stream *s, const SvdqLinear *self, const SvdqSource *source)
{
  int64_t k = self->base.k;
  ScaleTable table;

  for (int i = 0; i < 256; i++)
    table.bf16[i] = bf16_from_float (e4m3_to_float ((uint8_t)i));
#pragma omp parallel for num_threads(s->threads)
  for (int64_t block = 0; block < self->base.n / SVDQ_BLOCK; block++)
    pack_block (self, source, &table, block);
  for (int64_t i = 0; i < k; i++)
    {
      self->smooth[i] = bf16_to_float (source->smooth[i]);
      for (int64_t r = 0; r < self->rank; r++)
        self->down[(r / SVDQ_BLOCK * k + i) * SVDQ_BLOCK + r % SVDQ_BLOCK]
            = source->proj_down[i * self->rank + r];
    }
}

static Status
take_bias (Stream *s, const LinearSource *source, SvdqLinear *self)
{
  Tensor to = tensor_1d (DTYPE_F32, self->bias, source->n);

  if (self->bias != NULL && host_convert (&source->bias, &to) != STATUS_OK)
    return cpu_fail (s, STATUS_UNSUPPORTED, "the bias of a linear layer does not fit it");
  return STATUS_OK;
}

static const SvdqTiles *
choose_tiles (const Stream *s)
{
  if (s->caps.vnni)
    return &svdq_tiles_vnni;
  return s->caps.avx2 ? &svdq_tiles_avx2 : &svdq_tiles_portable;
}

void
svdq_linear_use (Linear *linear, const SvdqTiles *tiles)
{
  ((SvdqLinear *)linear)->tiles = tiles;
}

static Status
svdq_prepare (Stream *s, const LinearSource *source, Linear **out)
{
  uint64_t before = s->memory.bytes;
  const SvdqSource *svdq = source->svdq;
  SvdqLinear *self;
  Status status;
  void *memory;

  *out = NULL;
  if (svdq == NULL)
    return cpu_fail (s, STATUS_UNSUPPORTED, "not an SVDQuant linear layer");
  if (source->k <= 0 || source->n <= 0 || source->k % SVDQ_INT4_GROUP != 0
      || source->n % (2 * SVDQ_BLOCK) != 0 || svdq->rank < 0 || svdq->rank % SVDQ_BLOCK != 0)
    return cpu_fail (s, STATUS_UNSUPPORTED, "an SVDQuant layer of %lld x %lld, rank %d",
                     (long long)source->n, (long long)source->k, svdq->rank);
  CHECK (cpu_alloc (s, sizeof *self, &memory));
  self = memory;
  *self = (SvdqLinear){
    .base
    = { .backend = &linear_cpu_svdq, .n = source->n, .k = source->k, .swiglu = source->swiglu },
    .format = svdq->format,
    .rank = svdq->rank,
    .tiles = choose_tiles (s)
  };
  status = allocate (s, source, self);
  if (status == STATUS_OK)
    status = take_bias (s, source, self);
  if (status != STATUS_OK)
    {
      svdq_release (s, &self->base);
      return status;
    }
  pack (s, self, svdq);
  self->base.bytes = s->memory.bytes - before;
  *out = &self->base;
  return STATUS_OK;
}

/* -- applying --------------------------------------------------------------------------------- */

/* A slab of quantised rows, in scratch memory. */
typedef struct
{
  bool swiglu; /* outputs are silu (w1 x) * w3 x */
  int8_t *codes;
  float *scales;
  int32_t *sums;
  float *lowered;
} Slab;

static Status
slab_new (Stream *s, const SvdqLinear *self, int64_t rows, Slab *slab)
{
  int64_t groups = self->base.k / group_of (self->format);
  void *memory;
  char *at;

  CHECK (cpu_scratch (s, (size_t)(rows * (self->base.k + 8 * groups + 4 * self->rank)), &memory));
  at = memory;
  slab->codes = (int8_t *)at; /* a multiple of 64 bytes each row */
  slab->scales = (float *)(void *)(at += rows * self->base.k);
  slab->sums = (int32_t *)(void *)(at += rows * groups * 4);
  slab->lowered = (float *)(void *)(at + rows * groups * 4);
  return STATUS_OK;
}

static void
quantise_slab (Stream *s, const SvdqLinear *self, const float *x, int64_t rows, const Slab *slab)
{
  int64_t k = self->base.k, groups = k / group_of (self->format);

#pragma omp parallel for num_threads(s->threads) if (rows * k > PARALLEL_MIN)
  for (int64_t first = 0; first < rows; first += SVDQ_TILE_ROWS)
    {
      int count = rows - first < SVDQ_TILE_ROWS ? (int)(rows - first) : SVDQ_TILE_ROWS;

      for (int64_t row = first; row < first + count; row++)
        self->tiles->quantise (self->format, x + row * k, self->smooth, k, slab->codes + row * k,
                               slab->scales + row * groups, slab->sums + row * groups);
      self->tiles->lower (x + first * k, count, k, self->down, self->rank,
                          slab->lowered + first * self->rank);
    }
}

static void
run_tile (const SvdqLinear *self, const Slab *slab, int64_t block, int64_t row, int rows,
          float *out)
{
  int64_t k = self->base.k, groups = k / group_of (self->format);
  SvdqBlock weights = { .format = self->format,
                        .k = k,
                        .rank = self->rank,
                        .codes = self->codes + block * SVDQ_BLOCK * k / 2,
                        .scales = self->scales + block * SVDQ_BLOCK * groups,
                        .up = self->up + block * SVDQ_BLOCK * self->rank,
                        .outer = self->outer + block * SVDQ_BLOCK,
                        .bias = self->bias != NULL ? self->bias + block * SVDQ_BLOCK : NULL };
  SvdqRows x = { slab->codes + row * k, slab->scales + row * groups, slab->sums + row * groups,
                 slab->lowered + row * self->rank };

  self->tiles->tile (&weights, &x, rows, out);
}

/* Where outputs go: rows of the layer's columns in rows that may be wider. */
typedef struct
{
  float *first;
  int64_t stride;
} Rows;

/* Outputs of one block for rows [first, last) of the slab; `out` begins with the slab's first. */
static void
run_block (Stream *s, const SvdqLinear *self, const Slab *slab, int64_t block, int64_t first,
           int64_t last, const Rows *out)
{
  int64_t columns = slab->swiglu ? self->base.n / 2 : self->base.n;
  float y[SVDQ_TILE_ROWS * SVDQ_BLOCK], up[SVDQ_TILE_ROWS * SVDQ_BLOCK];

  for (int64_t row = first; row < last; row += SVDQ_TILE_ROWS)
    {
      int rows = last - row < SVDQ_TILE_ROWS ? (int)(last - row) : SVDQ_TILE_ROWS;

      run_tile (self, slab, block, row, rows, y);
      if (slab->swiglu)
        {
          run_tile (self, slab, block + columns / SVDQ_BLOCK, row, rows, up);
          s->simd->silu_mul (y, up, y, rows * SVDQ_BLOCK);
        }
      for (int i = 0; i < rows; i++)
        memcpy (out->first + (row + i) * out->stride + block * SVDQ_BLOCK, y + i * SVDQ_BLOCK,
                SVDQ_BLOCK * sizeof (float));
    }
}

static void
multiply_slab (Stream *s, const SvdqLinear *self, const Slab *slab, int64_t rows, const Rows *out)
{
  int64_t blocks = (slab->swiglu ? self->base.n / 2 : self->base.n) / SVDQ_BLOCK;

#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(s->threads)
  for (int64_t first = 0; first < blocks; first += TASK_BLOCK)
    for (int64_t row = 0; row < rows; row += TASK_ROWS)
      {
        int64_t end = first + TASK_BLOCK < blocks ? first + TASK_BLOCK : blocks;
        int64_t last = row + TASK_ROWS < rows ? row + TASK_ROWS : rows;

        for (int64_t block = first; block < end; block++)
          run_block (s, self, slab, block, row, last, out);
      }
}

static Status
svdq_apply_columns (Stream *s, const Linear *linear, const Tensor *x, int64_t first, Tensor *out)
{
  const SvdqLinear *self = (const SvdqLinear *)linear;
  int64_t m = tensor_count (x) / linear->k, stride = m > 0 ? tensor_count (out) / m : 0;
  Slab slab = { .swiglu = linear->swiglu && stride == linear->n / 2 };
  int64_t columns = slab.swiglu ? linear->n / 2 : linear->n;

  if (x->dtype != DTYPE_F32 || out->dtype != DTYPE_F32 || tensor_count (x) != m * linear->k
      || tensor_count (out) != m * stride || first < 0 || (m > 0 && first + columns > stride))
    return cpu_fail (s, STATUS_UNSUPPORTED, "a linear layer's input or output has a wrong shape");
  if (m == 0)
    return STATUS_OK;
  CHECK (slab_new (s, self, m < SLAB_ROWS ? m : SLAB_ROWS, &slab));
  for (int64_t row = 0; row < m; row += SLAB_ROWS)
    {
      int64_t rows = m - row < SLAB_ROWS ? m - row : SLAB_ROWS;
      Rows to = { (float *)out->data + row * stride + first, stride };

      quantise_slab (s, self, (const float *)x->data + row * linear->k, rows, &slab);
      multiply_slab (s, self, &slab, rows, &to);
    }
  return STATUS_OK;
}

static Status
svdq_apply (Stream *s, const Linear *linear, const Tensor *x, Tensor *out)
{
  int64_t m = tensor_count (x) / linear->k;

  if (tensor_count (out) != m * linear->n
      && !(linear->swiglu && tensor_count (out) == m * linear->n / 2))
    return cpu_fail (s, STATUS_UNSUPPORTED, "a linear layer's input or output has a wrong shape");
  return svdq_apply_columns (s, linear, x, 0, out);
}

const LinearBackend linear_cpu_svdq = {
  .name = "cpu-svdq",
  .keeps_source = false,
  .supports = svdq_supports,
  .prepare_weights = svdq_prepare,
  .apply = svdq_apply,
  .release = svdq_release,
  .apply_columns = svdq_apply_columns,
  .measure = svdq_measure,
};
