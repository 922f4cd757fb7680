/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products and attention of the CUDA backend against plain FP32 references.
 *
 * Every kernel and every tile shape that can take a size is run on it, whatever the backend would
 * pick: fresh random inputs, poisoned outputs, odd sizes. `test-cuda-heavy FIRST` begins with
 * kernel number FIRST: for finding the one that hangs. `test-cuda-heavy FIRST ROWS` leaves sizes of
 * more rows out: for a memory checker.
 */
#include "tests/kernels/cuda-reference.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SKIPPED 77
/* Rounding to BF16 is 1.7e-3 of a number on average and 3.9e-3 at most, which a handful of numbers
 * may come near; products add FP32 rounding only, attention also rounds probabilities. */
#define GEMM_LIMIT      2.5e-3
#define GEMM_LIMIT_FEW  4.0e-3
#define FEW             1000 /* outputs */
#define ATTENTION_LIMIT 4.0e-3
#define WORST_LIMIT     0.02 /* a single number over its size + the RMS: wrong ones differ by 1 */
#define LARGEST_NUMBERS (IS_EMULATED ? (size_t)1 << 21 : (size_t)4224 * 20480)

typedef struct
{
  int m, n, k;
  bool swiglu, bias;
  int rank; /* of what is added; sm_90 takes the next multiple of 64 */
} GemmSize;

static const GemmSize gemm_sizes[] = {
  { 1, 8, 8, false, true, 0 },
  { 1, 48, 72, true, false, 16 },
  { 33, 136, 72, false, true, 16 },
  { 65, 80, 64, true, true, 80 },
  { 129, 512, 264, false, false, 48 },
  { 300, 528, 1000, true, false, 144 },
  { 5, 48, 72, false, false, 0 },
  { 16, 144, 1000, true, true, 0 },
  { 17, 24, 40, false, true, 0 },
  { 33, 136, 72, false, false, 0 },
  { 65, 32, 64, true, false, 0 },
  { 100, 264, 200, false, true, 0 },
  { 130, 528, 264, true, true, 0 },
  { 129, 512, 64, false, false, 0 },
  { 257, 1032, 1000, false, true, 0 },
  { 77, 2560, 2560, false, false, 0 },
  { 600, 4096, 256, true, false, 0 },
  { 4224, 3840, 10240, false, false, 0 },
  { 4160, 20480, 3840, true, false, 0 },
  { 4224, 11520, 3840, false, true, 0 },
  { 4224, 3840, 3840, false, false, 64 },
  { 4160, 20480, 3840, true, false, 32 },
};

typedef struct
{
  int m, n_q, n_kv, d;
  bool causal;
} AttentionSize;

static const AttentionSize attention_sizes[] = {
  { 1, 1, 1, 64, false },       { 7, 2, 1, 16, true },        { 65, 4, 2, 32, false },
  { 100, 3, 3, 112, true },     { 100, 3, 3, 48, true },      { 77, 4, 4, 64, true },
  { 200, 4, 1, 128, false },    { 129, 2, 2, 128, true },     { 383, 6, 2, 64, false },
  { 512, 32, 8, 128, true },    { 1000, 3, 3, 128, false },   { 100, 2, 1, 160, true },
  { 333, 1, 1, 256, false },    { 97, 2, 1, 320, true },      { 65, 2, 2, 512, true },
  { 1030, 1, 1, 512, false },   { 1, 1, 1, 512, false },      { 200, 4, 2, 512, false },
  { 4160, 30, 30, 128, false }, { 4224, 30, 30, 128, false },
};

typedef struct
{
  Stream *s;
  uint64_t seed;
  bf16 *inputs[2], *parts[2], *out;
  float *bias, *reference, *full;
  Difference *difference;
  int tests, failures;
  int most_rows; /* of a size */
} Test;

static bool
report (Test *t, const char *name, const char *size, Status status, Error e, double limit)
{
  const bool ok = status == STATUS_OK && e.bad == 0 && e.relative < limit && e.worst < WORST_LIMIT;
  if (!ok)
    t->failures++;
  printf ("%sok %d - %s, %s: error %.2e worst %.1e unwritten %u %s %s\n", ok ? "" : "not ",
          ++t->tests, name, size, e.relative, e.worst, e.bad, status_name (status),
          status == STATUS_OK ? "" : cuda_detail (t->s));
  fflush (stdout);
  return ok;
}

/* -- products -----------------------------------------------------------------------------------
 */

typedef struct
{
  const char *name;
  int variant; /* of gemm_sm90; or one of these */
} GemmKernel;

enum
{
  KERNEL_FEW_ROWS = -3,
  KERNEL_SM80 = -2,
  KERNEL_CHOSEN = -1,
};

static Status
run_gemm (Stream *s, const Gemm *g, int variant)
{
  switch (variant)
    {
    case KERNEL_FEW_ROWS:
      return gemm_few_rows (s, g);
    case KERNEL_SM80:
      return gemm_sm80 (s, g);
    case KERNEL_CHOSEN:
      return gemm (s, g);
    default:
      return gemm_sm90 (s, g, variant);
    }
}

/* Rows of `from`, `columns` of `pitch` numbers each from `first` on -> `to`, dense. */
static __global__ void
columns_kernel (const bf16 *from, bf16 *to, size_t rows, int pitch, int first, int columns)
{
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * columns;
       i += (size_t)gridDim.x * blockDim.x)
    to[i] = from[i / columns * pitch + first + i % columns];
}

/* [rows, k + rank] at `whole` -> [rows, k], and behind it [rows, rank], at `parts`. */
static Status
split (Stream *s, const bf16 *whole, bf16 *parts, size_t rows, int k, int rank)
{
  launch_kernel (columns_kernel, 1024, 256, 0, s->compute, whole, parts, rows, k + rank, 0, k);
  launch_kernel (columns_kernel, 1024, 256, 0, s->compute, whole, parts + rows * k, rows, k + rank,
                 k, rank);
  return LAUNCHED (s);
}

/* What is added to a product is more K of it: one product of all K is the reference. */
static Status
test_gemm_size (Test *t, const char *name, int variant, const GemmSize *size)
{
  const size_t outputs = (size_t)size->m * (size->swiglu ? size->n / 2 : size->n);
  const bool hopper = variant >= 0 || (variant == KERNEL_CHOSEN && t->s->caps.sm == WGMMA_SM);
  const int rank = hopper ? LOW_RANK_PITCH (size->rank) : size->rank, k = size->k + rank;
  Gemm g = { t->inputs[0],
             t->inputs[1],
             size->bias ? t->bias : NULL,
             t->out,
             size->m,
             size->n,
             k,
             size->swiglu,
             false,
             false,
             NULL,
             NULL,
             0 };
  Stream *s = t->s;
  char text[64];
  snprintf (text, sizeof text, "%dx%dx%d%s%s%s", size->m, size->n, size->k,
            size->swiglu ? " swiglu" : "", size->bias ? " bias" : "", rank > 0 ? " adapted" : "");
  CHECK (random_bf16 (s, t->inputs[0], (size_t)size->m * k, t->seed++, 1.0f));
  CHECK (random_bf16 (s, t->inputs[1], (size_t)size->n * k, t->seed++, 1.0f / sqrtf ((float)k)));
  CHECK (random_f32 (s, t->bias, size->n, t->seed++, 1.0f));
  CHECK (reference_gemm (s, &g, t->full, t->reference));
  if (rank > 0)
    {
      CHECK (split (s, t->inputs[0], t->parts[0], size->m, size->k, rank));
      CHECK (split (s, t->inputs[1], t->parts[1], size->n, size->k, rank));
      g.x = t->parts[0], g.low = t->parts[0] + (size_t)size->m * size->k;
      g.w = t->parts[1], g.up = t->parts[1] + (size_t)size->n * size->k;
      g.k = size->k, g.rank = rank;
    }
  CUDA_CHECK (s, cudaMemsetAsync (t->out, POISON, outputs * sizeof (bf16), s->compute));
  Error e = { 1.0, 1.0, 0 };
  Status status = run_gemm (s, &g, variant);
  if (status == STATUS_OK)
    status = compare (s, t->out, t->reference, outputs, t->difference, &e);
  report (t, name, text, status, e, outputs < FEW ? GEMM_LIMIT_FEW : GEMM_LIMIT);
  return status == STATUS_UNSUPPORTED ? STATUS_OK : status;
}

static Status
test_gemm (Test *t, const char *name, int variant)
{
  for (size_t i = 0; i < sizeof gemm_sizes / sizeof gemm_sizes[0]; i++)
    {
      const GemmSize *size = &gemm_sizes[i];
      if ((int64_t)size->m * size->n * size->k > MOST_PRODUCTS)
        continue;
      if (size->m > t->most_rows
          || (variant == KERNEL_FEW_ROWS && (size->m > GEMM_FEW_ROWS || size->rank > 0)))
        continue;
      /* A shape without a swiglu form says so in its name by taking no such size. */
      if (variant >= 0 && size->swiglu && !gemm_sm90_variant_has_swiglu (variant))
        continue;
      CHECK (test_gemm_size (t, name, variant, size));
    }
  return STATUS_OK;
}

/* -- attention ----------------------------------------------------------------------------------
 */

enum
{
  KERNEL_WIDE_SM90 = -4,
  KERNEL_WIDE = -3,
  KERNEL_MMA = -2,
};

static Status
run_attention (Stream *s, const Attention *a, int variant)
{
  if (variant == KERNEL_WIDE)
    return attention_wide (s, a);
  if (variant == KERNEL_WIDE_SM90)
    return attention_wide_sm90 (s, a);
  return variant == KERNEL_MMA ? attention_mma (s, a) : attention_sm90 (s, a, variant);
}

static bool
takes (int variant, const AttentionSize *size)
{
  if (variant == KERNEL_WIDE)
    return true;
  if (variant == KERNEL_WIDE_SM90)
    return size->d == 512 && !size->causal;
  return variant == KERNEL_MMA ? size->d <= 128 : attention_sm90_variant_dim (variant) == size->d;
}

static Status
test_attention_size (Test *t, const char *name, int variant, const AttentionSize *size)
{
  Stream *s = t->s;
  const size_t outputs = (size_t)size->m * size->n_q * size->d;
  const size_t inputs = (size_t)size->m * (size->n_q + 2 * size->n_kv) * size->d;
  const Attention a
      = { t->inputs[0], t->out, size->m, size->n_q, size->n_kv, size->d, size->causal };
  char text[64];
  snprintf (text, sizeof text, "%d/%d heads x%d x%d%s", size->n_q, size->n_kv, size->m, size->d,
            size->causal ? " causal" : "");
  /* Twice the usual spread: sharper maxima, so rows do rescale. */
  CHECK (random_bf16 (s, t->inputs[0], inputs, t->seed++, 2.0f));
  CHECK (reference_attention (s, &a, t->reference));
  CUDA_CHECK (s, cudaMemsetAsync (t->out, POISON, outputs * sizeof (bf16), s->compute));
  Error e = { 1.0, 1.0, 0 };
  Status status = run_attention (s, &a, variant);
  if (status == STATUS_OK)
    status = compare (s, t->out, t->reference, outputs, t->difference, &e);
  report (t, name, text, status, e, ATTENTION_LIMIT);
  return status == STATUS_UNSUPPORTED ? STATUS_OK : status;
}

static Status
test_attention (Test *t, const char *name, int variant)
{
  for (size_t i = 0; i < sizeof attention_sizes / sizeof attention_sizes[0]; i++)
    {
      const AttentionSize *size = &attention_sizes[i];
      const int64_t products = (int64_t)size->m * size->m * size->n_q * size->d;
      if (size->m <= t->most_rows && takes (variant, size) && products <= MOST_PRODUCTS)
        CHECK (test_attention_size (t, name, variant, size));
    }
  return STATUS_OK;
}

/* -- a whole linear layer, from host weights ------------------------------------------------------
 */

#define LINEAR_M 50
#define LINEAR_F 72
#define LINEAR_K 136

#define LINEAR_RANK 64

/* down and up of what is added, up in the order of rows that the device's layer has. */
typedef struct
{
  float down[LINEAR_RANK][LINEAR_K], up[2 * LINEAR_F][LINEAR_RANK];
} Added;

static int
turned (int row)
{
  const int r = row % LINEAR_F;
  return r / 8 * 16 + r % 8 + row / LINEAR_F * 8;
}

/* Output `row` of what is added to x. */
static double
added_to (const Added *a, const uint16_t *x, int row)
{
  double sum = 0.0;
  for (int r = 0; r < LINEAR_RANK; r++)
    {
      double low = 0.0;
      for (int i = 0; i < LINEAR_K; i++)
        low += (double)bf16_to_float (x[i]) * a->down[r][i];
      sum += bf16_to_float (bf16_from_float ((float)low)) * a->up[turned (row)][r];
    }
  return sum;
}

/* The layer, or with `added` the layer that is adapted by it, on device_x. */
static Status
run_linear (Test *t, const LinearBackend *backend, const LinearSource *source, Added *added,
            const Tensor *x, Tensor *out)
{
  Linear *linear = NULL, *adapted = NULL;
  CUDA_CHECK (t->s, cudaMemsetAsync (out->data, POISON, tensor_bytes (out), t->s->compute));
  Status status = backend->prepare_weights (t->s, source, &linear);
  if (status == STATUS_OK && added != NULL)
    {
      const LowRankPair pair = { tensor_2d (DTYPE_F32, added->down, LINEAR_RANK, LINEAR_K),
                                 tensor_2d (DTYPE_F32, added->up, 2 * LINEAR_F, LINEAR_RANK) };
      status = backend->adapt (t->s, linear, &pair, &adapted);
    }
  if (status == STATUS_OK)
    status = backend->apply (t->s, adapted != NULL ? adapted : linear, x, out);
  if (status == STATUS_OK)
    status = cuda_wait (t->s);
  if (adapted != NULL)
    backend->release (t->s, adapted);
  backend->release (t->s, linear);
  return status;
}

/* w1 in F32, w3 in BF16: the device's answer against a sum in double. */
static Status
test_linear (Test *t, const char *name, const LinearBackend *backend, bool adapted)
{
  static float w1[LINEAR_F][LINEAR_K], bias[2 * LINEAR_F];
  static uint16_t w3[LINEAR_F][LINEAR_K], x[LINEAR_M][LINEAR_K];
  static float want[LINEAR_M][LINEAR_F];
  static Added added;
  Stream *s = t->s;
  srand ((unsigned)t->seed);
  for (int i = 0; i < LINEAR_F * LINEAR_K; i++)
    {
      (&w1[0][0])[i] = bf16_to_float (bf16_from_float (rand () / (float)RAND_MAX - 0.5f));
      (&w3[0][0])[i] = bf16_from_float (rand () / (float)RAND_MAX - 0.5f);
    }
  for (int i = 0; i < LINEAR_M * LINEAR_K; i++)
    (&x[0][0])[i] = bf16_from_float (rand () / (float)RAND_MAX - 0.5f);
  for (int i = 0; i < 2 * LINEAR_F; i++)
    bias[i] = rand () / (float)RAND_MAX - 0.5f;
  for (size_t i = 0; i < sizeof added / sizeof (float); i++)
    (&added.down[0][0])[i] = bf16_to_float (bf16_from_float (rand () / (float)RAND_MAX - 0.5f));
  for (int r = 0; r < LINEAR_M; r++)
    for (int c = 0; c < LINEAR_F; c++)
      {
        double gate = bias[c], up = bias[LINEAR_F + c];
        for (int i = 0; i < LINEAR_K; i++)
          {
            gate += (double)bf16_to_float (x[r][i]) * w1[c][i];
            up += (double)bf16_to_float (x[r][i]) * bf16_to_float (w3[c][i]);
          }
        if (adapted)
          {
            gate += added_to (&added, x[r], c);
            up += added_to (&added, x[r], LINEAR_F + c);
          }
        want[r][c] = (float)(gate / (1.0 + exp (-gate)) * up);
      }

  LinearSource source = {};
  source.n = 2 * LINEAR_F, source.k = LINEAR_K, source.n_parts = 2, source.swiglu = true;
  source.parts[0] = tensor_2d (DTYPE_F32, w1, LINEAR_F, LINEAR_K);
  source.parts[1] = tensor_2d (DTYPE_BF16, w3, LINEAR_F, LINEAR_K);
  source.bias = tensor_1d (DTYPE_F32, bias, 2 * LINEAR_F);
  Tensor host_x = tensor_2d (DTYPE_BF16, x, LINEAR_M, LINEAR_K);
  Tensor device_x = tensor_2d (DTYPE_BF16, t->inputs[0], LINEAR_M, LINEAR_K);
  Tensor out = tensor_2d (DTYPE_BF16, t->out, LINEAR_M, LINEAR_F);
  Tensor host_want = tensor_2d (DTYPE_F32, want, LINEAR_M, LINEAR_F);
  Tensor device_want = tensor_2d (DTYPE_F32, t->reference, LINEAR_M, LINEAR_F);
  CHECK (cuda_upload (s, &host_x, &device_x));
  CHECK (cuda_upload (s, &host_want, &device_want));

  Error e = { 1.0, 1.0, 0 };
  Status status = run_linear (t, backend, &source, adapted ? &added : NULL, &device_x, &out);
  if (status == STATUS_OK)
    status = compare (s, t->out, t->reference, LINEAR_M * LINEAR_F, t->difference, &e);
  report (t, name, adapted ? "linear, swiglu, bias, adapted" : "linear, swiglu, bias", status, e,
          GEMM_LIMIT);
  return status;
}

/* -- all of it ----------------------------------------------------------------------------------
 */

static Status
test_all (Test *t, int first)
{
  const bool hopper = t->s->caps.sm == WGMMA_SM;
  int number = 0;
#define RUN(what, name, ...)                                                                       \
  do                                                                                               \
    if (number++ >= first)                                                                         \
      {                                                                                            \
        printf ("# kernel %d %s\n", number - 1, name);                                             \
        fflush (stdout);                                                                           \
        CHECK (what (t, name, __VA_ARGS__));                                                       \
      }                                                                                            \
  while (0)
  RUN (test_gemm, "few rows", KERNEL_FEW_ROWS);
  RUN (test_gemm, "sm80", KERNEL_SM80);
  RUN (test_gemm, "chosen", KERNEL_CHOSEN);
  RUN (test_attention, "wide", KERNEL_WIDE);
  RUN (test_attention, "mma", KERNEL_MMA);
  for (int adapted = 0; adapted < 2; adapted++)
    {
      RUN (test_linear, linear_cuda_bf16.name, &linear_cuda_bf16, adapted);
      if (hopper)
        RUN (test_linear, linear_cuda_bf16_sm90.name, &linear_cuda_bf16_sm90, adapted);
    }
  if (hopper)
    RUN (test_attention, "wide sm90", KERNEL_WIDE_SM90);
  for (int i = 0; hopper && gemm_sm90_variant_name (i) != NULL; i++)
    RUN (test_gemm, gemm_sm90_variant_name (i), i);
  for (int i = 0; hopper && attention_sm90_variant_name (i) != NULL; i++)
    RUN (test_attention, attention_sm90_variant_name (i), i);
  return STATUS_OK;
}

static Status
allocate (Test *t)
{
  Stream *s = t->s;
  for (int i = 0; i < 2; i++)
    {
      CHECK (stream_alloc (s, LARGEST_NUMBERS * sizeof (bf16), (void **)&t->inputs[i]));
      CHECK (stream_alloc (s, LARGEST_NUMBERS * sizeof (bf16), (void **)&t->parts[i]));
    }
  CHECK (stream_alloc (s, LARGEST_NUMBERS * sizeof (bf16), (void **)&t->out));
  CHECK (stream_alloc (s, LARGEST_NUMBERS * sizeof (float), (void **)&t->reference));
  CHECK (stream_alloc (s, LARGEST_NUMBERS * sizeof (float), (void **)&t->full));
  CHECK (stream_alloc (s, 65536 * sizeof (float), (void **)&t->bias));
  return stream_alloc (s, sizeof (Difference), (void **)&t->difference);
}

int
main (int argc, char **argv)
{
  Test t = {};
  Status status = cuda_open (0, NULL, &t.s);
  if (status != STATUS_OK || !t.s->caps.bf16)
    {
      printf ("1..0 # SKIP no usable device for BF16: %s\n", status_name (status));
      cuda_close (t.s);
      return SKIPPED;
    }
  t.seed = IS_EMULATED ? 1 : (uint64_t)time (NULL) * 1000;
  t.most_rows = argc > 2 ? atoi (argv[2]) : INT32_MAX;
  printf ("# seed %llu\n", (unsigned long long)t.seed);
  status = allocate (&t);
  if (status == STATUS_OK)
    status = test_all (&t, argc > 1 ? atoi (argv[1]) : 0);
  if (status != STATUS_OK)
    printf ("Bail out! %s %s\n", status_name (status), cuda_detail (t.s));
  printf ("1..%d\n", t.tests);
  cuda_close (t.s);
  return t.failures || status ? 1 : 0;
}
