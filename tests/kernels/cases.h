/* SPDX-License-Identifier: Apache-2.0
 *
 * cases.h - every entry of Ops, over shapes, against the reference
 *
 * For any device: the CPU's test and the GPU's run the same table.
 */
#pragma once

#include "tests/kernels/harness.h"

/* Runs the cases whose names begin with `prefix` ("" = all) on the open harness and reports each;
 * `label` ends their names. */
void cases_run (Harness *harness, const char *prefix, const char *label);
