/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/engine.h"

G_DEFINE_QUARK (engine - error - quark, engine_error)
