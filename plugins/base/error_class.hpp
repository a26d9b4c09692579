#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Error: what went wrong, where, and what a caller may do about it.
//
// A class exists only where some caller acts differently on it. The one table
// from errno to class and from errno to what the NBD client hears is in
// error_class.cpp.

#include <string>
#include <string_view>

namespace nbd_remap {

enum class ErrorClass {
  medium,     // this place on the disk is bad: remap it, or mark it pending
  transport,  // the device or the way to it is gone: never remaps
  full,       // a limit of the server (space, memory, permission): never remaps
  caller,     // the request itself is wrong
  bug,        // we asked for something that no device should be asked for
};
inline constexpr int kErrorClassCount = 5;

struct Error {
  ErrorClass error_class = ErrorClass::bug;
  int errnum = 0;     // as the system gave it; never 0 in an Error that is used
  std::string place;  // "main /dev/sdb: read 4096 bytes at 8192"

  // "PLACE: Input/output error [medium]"
  std::string text() const;
};

// The class of an errno that came from a disk or a remote server.
ErrorClass classify_errno(int errnum);
// An Error with the class that classify_errno() gives.
Error make_error(int errnum, std::string place);
// An Error whose class the caller knows better (a request that is wrong).
Error make_error(ErrorClass error_class, int errnum, std::string place);

std::string_view error_class_name(ErrorClass error_class);

// The errno that reaches the NBD client: one of EIO, ENOSPC, ESHUTDOWN, EPERM,
// ENOMEM, EINVAL, ENOTSUP, EOVERFLOW. nbdkit turns any other into EINVAL.
int nbd_errno(const Error& error);

}  // namespace nbd_remap
