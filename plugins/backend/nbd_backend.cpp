// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/backend/nbd_backend.hpp"

#include <fmt/format.h>
#include <libnbd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <new>
#include <system_error>
#include <utility>

#include "plugins/backend/nbd_link.hpp"
#include "plugins/backend/nbd_uri.hpp"
#include "plugins/backend/range_check.hpp"
#include "plugins/base/aligned_buffer.hpp"

namespace nbd_remap {
namespace {

using Op = NbdRequest::Op;

// Every server takes this much when it says nothing; none needs more.
constexpr std::uint64_t kMaxPayload = 32U << 20;
constexpr std::uint64_t kMaxLength = std::numeric_limits<std::uint32_t>::max();
// nbdkit before 1.42.4 aborts on some questions of nearly 4 GiB
// (CVE-2025-47711): ask for less.
constexpr std::uint64_t kMaxStatusLength = 1U << 30;
constexpr std::size_t kNbdZeroesBytes = 1U << 20;
constexpr std::size_t kNbdBounceBytes = 64U << 10;
static_assert(kNbdBounceBytes >= 2UL * kMaxBlockBytes);

// A server that is back and not in use yet: one connection, no second try.
class FreshChannel final : public NbdChannel {
 public:
  FreshChannel(NbdConnection& connection, std::chrono::milliseconds timeout)
      : connection_(connection), timeout_(timeout) {}
  NbdOutcome run(NbdRequest& request) override {
    request.deadline = std::chrono::steady_clock::now() + timeout_;
    const int errnum = connection_.run(request);
    return {errnum, request.lost, request.lost ? connection_.why_dead() : ""};
  }

 private:
  NbdConnection& connection_;
  const std::chrono::milliseconds timeout_;
};

class NbdBackend final : public Backend {
 public:
  NbdBackend(BackendInfo info, const NbdExport& remote,
             std::unique_ptr<NbdChannel> channel)
      : info_(std::move(info)),
        remote_(remote),
        max_payload_(round_down(
            remote.maximum_payload
                ? std::min<std::uint64_t>(remote.maximum_payload, kMaxPayload)
                : kMaxPayload,
            info_.logical_block_bytes)),
        channel_(std::move(channel)),
        bounce_(kNbdBounceBytes) {
    if (!remote_.can_zero && !info_.read_only)
      zeroes_ = AlignedBuffer(kNbdZeroesBytes);
  }

  const BackendInfo& info() const override { return info_; }

  Status read(DeviceOffset offset, Bytes buffer) override {
    if (Status s = check_range(info_, "read", offset, buffer.size()); !s)
      return s;
    const std::uint64_t block = info_.logical_block_bytes;
    std::uint64_t at = offset.value;
    while (!buffer.empty()) {
      const std::uint64_t start = round_down(at, block);
      const std::uint64_t whole = round_down(buffer.size(), block);
      std::uint64_t done = 0;
      if (start == at && whole > 0) {
        done = std::min(whole, max_payload_);
        NbdRequest request;
        request.op = Op::read;
        request.offset = at;
        request.length = done;
        request.buffer = buffer.data();
        if (Status s = run(request, "read"); !s) return s;
      } else {
        Result<std::uint64_t> copied = read_rounded_out(at, buffer);
        if (!copied) return std::move(copied).error();
        done = *copied;
      }
      at += done;
      buffer = buffer.subspan(done);
    }
    return {};
  }

  Status write(DeviceOffset offset, ConstBytes data,
               Durability durability) override {
    if (Status s = check_change(info_, "write", offset, data.size()); !s)
      return s;
    const bool fua = durability == Durability::fua;
    if (Status s = check_fua(fua, "write", offset, data.size()); !s) return s;
    if (Status s = write_pieces(offset.value, data, fua, false); !s) return s;
    return flush_instead_of_fua(fua);
  }

  Status zero(DeviceOffset offset, std::uint64_t length, ZeroMode mode,
              Durability durability) override {
    if (Status s = check_change(info_, "zero", offset, length); !s) return s;
    const bool fua = durability == Durability::fua;
    if (Status s = check_fua(fua, "zero", offset, length); !s) return s;
    if (mode == ZeroMode::fast_only && !info_.fast_zero)
      return make_error(ENOTSUP, io_place(info_, "zero", offset, length));
    std::uint32_t flags = fua_flag(fua);
    if (mode == ZeroMode::keep_allocated) flags |= LIBNBD_CMD_FLAG_NO_HOLE;
    if (mode == ZeroMode::fast_only) flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
    Status done = remote_.can_zero
                      ? run_range(Op::zero, "zero", offset.value, length, flags)
                      : write_zeroes(offset, length, fua && remote_.can_fua);
    return done ? flush_instead_of_fua(fua) : done;
  }

  Status trim(DeviceOffset offset, std::uint64_t length) override {
    if (Status s = check_change(info_, "trim", offset, length); !s) return s;
    if (!remote_.can_trim) return {};
    return run_range(Op::trim, "trim", offset.value, length, 0);
  }

  Status cache(DeviceOffset offset, std::uint64_t length) override {
    if (Status s = check_range(info_, "cache", offset, length); !s) return s;
    if (!remote_.can_cache || length == 0) return {};
    const std::uint64_t start =
        round_down(offset.value, info_.logical_block_bytes);
    const std::uint64_t end =
        round_up(offset.value + length, info_.logical_block_bytes);
    return run_range(Op::cache, "cache", start, end - start, 0);
  }

  Result<Extent> extent(DeviceOffset offset, std::uint64_t length) override {
    if (Status s = check_range(info_, "extents", offset, length); !s)
      return std::move(s).error();
    const Extent data{length, false, false};
    if (length == 0) return data;
    // Nobody shall skip a read that would fail.
    if (!remote_.has_extents || channel_->in_doubt()) return data;
    const std::uint64_t block = info_.logical_block_bytes;
    NbdRequest request;
    request.op = Op::extents;
    request.flags = LIBNBD_CMD_FLAG_REQ_ONE;
    request.offset = round_down(offset.value, block);
    const std::uint64_t skip = offset.value - request.offset;
    request.length = std::min(round_up(skip + length, block), kMaxStatusLength);
    if (Status s = run(request, "extents"); !s) {
      // A server that cannot say leaves us with the safe answer.
      if (s.error().error_class == ErrorClass::bug) return data;
      return std::move(s).error();
    }
    Extent answer = request.extent;
    if (answer.length == 0) return data;
    // Ends before what was asked for: of the rest of its block nothing is
    // known.
    if (answer.length <= skip)
      return Extent{std::min(length, block - skip), false, false};
    // A server may answer beyond the question.
    answer.length = std::min(answer.length - skip, length);
    return answer;
  }

  Status flush() override {
    if (!remote_.can_flush)
      return make_error(ENOTSUP, info_.name + ": flush: not offered");
    NbdRequest request;
    request.op = Op::flush;
    return run(request, "flush");
  }

 private:
  Status run(NbdRequest& request, std::string_view verb) {
    const NbdOutcome outcome = channel_->run(request);
    if (outcome.errnum == 0) return {};
    std::string place =
        io_place(info_, verb, DeviceOffset{request.offset}, request.length);
    if (!outcome.why.empty()) place += ": " + outcome.why;
    if (outcome.transport)
      return make_error(ErrorClass::transport, outcome.errnum,
                        std::move(place));
    return make_error(outcome.errnum, std::move(place));
  }

  Status write_pieces(std::uint64_t at, ConstBytes data, bool fua,
                      bool zeroes) {
    while (!data.empty()) {
      NbdRequest request;
      request.op = Op::write;
      request.offset = at;
      request.length = std::min<std::uint64_t>(data.size(), max_payload_);
      request.data = data.data();
      request.zeroes = zeroes;
      request.flags = fua_flag(fua);
      if (Status s = run(request, "write"); !s) return s;
      at += request.length;
      data = data.subspan(request.length);
    }
    return {};
  }

  // A request without payload, in as few pieces as the protocol allows.
  Status run_range(Op op, std::string_view verb, std::uint64_t at,
                   std::uint64_t length, std::uint32_t flags) {
    const std::uint64_t most =
        round_down(kMaxLength, info_.logical_block_bytes);
    while (length > 0) {
      NbdRequest request;
      request.op = op;
      request.offset = at;
      request.length = std::min(length, most);
      request.flags = flags;
      if (Status s = run(request, verb); !s) return s;
      at += request.length;
      length -= request.length;
    }
    return {};
  }

  // Reads the whole blocks around the beginning of buffer; how much of it that
  // filled. Only an unaligned end costs a copy.
  Result<std::uint64_t> read_rounded_out(std::uint64_t at, Bytes buffer) {
    const std::uint64_t block = info_.logical_block_bytes;
    const AlignedBufferPool::Loan bounce = bounce_.borrow();
    NbdRequest request;
    request.op = Op::read;
    request.offset = round_down(at, block);
    const std::uint64_t skip = at - request.offset;
    const std::uint64_t most = std::min<std::uint64_t>(
        round_down(kNbdBounceBytes, block), max_payload_);
    request.length = round_up(skip + buffer.size(), block);
    // Too much for one bounce: up to the next boundary, the rest needs none.
    if (request.length > most) request.length = block;
    request.buffer = bounce->data();
    if (Status s = run(request, "read"); !s) return std::move(s).error();
    const std::uint64_t count =
        std::min<std::uint64_t>(request.length - skip, buffer.size());
    std::memcpy(buffer.data(), request.buffer + skip, count);
    return count;
  }

  Status write_zeroes(DeviceOffset offset, std::uint64_t length, bool fua) {
    while (length > 0) {
      const std::uint64_t n = std::min<std::uint64_t>(length, kNbdZeroesBytes);
      Status written = write_pieces(offset.value, zeroes_.first(n), fua, true);
      if (!written) return written;
      offset.value += n;
      length -= n;
    }
    return {};
  }

  std::uint32_t fua_flag(bool fua) const {
    return fua && remote_.can_fua ? LIBNBD_CMD_FLAG_FUA : 0;
  }
  Status check_fua(bool fua, std::string_view verb, DeviceOffset offset,
                   std::uint64_t length) const {
    if (!fua || remote_.can_fua || remote_.can_flush) return {};
    return make_error(ENOTSUP, io_place(info_, verb, offset, length) +
                                   ": the server offers neither FUA nor FLUSH");
  }
  Status flush_instead_of_fua(bool fua) {
    return fua && !remote_.can_fua ? flush() : Status{};
  }

  const BackendInfo info_;
  const NbdExport remote_;
  const std::uint64_t max_payload_;
  const std::unique_ptr<NbdChannel> channel_;
  AlignedBufferPool bounce_;
  AlignedBuffer zeroes_;
};

Error cannot_use(const std::string& name, const std::string& what) {
  return make_error(ErrorClass::full, EINVAL, name + ": " + what);
}

Result<BackendInfo> describe(const std::string& uri, const NbdExport& remote,
                             const OpenOptions& options) {
  BackendInfo info;
  info.name = nbd_display_name(uri);
  info.identity = nbd_identity(uri);
  info.size_bytes = remote.size_bytes;
  info.read_only = remote.read_only || options.read_only;
  info.remote = true;
  info.can_flush = remote.can_flush;
  info.flush_covers_failed = remote.can_flush && !info.read_only;
  info.fast_zero = remote.can_zero && remote.can_fast_zero;

  const std::uint64_t logical =
      std::max<std::uint64_t>(remote.minimum_block, kSectorBytes);
  if (!is_power_of_two(logical) || logical > kMaxBlockBytes)
    return cannot_use(info.name,
                      fmt::format("the server's minimum block size is {}; a "
                                  "power of two up to {} is needed",
                                  remote.minimum_block, kMaxBlockBytes));
  if (remote.maximum_payload != 0 && remote.maximum_payload < logical)
    return cannot_use(info.name,
                      fmt::format("the server's maximum block size is {}, less "
                                  "than one block of {}",
                                  remote.maximum_payload, logical));
  if (remote.size_bytes == 0 || remote.size_bytes % logical != 0)
    return cannot_use(info.name,
                      fmt::format("the export's size is {}; a multiple of {} "
                                  "above 0 is needed",
                                  remote.size_bytes, logical));
  info.logical_block_bytes = static_cast<std::uint32_t>(logical);
  const std::uint64_t preferred = remote.preferred_block;
  const bool sane = is_power_of_two(preferred) && preferred >= logical &&
                    preferred <= kMaxBlockBytes;
  info.physical_block_bytes =
      static_cast<std::uint32_t>(sane ? preferred : logical);
  return info;
}

Result<std::unique_ptr<Backend>> open(const std::string& uri,
                                      const OpenOptions& options) {
  NbdLink::Options link_options;
  link_options.uri = uri;
  link_options.name = nbd_display_name(uri);
  link_options.connections = options.connections;
  link_options.timeout = options.deadline;
  link_options.log = options.log;
  link_options.counters = options.counters;
  if (options.on_reconnect)
    link_options.check = [=](NbdConnection& fresh, const NbdExport& remote) {
      OpenOptions looking = options;
      looking.read_only = true;
      Result<BackendInfo> info = describe(uri, remote, looking);
      if (!info) return Status(std::move(info).error());
      NbdBackend disk(*std::move(info), remote,
                      std::make_unique<FreshChannel>(fresh, options.deadline));
      return options.on_reconnect(disk);
    };
  auto link = NbdLink::connect(std::move(link_options));
  if (!link) return std::move(link).error();
  const NbdExport remote = (*link)->remote();
  Result<BackendInfo> info = describe(uri, remote, options);
  if (!info) return std::move(info).error();
  // Without FLUSH nothing is ever durable, and nothing ever leaves a journal.
  const bool journaled = info->can_flush && !info->read_only;
  if (Status started = (*link)->start(
          journaled, std::max(info->logical_block_bytes, kMinBlockBytes));
      !started)
    return std::move(started).error();
  return std::unique_ptr<Backend>(
      std::make_unique<NbdBackend>(*std::move(info), remote, *std::move(link)));
}

}  // namespace

Result<std::unique_ptr<Backend>> open_nbd_backend(const std::string& uri,
                                                  const OpenOptions& options) {
  try {
    return open(uri, options);
  } catch (const std::bad_alloc&) {
    return make_error(ENOMEM, nbd_display_name(uri));
  }
}

}  // namespace nbd_remap
