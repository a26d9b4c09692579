// SPDX-License-Identifier: BSD-3-Clause
// Other projects' programs judge the volume by their own means: fio, which
// verifies what it wrote, and QEMU, whose NBD client is its own (contract C1,
// P2). Each on a disk without faults, and on one of whose sectors 1 % can
// neither be read nor written.

#include <gtest/gtest.h>

#include "tests/e2e/harness.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMain = 64 << 20;
constexpr std::uint64_t kBadSectors = kMain / 512 / 100;

class RemapPeers : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    for (const char* program : {"fio", "qemu-img", "qemu-io"})
      ASSERT_TRUE(have_program(program))
          << program << ": expected what packaging/install-packages installs";
    std::string main = dir_.make_file("main.img", kMain);
    if (bad()) {
      disk_ = std::make_unique<BadDisk>(
          dir_, "disk", main, Words{"bad-percent=1", "mode=both", "seed=4"});
      main = disk_->uri();
    }
    const std::string spare = dir_.make_file("spare.img", 32 << 20);
    format(main, spare);
    volume_ = std::make_unique<RemapServer>(dir_, "volume", main, spare);
    volume_->verbose = false;
    volume_->start();
  }

  void TearDown() override {
    if (!volume_) return;
    const json blocks = volume_->show()["blocks"];
    if (bad()) {
      EXPECT_GE(disk_->fired("write"), 100U);
      EXPECT_GE(blocks["remapped"], 100U);
    } else {
      EXPECT_EQ(blocks["remapped"], 0);
    }
    const Ended ended = volume_->stop();
    EXPECT_EQ(ended.code, 0) << ended.err;
    const MetadataSurvey after = survey(volume_->spare);
    EXPECT_TRUE(after.chosen().closed);
    EXPECT_TRUE(after.copies_agree());
  }

  static bool bad() { return GetParam(); }
  std::string qemu_uri() const {
    return "nbd+unix:///?socket=" + volume_->socket();
  }
  // Succeeds, and answers with what it printed.
  std::string done(const Words& words) {
    const Ended ended = run(words, 120s);
    EXPECT_EQ(ended.code, 0) << words[0] << ": " << ended.out << ended.err;
    return ended.out;
  }
  // What a disk owes that is used for the first time: no sector is pending.
  void write_all() {
    const Client c(volume_->uri());
    for (std::uint64_t at = 0; at < kMain; at += 1 << 20)
      ASSERT_EQ(c.write(at, pattern(at, 1 << 20)), 0);
  }

  ScratchDir dir_;
  std::unique_ptr<BadDisk> disk_;
  std::unique_ptr<RemapServer> volume_;
};

// jobs: words that follow those of all jobs. Answers with fio's own report.
json fio(const Words& jobs, const std::string& uri) {
  Words words{"fio",
              "--output-format=json",
              "--ioengine=nbd",
              "--uri=" + uri,
              "--thread",
              "--verify=crc32c",
              "--verify_fatal=1",
              "--verify_state_save=0",
              "--randseed=4"};
  words.insert(words.end(), jobs.begin(), jobs.end());
  const Ended ended = run(words, 240s);
  EXPECT_EQ(ended.code, 0) << ended.out << ended.err;
  const std::size_t begin = ended.out.find("\n{");  // after its warnings
  return json::parse(ended.out.substr(begin == std::string::npos ? 0 : begin));
}

std::uint64_t bytes_of(const json& report, const char* direction) {
  std::uint64_t sum = 0;
  for (const json& job : report["jobs"]) {
    EXPECT_EQ(job["error"], 0) << job["jobname"];
    sum += job[direction]["io_bytes"].get<std::uint64_t>();
  }
  return sum;
}

// Four connections, each with 16 requests of 512 bytes to 128 KiB under way in
// a quarter of the disk; read back while it is written, and all at the end.
TEST_P(RemapPeers, fio_finds_what_it_wrote) {
  const std::uint64_t part = kMain / 4;
  const json report =
      fio({"--name=quarter", "--numjobs=4", "--iodepth=16", "--rw=randwrite",
           "--bsrange=512-128k", "--size=" + std::to_string(part),
           "--offset_increment=" + std::to_string(part), "--verify_backlog=64",
           "--fsync=100"},
          volume_->uri());
  EXPECT_EQ(bytes_of(report, "write"), kMain);
  EXPECT_EQ(bytes_of(report, "read"), kMain);
}

// Blocks of MAIN's own size, many times over, one request at a time from each
// of eight connections.
TEST_P(RemapPeers, fio_finds_what_it_wrote_last) {
  const std::uint64_t part = kMain / 8;
  const json report =
      fio({"--name=eighth", "--numjobs=8", "--iodepth=1", "--rw=randwrite",
           "--bs=4k", "--norandommap", "--size=" + std::to_string(part),
           "--offset_increment=" + std::to_string(part), "--loops=2"},
          volume_->uri());
  EXPECT_EQ(bytes_of(report, "write"), 2 * kMain);
  EXPECT_GE(bytes_of(report, "read"), kMain / 2);
}

TEST_P(RemapPeers, qemu_img_converts_and_compares) {
  write_all();  // what convert leaves out must not show
  const std::string image = dir_.make_file("image", kMain);
  {
    // Data, zeroes that were written, holes; ends within a block and a sector.
    const std::string fill = dir_.file("fill");
    done({"qemu-img", "create", "-f", "raw", fill, std::to_string(kMain)});
    done({"qemu-io", "-f", "raw", "-c", "write -P 0x5a 0 7M", "-c",
          "write -P 0 9M 3M", "-c", "write -P 0x77 20000000 12345", "-c",
          "write -P 0x11 63M 1M", fill});
    done({"cp", "--sparse=never", fill, image});
  }
  const std::string uri = qemu_uri();
  done({"qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw",
        image, uri});
  EXPECT_EQ(done({"qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri}),
            "Images are identical.\n");
  const std::string back = dir_.file("back");
  done({"qemu-img", "convert", "-f", "raw", "-O", "raw", uri, back});
  EXPECT_EQ(checksum(image), checksum(back));

  std::uint64_t end = 0;
  std::uint64_t zeroes = 0;
  for (const json& extent : json::parse(
           done({"qemu-img", "map", "--output=json", "-f", "raw", uri}))) {
    EXPECT_EQ(extent["start"], end);
    const auto length = extent["length"].get<std::uint64_t>();
    end += length;
    if (extent["zero"]) zeroes += length;
  }
  EXPECT_EQ(end, kMain);
  if (!bad()) {  // a bad disk tells of no holes
    EXPECT_GT(zeroes, 40U << 20);
  }
}

// 32 requests under way, a flush after every 64th.
TEST_P(RemapPeers, qemu_img_bench_writes_what_qemu_io_reads) {
  const std::string uri = qemu_uri();
  const std::string out =
      done({"qemu-img", "bench", "-f", "raw", "-w", "-c", "16384", "-d", "32",
            "-s", "4096", "--pattern=0xa7", "--flush-interval=64", uri});
  EXPECT_NE(out.find("Run completed"), std::string::npos) << out;
  done({"qemu-io", "-f", "raw", "-c", "read -P 0xa7 0 64M", uri});
}

// QEMU is told how small a request may be, and gives every one of them as it
// is: parts of sectors, of blocks, and of many.
TEST_P(RemapPeers, qemu_io_reads_what_it_did) {
  write_all();
  Words words{"qemu-io", "-f", "raw"};
  const auto then = [&](const std::string& command) {
    words.insert(words.end(), {"-c", command});
  };
  for (std::uint64_t i = 0; i < 16; ++i) {
    const std::uint64_t at = i * (4 << 20) + i * 1031;
    const auto place = [&](std::uint64_t skip, std::uint64_t length) {
      return std::to_string(at + skip) + " " + std::to_string(length);
    };
    then("write -P 0x31 " + place(0, 3'000'000));
    then("write -f -P 0x32 " + place(700'001, 70'003));
    then("write -z " + place(1'000'000, 300'001));
    then("write -z -u " + place(1'500'000, 500'000));
    then("aio_write -P 0x33 " + place(2'500'000, 4096));
    then("aio_write -P 0x34 " + place(2'600'000, 100'000));
    then("aio_flush");
    then("read -P 0x31 " + place(0, 700'001));
    then("read -P 0x32 " + place(700'001, 70'003));
    then("read -P 0x31 " + place(770'004, 229'996));
    then("read -P 0 " + place(1'000'000, 300'001));
    then("read -P 0x31 " + place(1'300'001, 199'999));
    then("read -P 0 " + place(1'500'000, 500'000));
    then("read -P 0x31 " + place(2'000'000, 500'000));
    then("read -P 0x33 " + place(2'500'000, 4096));
    then("read -P 0x34 " + place(2'600'000, 100'000));
    then("discard " + place(2'800'000, 100'000));
    then("read -P 0x31 " + place(2'900'000, 100'000));
  }
  then("flush");
  words.push_back(qemu_uri());
  const std::string out = done(words);
  EXPECT_EQ(out.find("verification failed"), std::string::npos) << out;
  EXPECT_EQ(out.find("error"), std::string::npos) << out;
  EXPECT_EQ(count_of(out, "bytes at offset"), 16U * 17);
}

INSTANTIATE_TEST_SUITE_P(Disks, RemapPeers, testing::Bool(),
                         [](const auto& kind) {
                           return std::string(kind.param ? "bad" : "clean");
                         });

}  // namespace
}  // namespace nbd_remap
