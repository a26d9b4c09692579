#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What a control request does to the disk. An action says what was wrong with
// the request, and then it has changed nothing; an empty answer: it is done.
//
// Threads  any, at once.

#include <optional>
#include <string>

#include "plugins/baddisk/bad_disk.hpp"
#include "plugins/baddisk/control.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

struct ActionProblem {
  int status = 400;  // 400, 409 or 500
  std::string detail;
};
using Action = std::optional<ActionProblem> (*)(BadDisk&,
                                                const BadDiskDefaults&,
                                                const HttpRequest&);
// Null: there is no action of that name, such as "heal".
Action find_action(std::string_view name);
// "bad, heal, ..."
std::string action_names();

}  // namespace nbd_remap
