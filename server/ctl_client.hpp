#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// ControlClient: the questions that nbd-remapctl asks of a volume's socket.
//
// Waits   each question at most timeout. map() asks several, and stops when
//         the server does not get on.
// Errors  errnum says which exit status: see exit_status().

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "plugins/base/result.hpp"

namespace nbd_remap {

class ControlClient {
 public:
  ControlClient(std::string socket, std::chrono::milliseconds timeout)
      : socket_(std::move(socket)), timeout_(timeout) {}

  // name, or if that is empty the name of the only volume there is.
  Result<std::string> volume_name(const std::string& name) const;

  Result<nlohmann::json> health() const;
  Result<nlohmann::json> volumes() const;
  Result<nlohmann::json> volume(const std::string& name) const;
  // At most limit entries from this byte of the volume on, as one answer of
  // the server's form.
  Result<nlohmann::json> map(const std::string& name, std::uint64_t from,
                             std::uint64_t limit) const;
  Result<nlohmann::json> stop(const std::string& name) const;

 private:
  Result<nlohmann::json> ask(const std::string& method,
                             const std::string& target,
                             const std::string& what) const;

  const std::string socket_;
  const std::chrono::milliseconds timeout_;
};

}  // namespace nbd_remap
