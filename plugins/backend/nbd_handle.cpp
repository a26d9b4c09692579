// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/nbd_handle.hpp"

#include <libnbd.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#include "plugins/backend/nbd_uri.hpp"
#include "plugins/base/tool_text.hpp"

namespace nbd_remap {
namespace {

using std::chrono::steady_clock;

constexpr std::size_t kMaxMessage = 300;

std::uint64_t size_or_zero(std::int64_t size) {
  return size > 0 ? static_cast<std::uint64_t>(size) : 0;
}

// libnbd's own words name neither the file nor what is wrong with it.
Status check_tls_files(const std::string& uri, const std::string& name) {
  for (const std::string& file : nbd_tls_files(uri)) {
    if (::access(file.c_str(), R_OK) == 0) continue;
    const int errnum = errno;
    return make_error(ErrorClass::caller, errnum,
                      name + ": TLS: cannot read " + printable(file));
  }
  return {};
}

}  // namespace

void CloseNbdHandle::operator()(nbd_handle* handle) const { nbd_close(handle); }

Result<NbdHandle> connect_nbd_handle(const std::string& uri,
                                     const std::string& name,
                                     const NbdPatience& patience) {
  if (Status fine = check_nbd_uri(uri); !fine) return std::move(fine).error();
  if (Status fine = check_tls_files(uri, name); !fine)
    return std::move(fine).error();
  NbdHandle handle(nbd_create());
  nbd_handle* h = handle.get();
  if (!h) return make_error(ENOMEM, name + ": nbd_create");
  // Debugging is off whatever LIBNBD_DEBUG says: it writes to standard error.
  // The URI is the operator's own word, so it may name TLS files. The content
  // of a failed read is undefined here too, so libnbd need not clear buffers;
  // in return NbdConnection checks that data came for all of it.
  if (nbd_set_debug(h, false) == -1 ||
      nbd_set_strict_mode(h, LIBNBD_STRICT_MASK) == -1 ||
      nbd_set_uri_allow_local_file(h, true) == -1 ||
      nbd_set_pread_initialize(h, false) == -1 ||
      nbd_set_request_structured_replies(h, true) == -1 ||
      nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == -1)
    return make_error(ENOTSUP, name + ": " + nbd_error_line());

  bool fine = nbd_aio_connect_uri(h, uri.c_str()) == 0;
  // A host that is not there is found out here, and is nobody's mistake.
  if (!fine && nbd_get_errno() == EINVAL && nbd_aio_is_created(h) == 1)
    return make_error(ErrorClass::caller, EINVAL,
                      name + ": not an NBD URI: " + nbd_error_line() +
                          "; expected one like nbd://host/export or "
                          "nbd+unix:///export?socket=/run/nbd.sock");
  while (fine && nbd_aio_is_connecting(h) == 1) {
    if (patience.cancelled && *patience.cancelled)
      return make_error(ErrorClass::transport, ECANCELED, name + ": connect");
    if (steady_clock::now() >= patience.until)
      return make_error(
          ErrorClass::transport, ETIMEDOUT,
          name + ": the server did not finish the handshake in time");
    fine = pump_nbd(h, patience.wake_fd, milliseconds_until(patience.until));
  }
  if (nbd_aio_is_ready(h) == 1) return handle;
  const int errnum = fine ? 0 : nbd_get_errno();
  return make_error(
      // A name that the resolver does not know comes without an errno.
      ErrorClass::transport,
      errnum                       ? errnum
      : nbd_aio_is_created(h) == 1 ? EHOSTUNREACH
                                   : EPROTO,
      name + ": cannot connect: " +
          (fine ? "the server closed the connection" : nbd_error_line()));
}

NbdExport ask_nbd_export(nbd_handle* h) {
  return {
      .size_bytes = size_or_zero(nbd_get_size(h)),
      .minimum_block = size_or_zero(nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM)),
      .preferred_block =
          size_or_zero(nbd_get_block_size(h, LIBNBD_SIZE_PREFERRED)),
      .maximum_payload =
          size_or_zero(nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM)),
      .read_only = nbd_is_read_only(h) != 0,
      .can_flush = nbd_can_flush(h) == 1,
      .can_fua = nbd_can_fua(h) == 1,
      .can_zero = nbd_can_zero(h) == 1,
      .can_fast_zero = nbd_can_fast_zero(h) == 1,
      .can_trim = nbd_can_trim(h) == 1,
      .can_cache = nbd_can_cache(h) == 1,
      .can_multi_conn = nbd_can_multi_conn(h) == 1,
      .has_extents =
          nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1,
  };
}

bool pump_nbd(nbd_handle* handle, int wake_fd, int timeout_ms) {
  std::array<pollfd, 2> fds{
      {{nbd_aio_get_fd(handle), nbd_poll_events(handle), 0},
       {wake_fd, POLLIN, 0}}};
  if (poll(fds.data(), fds.size(), timeout_ms) <= 0) return true;
  return tell_nbd(handle, fds[0].revents);
}

short nbd_poll_events(nbd_handle* handle) {
  const unsigned direction = nbd_aio_get_direction(handle);
  short events = 0;
  if (direction & LIBNBD_AIO_DIRECTION_READ) events |= POLLIN;
  if (direction & LIBNBD_AIO_DIRECTION_WRITE) events |= POLLOUT;
  return events;
}

// The direction may have changed since poll(2) was asked.
bool tell_nbd(nbd_handle* handle, short socket_events) {
  constexpr short kTrouble = POLLERR | POLLHUP | POLLNVAL;
  const unsigned direction = nbd_aio_get_direction(handle);
  if ((direction & LIBNBD_AIO_DIRECTION_READ) &&
      (socket_events & (POLLIN | kTrouble)))
    return nbd_aio_notify_read(handle) == 0;
  if ((direction & LIBNBD_AIO_DIRECTION_WRITE) &&
      (socket_events & (POLLOUT | kTrouble)))
    return nbd_aio_notify_write(handle) == 0;
  return true;
}

bool nbd_is_gone(nbd_handle* handle) {
  return nbd_aio_is_dead(handle) != 0 || nbd_aio_is_closed(handle) != 0;
}

std::string nbd_error_line() {
  const char* raw = nbd_get_error();
  if (!raw) return "the server closed the connection";
  std::string text = raw;
  if (text.starts_with("nbd_")) {
    const std::size_t colon = text.find(": ");
    if (colon != std::string::npos) text.erase(0, colon + 2);
  }
  const std::string tail =
      ": " + std::generic_category().message(nbd_get_errno());
  if (text.ends_with(tail)) text.resize(text.size() - tail.size());
  if (text.size() > kMaxMessage) text.resize(kMaxMessage);
  for (char& c : text)
    if (c < ' ' || c > '~') c = '?';
  return text;
}

int milliseconds_until(steady_clock::time_point when) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(when - steady_clock::now())
          .count();
  return static_cast<int>(std::clamp<decltype(left)>(left, 0, 1'000'000));
}

}  // namespace nbd_remap
