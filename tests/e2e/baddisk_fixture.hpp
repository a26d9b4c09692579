#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// nbdkit-baddisk-plugin.so in the real nbdkit, asked through libnbd: the errors
// are those that a client sees.
#include <gtest/gtest.h>
#include <libnbd.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "plugins/wire/http_client.hpp"

namespace nbd_remap {
namespace fs = std::filesystem;
using nlohmann::json;
using Words = std::vector<std::string>;

constexpr std::uint64_t kSectors = 2048;  // of 512 bytes: 1 MiB

inline std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream all;
  all << in.rdbuf();
  return all.str();
}

// What an unmolested sector holds: its number, over and over.
inline std::string pattern(std::uint64_t sector) {
  std::string text;
  while (text.size() < 512) text += std::to_string(sector) + ";";
  text.resize(512);
  return text;
}

// A plugin with ASan loads only if its library is in the program already.
inline Words nbdkit(const Words& words) {
#ifdef LIBASAN
  Words all{"env", "LD_PRELOAD=" LIBASAN, "ASAN_OPTIONS=detect_leaks=0",
            NBDKIT};
#else
  Words all{NBDKIT};
#endif
  all.insert(all.end(), words.begin(), words.end());
  return all;
}

// One nbdkit with one client; both go with it.
class Nbd {
 public:
  explicit Nbd(const Words& words) : nbd_(nbd_create(), nbd_close) {
    Words args = nbdkit({"-s", "--exit-with-parent", BADDISK_PLUGIN});
    args.insert(args.end(), words.begin(), words.end());
    std::vector<char*> argv;
    for (auto& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    if (!nbd_ || nbd_connect_command(nbd_.get(), argv.data()) != 0)
      ADD_FAILURE() << nbd_get_error();
  }
  nbd_handle* get() const { return nbd_.get(); }

  // 0 or the errno that the client sees.
  int read(std::uint64_t offset, std::size_t length, std::string* data = {}) {
    std::string buffer(length, '\x55');
    const int rc = nbd_pread(get(), buffer.data(), length, offset, 0);
    if (data) *data = buffer;
    return rc == 0 ? 0 : nbd_get_errno();
  }
  int write(std::uint64_t offset, const std::string& data, unsigned flags = 0) {
    return nbd_pwrite(get(), data.data(), data.size(), offset, flags) == 0
               ? 0
               : nbd_get_errno();
  }
  int zero(std::uint64_t offset, std::uint64_t length, unsigned flags = 0) {
    return nbd_zero(get(), length, offset, flags) == 0 ? 0 : nbd_get_errno();
  }
  int read_sector(std::uint64_t n) { return read(n * 512, 512); }
  int write_sector(std::uint64_t n) { return write(n * 512, pattern(n)); }

 private:
  std::unique_ptr<nbd_handle, decltype(&nbd_close)> nbd_;
};

class Baddisk : public testing::Test {
 protected:
  Baddisk() {
    std::string name = fs::temp_directory_path() / "baddisk-test-XXXXXX";
    folder_ = ::mkdtemp(name.data());
    disk_ = folder_ + "/disk.img";
    control_ = folder_ + "/control";
    std::ofstream out(disk_, std::ios::binary);
    for (std::uint64_t n = 0; n < kSectors; ++n) out << pattern(n);
  }
  ~Baddisk() override { fs::remove_all(folder_); }

  Nbd start(const Words& words) {
    Words all{disk_, "control=" + control_};
    all.insert(all.end(), words.begin(), words.end());
    return Nbd(all);
  }
  json ask(const std::string& method, const std::string& path,
           const std::string& body = "") {
    const auto response = http_request(control_, method, path, body);
    if (!response) {
      ADD_FAILURE() << response.error().text();
      return {};
    }
    EXPECT_EQ(response->status, 200) << response->body;
    return json::parse(response->body);
  }
  json state() { return ask("GET", "/v1/baddisk"); }

  // What is said to be bad, for either mode.
  std::set<std::uint64_t> told() {
    std::set<std::uint64_t> sectors;
    const json s = state();
    for (const auto& run : s["bad"])
      for (std::uint64_t i = 0; i < run["count"]; ++i)
        sectors.insert(run["start"].get<std::uint64_t>() + i);
    return sectors;
  }
  // What fails, sector by sector.
  static std::set<std::uint64_t> unreadable(Nbd& nbd) {
    std::set<std::uint64_t> sectors;
    for (std::uint64_t n = 0; n < kSectors; ++n) {
      std::string data;
      const int errnum = nbd.read(n * 512, 512, &data);
      if (errnum == 0)
        EXPECT_EQ(data, pattern(n)) << n;
      else if (errnum == EIO)
        sectors.insert(n);
      else
        ADD_FAILURE() << n << ": errno " << errnum;
    }
    return sectors;
  }
  static std::set<std::uint64_t> unwritable(Nbd& nbd) {
    std::set<std::uint64_t> sectors;
    for (std::uint64_t n = 0; n < kSectors; ++n)
      if (nbd.write_sector(n) != 0) sectors.insert(n);
    return sectors;
  }

  std::string folder_;
  std::string disk_;
  std::string control_;
};

using Sectors = std::set<std::uint64_t>;

// Status and all output of a command; words are passed as they are.
inline std::pair<int, std::string> run(const Words& words) {
  std::string line;
  for (const auto& word : words) line += "'" + word + "' ";
  FILE* const pipe =
      ::popen(("timeout 20 " + line + "2>&1 </dev/null").c_str(), "re");
  if (!pipe) return {-1, "popen"};
  std::string output;
  char buffer[4096];
  for (std::size_t n = 0; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    output.append(buffer, n);
  const int status = ::pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, output};
}

}  // namespace nbd_remap
