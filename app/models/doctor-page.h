/* SPDX-License-Identifier: Apache-2.0
 *
 * doctor-page.h - what this computer can do, what is wrong with it, and what mends that
 *
 * Looks when it is first shown, on a thread, and again on demand.
 */
#pragma once

#include <adwaita.h>

G_BEGIN_DECLS

#define TESSERA_TYPE_DOCTOR_PAGE (doctor_page_get_type ())
G_DECLARE_FINAL_TYPE (TesseraDoctorPage, doctor_page, TESSERA, DOCTOR_PAGE, AdwPreferencesPage)

TesseraDoctorPage *doctor_page_new (void);
/* Shows findings (DoctorFinding) in place of what was there; what looking ends with, and tests. */
void doctor_page_show (TesseraDoctorPage *self, GPtrArray *findings);

G_END_DECLS
