// SPDX-License-Identifier: BSD-3-Clause
#include <cerrno>
#include <filesystem>
#include <stdexcept>

#include "plugins/wire/http_client.hpp"
#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

Words join(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

HttpResponse ask_socket(const std::string& socket, const std::string& method,
                        const std::string& path, const std::string& body) {
  auto response =
      http_request(socket, method, path, body, {std::chrono::seconds(30)});
  if (!response) throw std::runtime_error(response.error().text());
  return *response;
}

int answer(int result) { return result == 0 ? 0 : nbd_get_errno(); }

}  // namespace

RemapServer::RemapServer(const ScratchDir& dir, const std::string& name,
                         std::string main_disk, std::string spare_disk,
                         const Words& more)
    : Server(dir, name,
             join({REMAP_PLUGIN, "main=" + main_disk, "spare=" + spare_disk,
                   "control=" + dir.file(name + ".ctl")},
                  more)),
      main(std::move(main_disk)),
      spare(std::move(spare_disk)),
      control_(dir.file(name + ".ctl")) {}

json RemapServer::get(const std::string& path) const {
  const HttpResponse response = ask_socket(control_, "GET", path, "");
  if (response.status != 200)
    throw std::runtime_error(path + ": " + response.body);
  return json::parse(response.body);
}

std::string RemapServer::volume_path() const {
  const std::string name = get("/v1/volumes")["volumes"][0]["name"];
  return "/v1/volumes/" + percent_encode(name);
}

json RemapServer::show() const { return get(volume_path()); }
json RemapServer::health() const { return get("/v1/health"); }
int RemapServer::post_stop() const {
  return ask_socket(control_, "POST", volume_path() + "/stop", "").status;
}

BadDisk::BadDisk(const ScratchDir& dir, const std::string& name,
                 const std::string& file, const Words& more)
    : Server(dir, name,
             join({BADDISK_PLUGIN, file, "control=" + dir.file(name + ".ctl")},
                  more)),
      control_(dir.file(name + ".ctl")) {
  start();
}

json BadDisk::ask(const std::string& method, const std::string& path,
                  const std::string& body) const {
  const HttpResponse response = ask_socket(control_, method, path, body);
  if (response.status != 200)
    throw std::runtime_error(path + ": " + response.body);
  return json::parse(response.body);
}

json BadDisk::state() const { return ask("GET", "/v1/baddisk", ""); }
json BadDisk::add_bad(const json& what) const {
  return ask("POST", "/v1/baddisk/bad", what.dump());
}
json BadDisk::heal(const json& what) const {
  return ask("POST", "/v1/baddisk/heal", what.dump());
}
json BadDisk::post(const std::string& action, const json& what) const {
  return ask("POST", "/v1/baddisk/" + action, what.dump());
}
std::uint64_t BadDisk::fired(const std::string& kind) const {
  return state()["fired"][kind];
}

Client::Client(const std::string& uri) : nbd_(nbd_create()) {
  if (nbd_ == nullptr) throw std::runtime_error(nbd_get_error());
  nbd_add_meta_context(nbd_, LIBNBD_CONTEXT_BASE_ALLOCATION);
  // The server is to be asked, not libnbd, whether a request is right.
  nbd_set_strict_mode(nbd_, 0);
  if (nbd_connect_uri(nbd_, uri.c_str()) != 0) {
    const std::string why = nbd_get_error();
    nbd_close(nbd_);
    throw std::runtime_error(uri + ": " + why);
  }
}

Client::~Client() {
  if (nbd_ != nullptr) nbd_close(nbd_);
}

std::uint64_t Client::size() const {
  return static_cast<std::uint64_t>(nbd_get_size(nbd_));
}

int Client::read(std::uint64_t offset, std::size_t length,
                 std::string* out) const {
  std::string buffer(length, '\xEE');
  const int error = answer(nbd_pread(nbd_, buffer.data(), length, offset, 0));
  if (out != nullptr) *out = std::move(buffer);
  return error;
}

int Client::write(std::uint64_t offset, std::string_view data,
                  std::uint32_t flags) const {
  return answer(nbd_pwrite(nbd_, data.data(), data.size(), offset, flags));
}

int Client::zero(std::uint64_t offset, std::uint64_t length,
                 std::uint32_t flags) const {
  return answer(nbd_zero(nbd_, length, offset, flags));
}

int Client::flush() const { return answer(nbd_flush(nbd_, 0)); }

std::vector<std::pair<std::uint64_t, std::uint32_t>> Client::map(
    std::uint64_t offset, std::uint64_t length) const {
  std::vector<std::pair<std::uint64_t, std::uint32_t>> out;
  nbd_extent_callback take{};
  take.user_data = &out;
  take.callback = [](void* data, const char*, std::uint64_t,
                     std::uint32_t* entries, std::size_t n, int*) {
    auto& list = *static_cast<decltype(&out)>(data);
    for (std::size_t i = 0; i + 1 < n; i += 2)
      list.emplace_back(entries[i], entries[i + 1]);
    return 0;
  };
  if (nbd_block_status(nbd_, length, offset, take, 0) != 0)
    throw std::runtime_error(nbd_get_error());
  return out;
}

}  // namespace nbd_remap
