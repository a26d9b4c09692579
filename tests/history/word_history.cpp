// SPDX-License-Identifier: BSD-3-Clause
#include "tests/history/word_history.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>

namespace nbd_remap {
namespace {

using Kind = Operation::Kind;
using Time = Operation::Time;
constexpr Time kNever = ~Time{0};

// What one request did to the word that is judged. A write that failed ends
// never.
struct Event {
  Time start;
  Time end;
  Tag tag;
  const Operation* operation;  // null: what was there before
  bool reads() const { return operation && operation->kind == Kind::read; }
};

// Of one value: the first end and the last begin of its requests. Where the
// first end is earlier the value was there all the time between (must), else at
// some moment between.
struct Zone {
  Time first_end = kNever;
  Time last_start = 0;
  const Event* ended = nullptr;
  const Event* started = nullptr;
  void add(const Event& e) {
    if (!ended || e.end < first_end) {
      first_end = e.end;
      ended = &e;
    }
    if (!started || e.start > last_start) {
      last_start = e.start;
      started = &e;
    }
  }
  bool must() const { return first_end < last_start; }
};

std::string words_of(const Event& e) {
  return e.operation ? describe(*e.operation) : "what was there at the start";
}

// All that happened to some words that no request tells apart.
class Register {
 public:
  explicit Register(std::vector<Event> events) : events_(std::move(events)) {}

  // Empty, or what is wrong.
  std::string check() {
    for (const Event& e : events_)
      if (!e.reads() && e.operation && e.operation->kind == Kind::trim)
        trims_.push_back(&e);
      else if (!e.reads())
        writes_.push_back(&e);
    std::sort(writes_.begin(), writes_.end(),
              [](auto* a, auto* b) { return a->start < b->start; });
    for (std::size_t i = 0; i < writes_.size(); ++i) {
      zones_.emplace_back().add(*writes_[i]);
      if (writes_[i]->tag == kZeroes)
        zeroes_.push_back(i);
      else
        by_tag_[writes_[i]->tag] = i;
    }
    for (const Event& e : events_)
      if (e.reads())
        if (std::string wrong = place(e); !wrong.empty()) return wrong;
    return compare();
  }

 private:
  // The zone that a read belongs to.
  std::string place(const Event& read) {
    if (read.tag == kZeroes) return place_zeroes(read);
    const auto it = by_tag_.find(read.tag);
    if (it == by_tag_.end())
      return "a value that nobody wrote there: " + words_of(read);
    if (writes_[it->second]->start > read.end)
      return fmt::format("a value from the future: {}; {}", words_of(read),
                         words_of(*writes_[it->second]));
    zones_[it->second].add(read);
    return {};
  }

  std::string place_zeroes(const Event& read) {
    std::size_t possible = 0;
    std::size_t which = 0;
    for (std::size_t i : zeroes_)
      if (writes_[i]->start <= read.end && !hidden(*writes_[i], read)) {
        ++possible;
        which = i;
      }
    const bool trimmed =
        std::any_of(trims_.begin(), trims_.end(), [&](const Event* t) {
          return t->start <= read.end && !hidden(*t, read);
        });
    if (trimmed || possible > 1) return {};
    if (possible == 0)
      return "zeroes that nobody can have left there: " + words_of(read);
    zones_[which].add(read);
    return {};
  }

  // A whole write lies between the two.
  bool hidden(const Event& write, const Event& read) const {
    if (write.end == kNever) return false;
    const auto from = std::upper_bound(
        writes_.begin(), writes_.end(), write.end,
        [](Time end, const Event* w) { return end < w->start; });
    for (auto it = from; it != writes_.end() && (*it)->start < read.start; ++it)
      if ((*it)->end < read.start) return true;
    return false;
  }

  std::string compare() {
    std::vector<const Zone*> must;
    for (const Zone& zone : zones_)
      if (zone.must()) must.push_back(&zone);
    std::sort(must.begin(), must.end(),
              [](auto* a, auto* b) { return a->first_end < b->first_end; });
    for (std::size_t i = 0; i + 1 < must.size(); ++i)
      if (must[i + 1]->first_end < must[i]->last_start)
        return conflict(*must[i], *must[i + 1]);
    for (const Zone& zone : zones_) {
      // A write that failed and was never seen need not have happened.
      if (zone.must() || zone.ended->end == kNever) continue;
      const auto after = std::lower_bound(
          must.begin(), must.end(), zone.last_start,
          [](const Zone* m, Time t) { return m->first_end < t; });
      if (after == must.begin()) continue;
      const Zone& around = **(after - 1);
      if (zone.first_end < around.last_start) return conflict(around, zone);
    }
    return {};
  }

  static std::string conflict(const Zone& a, const Zone& b) {
    return fmt::format(
        "no order: one value was there after [{}] and still for [{}], the "
        "other after [{}] and still for [{}]",
        words_of(*a.ended), words_of(*a.started), words_of(*b.ended),
        words_of(*b.started));
  }

  std::vector<Event> events_;
  std::vector<const Event*> writes_;  // by their start
  std::vector<const Event*> trims_;
  std::vector<Zone> zones_;  // of each write
  std::vector<std::size_t> zeroes_;
  std::map<Tag, std::size_t> by_tag_;
};

// Where one request ends or another content begins: between two such places all
// words have the same history.
class Segments {
 public:
  Segments(std::span<const Operation> history,
           const std::vector<Tag>& initial) {
    const std::size_t words = initial.size();
    std::vector<char> cut(words + 1, 0);
    for (std::size_t w = 0; w < words; ++w)
      cut[w] = w == 0 || initial[w] != initial[w - 1] ? 1 : 0;
    for (const Operation& o : history) {
      cut[o.first] = cut[o.first + o.words] = 1;
      for (const Run& run : o.seen) cut[run.first] = 1;
    }
    number_.resize(words + 1);
    for (std::size_t w = 0; w < words; ++w) {
      if (cut[w]) first_.push_back(w);
      number_[w] = first_.size() - 1;
    }
    number_[words] = first_.size();
  }
  std::size_t count() const { return first_.size(); }
  std::uint64_t first(std::size_t segment) const { return first_[segment]; }
  template <class F>
  void each(std::uint64_t first, std::uint64_t words, F&& f) const {
    for (std::size_t s = number_[first]; s < number_[first + words]; ++s) f(s);
  }

 private:
  std::vector<std::size_t> first_;
  std::vector<std::size_t> number_;
};

}  // namespace

std::vector<Run> runs_of(ConstBytes data, std::uint64_t first) {
  std::vector<Run> runs;
  for (std::size_t at = 0; at + kWordBytes <= data.size(); at += kWordBytes) {
    std::uint64_t word = 0;
    std::memcpy(&word, data.data() + at, sizeof word);
    const std::uint64_t place = first + at / kWordBytes;
    const Tag written = word >> 24;
    const Tag tag = word == 0                       ? kZeroes
                    : written == kZeroes            ? kNobody
                    : word == stamp(written, place) ? written
                                                    : kNobody;
    if (runs.empty() || runs.back().tag != tag) runs.push_back({place, 0, tag});
    ++runs.back().words;
  }
  return runs;
}

std::string describe(const Operation& o) {
  const char* const kinds[] = {"read", "write", "zero", "trim"};
  return fmt::format(
      "{}{}{} of words {}+{} from {} to {}", o.acked ? "" : "failed ",
      kinds[static_cast<std::size_t>(o.kind)],
      o.kind == Kind::write
          ? fmt::format(" {}.{}", o.tag >> 32, o.tag & 0xFFFF'FFFF)
          : "",
      o.first, o.words, o.start, o.end);
}

std::vector<std::string> anomalies(std::span<const Operation> history,
                                   const std::vector<Tag>& initial,
                                   std::size_t most) {
  const Segments segments(history, initial);
  std::vector<std::vector<Event>> events(segments.count());
  for (std::size_t s = 0; s < segments.count(); ++s)
    events[s].push_back({0, 0, initial[segments.first(s)], nullptr});
  for (const Operation& o : history) {
    const auto tell = [&](std::uint64_t first, std::uint64_t words, Tag tag) {
      segments.each(first, words, [&](std::size_t s) {
        events[s].push_back({o.start, o.acked ? o.end : kNever, tag, &o});
      });
    };
    if (o.kind != Kind::read)
      tell(o.first, o.words, o.tag);
    else if (o.acked)
      for (const Run& run : o.seen) tell(run.first, run.words, run.tag);
  }
  std::vector<std::string> found;
  for (std::size_t s = 0; s < events.size() && found.size() < most; ++s) {
    const std::string wrong = Register(std::move(events[s])).check();
    if (!wrong.empty())
      found.push_back(fmt::format("word {}: {}", segments.first(s), wrong));
  }
  return found;
}

std::vector<std::string> unexcused_errors(std::span<const Operation> history,
                                          std::span<const BadSectors> bad,
                                          std::size_t most) {
  std::vector<std::string> found;
  const auto cured = [&](std::uint64_t sector, const BadSectors& b,
                         const Operation& before) {
    return std::any_of(history.begin(), history.end(), [&](const auto& o) {
      return o.acked && (o.kind == Kind::write || o.kind == Kind::zero) &&
             o.start > b.end && o.end < before.start &&
             o.first <= sector * kWordsPerSector &&
             o.first + o.words >= (sector + 1) * kWordsPerSector;
    });
  };
  for (const Operation& o : history) {
    if (o.acked || found.size() == most) continue;
    bool excused = false;
    const std::uint64_t end = o.first + o.words;
    for (std::uint64_t s = o.first / kWordsPerSector;
         s * kWordsPerSector < end && !excused; ++s) {
      const bool whole =
          o.first <= s * kWordsPerSector && end >= (s + 1) * kWordsPerSector;
      if (o.kind != Kind::read && whole) continue;
      excused = std::any_of(bad.begin(), bad.end(), [&](const BadSectors& b) {
        return s >= b.first && s - b.first < b.sectors && b.start <= o.end &&
               !cured(s, b, o);
      });
    }
    if (!excused) found.push_back(describe(o));
  }
  return found;
}

}  // namespace nbd_remap
