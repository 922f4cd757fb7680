/* SPDX-License-Identifier: Apache-2.0
 *
 * tensor.h - a view of numbers
 *
 * A Tensor is a value: it says how to read memory that somebody else owns. It is dense and
 * row-major, and has no strides, no name and no reference count. A transpose is a copy.
 * Shapes in comments are written [rows, columns], the fastest-moving index last.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define KERNELS_BEGIN_DECLS                                                                        \
  extern "C"                                                                                       \
  {
#define KERNELS_END_DECLS }
#else
#define KERNELS_BEGIN_DECLS
#define KERNELS_END_DECLS
#endif

KERNELS_BEGIN_DECLS

typedef enum
{
  DTYPE_F32,
  DTYPE_BF16,
  DTYPE_F16,
  DTYPE_F8_E4M3,
  DTYPE_I8,
  DTYPE_U8,
  DTYPE_I32,
  DTYPE_I64,
} DType;

#define TENSOR_MAX_RANK 4

typedef struct
{
  DType dtype;
  int rank;                       /* 0 (a scalar) to 4 */
  int64_t shape[TENSOR_MAX_RANK]; /* the unused ones are 1 */
  void *data;                     /* borrowed; host or device memory, as the owner says */
} Tensor;

/* Bytes of one element, and its name as safetensors spells it ("F32", "BF16", ...). */
size_t dtype_size (DType dtype);
const char *dtype_name (DType dtype);

/* A view of `data` with up to four extents. Nothing is allocated or copied. */
Tensor tensor_1d (DType dtype, void *data, int64_t a);
Tensor tensor_2d (DType dtype, void *data, int64_t a, int64_t b);
Tensor tensor_3d (DType dtype, void *data, int64_t a, int64_t b, int64_t c);
Tensor tensor_4d (DType dtype, void *data, int64_t a, int64_t b, int64_t c, int64_t d);

/* Number of elements, and their bytes. The shape must have been checked against overflow. */
int64_t tensor_count (const Tensor *t);
size_t tensor_bytes (const Tensor *t);

/* The rows [first, first + count) of the first axis, as a view. */
Tensor tensor_rows (const Tensor *t, int64_t first, int64_t count);

bool tensor_same_shape (const Tensor *a, const Tensor *b);

/* Host-side conversions of single numbers. BF16 and F16 round to nearest, ties to even; NaN stays
 * NaN, and what is too large for F16 becomes an infinity. */
float bf16_to_float (uint16_t bits);
uint16_t bf16_from_float (float value);
float f16_to_float (uint16_t bits);
uint16_t f16_from_float (float value);
float e4m3_to_float (uint8_t bits);

/* Element i of a host tensor of any floating type, as float. Slow: for small vectors and tests.
 */
float tensor_get (const Tensor *t, int64_t i);

KERNELS_END_DECLS
