// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/error_class.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <set>

namespace nbd_remap {
namespace {

constexpr int kLastErrno = 4095;

std::set<int> errnos_of(ErrorClass error_class) {
  std::set<int> found;
  for (int errnum = 1; errnum <= kLastErrno; ++errnum)
    if (classify_errno(errnum) == error_class) found.insert(errnum);
  return found;
}

// Mistake 30
TEST(ErrorClass, each_errno_of_the_medium_class_reaches_the_client_as_eio) {
  const std::set<int> medium = errnos_of(ErrorClass::medium);
  EXPECT_EQ(medium,
            (std::set<int>{EIO, ENODATA, EREMOTEIO, EILSEQ, EBADMSG, EUCLEAN}));
  for (int errnum : medium)
    EXPECT_EQ(nbd_errno(make_error(errnum, "disk")), EIO) << errnum;
  // Also when the caller says medium of an errno that the table does not.
  for (int errnum = 0; errnum <= kLastErrno; ++errnum)
    EXPECT_EQ(nbd_errno(make_error(ErrorClass::medium, errnum, "disk")), EIO);
}

// Contract C10, mistake 27
TEST(ErrorClass, a_lost_device_or_our_own_limit_is_not_a_bad_medium) {
  for (int errnum : {ENODEV, ENXIO, ESHUTDOWN, ENOTCONN, ECONNRESET, EPIPE,
                     ETIMEDOUT, ENOLINK, EBADE, ENOMEDIUM})
    EXPECT_EQ(classify_errno(errnum), ErrorClass::transport) << errnum;
  for (int errnum : {ENOSPC, EDQUOT, EFBIG, ENOMEM, EROFS, EACCES, EPERM})
    EXPECT_EQ(classify_errno(errnum), ErrorClass::full) << errnum;
}

TEST(ErrorClass, an_errno_that_nobody_knows_never_remaps) {
  for (int errnum : {0, -1, 9999, ENOTTY, EXDEV, ELOOP}) {
    EXPECT_EQ(classify_errno(errnum), ErrorClass::bug) << errnum;
    EXPECT_EQ(nbd_errno(make_error(errnum, "disk")), EIO) << errnum;
  }
}

TEST(ErrorClass, the_client_hears_only_what_nbdkit_passes_on) {
  const std::set<int> passed{EIO,    ENOSPC, ESHUTDOWN, EPERM,
                             ENOMEM, EINVAL, ENOTSUP,   EOVERFLOW};
  for (int errnum = 0; errnum <= kLastErrno; ++errnum)
    for (int c = 0; c < kErrorClassCount; ++c)
      EXPECT_EQ(passed.count(nbd_errno(
                    make_error(static_cast<ErrorClass>(c), errnum, "disk"))),
                1U)
          << errnum;
  EXPECT_EQ(nbd_errno(make_error(ENOSPC, "disk")), ENOSPC);
  EXPECT_EQ(nbd_errno(make_error(EDQUOT, "disk")), ENOSPC);
  EXPECT_EQ(nbd_errno(make_error(EROFS, "disk")), EPERM);
  EXPECT_EQ(nbd_errno(make_error(ENOTSUP, "disk")), ENOTSUP);
  EXPECT_EQ(nbd_errno(make_error(ESHUTDOWN, "disk")), ESHUTDOWN);
}

TEST(ErrorClass, the_text_names_place_error_and_class) {
  EXPECT_EQ(make_error(EIO, "main /dev/sdb: read 4096 bytes at 8192").text(),
            "main /dev/sdb: read 4096 bytes at 8192: Input/output error "
            "[medium]");
  EXPECT_EQ(make_error(ErrorClass::caller, EINVAL, "x").error_class,
            ErrorClass::caller);
}

TEST(ErrorClass, each_class_has_a_name_of_its_own) {
  std::set<std::string_view> names;
  for (int c = 0; c < kErrorClassCount; ++c)
    names.insert(error_class_name(static_cast<ErrorClass>(c)));
  EXPECT_EQ(names.size(), static_cast<std::size_t>(kErrorClassCount));
}

}  // namespace
}  // namespace nbd_remap
