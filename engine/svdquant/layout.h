/* SPDX-License-Identifier: Apache-2.0
 *
 * layout.h - the published packing of SVDQuant tensors, to row-major order and back
 *
 * Published files hold tensors in the order in which tensor cores read them (spec svdquant 2.4).
 * Everything else in the program sees logical, row-major order: codes [N, K/2] with the even k in
 * the low nibble, scales [K/G, N], factors [K, R] and [N, R], vectors as they are numbered. Each
 * pair of functions is a permutation and its inverse, nothing is computed.
 *
 * N and K are multiples of 128, R of 16. `packed` and `plain` do not overlap.
 */
#pragma once

#include <stdint.h>

/* Where a nibble, or an element, lies in the packed tensor (the closed forms). */
typedef struct
{
  int64_t byte;
  int nibble; /* 0 = low four bits */
} LayoutNibble;

LayoutNibble layout_qweight_position (int64_t n, int64_t k, int64_t K);
int64_t layout_vector_position (int64_t i);
int64_t layout_int4_scale_position (int64_t n, int64_t group, int64_t K);
int64_t layout_nvfp4_scale_position (int64_t n, int64_t group, int64_t K);
int64_t layout_down_position (int64_t r, int64_t k, int64_t R);
int64_t layout_up_position (int64_t n, int64_t r, int64_t R);

/* 4-bit codes, N K / 2 bytes (2.4.1). */
void layout_unpack_qweight (const uint8_t *packed, uint8_t *plain, int64_t N, int64_t K);
void layout_pack_qweight (const uint8_t *plain, uint8_t *packed, int64_t N, int64_t K);

/* Vectors over N or K: smoothing, channel scales, bias; `count` BF16 values (2.4.2). */
void layout_unpack_vector (const uint16_t *packed, uint16_t *plain, int64_t count);
void layout_pack_vector (const uint16_t *plain, uint16_t *packed, int64_t count);

/* Scales: INT4 BF16 [K/64, N] (2.4.3), NVFP4 E4M3 [K/16, N] (2.4.4). */
void layout_unpack_int4_scales (const uint16_t *packed, uint16_t *plain, int64_t N, int64_t K);
void layout_pack_int4_scales (const uint16_t *plain, uint16_t *packed, int64_t N, int64_t K);
void layout_unpack_nvfp4_scales (const uint8_t *packed, uint8_t *plain, int64_t N, int64_t K);
void layout_pack_nvfp4_scales (const uint8_t *plain, uint8_t *packed, int64_t N, int64_t K);

/* Low-rank factors, BF16: down [K, R] and up [N, R] (2.4.5). */
void layout_unpack_down (const uint16_t *packed, uint16_t *plain, int64_t K, int64_t R);
void layout_pack_down (const uint16_t *plain, uint16_t *packed, int64_t K, int64_t R);
void layout_unpack_up (const uint16_t *packed, uint16_t *plain, int64_t N, int64_t R);
void layout_pack_up (const uint16_t *plain, uint16_t *packed, int64_t N, int64_t R);

/* Exchanges the first and second half of `count` rows of `row_bytes` each: [w3; w1] <-> [w1; w3]
 * (3.6). Its own inverse; count is even. */
void layout_swap_halves (void *rows, int64_t count, int64_t row_bytes);
