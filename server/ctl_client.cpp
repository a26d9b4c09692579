// SPDX-License-Identifier: BSD-3-Clause
#include "server/ctl_client.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

#include "plugins/wire/http_client.hpp"
#include "server/ctl_render.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

constexpr std::uint64_t kPage = 1000;  // entries a question
constexpr std::size_t kMaxAnswerBytes = 16 << 20;
// Between two questions for a job.
constexpr std::chrono::milliseconds kFirstPause{20};
constexpr std::chrono::milliseconds kLongestPause{500};

std::string volume_path(const std::string& name) {
  return "/v1/volumes/" + percent_encode(name);
}

Error misfit(const char* why) {
  return make_error(
      ErrorClass::caller, EPROTO,
      fmt::format("the server's answer is not understood: {}", why));
}

Error no_answer(const std::string& socket, const Error& error) {
  switch (error.errnum) {
    case ENOENT:
    case ECONNREFUSED:
      return make_error(
          ErrorClass::caller, error.errnum,
          fmt::format("socket {}: no server answers there ({})", socket,
                      std::generic_category().message(error.errnum)));
    case ETIMEDOUT:
    case EPROTO:
    case EMSGSIZE:  // the place has all the words
      return make_error(ErrorClass::caller, error.errnum, error.place);
    default:
      return error;
  }
}

// Members that the pages of a map need; a misfit is left to the renderer where
// it does no harm here.
const json* member(const json& object, const char* key,
                   json::value_t expected) {
  const auto it = object.find(key);
  return it == object.end() || it->type() != expected ? nullptr : &*it;
}

}  // namespace

Result<json> ControlClient::ask(const std::string& method,
                                const std::string& target,
                                const std::string& what,
                                const std::string& body) const {
  HttpClientOptions options;
  options.timeout = timeout_;
  options.max_body_bytes = kMaxAnswerBytes;
  const auto response = http_request(socket_, method, target, body, options);
  if (!response) return no_answer(socket_, response.error());
  if (response->status < 200 || response->status > 299)
    return problem_error(what, response->status, response->body);
  return parse_answer(response->body);
}

Result<std::string> ControlClient::volume_name(const std::string& name) const {
  if (!name.empty()) return name;
  auto all = volumes();
  if (!all) return std::move(all).error();
  const json* list = member(*all, "volumes", json::value_t::array);
  if (!list) return misfit("\"volumes\" is no list");
  if (list->empty())
    return make_error(ErrorClass::caller, ENOENT,
                      fmt::format("socket {}: there is no volume", socket_));
  std::string names;
  for (const json& v : *list) {
    const json* text =
        v.is_object() ? member(v, "name", json::value_t::string) : nullptr;
    if (!text) return misfit("\"name\" is no text");
    names += (names.empty() ? "" : ", ") + text->get<std::string>();
  }
  if (list->size() == 1) return names;
  return make_error(
      ErrorClass::caller, EDESTADDRREQ,
      fmt::format("say which volume is meant; there are {}", names));
}

Result<json> ControlClient::health() const {
  return ask("GET", "/v1/health", "health");
}

Result<json> ControlClient::volumes() const {
  return ask("GET", "/v1/volumes", "volumes");
}

Result<json> ControlClient::volume(const std::string& name) const {
  return ask("GET", volume_path(name), "volume " + name);
}

Result<json> ControlClient::map(const std::string& name, std::uint64_t from,
                                std::uint64_t limit) const {
  std::uint64_t block = 0;
  if (from != 0) {
    auto about = volume(name);
    if (!about) return std::move(about).error();
    const json* size =
        member(*about, "block_size", json::value_t::number_unsigned);
    if (!size || *size == 0U) return misfit("\"block_size\" is no size");
    block = from / size->get<std::uint64_t>();
  }
  json all;
  for (std::uint64_t got = 0;;) {
    auto answer = page(name, block, std::min(limit - got, kPage));
    if (!answer) return answer;
    const json* entries = member(*answer, "entries", json::value_t::array);
    if (!entries) return misfit("\"entries\" is no list");
    if (entries->size() > limit - got)
      return misfit("more entries than were asked for");
    got += entries->size();
    const json* next = member(*answer, "next", json::value_t::number_unsigned);
    if (all.is_null()) {
      all = *answer;
    } else {
      all["entries"].insert(all["entries"].end(), entries->begin(),
                            entries->end());
      all["next"] = next ? *next : json(nullptr);
    }
    if (!next || got == limit) return all;
    // Every page gets on, by at least a block and an entry: the end is near.
    if (entries->empty() || next->get<std::uint64_t>() <= block)
      return misfit("\"next\" does not get on");
    block = next->get<std::uint64_t>();
  }
}

Result<json> ControlClient::page(const std::string& name, std::uint64_t block,
                                 std::uint64_t limit) const {
  return ask("GET",
             fmt::format("{}/remaps?from={}&limit={}", volume_path(name), block,
                         limit),
             "volume " + name);
}

Status ControlClient::each_entry(
    const std::string& name,
    const std::function<Status(const json&)>& use) const {
  for (std::uint64_t block = 0;;) {
    auto answer = page(name, block, kPage);
    if (!answer) return std::move(answer).error();
    const json* entries = member(*answer, "entries", json::value_t::array);
    if (!entries) return misfit("\"entries\" is no list");
    for (const json& entry : *entries)
      if (Status used = use(entry); !used) return used;
    const json* next = member(*answer, "next", json::value_t::number_unsigned);
    if (!next) return {};
    if (entries->empty() || next->get<std::uint64_t>() <= block)
      return misfit("\"next\" does not get on");
    block = next->get<std::uint64_t>();
  }
}

Result<json> ControlClient::explain(const std::string& name,
                                    std::uint64_t offset) const {
  return ask("GET",
             fmt::format("{}/explain?offset={}", volume_path(name), offset),
             "volume " + name);
}

Result<json> ControlClient::step(const std::string& name,
                                 const std::string& action,
                                 std::uint64_t offset,
                                 std::uint64_t length) const {
  return run_job(
      name, fmt::format("{} at {}", action, offset),
      fmt::format("/{}?offset={}&length={}{}", action, offset, length,
                  action == "clear" ? "&confirm=lose-data" : ""));
}

Result<json> ControlClient::grow(const std::string& name,
                                 const std::string& disk) const {
  return no_error(run_job(name, "grow", "/grow?disk=" + disk));
}

Result<json> ControlClient::replace(const std::string& name,
                                    const std::string& disk, bool spare,
                                    bool force) const {
  return no_error(run_job(
      name, "replace",
      fmt::format("/replace?disk={}{}{}", percent_encode(disk),
                  spare ? "&role=spare" : "", force ? "&force=yes" : "")));
}

Result<json> ControlClient::abort_replace(const std::string& name,
                                          bool spare) const {
  return no_error(run_job(
      name, "abort", spare ? "/abort-replace?role=spare" : "/abort-replace"));
}

Result<json> ControlClient::replace_status(const std::string& name,
                                           bool spare) const {
  return ask("GET",
             volume_path(name) + (spare ? "/replace?role=spare" : "/replace"),
             "volume " + name);
}

Result<json> ControlClient::quiesce(const std::string& name,
                                    std::uint64_t seconds) const {
  return no_error(
      run_job(name, "quiesce", fmt::format("/quiesce?seconds={}", seconds)));
}

Result<json> ControlClient::resume(const std::string& name) const {
  return ask("POST", volume_path(name) + "/resume", "volume " + name);
}

Result<json> ControlClient::no_error(Result<json> answer) const {
  if (!answer) return answer;
  const json* error = member(*answer, "error", json::value_t::string);
  if (!error) return answer;
  return make_error(ErrorClass::caller, ECANCELED, error->get<std::string>());
}

Result<json> ControlClient::run_job(const std::string& name,
                                    const std::string& words,
                                    const std::string& target) const {
  const std::string what = "volume " + name;
  auto answer = ask("POST", volume_path(name) + target, what);
  const auto until = std::chrono::steady_clock::now() + kStepBound;
  auto pause = kFirstPause;
  while (answer) {
    const json* job = member(*answer, "job", json::value_t::object);
    const json* id =
        job ? member(*job, "id", json::value_t::number_unsigned) : nullptr;
    const json* state =
        job ? member(*job, "state", json::value_t::string) : nullptr;
    if (!id || !state) return misfit("\"job\" is none");
    if (*state == "done") return answer;
    if (std::chrono::steady_clock::now() >= until)
      return make_error(
          ErrorClass::caller, ETIMEDOUT,
          fmt::format("{}: {} is still running after {} s; a disk hangs", what,
                      words, kStepBound.count()));
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, kLongestPause);
    answer = ask(
        "GET",
        fmt::format("{}/jobs/{}", volume_path(name), id->get<std::uint64_t>()),
        what);
  }
  return answer;
}

Result<json> ControlClient::of_volume(const std::string& name,
                                      const std::string& method,
                                      const std::string& target) const {
  return ask(method, volume_path(name) + target, "volume " + name);
}

Result<json> ControlClient::stop(const std::string& name) const {
  return ask("POST", volume_path(name) + "/stop", "volume " + name);
}

Result<json> ControlClient::note_smart(const std::string& name,
                                       const json& counts) const {
  return ask("POST", volume_path(name) + "/smart", "volume " + name,
             counts.dump());
}

Result<json> ControlClient::scan_first(const std::string& name,
                                       const json& parts) const {
  return ask("POST", volume_path(name) + "/scan", "volume " + name,
             json{{"seed", parts}}.dump());
}

Result<json> ControlClient::acknowledge(const std::string& name) const {
  return ask("POST", volume_path(name) + "/acknowledge", "volume " + name);
}

}  // namespace nbd_remap
