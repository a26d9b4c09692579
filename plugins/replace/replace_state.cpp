// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/replace/replace_state.hpp"

#include <algorithm>
#include <cerrno>

#include "plugins/replace/copy_map.hpp"

namespace nbd_remap {
namespace {

constexpr std::uint32_t kVersion = 1;

template <class N>
void put(std::vector<std::byte>& out, N n) {
  for (std::size_t i = 0; i < sizeof n; ++i)
    out.push_back(static_cast<std::byte>(n >> (8 * i)));
}

// The rest of what is to be read; ok is false once there was too little.
struct Reader {
  ConstBytes rest;
  bool ok = true;

  ConstBytes take(std::size_t n) {
    if (n > rest.size()) {
      ok = false;
      return {};
    }
    const ConstBytes out = rest.first(n);
    rest = rest.subspan(n);
    return out;
  }
  std::uint64_t number(std::size_t bytes) {
    std::uint64_t n = 0;
    const ConstBytes in = take(bytes);
    for (std::size_t i = 0; i < in.size(); ++i)
      n |= static_cast<std::uint64_t>(in[i]) << (8 * i);
    return n;
  }
  std::uint32_t small() { return static_cast<std::uint32_t>(number(4)); }
  std::string text() {
    const std::size_t n = small();
    if (n > kMaxReplaceText) ok = false;
    const ConstBytes in = take(ok ? n : 0);
    return {reinterpret_cast<const char*>(in.data()), in.size()};
  }
};

}  // namespace

std::vector<std::byte> pack_replace_state(const ReplaceState& s) {
  std::vector<std::byte> out;
  put(out, kVersion);
  put(out, static_cast<std::uint32_t>(s.phase));
  for (const std::uint64_t n :
       {s.volume_bytes, s.owner_epoch, s.started, s.changed})
    put(out, n);
  put(out, static_cast<std::uint32_t>(s.in_sync.size()));
  for (const std::string* text :
       {&s.next, &s.next_identity, &s.old, &s.old_identity, &s.reason}) {
    const auto length = std::min(text->size(), kMaxReplaceText);
    put(out, static_cast<std::uint32_t>(length));
    const auto bytes = std::as_bytes(std::span(*text)).first(length);
    out.insert(out.end(), bytes.begin(), bytes.end());
  }
  std::vector<std::byte> bits((s.in_sync.size() + 7) / 8);
  for (std::size_t i = 0; i < s.in_sync.size(); ++i)
    if (s.in_sync[i]) bits[i / 8] |= std::byte{1} << (i % 8);
  out.insert(out.end(), bits.begin(), bits.end());
  return out;
}

Result<ReplaceState> unpack_replace_state(ConstBytes in) {
  Reader r{in};
  ReplaceState s;
  const std::uint32_t version = r.small();
  const std::uint32_t phase = r.small();
  for (std::uint64_t* n :
       {&s.volume_bytes, &s.owner_epoch, &s.started, &s.changed})
    *n = r.number(8);
  const std::uint32_t regions = r.small();
  for (std::string* text :
       {&s.next, &s.next_identity, &s.old, &s.old_identity, &s.reason})
    *text = r.text();
  if (regions > kMaxRegions) r.ok = false;
  const ConstBytes bits = r.take(r.ok ? (regions + 7) / 8 : 0);
  if (!r.ok || version != kVersion || phase >= kReplacePhases)
    return make_error(
        ErrorClass::medium, EUCLEAN,
        version != kVersion ? "of another version" : "not what was written");
  s.phase = static_cast<ReplacePhase>(phase);
  for (std::uint32_t i = 0; i < regions; ++i)
    s.in_sync.push_back((bits[i / 8] >> (i % 8) & std::byte{1}) != std::byte{});
  return s;
}

}  // namespace nbd_remap
