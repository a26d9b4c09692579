#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// NBD URIs as people and metadata see them. Parsing for connecting is
// libnbd's own (nbd_connect_uri(3)), and a URI it refuses never gets here as a
// backend, so a malformed one yields some text and no error. Only
// same_nbd_export() looks at the file system.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "plugins/base/result.hpp"

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

// What libnbd would refuse in words that help nobody, or take and misread
// after the host changed its directory: class caller, EINVAL, one line with an
// example. libnbd may still refuse more.
Status check_nbd_uri(std::string_view uri);

// The files that the URI's tls-psk-file= and tls-certificates= need.
std::vector<std::string> nbd_tls_files(std::string_view uri);

// Two spellings of one export. Follows symbolic links of a socket's path; two
// names of one host, or a host and a socket, are not seen through.
bool same_nbd_export(std::string_view a, std::string_view b);

}  // namespace nbd_remap
