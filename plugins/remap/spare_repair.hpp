#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Mends the metadata of a SPARE that no server is using, as the next start of
// the server would.

#include "plugins/backend/backend.hpp"
#include "plugins/base/log.hpp"
#include "plugins/remap/metadata_survey.hpp"

namespace nbd_remap {

// Writes the copy that is not believed anew from the one that is, then both
// superblocks. Whether the last server stopped in order stays as it was. Can be
// cut anywhere and done again. Writes nothing where the copies agree.
// Returns what is on SPARE afterwards: of a copy that takes no writes it says
// that it is out of step, which is no error.
// REQUIRES: the survey is of this disk, as it is now.
// Errors: no copy can be believed (EUCLEAN), a newer build is needed, SPARE is
// read-only or offers no flush: nothing was written. Else the disk's.
Result<MetadataSurvey> repair_spare(Backend& spare,
                                    const MetadataSurvey& survey, LogSink log);

}  // namespace nbd_remap
