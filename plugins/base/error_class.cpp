// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/base/error_class.hpp"

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace nbd_remap {
namespace {

struct Row {
  int errnum;
  ErrorClass error_class;
  int nbd_errnum;
};

// The kernel's blk_errors table (block/blk-core.c) gives what a disk's failure
// looks like to pread(2): medium ENODATA, target EREMOTEIO, integrity EILSEQ,
// the rest EIO; transport ENOLINK, nexus EBADE, time-out ETIMEDOUT.
constexpr std::array kTable{
    Row{EIO, ErrorClass::medium, EIO},
    Row{ENODATA, ErrorClass::medium, EIO},
    Row{EREMOTEIO, ErrorClass::medium, EIO},
    Row{EILSEQ, ErrorClass::medium, EIO},
    Row{EBADMSG, ErrorClass::medium, EIO},
    Row{EUCLEAN, ErrorClass::medium, EIO},

    Row{ENODEV, ErrorClass::transport, EIO},
    Row{ENXIO, ErrorClass::transport, EIO},
    Row{ENOMEDIUM, ErrorClass::transport, EIO},
    Row{ENOLINK, ErrorClass::transport, EIO},
    Row{EBADE, ErrorClass::transport, EIO},
    Row{ETIMEDOUT, ErrorClass::transport, EIO},
    Row{ESHUTDOWN, ErrorClass::transport, ESHUTDOWN},
    Row{ENOTCONN, ErrorClass::transport, EIO},
    Row{ECONNRESET, ErrorClass::transport, EIO},
    Row{ECONNREFUSED, ErrorClass::transport, EIO},
    Row{ECONNABORTED, ErrorClass::transport, EIO},
    Row{EPIPE, ErrorClass::transport, EIO},
    Row{EHOSTUNREACH, ErrorClass::transport, EIO},
    Row{ENETUNREACH, ErrorClass::transport, EIO},
    Row{ENETDOWN, ErrorClass::transport, EIO},
    Row{ENETRESET, ErrorClass::transport, EIO},
    Row{ECANCELED, ErrorClass::transport, EIO},
    Row{EPROTO, ErrorClass::transport, EIO},
    Row{EAGAIN, ErrorClass::transport, EIO},
    Row{EINTR, ErrorClass::transport, EIO},
    Row{EBUSY, ErrorClass::transport, EIO},

    Row{ENOSPC, ErrorClass::full, ENOSPC},
    Row{EDQUOT, ErrorClass::full, ENOSPC},
    Row{EFBIG, ErrorClass::full, ENOSPC},
    Row{ENOMEM, ErrorClass::full, ENOMEM},
    Row{ENOBUFS, ErrorClass::full, ENOMEM},
    Row{EMFILE, ErrorClass::full, EIO},
    Row{ENFILE, ErrorClass::full, EIO},
    Row{EROFS, ErrorClass::full, EPERM},
    Row{EACCES, ErrorClass::full, EPERM},
    Row{EPERM, ErrorClass::full, EPERM},

    Row{EINVAL, ErrorClass::bug, EINVAL},
    Row{EOVERFLOW, ErrorClass::bug, EOVERFLOW},
    Row{ENOTSUP, ErrorClass::bug, ENOTSUP},
    Row{EFAULT, ErrorClass::bug, EIO},
    Row{EBADF, ErrorClass::bug, EIO},
};

const Row* find_row(int errnum) {
  for (const Row& row : kTable)
    if (row.errnum == errnum) return &row;
  return nullptr;
}

}  // namespace

// An errno that the table does not know never remaps: a mapping needs proof
// that this very place is bad.
ErrorClass classify_errno(int errnum) {
  const Row* row = find_row(errnum);
  return row ? row->error_class : ErrorClass::bug;
}

Error make_error(int errnum, std::string place) {
  return {classify_errno(errnum), errnum, std::move(place)};
}

Error make_error(ErrorClass error_class, int errnum, std::string place) {
  return {error_class, errnum, std::move(place)};
}

std::string_view error_class_name(ErrorClass error_class) {
  switch (error_class) {
    case ErrorClass::medium:
      return "medium";
    case ErrorClass::transport:
      return "transport";
    case ErrorClass::full:
      return "full";
    case ErrorClass::caller:
      return "caller";
    case ErrorClass::bug:
      return "bug";
  }
  return "bug";
}

int nbd_errno(const Error& error) {
  if (error.error_class == ErrorClass::medium) return EIO;
  const Row* row = find_row(error.errnum);
  return row ? row->nbd_errnum : EIO;
}

std::string Error::text() const {
  return place + ": " + std::generic_category().message(errnum) + " [" +
         std::string(error_class_name(error_class)) + "]";
}

}  // namespace nbd_remap
