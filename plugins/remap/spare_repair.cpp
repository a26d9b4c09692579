// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/remap/spare_repair.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <utility>

#include "plugins/remap/remap_log.hpp"

namespace nbd_remap {

Result<MetadataSurvey> repair_spare(Backend& spare,
                                    const MetadataSurvey& survey, LogSink log) {
  const BackendInfo& info = spare.info();
  if (!survey.best)
    return make_error(ErrorClass::caller, EUCLEAN,
                      fmt::format("{}: no copy of the map can be believed, "
                                  "nothing was written: {}",
                                  info.name, survey.refusal));
  if (Status status = check_may_write(survey, spare); !status)
    return std::move(status).error();
  if (info.read_only)
    return make_error(ErrorClass::caller, EROFS, info.name + ": is read-only");
  if (!info.can_flush)
    return make_error(
        ErrorClass::caller, EINVAL,
        info.name + ": offers no FLUSH: nothing on it would be durable");
  if (survey.copies_agree()) return survey;
  auto taken = RemapLog::take_over(spare, survey, std::move(log));
  if (!taken) return std::move(taken).error();
  // The repair is over; what was to be said of the last server still is, if
  // there was one.
  if (survey.chosen().closed || survey.superblock.owner_epoch == 0)
    if (Status status = (*taken)->append(RecordType::closed, {}); !status)
      return std::move(status).error();
  return survey_metadata(spare);
}

}  // namespace nbd_remap
