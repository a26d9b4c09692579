// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_spare.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace nbd_remap {

namespace fs = std::filesystem;

std::vector<std::string> spare_tool_places(const std::string& own_path) {
  const fs::path folder = fs::path(own_path).parent_path();
  return {folder / "nbd-remap-spare",
          (folder / NBD_REMAP_LIBEXEC_FROM_BIN / "nbd-remap-spare")
              .lexically_normal()};
}

Error exec_spare_tool(const std::vector<std::string>& arguments) {
  std::error_code error;
  const fs::path own = fs::read_symlink("/proc/self/exe", error);
  if (error) return make_error(error.value(), "/proc/self/exe");
  std::string tried;
  for (const std::string& place : spare_tool_places(own)) {
    std::vector<std::string> words{place};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    argv.reserve(words.size() + 1);
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::execv(place.c_str(), argv.data());
    if (errno != ENOENT)
      return make_error(ErrorClass::caller, ENOENT,
                        fmt::format("{}: cannot be run: {}", place,
                                    std::generic_category().message(errno)));
    tried += (tried.empty() ? "" : " nor ") + place;
  }
  return make_error(ErrorClass::caller, ENOENT,
                    fmt::format("neither {} is there; is nbd-remap installed "
                                "whole?",
                                tried));
}

}  // namespace nbd_remap
