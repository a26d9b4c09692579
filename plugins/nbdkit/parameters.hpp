#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The key=value words of the command line. Defaults are tested against
// nbdkit-remap-plugin(1).

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "plugins/backend/open_backend.hpp"
#include "plugins/base/result.hpp"
#include "plugins/remap/remap_format.hpp"
#include "plugins/scanner/scan_engine.hpp"
#include "plugins/volume/volume_options.hpp"

namespace nbd_remap {

enum class MissingSpare { refuse, readonly };

struct Parameters {
  std::string main;     // absolute path or NBD URI
  std::string spare;    // same
  std::string control;  // absolute path of a Unix socket; empty: none
  DirectIo direct = DirectIo::automatic;
  // Of remotes. Together less than the 30 s after which the kernel's client
  // thinks that a request hangs.
  unsigned main_connections = 4;
  std::chrono::seconds main_timeout{20};
  std::chrono::seconds spare_timeout{8};
  std::optional<std::uint32_t> block_bytes;  // refuse a SPARE with another
  std::optional<Uuid> spare_uuid;            // refuse any other SPARE
  MissingSpare missing_spare = MissingSpare::refuse;
  VolumeOptions volume;
  ScanOptions scan;
};

// Collects words one by one, then answers with all of them. An error's place
// is the whole line: the word, what was expected, an example.
class ParameterParser {
 public:
  Status add(const std::string& key, const std::string& value);
  Result<Parameters> finish() const;

 private:
  std::map<std::string, std::string> words_;
  Parameters parameters_;
};

// The words with what they take, for nbdkit --help.
const char* parameter_help();

}  // namespace nbd_remap
