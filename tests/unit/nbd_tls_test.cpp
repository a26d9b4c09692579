// SPDX-License-Identifier: BSD-3-Clause
// The NBD backend over TLS, with a real nbdkit, keys from psktool and
// certificates from certtool; and every way to name a remote wrongly.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "plugins/backend/nbd_uri.hpp"
#include "plugins/base/unique_fd.hpp"
#include "tests/unit/nbd_test_tools.hpp"
#include "tests/unit/nbdkit_server.hpp"

namespace nbd_remap {
namespace {

using std::chrono::seconds;

bool run(const std::string& command) {
  return std::system((command + " >/dev/null 2>&1").c_str()) == 0;  // NOLINT
}

// keys.psk for alice; a CA, and a certificate of it for localhost.
class NbdTls : public testing::Test {
 protected:
  void SetUp() override {
    if (!run("psktool --version") || !run("certtool --version"))
      GTEST_SKIP() << "no psktool or certtool here (Debian: gnutls-bin)";
    const std::string in = "cd " + dir_.path() + " && ";
    ASSERT_TRUE(run(in + "psktool -u alice -p keys.psk"));
    std::ofstream(dir_.file("ca")) << "cn = test\nca\ncert_signing_key\n";
    std::ofstream(dir_.file("host"))
        << "cn = localhost\ndns_name = localhost\ntls_www_server\n"
           "encryption_key\nsigning_key\n";
    for (const char* name : {"ca", "other-ca", "server"})
      ASSERT_TRUE(run(in + "certtool --generate-privkey --ecc --outfile " +
                      name + "-key.pem"));
    ASSERT_TRUE(run(in + "mkdir other"));
    for (const char* which : {"ca", "other-ca"})
      ASSERT_TRUE(run(in + "certtool --generate-self-signed --load-privkey " +
                      which + "-key.pem --template ca --outfile " +
                      (which[0] == 'c' ? "ca-cert.pem" : "other/ca-cert.pem")));
    ASSERT_TRUE(
        run(in + "certtool --generate-certificate --load-ca-certificate "
                 "ca-cert.pem --load-ca-privkey ca-key.pem --load-privkey "
                 "server-key.pem --template host --outfile server-cert.pem"));
  }
  NbdkitServer psk_server() const {
    return NbdkitServer({"--tls=require", "--tls-psk=" + dir_.file("keys.psk"),
                         "--filter=log", "memory", "16M", "logfile=@DIR@/log"});
  }
  // On TCP: over a Unix socket there is no name to check, and libnbd then
  // checks nothing.
  std::unique_ptr<NbdkitServer> certificate_server() {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(fd.get(), any, size), 0);
    EXPECT_EQ(::getsockname(fd.get(), any, &size), 0);
    fd = UniqueFd();
    port_ = std::to_string(ntohs(address.sin_port));
    return std::make_unique<NbdkitServer>(std::vector<std::string>{
        "-p", port_, "-i", "127.0.0.1", "--tls=require",
        "--tls-certificates=" + dir_.path(), "memory", "16M"});
  }
  std::string tcp_uri(const std::string& host, const std::string& pki) const {
    return "nbds://" + host + ":" + port_ + "/?tls-certificates=" + pki;
  }
  std::string uri(const NbdkitServer& server, const std::string& user,
                  const std::string& more) const {
    return "nbds+unix://" + user + "/?socket=" + server.file("socket") + more;
  }
  std::string psk(const std::string& name = "keys.psk") const {
    return "&tls-psk-file=" + dir_.file(name);
  }
  const ScratchDir dir_;
  std::string port_;
};

void load(Backend& disk) {
  std::atomic<int> right{0};
  {
    std::vector<std::jthread> threads;
    for (unsigned t = 0; t < 16; ++t)
      threads.emplace_back([&, t] {
        for (unsigned round = 0; round < 10; ++round) {
          const std::uint64_t offset = (t << 20) + round * 69632;
          const auto data = pattern(69632, t * 100 + round);
          if (disk.write({offset}, data, Durability::cached).ok() &&
              reads_as(disk, offset, data))
            ++right;
        }
      });
  }
  EXPECT_EQ(right, 160);
}

TEST_F(NbdTls, a_pre_shared_key_opens_the_disk_and_many_threads_use_it) {
  const NbdkitServer server = psk_server();
  const auto disk = open_nbd(uri(server, "alice@", psk()));
  load(*disk);
  EXPECT_EQ(server.logged("tls=1"), server.logged(" Connect "));
  EXPECT_EQ(disk->info().identity,
            "nbd nbd+unix:///?socket=" + server.file("socket"));
}

TEST_F(NbdTls, a_certificate_of_a_known_authority_opens_the_disk) {
  const auto server = certificate_server();
  const auto disk = try_open(tcp_uri("localhost", dir_.path()));
  ASSERT_TRUE(disk.ok()) << disk.error().text();
  load(**disk);
}

TEST_F(NbdTls, what_does_not_fit_is_refused_in_one_clear_line) {
  const NbdkitServer keys = psk_server();
  const auto certificates = certificate_server();
  const NbdkitServer plain({"memory", "1M"});
  std::ofstream(dir_.file("other.psk"))
      << "alice:00112233445566778899aabbccddeeff\n";
  struct Row {
    std::string uri;
    const char* says;
  };
  for (const Row& row :
       {Row{"nbd+unix:///?socket=" + keys.file("socket"), "requires TLS"},
        Row{uri(keys, "bob@", psk()), "username bob was not found"},
        Row{uri(keys, "alice@", psk("other.psk")), "cannot connect"},
        Row{uri(keys, "alice@", psk("none.psk")), "none.psk"},
        Row{tcp_uri("localhost", dir_.file("other")), "certificate"},
        Row{tcp_uri("127.0.0.1", dir_.path()), "certificate"},
        Row{tcp_uri("localhost", dir_.file("none")), "none/ca-cert.pem"},
        Row{uri(plain, "alice@", psk()), "cannot connect"}}) {
    const auto disk = try_open(row.uri, seconds(5));
    ASSERT_FALSE(disk.ok()) << row.uri;
    const std::string text = disk.error().text();
    EXPECT_NE(text.find(row.says), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    EXPECT_NE(disk.error().error_class, ErrorClass::medium);
  }
}

TEST_F(NbdTls, it_comes_back_over_tls) {
  const std::string socket = dir_.file("again.sock");
  const auto words = [&](const std::string& file) {
    return std::vector<std::string>{
        "-U",   socket, "--tls=require", "--tls-psk=" + dir_.file("keys.psk"),
        "file", file};
  };
  const std::string file = dir_.make_file("disk", 1 << 20);
  auto server = std::make_unique<NbdkitServer>(words(file));
  OpenOptions options;
  options.counters = std::make_shared<RemoteCounters>();
  const auto opened =
      open_nbd_backend("nbds+unix://alice@/?socket=" + socket + psk(), options);
  ASSERT_TRUE(opened.ok()) << opened.error().text();
  const auto data = pattern(65536, 1);
  ASSERT_TRUE((*opened)->write({0}, data, Durability::cached).ok());
  server->kill();
  std::filesystem::remove(socket);
  server = std::make_unique<NbdkitServer>(words(file));
  EXPECT_TRUE(reads_as(**opened, 0, data));
  EXPECT_EQ(options.counters->reconnects, 1U);
  EXPECT_EQ(options.counters->replayed_bytes, 65536U);
}

TEST(NbdWords, a_remote_that_is_named_wrongly_is_refused_in_one_clear_line) {
  const ScratchDir dir;
  std::ofstream(dir.file("plain")) << "no socket";
  struct Row {
    std::string uri;
    ErrorClass error_class;
    const char* says;
  };
  for (const Row& row :
       {Row{"nbd+unix:///x", ErrorClass::caller, "path of a socket"},
        Row{"nbd+unix:///x?socket=relative", ErrorClass::caller,
            "path of a socket"},
        Row{"nbd+unix:///x?socket=/" + std::string(108, 'x'),
            ErrorClass::caller, "longer than 107"},
        Row{"nbd+unix://host/x?socket=/run/x", ErrorClass::caller, "no host"},
        Row{"nbd:", ErrorClass::caller, "a host"},
        Row{"nbd:///x", ErrorClass::caller, "a host"},
        Row{"nbd://host:0/", ErrorClass::caller, "a port"},
        Row{"nbd://host:65536/", ErrorClass::caller, "a port"},
        Row{"nbd://host:12x/", ErrorClass::caller, "a port"},
        Row{"nbd://host:/", ErrorClass::caller, "a port"},
        Row{"nbd://[::1/", ErrorClass::caller, "URI"},
        Row{"nbds://host/?tls-psk-file=keys", ErrorClass::caller,
            "absolute path in tls-psk-file="},
        Row{"nbds://host/?tls-certificates=pki", ErrorClass::caller,
            "absolute path in tls-certificates="},
        Row{"nbds://host/?tls-psk-file=/none/k", ErrorClass::caller,
            "cannot read /none/k"},
        Row{"nbd://no-such-host.invalid/", ErrorClass::transport,
            "no-such-host.invalid"},
        Row{"nbd+unix:///?socket=" + dir.file("none"), ErrorClass::transport,
            "No such file"},
        Row{"nbd+unix:///?socket=" + dir.file("plain"), ErrorClass::transport,
            "Connection refused"},
        Row{"nbd://127.0.0.1:1/", ErrorClass::transport,
            "Connection refused"}}) {
    const auto disk = try_open(row.uri, seconds(5));
    ASSERT_FALSE(disk.ok()) << row.uri;
    const std::string text = disk.error().text();
    EXPECT_EQ(disk.error().error_class, row.error_class) << text;
    EXPECT_NE(text.find(row.says), std::string::npos) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    EXPECT_LT(text.size(), 400U) << text;
  }
}

TEST(NbdWords, two_spellings_of_one_export_are_the_same) {
  const ScratchDir dir;
  std::ofstream(dir.file("s"));
  std::filesystem::create_symlink(dir.file("s"), dir.file("link"));
  const std::string unix_uri = "nbd+unix:///?socket=" + dir.file("s");
  struct Row {
    std::string a;
    std::string b;
    bool same;
  };
  for (const Row& row :
       {Row{"nbd://host/x", "nbd://HOST:10809/x", true},
        Row{"nbd://host/x", "nbds://bob@host/%78", true},
        Row{"nbd://host", "nbd://host/", true},
        Row{"nbd://host/x", "nbd://host/X", false},
        Row{"nbd://host/x", "nbd://host:10810/x", false},
        Row{"nbd://host/x", "nbd://other/x", false},
        Row{unix_uri, "nbd+unix:///?socket=" + dir.file("link"), true},
        Row{unix_uri, "nbd+unix:///?socket=" + dir.path() + "/./s", true},
        Row{unix_uri, "nbd+unix:///a?socket=" + dir.file("s"), false},
        Row{unix_uri, "nbd+unix:///?socket=" + dir.file("t"), false}})
    EXPECT_EQ(same_nbd_export(row.a, row.b), row.same) << row.a << " " << row.b;
}

}  // namespace
}  // namespace nbd_remap
