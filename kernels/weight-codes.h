/* SPDX-License-Identifier: Apache-2.0
 *
 * weight-codes.h - weights in 8 or 4 bit beside activations that stay as they are
 *
 * A weight is value * scale. CODES_GROUP neighbouring k of a row share a scale in BF16 (which may
 * be negative); the value is a code of 8 bits itself, or what CODES_TABLE has for one of 4 bits.
 * Values have 8 significant bits and scales 8, so the product is exact in FP32 and whoever expands
 * weights gets the same numbers; on the card and with bf16_math they are then rounded to BF16 once.
 *
 * The table is that of the least error: Lloyd's iteration over weights of a trained text encoder,
 * normal and Student-t numbers, each group with its best scale, rounded to whole numbers. Relative
 * RMS error of normal weights in groups of 64: 0.0807; sixteen even steps: 0.0899; NF4's levels
 * (Dettmers et al. 2023), which keep a 0: 0.0830. 8 bit: 0.0060.
 */
#pragma once

#define CODES_GROUP 64

#define CODES_TABLE                                                                                \
  {                                                                                                \
    -117, -89, -68, -51, -37, -25, -13, -2, 8, 19, 30, 43, 57, 74, 95, 127                         \
  }
