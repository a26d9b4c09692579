// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/nbd_uri.hpp"

#include <gtest/gtest.h>

namespace nbd_remap {
namespace {

TEST(NbdUri, one_spelling_for_one_export) {
  EXPECT_EQ(nbd_display_name("nbd://Host.Example:10809/disk"),
            "nbd://host.example/disk");
  EXPECT_EQ(nbd_display_name("NBD://host:10810"), "nbd://host:10810/");
  EXPECT_EQ(nbd_display_name("nbd://host/a%2fb%20c"), "nbd://host/a/b%20c");
  EXPECT_EQ(nbd_display_name("nbd+unix:///x?socket=/run/a%62c"),
            "nbd+unix:///x?socket=/run/abc");
  EXPECT_EQ(nbd_display_name("nbd+vsock://2:10809/"), "nbd+vsock://2/");
  EXPECT_EQ(nbd_display_name("nbd://[::1]:10810/x"), "nbd://[::1]:10810/x");
}

TEST(NbdUri, user_and_tls_files_stay_out) {
  EXPECT_EQ(nbd_display_name("nbds://alice@host/x?tls-psk-file=/etc/keys#f"),
            "nbds://host/x");
  EXPECT_EQ(
      nbd_display_name("nbds+unix://a@/x?tls-certificates=/c&socket=/run/s"),
      "nbds+unix:///x?socket=/run/s");
}

TEST(NbdUri, encryption_does_not_make_it_another_disk) {
  EXPECT_EQ(nbd_identity("nbds://bob@host:10809/x?tls-psk-file=k"),
            nbd_identity("nbd://host/x"));
  EXPECT_EQ(nbd_identity("nbd://host/x"), "nbd nbd://host/x");
  EXPECT_NE(nbd_identity("nbd://host/x"), nbd_identity("nbd://host/X"));
  EXPECT_NE(nbd_identity("nbd+unix:///x?socket=/a"),
            nbd_identity("nbd+unix:///x?socket=/b"));
}

TEST(NbdUri, a_long_identity_is_cut_and_still_differs) {
  const std::string tail(100, 'z');
  const std::string a = nbd_identity("nbd://host/a" + tail);
  const std::string b = nbd_identity("nbd://host/b" + tail);
  EXPECT_EQ(a.size(), kMaxNbdIdentityBytes);
  EXPECT_TRUE(a.starts_with("nbd crc32c:"));
  EXPECT_NE(a, b);
  // The longest one that is kept whole.
  const std::string whole = "nbd://h/" + std::string(83, 'y');
  EXPECT_EQ(nbd_identity(whole), "nbd " + whole);
  EXPECT_EQ(nbd_identity(whole).size(), kMaxNbdIdentityBytes);
}

// Mistake 35
TEST(NbdUri, any_bytes_give_printable_text) {
  const std::string strange("nbd://h/\n\x1b[31m'\"$(x)\xff%zz%", 22);
  for (const std::string& uri :
       {strange, std::string("::::"), std::string(), std::string("nbd"),
        std::string("nbd:?&&=&socket"), std::string("//@/?#")}) {
    const std::string identity = nbd_identity(uri);
    EXPECT_FALSE(identity.empty());
    for (const char c : identity) {
      EXPECT_GE(c, ' ') << identity;
      EXPECT_LE(c, '~') << identity;
    }
  }
}

}  // namespace
}  // namespace nbd_remap
