// SPDX-License-Identifier: BSD-3-Clause
// What runs beside the clients, some steps at a time: the scanner's engine and
// the replacer, without the threads that drive them.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "plugins/replace/replace_notes.hpp"
#include "tests/sim/sim_run.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint64_t kMostGrown = 96ULL << 20;
constexpr std::uint64_t kLeastGrowth = 8ULL << 20;

// From 1, by an op's length.
std::uint64_t steps_of(const SimOp& op) { return 1 + op.length / 512 % 12; }

}  // namespace

void SimRun::begin_scan(const SimOp& op) {
  if (!scanner_) {
    scan_volume_ = scan_volume_of(*volume_);
    std::optional<ScanState> before;
    if (StateArea* area = volume_->state_area()) {
      const auto bytes = area->read(StateKind::scan);
      if (bytes && !bytes->empty()) {
        before = unpack_scan_state(*bytes, volume_->size(), kSimBlockBytes);
        if (!before) violate("scan: its state cannot be read");
      }
    }
    scan_counted_ = before.value_or(ScanState());
    scanner_ = std::make_unique<ScanEngine>(
        *scan_volume_, clock_, ScanOptions(),
        [this](LogLevel, std::string_view text) {
          tell(std::string(text));
          if (text.find("is not rescued") != std::string_view::npos)
            scan_log_ = text;
        },
        std::move(before));
  }
  if (scanner_->run_state() != RunState::stopped) return;
  ScanPlan plan;
  if (!op.flag) {
    plan.kind = ScanPlan::Kind::range;
    plan.range = {sim_place(op.offset), sim_place(op.offset) + op.length};
  } else if (op.offset % 3 == 0) {
    plan.kind = ScanPlan::Kind::pending;
  }
  const Status begun = scanner_->start(plan, std::nullopt, false);
  if (!begun) violate("scan: does not begin: " + begun.error().text());
}

void SimRun::scan(const SimOp& op) {
  if (scanning_) return;
  scanning_ = true;
  begin_scan(op);
  for (std::uint64_t n = steps_of(op); n != 0 && going(); --n) {
    scan_log_.clear();
    const Time begun = model_.now();
    const auto wait = scanner_->step();
    clock_.move(wait);
    power_.note(static_cast<std::uint64_t>(wait.count()));
    const std::string trouble = scanner_->trouble();
    if (!trouble.empty() || !scan_log_.empty())
      excuse_scan(trouble + scan_log_, begun);
  }
  // As the thread does now and then.
  StateArea* const area = volume_->state_area();
  if (going() && area != nullptr && op.length % 3 == 0) {
    const Time begun = model_.now();
    const Status kept =
        area->write(StateKind::scan, pack_scan_state(scanner_->state()));
    if (!kept) excuse_scan(kept.error().text(), begun);
  }
  scanning_ = false;
}

void SimRun::count_scan() {
  const ScanState now = scanner_->state();
  const ScanState& was = std::exchange(scan_counted_, now);
  stats_.found += now.unreadable_sectors - was.unreadable_sectors;
  stats_.rescued += now.rescued - was.rescued;
  stats_.scan_passes += now.passes - was.passes;
}

void SimRun::open_replacer() {
  replacer_ = std::make_unique<Replacer>(
      *volume_, notes_in(volume_->state_area()).main,
      [this](const std::string&) -> Result<NewDisk> {
        return NewDisk{std::make_unique<BorrowedBackend>(other()), nullptr};
      },
      clock_, log());
  replacer_->resume();
}

void SimRun::replace(const SimOp& op) {
  if (replacing_ || !replacer_) return;
  replacing_ = true;
  // Its own, which owners wait for; nobody else is one.
  Fibers::may_hold(1);
  const auto phase = [this] { return replacer_->status().phase; };
  const ReplacePhase before = phase();
  if (before != ReplacePhase::copying && before != ReplacePhase::switched) {
    if (op.kind == Kind::replace) {
      if (op.flag) other().mend_all();
      may_be_other_ = true;
      (void)replacer_->start("other", true).ok();
    }
  } else if (op.kind == Kind::abort_replace) {
    (void)replacer_->abort().ok();
  }
  for (std::uint64_t n = steps_of(op); n != 0 && going(); --n) {
    clock_.move(std::chrono::seconds(2));
    const ReplacePhase was = phase();
    power_.note(static_cast<std::uint64_t>(replacer_->step().count()));
    const ReplacePhase is = phase();
    if (was == is) continue;
    stats_.not_replaced += is == ReplacePhase::failed;
    if (was != ReplacePhase::copying || is != ReplacePhase::switched) continue;
    ++stats_.replaced;
    main_at_ = 1 - main_at_;
    other().fail_next_flush(false);
    main_flushes_ = main().fired().flushes;
  }
  stats_.not_replaced +=
      phase() == ReplacePhase::aborted && before == ReplacePhase::copying;
  Fibers::may_hold(0);
  replacing_ = false;
}

void SimRun::grow_spare(const SimOp& op) {
  const std::uint64_t bytes = *spare_.grow();
  if (bytes >= kMostGrown || spare_grown_ >= 3) return;
  ++spare_grown_;
  // Both copies of the map move into what is new.
  spare_.enlarge(bytes + std::min(bytes, kLeastGrowth) + 65536 * steps_of(op));
  const Time begun = model_.now();
  const auto grown = volume_->grow_spare();
  told(op, grown ? Status() : Status(grown.error()));
  stats_.grown += grown.ok();
  spare_grew_at_ = model_.now();
  // Of two at once the second finds nothing to do.
  if (!grown && !copy_is_bad_ &&
      grown.error().error_class != ErrorClass::caller)
    excuse_change(Status(grown.error()), begun);
}

}  // namespace nbd_remap
