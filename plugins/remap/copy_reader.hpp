#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Reads one copy of a SPARE's metadata: its newest checkpoint and the log that
// follows. Part of the survey; metadata_survey.hpp says what counts as damage.

#include "plugins/backend/backend.hpp"
#include "plugins/remap/metadata_survey.hpp"
#include "plugins/remap/remap_format.hpp"

namespace nbd_remap {

// Every problem that is this copy's own becomes one of out.damages; an Error is
// returned only when SPARE as a whole does not answer.
Status read_copy(Backend& spare, const Superblock& superblock, CopyIndex copy,
                 CopySurvey& out);

}  // namespace nbd_remap
