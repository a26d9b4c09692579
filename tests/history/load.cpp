// SPDX-License-Identifier: BSD-3-Clause
#include "tests/history/load.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "plugins/wire/http_client.hpp"

namespace nbd_remap {
namespace {

using Kind = Operation::Kind;

std::uint64_t odd_word(std::uint64_t round, std::uint64_t sector) {
  return 1 +
         (round * 0x9E37'79B9'7F4A'7C15U + sector * 0xBF58'476D'1CE4'E5B9U) %
             (kWordsPerSector - 1);
}

}  // namespace

Operation::Time history_clock() {
  return static_cast<Operation::Time>(
      std::chrono::steady_clock::now().time_since_epoch().count());
}

HistoryClient::HistoryClient(const std::string& uri, const HistoryLoad& load,
                             std::uint64_t number, std::uint64_t seed)
    : client_(uri),
      load_(load),
      number_(number),
      random_(seed * 1000 + number),
      buffer_(load.words()) {}

void HistoryClient::random_range(std::uint64_t round, Operation& o) {
  // Mostly up to two blocks, sometimes many.
  const std::uint64_t sectors =
      random_() % 12 == 0 ? 1 + random_() % 128 : 1 + random_() % 16;
  std::uint64_t first = random_() % load_.sectors;
  std::uint64_t last = std::min(first + sectors, load_.sectors) - 1;
  const auto edges = random_() % 8;
  o.first = first * kWordsPerSector;
  std::uint64_t end = (last + 1) * kWordsPerSector;
  if (edges == 0 || edges == 1) o.first += odd_word(round, first);
  if (edges == 1 || edges == 2)
    end = last * kWordsPerSector + odd_word(round, last);
  if (end <= o.first) end = (last + 1) * kWordsPerSector;
  o.words = end - o.first;
}

void HistoryClient::ended(Operation& o, int result) {
  const int error = result == 0 ? 0 : nbd_get_errno();
  o.end = history_clock();
  o.acked = error == 0;
  if (error != 0 && error != EIO && surprise_.empty())
    surprise_ = fmt::format("{}: {}", describe(o), nbd_get_error());
}

void HistoryClient::read(Operation o) {
  o.kind = Kind::read;
  const std::size_t bytes = o.words * kWordBytes;
  o.start = history_clock();
  ended(o, nbd_pread(client_.get(), buffer_.data(), bytes, o.first * kWordBytes,
                     0));
  if (o.acked)
    o.seen = runs_of(
        std::as_bytes(std::span<const std::uint64_t>(buffer_)).first(bytes),
        o.first);
  history_.push_back(std::move(o));
}

void HistoryClient::write(Operation o, std::uint32_t flags) {
  o.kind = Kind::write;
  o.tag = tag_of(number_, ++requests_);
  for (std::uint64_t w = 0; w < o.words; ++w)
    buffer_[w] = stamp(o.tag, o.first + w);
  o.start = history_clock();
  ended(o, nbd_pwrite(client_.get(), buffer_.data(), o.words * kWordBytes,
                      o.first * kWordBytes, flags));
  history_.push_back(std::move(o));
}

void HistoryClient::work(std::uint64_t requests, std::uint64_t round) {
  for (std::uint64_t i = 0; i < requests && surprise_.empty(); ++i, ++done_) {
    Operation o;
    random_range(round, o);
    const std::uint64_t offset = o.first * kWordBytes;
    const std::uint64_t bytes = o.words * kWordBytes;
    const auto kind = random_() % 100;
    const std::uint32_t fua = random_() % 16 == 0 ? LIBNBD_CMD_FLAG_FUA : 0;
    if (kind < 48) {
      read(std::move(o));
    } else if (kind < 90) {
      write(std::move(o), fua);
    } else if (kind < 97) {
      o.kind = kind < 94 ? Kind::zero : Kind::trim;
      const bool zero = o.kind == Kind::zero;
      const std::uint32_t no_hole =
          zero && kind % 2 ? LIBNBD_CMD_FLAG_NO_HOLE : 0;
      o.start = history_clock();
      ended(o, zero ? nbd_zero(client_.get(), bytes, offset, fua | no_hole)
                    : nbd_trim(client_.get(), bytes, offset, fua));
      history_.push_back(std::move(o));
    } else {
      ended(o, nbd_flush(client_.get(), 0));
      if (!o.acked && surprise_.empty())
        surprise_ = fmt::format("flush: {}", nbd_get_error());
    }
  }
}

std::vector<Tag> HistoryClient::settle() {
  std::vector<Tag> content;
  for (std::uint64_t s = 0; s < load_.sectors; ++s) {
    Operation o;
    o.first = s * kWordsPerSector;
    o.words = kWordsPerSector;
    read(o);
    if (!history_.back().acked) {
      write(o, 0);
      read(o);
      if (!history_.back().acked && surprise_.empty())
        surprise_ = "does not become readable: " + describe(history_.back());
    }
    for (const Run& run : history_.back().seen)
      content.insert(content.end(), run.words, run.tag);
    content.resize(o.first + o.words, kNobody);
  }
  return content;
}

std::vector<Operation> HistoryClient::take_history() {
  return std::exchange(history_, {});
}

HistoryOwner::HistoryOwner(const RemapServer& volume, const BadDisk* disk,
                           const HistoryLoad& load, std::uint64_t seed)
    : control_(volume.control()), disk_(disk), load_(load), random_(seed) {
  const auto answer = http_request(control_, "GET", "/v1/volumes", "");
  if (!answer) throw std::runtime_error(answer.error().text());
  volume_path_ =
      "/v1/volumes/" +
      percent_encode(json::parse(answer->body)["volumes"][0]["name"]);
}

int HistoryOwner::post(const std::string& path, json* answer) {
  HttpClientOptions options;
  options.timeout = 60s;
  const auto response =
      http_request(control_, "POST", volume_path_ + path, "", options);
  if (!response) {
    surprise_ = response.error().text();
    return 0;
  }
  ++actions_;
  // Running still, or another one is.
  if (response->status != 200 && response->status != 202 &&
      response->status != 409)
    surprise_ = path + ": " + response->body;
  if (answer && response->status == 200) *answer = json::parse(response->body);
  return response->status;
}

void HistoryOwner::act(const std::string& action) {
  const std::uint64_t all = load_.bytes() / 4096;
  const std::uint64_t first = random_() % all;
  const std::uint64_t blocks =
      std::min<std::uint64_t>(1 + random_() % 12, all - first);
  json answer;
  post(fmt::format("/{}?offset={}&length={}", action, first * 4096,
                   blocks * 4096),
       &answer);
  if (!answer.contains("counts")) return;
  for (const auto& [name, count] : answer["counts"].items())
    counts_[name] += count.get<std::uint64_t>();
}

json HistoryOwner::scans() {
  const auto answer = http_request(control_, "GET", volume_path_ + "/scan", "");
  if (!answer) throw std::runtime_error(answer.error().text());
  return json::parse(answer->body);
}

// Mistake 16: under load, and the map stays what it was.
void HistoryOwner::quiesce() {
  if (post("/quiesce?seconds=20") != 409) post("/resume");
}

void HistoryOwner::spoil() {
  if (random_() % 3 == 0) {
    disk_->heal({{"all", true}});
    return;
  }
  const bool reads = random_() % 2 == 0;
  const std::uint64_t sectors = reads ? 1 + random_() % 3 : 1 + random_() % 24;
  BadSectors bad{random_() % (load_.sectors - sectors), sectors,
                 history_clock(), 0};
  json what{{"ranges", fmt::format("{}+{}", bad.first, bad.sectors)},
            {"mode", reads ? (random_() % 3 ? "read" : "both") : "write"}};
  // Read at a later try: the scanner's business.
  if (reads && random_() % 3 == 0) what["transient"] = 1 + random_() % 3;
  disk_->add_bad(what);
  bad.end = history_clock();
  if (reads) bad_.push_back(bad);
}

void HistoryOwner::work(const std::atomic<bool>& stop,
                        const std::function<std::uint64_t()>& done) {
  std::uint64_t next = done();
  while (!stop && surprise_.empty()) {
    if (done() < next) {
      std::this_thread::sleep_for(200us);
      continue;
    }
    next = done() + load_.requests_per_action;
    if (random_() % 64 < load_.spoiling) {
      if (!disk_) continue;
      try {
        spoil();
      } catch (const std::exception& e) {  // not out of a thread
        surprise_ = e.what();
      }
      continue;
    }
    const auto what = random_() % 46;
    if (what < 18)
      act("remap");
    else if (what < 36)
      act("unmap");
    else if (what < 42)
      act("retest");
    else if (what < 45)
      post("/scan/start");
    else
      quiesce();
  }
}

}  // namespace nbd_remap
