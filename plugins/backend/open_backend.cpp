// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/open_backend.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>

#include "plugins/backend/file_backend.hpp"
#include "plugins/backend/nbd_backend.hpp"

namespace nbd_remap {

bool is_nbd_uri(const std::string& spec) {
  constexpr std::array<std::string_view, 6> kSchemes{
      "nbd:", "nbds:", "nbd+unix:", "nbds+unix:", "nbd+vsock:", "nbds+vsock:"};
  return std::any_of(
      kSchemes.begin(), kSchemes.end(),
      [&](std::string_view scheme) { return spec.starts_with(scheme); });
}

Result<std::unique_ptr<Backend>> open_backend(const std::string& spec,
                                              const OpenOptions& options) {
  if (spec.empty())
    return make_error(ErrorClass::caller, EINVAL,
                      "an empty name; expected a regular file, a block device "
                      "or an NBD URI");
  if (is_nbd_uri(spec)) return open_nbd_backend(spec, options);
  return open_file_backend(spec, options);
}

}  // namespace nbd_remap
