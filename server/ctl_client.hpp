#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// ControlClient: the questions that nbd-remapctl asks of a volume's socket.
//
// Waits   each question at most timeout. map() and each_entry() ask several,
//         and stop when the server does not get on. step() asks again while
//         the server says that it is at work, at most kStepBound.
// Errors  errnum says which exit status: see exit_status().

#include <chrono>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "plugins/base/result.hpp"

namespace nbd_remap {

class ControlClient {
 public:
  // A step is a quarter of a second of work, or a block on a disk that tries
  // long; beyond this it hangs.
  static constexpr std::chrono::seconds kStepBound{600};

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
  // Calls use for each remapped or pending block, page by page in the order of
  // the volume, until it fails.
  Status each_entry(
      const std::string& name,
      const std::function<Status(const nlohmann::json&)>& use) const;
  Result<nlohmann::json> explain(const std::string& name,
                                 std::uint64_t offset) const;
  // One step of an action on the map; the answer's "next" is where to go on.
  Result<nlohmann::json> step(const std::string& name,
                              const std::string& action, std::uint64_t offset,
                              std::uint64_t length) const;
  // disk: "main" or "spare". An error if it did not grow.
  Result<nlohmann::json> grow(const std::string& name,
                              const std::string& disk) const;
  // disk: as the server is to open it, in MAIN's place, or SPARE's. Begins; an
  // error if it did not.
  Result<nlohmann::json> replace(const std::string& name,
                                 const std::string& disk, bool spare,
                                 bool force) const;
  Result<nlohmann::json> abort_replace(const std::string& name,
                                       bool spare) const;
  Result<nlohmann::json> replace_status(const std::string& name,
                                        bool spare) const;
  Result<nlohmann::json> quiesce(const std::string& name,
                                 std::uint64_t seconds) const;
  Result<nlohmann::json> resume(const std::string& name) const;
  Result<nlohmann::json> stop(const std::string& name) const;
  // What a disk says of itself, for the volume's health.
  Result<nlohmann::json> note_smart(const std::string& name,
                                    const nlohmann::json& counts) const;
  // Parts of the volume that the scanner is to read first: [{"offset": N,
  // "length": N}, ...]. Answers with the state of the scan.
  Result<nlohmann::json> scan_first(const std::string& name,
                                    const nlohmann::json& parts) const;
  // From here on only what is worse than now is an alert.
  Result<nlohmann::json> acknowledge(const std::string& name) const;
  // One question; target: what follows the volume's path.
  Result<nlohmann::json> of_volume(const std::string& name,
                                   const std::string& method,
                                   const std::string& target) const;

 private:
  Result<nlohmann::json> page(const std::string& name, std::uint64_t block,
                              std::uint64_t limit) const;
  // Asks for a job and waits until it is done. words: what it is.
  Result<nlohmann::json> run_job(const std::string& name,
                                 const std::string& words,
                                 const std::string& target) const;
  // What a job says went wrong is an error.
  Result<nlohmann::json> no_error(Result<nlohmann::json> answer) const;
  Result<nlohmann::json> ask(const std::string& method,
                             const std::string& target, const std::string& what,
                             const std::string& body = "") const;

  const std::string socket_;
  const std::chrono::milliseconds timeout_;
};

}  // namespace nbd_remap
