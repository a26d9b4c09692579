#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// NBD URIs as people and metadata see them. Pure; parsing for connecting is
// libnbd's own (nbd_connect_uri(3)), and a URI it refuses never gets here as a
// backend, so a malformed one yields some text and no error.

#include <cstddef>
#include <string>
#include <string_view>

namespace nbd_remap {

// The longest text that nbd_identity() returns.
inline constexpr std::size_t kMaxNbdIdentityBytes = 95;

// The URI without user name, TLS files and fragment, in one spelling: scheme
// and host in lower case, default port left out, export name and socket
// percent-encoded alike. "nbd://host/export",
// "nbd+unix:///export?socket=/run/nbd.sock". Printable ASCII only.
std::string nbd_display_name(std::string_view uri);

// What stays the same while it is the same export: "nbd " and the display name
// with the s of nbds left out (encryption does not make it another disk). One
// that is too long keeps its end after a checksum of the whole:
// "nbd crc32c:1a2b3c4d ...end".
std::string nbd_identity(std::string_view uri);

}  // namespace nbd_remap
