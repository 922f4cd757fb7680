/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz.h - what the fuzz targets share
 *
 * Each fuzz-NAME.c defines one LLVMFuzzerTestOneInput. libFuzzer drives it to find new inputs;
 * replay.c drives it through the stored ones, and mutants of them, in every test run.
 */
#pragma once

#include <glib.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput (const uint8_t *data, size_t size);

/* The bytes as a file of a temporary folder, for readers that take a path (borrowed; the next call
 * with the same name overwrites it, and the folder goes at exit). */
const char *fuzz_file (const char *name, const void *data, gsize size);
/* That folder (borrowed). */
const char *fuzz_folder (void);
/* Path of `name` below $TESSERA_TEST_DATA (transfer full). */
char *fuzz_test_data (const char *name);
