#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The C border: a Status or an exception becomes a message and an errno for
// nbdkit, and -1. No exception leaves a callback. A message is one line,
// whatever the names in it hold.

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include <cerrno>
#include <exception>
#include <new>

#include "plugins/base/result.hpp"
#include "plugins/base/tool_text.hpp"

namespace nbd_remap {

inline int report(const Error& error) {
  nbdkit_error("%s", printable(error_words(error)).c_str());
  nbdkit_set_error(nbd_errno(error));
  return -1;
}

template <class Body>
int guard(Body&& body) noexcept {
  try {
    const Status status = body();
    return status ? 0 : report(status.error());
  } catch (const std::bad_alloc&) {
    nbdkit_error("out of memory");
    nbdkit_set_error(ENOMEM);
  } catch (const std::exception& e) {
    nbdkit_error("unexpected: %s", e.what());
    nbdkit_set_error(EIO);
  }
  return -1;
}

}  // namespace nbd_remap
