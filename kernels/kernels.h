/* SPDX-License-Identifier: Apache-2.0
 *
 * kernels.h - the maths, and nothing but the maths
 *
 * Two tables of functions. `Ops` is a device: its memory, and the maths that owns no weight
 * format. `LinearBackend` is one way to run a linear layer, and separate because only linear
 * layers have a weight *format*; engine/linear.c picks one for the hardware at hand.
 *
 * Conventions
 *  - Activations have the device's type (device_activation), dense, row-major. M is a number of
 *    tokens. Pictures are channels-last, [height, width, channels].
 *  - FP16 ends at 65504, short of what some layers give (spec z-image 5.11). Where it is the
 *    activation type, the residual stream and what linears add to it is F32 (device_residual),
 *    other results are clamped, and a swiglu's product is stored times SWIGLU_F16_SCALE, which the
 *    linear behind it takes back (LinearSource.after_swiglu).
 *  - Parameters of operations (norm weights, biases, modulation vectors, RoPE tables, gates) are
 *    always F32, in the device's memory: they are small, and it spares a rounding.
 *  - Sums, statistics, softmax and exponentials run in FP32; each result is rounded once to the
 *    activation type. An output may be the same memory as an input only where it is said.
 *  - A call queues work on a Stream and returns. Faults of queued work appear at `wait`; after
 *    STATUS_DEVICE_LOST only `close` is allowed.
 *  - A size that a kernel cannot take is STATUS_UNSUPPORTED, never a crash.
 * Nothing here prints, exits, or keeps state outside a Stream. Not thread-safe per Stream.
 */
#pragma once

#include "kernels/tensor.h"

KERNELS_BEGIN_DECLS

typedef enum
{
  STATUS_OK,
  STATUS_NO_MEMORY,      /* the device or its budget is full; smaller work may still fit */
  STATUS_UNSUPPORTED,    /* this hardware or build cannot do this */
  STATUS_NO_DEVICE,      /* no such device */
  STATUS_NO_DRIVER,      /* CUDA: no driver is installed */
  STATUS_DRIVER_TOO_OLD, /* CUDA: the driver is older than the runtime needs */
  STATUS_NOT_READY,      /* CUDA error 999: nvidia_uvm is not loaded */
  STATUS_DEVICE_LOST,    /* a sticky fault: only close is allowed */
  STATUS_CANCELLED,      /* never from a kernel: the engine's own, between blocks */
} Status;

const char *status_name (Status status);

/* Returns the status of `call` from the enclosing function unless it is STATUS_OK. */
#define CHECK(call)                                                                                \
  do                                                                                               \
    {                                                                                              \
      Status check_status = (call);                                                                \
      if (check_status != STATUS_OK)                                                               \
        return check_status;                                                                       \
    }                                                                                              \
  while (0)

typedef enum
{
  DEVICE_CPU,
  DEVICE_CUDA,
} DeviceKind;

/* What a device can do; filled by Ops.query. */
typedef struct
{
  DeviceKind kind;
  int index;                     /* CUDA ordinal; 0 for the CPU */
  char name[128];                /* "NVIDIA GeForce RTX 4060", "AMD EPYC ..." */
  int sm;                        /* CUDA compute capability, major * 10 + minor; 0 for the CPU */
  int multiprocessors;           /* CUDA SMs, or CPU cores that this process may use */
  int threads_per_sm;            /* CUDA: needed by the torch-compatible noise; 0 for the CPU */
  uint64_t total_memory;         /* bytes */
  uint64_t free_memory;          /* bytes at the time of the query */
  int driver_version;            /* CUDA: as cudaDriverGetVersion; 0 otherwise */
  int runtime_version;           /* CUDA: as cudaRuntimeGetVersion; 0 otherwise */
  bool avx2, avx512, vnni, bf16; /* CPU instruction sets; bf16 also true for CUDA sm_80 up */
} DeviceCaps;

/* What activations are stored in: F32 by the CPU, BF16 or, below sm_80, F16 by cards. */
DType device_activation (const DeviceCaps *caps);
/* And the residual stream: the same, but F32 beside F16. */
DType device_residual (const DeviceCaps *caps);

#define SWIGLU_F16_SCALE (1.0f / 128) /* 344,064 has been seen: 2688 */

/* How a Stream is opened. */
typedef struct
{
  bool bf16_math;         /* CPU: matrix products on BF16 operands (needs DeviceCaps.bf16) */
  int threads;            /* CPU: 0 = all cores */
  uint64_t memory_budget; /* hard cap on what `alloc` and the backends may hold; 0 = none */
  bool exact; /* SVDQuant: the file's own arithmetic, also where the card has a faster one */
} StreamOptions;

typedef struct Stream Stream;       /* an ordered queue of work on one device */
typedef struct Linear Linear;       /* a linear layer in a backend's own layout */
typedef struct Conv Conv;           /* a convolution in a device's own layout */
typedef struct Recording Recording; /* captured launches */

/* What a file holds of an SVDQuant linear, logical row-major order, host memory
 * (spec svdquant 3.6). N output channels, K input channels, G = 64 or 16, R = rank. */
typedef enum
{
  SVDQ_INT4,  /* G = 64, two's-complement nibbles, BF16 scales */
  SVDQ_NVFP4, /* G = 16, E2M1 codes, E4M3 scales, and `outer` */
} SvdqFormat;

typedef struct
{
  SvdqFormat format;
  int rank;                  /* R, a multiple of 16; 0 = no low-rank branch */
  const uint8_t *qweight;    /* [N, K/2]; low nibble = even k */
  const void *wscales;       /* [K/G, N]; BF16 or E4M3 */
  const uint16_t *smooth;    /* [K] BF16; activations are divided by it before quantisation */
  const uint16_t *proj_down; /* [K, R] BF16; sees the raw activations */
  const uint16_t *proj_up;   /* [N, R] BF16 */
  const float *outer;        /* [N] wtscale * wcscales; NULL = 1 (INT4) */
} SvdqSource;

#define LINEAR_MAX_PARTS 3

/* A linear layer as a file holds it: y[M, N] = x[M, K] W^T + bias. W [N, K] is up to three
 * tensors stacked by rows (q, k, v; or w1, w3). Host memory: parts and svdq live until `release`
 * where the backend keeps its source, everything else until prepare_weights returns. */
typedef struct
{
  int64_t n, k;
  int n_parts;
  Tensor parts[LINEAR_MAX_PARTS]; /* [rows, K], F32, BF16 or F16; unused when svdq is set */
  Tensor bias;                    /* [N] any float type; data NULL = none */
  const SvdqSource *svdq;         /* borrowed; NULL = dense */
  /* 8 or 4: parts are codes instead (weight-codes.h), I8 [rows, K] or U8 [rows, K/2] with the even
   * k in the low nibble, and scales[i] BF16 [rows, K / CODES_GROUP]; 0: they are weights. */
  int code_bits;
  Tensor scales[LINEAR_MAX_PARTS];
  bool swiglu;       /* N = 2F, rows [w1; w3]: `apply` may be asked for silu(w1 x) * w3 x */
  bool after_swiglu; /* x is such a product: where it is F16, times SWIGLU_F16_SCALE */
  bool resident;     /* CPU: worth an expanded copy in memory; otherwise used as mapped */
  bool fleeting;     /* parts live until prepare_weights returns, and no longer */
} LinearSource;

/* Every backend's Linear begins with this. */
struct Linear
{
  const struct LinearBackend *backend;
  const char *name; /* which layer it is, for observers; set and owned by who made it */
  int64_t n, k;
  uint64_t bytes; /* memory this linear holds of its own, for the gauge */
  /* The one block that holds all its weights, and its size; NULL if they cannot be moved. Whoever
   * loads the model may copy it elsewhere, tell the backend by `move`, and free it then. */
  void *memory;
  size_t memory_bytes;
  bool after_swiglu;       /* as in its source */
  bool swiglu;             /* `apply` can write silu (w1 x) * w3 x in one pass */
  int turn;                /* with swiglu: so many rows of w1 and of w3 come in turn; 0: halves */
  const struct Linear *of; /* adapted: the layer whose weights it reads; NULL: they are its own */
};

/* What LoRA files add to a layer: y += (x down^T) up^T. F32, host memory. */
typedef struct
{
  Tensor down; /* [R, K] */
  Tensor up;   /* [N, R], rows in the order of the layer's `turn` */
} LowRankPair;

/* What a layer takes of its device, in bytes. */
typedef struct
{
  uint64_t weights;   /* kept */
  uint64_t loading;   /* besides, while it is prepared */
  uint64_t workspace; /* working memory that is made once and serves all layers, the largest one */
  bool swiglu;        /* two halves in one pass, if asked for */
} LinearMemory;

/* x [M, Hq + 2 Hkv, d] -> heads; how q and k are rotated. */
typedef enum
{
  ROPE_INTERLEAVED, /* pairs (2i, 2i+1): the transformer */
  ROPE_HALF,        /* pairs (i, i + d/2): Qwen3 */
} RopePairing;

/* What q and k go through behind their linear: the arguments of Ops.qk_norm_rope. */
typedef struct
{
  int n_q, n_kv;
  const Tensor *q_weight, *k_weight;
  float eps;
  const Tensor *table;
  RopePairing pairing;
} HeadNorm;

/* One way to run a linear layer. */
typedef struct LinearBackend
{
  const char *name;  /* "cpu-f32", "cuda-bf16-wgmma", ... as shown to the user */
  bool keeps_source; /* the mapped file must outlive the Linear */
  bool (*supports) (const DeviceCaps *caps, const StreamOptions *options, const SvdqFormat *svdq);
  Status (*prepare_weights) (Stream *s, const LinearSource *source, Linear **out);
  /* x [M, K] -> out [M, N], activation type, any M >= 1; out may also have the residual stream's
   * type. When linear->swiglu, out may be [M, N/2], activation type, and gets silu (w1 x) * w3 x;
   * out [M, N] then gets the factors, in the order of `turn`. */
  Status (*apply) (Stream *s, const Linear *linear, const Tensor *x, Tensor *out);
  void (*release) (Stream *s, Linear *linear); /* NULL linear is a no-op */
  /* (optional) `apply` into the columns from `first` on of a wider out [M, W]; first is a multiple
   * of 8. */
  Status (*apply_columns) (Stream *s, const Linear *linear, const Tensor *x, int64_t first,
                           Tensor *out);
  /* (optional: without it nothing sets linear->memory) The bytes of linear->memory lie, or will lie
   * when the linear is next applied, at `memory`; NULL: nowhere, and release has nothing to free.
   */
  void (*move) (Linear *linear, void *memory);
  /* (optional: without it, what the file holds) What a layer takes of the device, from its shape
   * alone: n, k, n_parts, bias.data != NULL, swiglu, code_bits, svdq's format and rank; nothing is
   * read. */
  void (*measure) (const LinearSource *source, LinearMemory *out);
  /* (optional) A layer that gives what `base` gives and what `pair` adds, in the same sums, and is
   * applied and released as any other. It reads the weights of `base`, which outlives it and may
   * move. R is a multiple of adapt_unit, nothing of `pair` is kept. UNSUPPORTED: too many. */
  Status (*adapt) (Stream *s, const Linear *base, const LowRankPair *pair, Linear **out);
  int64_t adapt_unit;
  /* (with adapt) What it takes besides a layer of this source, but that its `workspace` is the
   * whole of it, from the shape and R; no `weights` if those are too many. */
  void (*measure_adapted) (const LinearSource *source, int64_t rank, LinearMemory *out);
  /* (optional) `apply` into qkv [M, n_q + 2 n_kv, d], then Ops.qk_norm_rope on it, in one pass
   * where sizes allow it. Every bit is that of the two. */
  Status (*apply_heads) (Stream *s, const Linear *linear, const Tensor *x, const HeadNorm *norm,
                         Tensor *qkv);
  /* (optional, with apply_heads) `apply`, or apply_heads unless `heads` is NULL, to a norm of x,
   * given by its factors (Ops.rms_norm), with the same bits as of the normed rows. */
  Status (*apply_normed) (Stream *s, const Linear *linear, const Tensor *x, const Tensor *factors,
                          const HeadNorm *heads, Tensor *out);
} LinearBackend;

/* A convolution as a file holds it: weight [Cout, Cin, Kh, Kw], bias [Cout], host memory. */
typedef struct
{
  Tensor weight; /* F32, BF16 or F16 */
  Tensor bias;   /* data NULL = none */
  int stride;    /* 1; or 2 with zero padding on the right and bottom only (spec z-image 6.1) */
  bool upsample; /* nearest x2 before the convolution, folded in */
} ConvSource;

#define TRANSFER_SLOTS 4

/* A device. All entries are set unless marked (optional). */
typedef struct Ops
{
  const char *name; /* "cpu", "cuda", "reference", "dry" */

  /* -- the device ----------------------------------------------------------------------- */
  Status (*query) (int index, DeviceCaps *caps);
  Status (*open) (int index, const StreamOptions *options, Stream **out);
  void (*close) (Stream *s); /* NULL is a no-op; frees what the stream still owns */
  Status (*wait) (Stream *s);
  Status (*alloc) (Stream *s, size_t bytes, void **out); /* 256-byte aligned, not cleared */
  void (*free) (Stream *s, void *memory);                /* NULL is a no-op */
  uint64_t (*allocated) (Stream *s); /* bytes held now: alloc, linears, convs, working memory */
  /* The most held at once since the stream was opened, or this was last asked with `restart`. */
  uint64_t (*peak) (Stream *s, bool restart);
  /* A new hard cap (StreamOptions); what is held beyond it stays. */
  void (*set_budget) (Stream *s, uint64_t bytes);
  /* Host to device and back, same shape, converting between F32, BF16, F16; blocking. */
  Status (*upload) (Stream *s, const Tensor *host, Tensor *device);
  Status (*download) (Stream *s, const Tensor *device, Tensor *host);
  Status (*copy) (Stream *s, const Tensor *from, Tensor *to); /* device to device, same type */
  const char *(*detail) (Stream *s); /* text of the last failure, or ""; s may be NULL */
  uint64_t working_memory; /* about the most that the stream keeps between calls, `trim` aside */
  /* Gives working memory back that the stream keeps between calls; the next call takes it again.
   * Nothing may be queued. */
  void (*trim) (Stream *s);

  /* -- (optional) weights that come and go, beside the maths ------------------------------ */
  /* Host memory that transfers read and write at full speed. STATUS_NO_MEMORY. */
  Status (*host_alloc) (Stream *s, size_t bytes, void **out);
  void (*host_free) (Stream *s, void *memory); /* NULL is a no-op; before close */
  /* Queues a copy between such memory and the device's, either way. It begins behind the maths that
   * was queued when transfer_used was last called for `slot`, one of TRANSFER_SLOTS; other slots do
   * not hold it up, but for sharing the bus. */
  Status (*transfer) (Stream *s, int slot, void *to, const void *from, size_t bytes);
  /* Maths queued from now on begins behind the slot's last transfer. */
  Status (*transfer_wait) (Stream *s, int slot);
  Status (*transfer_used) (Stream *s, int slot); /* see transfer */

  /* -- (optional) launches captured once and replayed ------------------------------------ */
  Status (*record) (Stream *s);
  Status (*record_end) (Stream *s, Recording **out);
  /* Queues a recording; returns when the one queued before it is done, so that the device always
   * has the next one and a caller that stops waits for two at most. */
  Status (*replay) (Stream *s, Recording *recording);
  void (*recording_free) (Recording *recording);

  /* -- maths ----------------------------------------------------------------------------- */
  /* out = RMS(x) * weight (* scale). x [M, D] of the activations' or the residual stream's type,
   * out [M, D], may be the same; weight, scale [D], scale may be NULL. (spec z-image, notation and
   * 5.7)
   * Where linears have apply_normed, also of residual_norm, out may be what to multiply x by
   * instead, F32 [D + M]: weight (* scale) of each column, then 1 / RMS(x) of each row. */
  Status (*rms_norm) (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *scale,
                      float eps, Tensor *out);
  /* Sandwich or plain residual, fused with the norm that reads it next:
   *   x += gate * RMS(y) * post      (post NULL: x += gate * y; gate NULL: 1)
   *   out = RMS(x) * next (* scale)  (out NULL: skipped)
   * x [M, D] in place, y [M, D] of its type (the residual stream's, or both the activations'), out
   * [M, D]; vectors [D]. (spec z-image 5.7, 3) */
  Status (*residual_norm) (Stream *s, Tensor *x, const Tensor *y, const Tensor *post,
                           const Tensor *gate, const Tensor *next, const Tensor *scale, float eps,
                           Tensor *out);
  /* out = LayerNorm(x) * scale, no affine; x and out as in rms_norm. (spec z-image 5.8) */
  Status (*layer_norm) (Stream *s, const Tensor *x, const Tensor *scale, float eps, Tensor *out);
  /* In place on qkv [M, n_q + 2 n_kv, d] (q heads, k heads, v heads): RMS norm of each q and k
   * head by q_weight, k_weight [d], then rotation by table [M, d/2, 2] = (cos, sin) F32; v is
   * left alone. (spec z-image 5.6-5.7, 3) */
  Status (*qk_norm_rope) (Stream *s, Tensor *qkv, int n_q, int n_kv, const Tensor *q_weight,
                          const Tensor *k_weight, float eps, const Tensor *table,
                          RopePairing pairing);
  /* softmax(q k^T / sqrt(d)) v without a score matrix. qkv [M, n_q + 2 n_kv, d], out [M, n_q d];
   * q head h reads kv head h / (n_q / n_kv); causal: keys j <= i. d: 16..512, multiple of 16. */
  Status (*attention) (Stream *s, const Tensor *qkv, int n_q, int n_kv, bool causal, Tensor *out);
  /* out [M, F] = silu(x[:, :F]) * x[:, F:], F16: times SWIGLU_F16_SCALE; x [M, 2F]. `turn` 8: the
   * columns of both halves come in turn, eight of each, and F is a multiple of it; 0: one half
   * after the other. */
  Status (*silu_mul) (Stream *s, const Tensor *x, int turn, Tensor *out);
  Status (*silu) (Stream *s, const Tensor *x, Tensor *out); /* any shape; may be the same */
  /* Modulation vectors from linear outputs: m [S, 4D] activation type -> out [S, 4, D] F32,
   * (1 + scale, tanh(gate), 1 + scale, tanh(gate)). (spec z-image 5.7) */
  Status (*modulation) (Stream *s, const Tensor *m, Tensor *out);
  /* out F32 [S, D] = 1 + x; x activation type. (final layer, spec z-image 5.8) */
  Status (*one_plus) (Stream *s, const Tensor *x, Tensor *out);
  /* Every row of out [n, D] becomes row [D]; one type, the activations' or the residual stream's.
   */
  Status (*fill_rows) (Stream *s, const Tensor *row, Tensor *out);

  /* -- pictures, [H, W, C] ---------------------------------------------------------------- */
  /* out = GroupNorm(x) (then SiLU); weight, bias [C]; may be the same memory. (spec 6.1) */
  Status (*group_norm) (Stream *s, const Tensor *x, const Tensor *weight, const Tensor *bias,
                        int groups, float eps, bool silu, Tensor *out);
  /* The same in two halves, for a picture that is not there as a whole: moments [groups, 2] F32 =
   * (mean, 1 / sqrt(variance + eps)) of each group of x, and the norm by such moments. */
  Status (*group_moments) (Stream *s, const Tensor *x, int groups, float eps, Tensor *moments);
  Status (*group_norm_by) (Stream *s, const Tensor *x, const Tensor *moments, const Tensor *weight,
                           const Tensor *bias, bool silu, Tensor *out);
  Status (*conv_prepare) (Stream *s, const ConvSource *source, Conv **out);
  /* Bytes that it will keep, from shapes alone: nothing is read. */
  uint64_t (*conv_bytes) (const ConvSource *source);
  /* x [H, W, Cin] -> out [H', W', Cout]; 3x3 pads by 1, 1x1 by 0; `residual` of out's shape is
   * added (NULL: none) and may be out's own memory. */
  Status (*conv2d) (Stream *s, const Conv *conv, const Tensor *x, const Tensor *residual,
                    Tensor *out);
  void (*conv_release) (Stream *s, Conv *conv); /* NULL conv is a no-op */
} Ops;

/* The devices there are. The reference is slow and plain: the yardstick of the tests. The dry one
 * computes nothing and touches no memory: the engine plans by running its code on it. */
extern const Ops ops_dry; /* its Stream may be NULL */
extern const Ops ops_reference;
extern const Ops ops_cpu;
extern const Ops ops_cuda; /* only in a build with CUDA: see HAVE_CUDA */

/* What has been asked of a dry Stream, in floating-point operations: a product and a sum are two.
 * The engine adds the linear layers. */
typedef struct
{
  double linear, attention, conv;
} DryWork;

DryWork *dry_work (Stream *s); /* borrowed; may be written */

extern const LinearBackend linear_reference; /* dense, codes, SVDQuant (level L1), for tests */
extern const LinearBackend linear_cpu_dense; /* dense and codes; F32 products, or BF16: bf16_math */
extern const LinearBackend linear_cpu_svdq;  /* SVDQuant on integer dot products */
extern const LinearBackend linear_cuda_bf16_sm90; /* wgmma */
extern const LinearBackend linear_cuda_bf16;      /* warp MMA, sm_80 up */
extern const LinearBackend linear_cuda_f16;       /* warp MMA in FP16, sm_75 */
/* Codes of 8 and 4 bit, expanded to the activation's type before each product. */
extern const LinearBackend linear_cuda_codes;
/* SVDQuant by wgmma, which has no 4 bit (spec svdquant 5.6): E4M3 rows, or W4A4 in FP16. */
extern const LinearBackend linear_cuda_svdq_sm90_fast;
extern const LinearBackend linear_cuda_svdq_sm90_exact;
/* SVDQuant, all W4A4: 4-bit weights by 4-bit activations (spec svdquant 5.8). */
extern const LinearBackend linear_cuda_svdq_int4;       /* 4-bit MMA: sm_75 to 89 */
extern const LinearBackend linear_cuda_svdq_int8;       /* INT4 in bytes: sm_80 up; equal results */
extern const LinearBackend linear_cuda_svdq_nvfp4;      /* block-scaled MMA: sm_120 */
extern const LinearBackend linear_cuda_svdq_nvfp4_fp16; /* exact products in FP16: sm_75 up */

KERNELS_END_DECLS
