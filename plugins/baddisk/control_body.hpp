#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// ControlBody: what a control request says, member by member. The first thing
// that is wrong is kept, and what is read afterwards counts for nothing: ask
// for all members, then for problem().

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "plugins/baddisk/bad_list.hpp"
#include "plugins/wire/http_server.hpp"

namespace nbd_remap {

class ControlBody {
 public:
  enum class Empty { refused, allowed };

  // The body is an object that has no other members than these.
  ControlBody(const HttpRequest& request,
              std::initializer_list<const char*> members,
              Empty empty = Empty::refused);

  // Empty if there is none. A text for a number, one above the maximum and the
  // like are problems.
  std::optional<std::uint64_t> whole(const char* name,
                                     std::uint64_t max = UINT64_MAX);
  std::optional<std::string> text(const char* name);
  std::optional<BadMode> mode();
  bool flag(const char* name);
  // By "ranges", "count" or "percent", one of them, with "seed" to choose.
  std::vector<BadRange> sectors(std::uint64_t default_seed,
                                std::uint64_t size_sectors);

  bool has(const char* name) const { return body_.contains(name); }
  std::size_t size() const { return body_.size(); }
  void refuse(std::string problem);
  // Empty: none.
  const std::string& problem() const { return problem_; }

 private:
  const nlohmann::json* find(const char* name) const;
  std::optional<double> percent();

  nlohmann::json body_ = nlohmann::json::object();
  std::string problem_;
};

}  // namespace nbd_remap
