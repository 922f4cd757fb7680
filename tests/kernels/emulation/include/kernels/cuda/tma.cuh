/* SPDX-License-Identifier: Apache-2.0
 *
 * tma.cuh - the functions of kernels/cuda/tma.cuh on the processor
 *
 * A copy is done when it is asked for, so a barrier waits for arrivals alone.
 */
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/mma.cuh"

typedef struct
{
  uint16_t *data;
  int64_t rows, columns;
  int box_rows, box_columns, boxes;
} CUtensorMap;

typedef void *TensorMapEncoder;

typedef enum
{
  TENSOR_SWIZZLED
} TensorKind;

static inline Status
tensor_map_encoder (Stream *, TensorMapEncoder *)
{
  return STATUS_OK;
}

static inline Status
tensor_map (Stream *, TensorMapEncoder, const void *data, int64_t rows, int64_t columns,
            int box_rows, int box_columns, TensorKind, CUtensorMap *out)
{
  *out = { (uint16_t *)data, rows, columns, box_rows, box_columns, 1 };
  return STATUS_OK;
}

static inline Status
tensor_map_boxes (Stream *, TensorMapEncoder, const void *data, int64_t rows, int64_t columns,
                  int box_rows, int box_columns, int boxes, CUtensorMap *out)
{
  *out = { (uint16_t *)data, rows, columns, box_rows, box_columns, boxes };
  return STATUS_OK;
}

/* What lies where an mbarrier does. */
typedef struct
{
  uint32_t phase;
  uint16_t count, missing;
} EmulatedBarrier;

static inline EmulatedBarrier *
emulated_barrier (uint32_t barrier)
{
  return reinterpret_cast<EmulatedBarrier *> (emulation::shared_at (barrier, 8));
}

static inline void
barrier_init (uint32_t barrier, uint32_t arrivals)
{
  *emulated_barrier (barrier) = { 0, (uint16_t)arrivals, (uint16_t)arrivals };
}

static inline void
barrier_init_fence ()
{
}

/* Ends a phase before the copies that are expected, but whoever waits goes on after them. */
static inline void
barrier_arrive (uint32_t barrier)
{
  EmulatedBarrier *const b = emulated_barrier (barrier);
  if (--b->missing == 0)
    {
      b->phase++, b->missing = b->count;
      emulation::wake_all ();
    }
}

static inline void
barrier_expect (uint32_t barrier, uint32_t)
{
  barrier_arrive (barrier);
}

static inline void
barrier_wait (uint32_t barrier, uint32_t parity)
{
  while ((emulated_barrier (barrier)->phase & 1) == parity)
    emulation::sleep_for ("an mbarrier");
}

/* Where number `column` of row `row` of a box lies, swizzled. */
static inline uint16_t *
emulation_box (uint32_t shared, int row, int column)
{
  const int chunk = column / 8 ^ (row & 7);
  return reinterpret_cast<uint16_t *> (
      emulation::shared_at (shared + row * 128 + chunk * 16 + column % 8 * 2, 2));
}

static inline void
tma_load (uint32_t shared, const CUtensorMap *map, int column, int row, uint32_t)
{
  for (int r = 0; r < map->box_rows; r++)
    for (int c = 0; c < map->box_columns; c++)
      {
        const bool inside = row + r < map->rows && column + c < map->columns;
        *emulation_box (shared, r, c)
            = inside ? map->data[(row + r) * map->columns + column + c] : 0;
      }
}

static inline void
tma_load_boxes (uint32_t shared, const CUtensorMap *map, int box, int row, uint32_t barrier)
{
  for (int i = 0; i < map->boxes; i++)
    tma_load (shared + i * map->box_rows * map->box_columns * 2, map, (box + i) * map->box_columns,
              row, barrier);
}

static inline void
tma_store (const CUtensorMap *map, int column, int row, uint32_t shared)
{
  for (int r = 0; r < map->box_rows && row + r < map->rows; r++)
    for (int c = 0; c < map->box_columns && column + c < map->columns; c++)
      map->data[(row + r) * map->columns + column + c] = *emulation_box (shared, r, c);
}

static inline void
bulk_load (uint32_t shared, const void *global, uint32_t bytes, uint32_t)
{
  memcpy (emulation::shared_at (shared, bytes), global, bytes);
}

static inline void
tma_store_fence ()
{
}

static inline void
tma_store_commit ()
{
}

template <int PENDING>
static inline void
tma_store_wait_read ()
{
}

static inline void
tma_store_wait_all ()
{
}
