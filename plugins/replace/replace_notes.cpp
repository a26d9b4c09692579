// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/replace/replace_notes.hpp"

#include <fmt/format.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "plugins/base/mutex.hpp"
#include "plugins/remap/metadata_survey.hpp"
#include "plugins/remap/remap_move.hpp"

namespace nbd_remap {
namespace {

constexpr std::size_t kHeadBytes = 8;

std::uint32_t little(ConstBytes in) {
  std::uint32_t n = 0;
  for (std::size_t i = 0; i < 4; ++i)
    n |= static_cast<std::uint32_t>(in[i]) << (8 * i);
  return n;
}

void put_little(std::vector<std::byte>& out, std::uint32_t n) {
  for (unsigned i = 0; i < 4; ++i)
    out.push_back(static_cast<std::byte>(n >> (8 * i)));
}

struct Parts {
  std::vector<std::byte> main;
  std::vector<std::byte> spare;
};

Parts split(std::vector<std::byte> bytes) {
  const ConstBytes all(bytes);
  if (bytes.size() < kHeadBytes || little(all) != 2 ||
      little(all.subspan(4)) > bytes.size() - kHeadBytes)
    return {std::move(bytes), {}};
  const ConstBytes spare = all.subspan(kHeadBytes, little(all.subspan(4)));
  const ConstBytes main = all.subspan(kHeadBytes + spare.size());
  return {{main.begin(), main.end()}, {spare.begin(), spare.end()}};
}

std::vector<std::byte> join(ConstBytes main, ConstBytes spare) {
  if (spare.empty()) return {main.begin(), main.end()};
  std::vector<std::byte> out;
  put_little(out, 2);
  put_little(out, static_cast<std::uint32_t>(spare.size()));
  out.insert(out.end(), spare.begin(), spare.end());
  out.insert(out.end(), main.begin(), main.end());
  return out;
}

class ReplaceBook {
 public:
  explicit ReplaceBook(StateArea* area) : area_(area) {}

  Result<std::vector<std::byte>> read(bool spare) {
    if (Status status = load(); !status) return std::move(status).error();
    MutexLock lock(mu_);
    return spare ? parts_.spare : parts_.main;
  }
  Status write(bool spare, ConstBytes bytes) {
    if (Status status = load(); !status) return status;
    const std::vector<std::byte> all = packed(spare, bytes);
    if (Status status = area_->write(StateKind::replace, all); !status)
      return status;
    MutexLock lock(mu_);
    (spare ? parts_.spare : parts_.main).assign(bytes.begin(), bytes.end());
    return {};
  }
  std::vector<std::byte> packed(bool spare, ConstBytes bytes) const {
    MutexLock lock(mu_);
    return spare ? join(parts_.main, bytes) : join(bytes, parts_.spare);
  }

 private:
  Status load() {
    {
      MutexLock lock(mu_);
      if (known_) return {};
    }
    auto bytes = area_->read(StateKind::replace);
    if (!bytes) return std::move(bytes).error();
    MutexLock lock(mu_);
    parts_ = split(std::move(*bytes));
    known_ = true;
    return {};
  }

  StateArea* const area_;
  mutable Mutex mu_;
  bool known_ GUARDED_BY(mu_) = false;
  Parts parts_ GUARDED_BY(mu_);
};

// What SPARE says of its own replacement (spare) or of MAIN's.
std::optional<ReplaceState> noted(Backend& spare, const Superblock& sb,
                                  bool of_spare) {
  if (sb.layout.state_at == 0) return std::nullopt;
  StateArea area(spare, DeviceOffset{sb.layout.state_at}, sb.uuid,
                 [] { return Status(); });
  auto bytes = area.read(StateKind::replace);
  if (!bytes) return std::nullopt;
  const Parts parts = split(std::move(*bytes));
  const auto& part = of_spare ? parts.spare : parts.main;
  if (part.empty()) return std::nullopt;
  auto state = unpack_replace_state(part);
  if (!state) return std::nullopt;
  return *std::move(state);
}

}  // namespace

BothNotes notes_in(StateArea* area) {
  if (area == nullptr) return {};
  const auto book = std::make_shared<ReplaceBook>(area);
  const auto of = [&](bool spare) {
    ReplaceNotes notes;
    notes.read = [book, spare] { return book->read(spare); };
    notes.write = [book, spare](ConstBytes bytes) {
      return book->write(spare, bytes);
    };
    notes.packed = [book, spare](ConstBytes bytes) {
      return book->packed(spare, bytes);
    };
    return notes;
  };
  return {of(false), of(true)};
}

std::string replaced_by(Backend& spare, const std::string& main_identity) {
  const auto survey = survey_metadata(spare);
  if (!survey) return {};
  const Superblock& sb = survey->superblock;
  const auto state = noted(spare, sb, false);
  if (!state || state->old_identity != stored_identity(main_identity) ||
      state->next_identity != sb.main_identity)
    return {};
  return fmt::format("MAIN was replaced by {}; start with that", state->next);
}

std::string spare_replaced_by(Backend& spare) {
  const auto found = find_superblock(spare);
  if (!found || !*found || !(*found)->was_replaced()) return {};
  const auto state = noted(spare, **found, true);
  if (!state || state->next_identity != (*found)->spare_identity) return {};
  return fmt::format("SPARE was replaced by {}; start with that", state->next);
}

Result<bool> took_place(
    Backend& spare,
    const std::function<Result<std::unique_ptr<Backend>>(const std::string&)>&
        open) {
  const auto found = find_superblock(spare);
  if (!found) return found.error();
  if (!*found || !(*found)->is_candidate()) return true;
  const Superblock& candidate = **found;
  const auto refuse = [&](const std::string& words) {
    return make_error(
        ErrorClass::caller, EINVAL,
        fmt::format("{}: was about to take the place of SPARE {}, and {}",
                    spare.info().name, uuid_text(candidate.uuid), words));
  };
  if (candidate.spare_identity != stored_identity(spare.info().identity))
    return refuse("is a copy of the disk that was");
  const auto state = noted(spare, candidate, true);
  if (!state) return refuse("does not say where that is");
  auto old = open(state->old);
  if (!old)
    return refuse(
        fmt::format("whether it did stands on {}, which cannot be opened: {}",
                    state->old, old.error().text()));
  // What is read may be in a cache: it counts once it is durable.
  Status flushed = (*old)->flush();
  const auto replaced = find_replaced(**old, candidate);
  if (!flushed || !replaced)
    return refuse(fmt::format(
        "whether it did stands on {}, which cannot be read: {}", state->old,
        flushed ? replaced.error().text() : flushed.error().text()));
  if (!*replaced)
    return refuse(
        fmt::format("did not: {} still is; start with that", state->old));
  return true;
}

}  // namespace nbd_remap
