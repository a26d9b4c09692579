// SPDX-License-Identifier: BSD-3-Clause
#include "plugins/spare_tool/saved_map.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "plugins/spare_tool/dump_command.hpp"

namespace nbd_remap {
namespace {

using nlohmann::json;

Error refusal(const std::string& name, const std::string& words,
              int errnum = EINVAL) {
  return make_error(ErrorClass::caller, errnum,
                    fmt::format("{}: {}", name, words));
}

// What is wrong with the file; caught before parse_saved_map returns.
struct Wrong : std::runtime_error {
  using std::runtime_error::runtime_error;
};

const json& member(const json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end()) throw Wrong(fmt::format("there is no {}", key));
  return *it;
}
std::uint64_t number(const json& value, const char* what) {
  if (!value.is_number_unsigned())
    throw Wrong(fmt::format("{}: expected a whole number", what));
  return value.get<std::uint64_t>();
}
std::uint64_t number_in(const json& object, const char* key) {
  return number(member(object, key), key);
}
const std::string& text_in(const json& object, const char* key) {
  const json& value = member(object, key);
  if (!value.is_string()) throw Wrong(fmt::format("{}: expected a text", key));
  return value.get_ref<const std::string&>();
}
std::uint64_t mask_in(const json& object, const char* key) {
  const std::string& text = text_in(object, key);
  std::uint64_t mask = 0;
  const char* end = text.data() + text.size();
  if (!text.starts_with("0x") ||
      std::from_chars(text.data() + 2, end, mask, 16).ptr != end ||
      fmt::format("{:#x}", mask) != text)
    throw Wrong(fmt::format("{}: expected a number such as 0xff", key));
  return mask;
}

class DumpReader {
 public:
  // nlohmann's parser asks after each value whether to keep it.
  bool keep(int depth, json::parse_event_t event, json& value) {
    using Event = json::parse_event_t;
    if (depth == 0 && event != Event::object_start &&
        event != Event::object_end)
      throw Wrong("expected one object");
    if (depth == 1 && event == Event::key) {
      key_ = value.get_ref<const std::string&>();
      if (!seen_.insert(key_).second)
        throw Wrong(fmt::format("\"{}\" is there twice", key_));
      if (key_ == "entries" || key_ == "retired_slots") need_sizes();
    }
    const bool ends = event == Event::object_end || event == Event::array_end ||
                      event == Event::value;
    if (depth == 1 && ends) top_level(value);
    if (depth == 2 && ends && key_ == "entries") return add_entry(value), false;
    if (depth == 2 && ends && key_ == "retired_slots") {
      saved_.state.retired.push_back({number(value, "retired slot")});
      if (saved_.state.retired.size() > saved_.superblock.layout.slots)
        throw Wrong("more retired slots than slots");
      return false;
    }
    return true;
  }

  SavedMap finish(const json& all, const std::string& name) {
    if (!all.is_object()) throw Wrong("expected one object");
    if (member(all, "believed").is_null())
      throw Wrong(
          "holds no map: no copy could be believed when it was "
          "written");
    for (const char* key : {"entries", "retired_slots"})
      if (!member(all, key).is_array())
        throw Wrong(fmt::format("{}: expected a list", key));
    saved_.sequence = number_in(all, "sequence");
    if (number_in(all, "entry_count") != saved_.state.entries.size())
      throw Wrong(fmt::format("has {} entries, but should have {}",
                              saved_.state.entries.size(),
                              number_in(all, "entry_count")));
    if (text_in(all, "map_crc32c") != map_checksum(saved_.state))
      throw Wrong(
          "the entries do not fit their checksum: the file is "
          "damaged, or was edited");
    saved_.name = name;
    return std::move(saved_);
  }

 private:
  void top_level(const json& value) {
    if (key_ == "schema" && value != kDumpSchema)
      throw Wrong(
          fmt::format("schema {}: expected {}", value.dump(), kDumpSchema));
    if (key_ == "superblock") superblock(value);
    if (key_ == "layout") layout(value);
  }

  void superblock(const json& value) {
    if (!value.is_object()) throw Wrong("superblock: expected an object");
    if (number_in(value, "format") != kFormatVersion)
      throw Wrong(fmt::format("format {}: this build knows {}",
                              number_in(value, "format"), kFormatVersion));
    Superblock& sb = saved_.superblock;
    const auto uuid = parse_uuid(text_in(value, "uuid"));
    if (!uuid) throw Wrong("uuid: expected a UUID");
    sb.uuid = *uuid;
    const json& features = member(value, "features");
    if (!features.is_object()) throw Wrong("features: expected an object");
    sb.features.compatible = number_in(features, "compatible");
    sb.features.read_only_compatible =
        number_in(features, "read_only_compatible");
    sb.features.incompatible = number_in(features, "incompatible");
    sb.sequence = number_in(value, "sequence");
    sb.owner_epoch = number_in(value, "owner_epoch");
    sb.main_bytes = number_in(value, "main_size");
    sb.main_identity = text_in(value, "main_identity");
    sb.spare_identity = text_in(value, "spare_identity");
    sb.created_unix_seconds = number_in(value, "created_unix_seconds");
  }

  void layout(const json& value) {
    if (!value.is_object()) throw Wrong("layout: expected an object");
    Layout& l = saved_.superblock.layout;
    l.spare_bytes = number_in(value, "spare_size");
    const std::uint64_t block_bytes = number_in(value, "block_size");
    if (block_bytes > kMaxBlockBytes)
      throw Wrong(fmt::format("block_size {}", block_bytes));
    l.block_bytes = static_cast<std::uint32_t>(block_bytes);
    l.slots = number_in(value, "slots");
    l.checkpoint_bytes = number_in(value, "checkpoint_size");
    l.log_records = number_in(value, "log_records");
    l.head_at = number_in(value, "head_offset");
    l.slots_at = number_in(value, "slots_offset");
    // A file that an older build saved has none.
    if (value.contains("state_offset"))
      l.state_at = number_in(value, "state_offset");
  }

  // The order in which dump writes: nothing below can be out of range.
  void need_sizes() {
    for (const char* key : {"schema", "superblock", "layout"})
      if (!seen_.contains(key))
        throw Wrong(fmt::format("{} stands before {}", key_, key));
    SavedMap empty = saved_;
    empty.name = "layout";
    empty.sequence = 1;
    empty.state = {};
    if (Status status = check_saved(empty); !status)
      throw Wrong(status.error().place);
  }

  void add_entry(const json& value) {
    if (!value.is_object()) throw Wrong("entries: expected objects");
    const Superblock& sb = saved_.superblock;
    const Layout& l = sb.layout;
    auto& entries = saved_.state.entries;
    if (entries.size() >= l.entry_capacity())
      throw Wrong(fmt::format("more than {} entries", l.entry_capacity()));
    RemapEntry e;
    e.block.value = number_in(value, "block");
    if (e.block.value > sb.main_bytes / l.block_bytes)
      throw Wrong(fmt::format("block {} is outside the volume", e.block.value));
    e.valid = mask_in(value, "valid");
    const std::string& kind = text_in(value, "kind");
    const json& slot_offset = member(value, "slot_offset");
    if (kind == "remapped") {
      e.slot_or_none = number_in(value, "slot");
      if (!l.has_slot(e.slot()))
        throw Wrong(fmt::format("block {}: slot {}: there are {}",
                                e.block.value, e.slot_or_none, l.slots));
      if (slot_offset != l.slot(e.slot()).value) disagree(e, "slot_offset");
    } else if (kind != "pending") {
      throw Wrong(
          fmt::format("kind \"{}\": expected remapped or pending", kind));
    } else if (!member(value, "slot").is_null() || !slot_offset.is_null()) {
      disagree(e, "slot");
    }
    if (number_in(value, "offset") != e.block.value * l.block_bytes)
      disagree(e, "offset");
    json sectors = json::array();
    for (const std::uint64_t sector : unreadable_sectors(e, sb))
      sectors.push_back(sector);
    if (member(value, "unreadable_sectors") != sectors)
      disagree(e, "unreadable_sectors");
    entries.push_back(e);
  }

  [[noreturn]] static void disagree(const RemapEntry& e, const char* what) {
    throw Wrong(fmt::format("block {}: {} does not agree with the rest",
                            e.block.value, what));
  }

  SavedMap saved_;
  std::set<std::string> seen_;
  std::string key_;
};

}  // namespace

std::uint64_t max_dump_bytes(std::uint64_t spare_bytes) {
  constexpr std::uint64_t kPerEntry = 4096;  // with all white space
  const auto layout = compute_layout(spare_bytes, kMinBlockBytes);
  const std::uint64_t entries = layout ? layout->entry_capacity() : 0;
  return (64 << 10) + entries * kPerEntry;
}

Result<SavedMap> parse_saved_map(std::istream& in, const std::string& name) {
  DumpReader reader;
  const auto keep = [&](int depth, json::parse_event_t event, json& value) {
    return reader.keep(depth, event, value);
  };
  try {
    const json all = json::parse(in, keep);
    SavedMap saved = reader.finish(all, name);
    if (Status status = check_saved(saved); !status)
      return std::move(status).error();
    return saved;
  } catch (const json::parse_error& e) {
    return refusal(name, fmt::format("is not JSON, or cut short (at byte {}); "
                                     "expected what spare dump writes",
                                     e.byte));
  } catch (const Wrong& e) {
    return refusal(name, e.what());
  } catch (const json::exception&) {
    return refusal(name, "expected what spare dump writes");
  } catch (const std::bad_alloc&) {
    return refusal(name, "is too large for the memory", ENOMEM);
  }
}

Result<SavedMap> read_saved_map(const std::string& path,
                                std::uint64_t max_bytes) {
  struct stat st {};
  if (::stat(path.c_str(), &st) != 0)
    return refusal(path, std::generic_category().message(errno), errno);
  if (!S_ISREG(st.st_mode))
    return refusal(path, "is no regular file; expected what spare dump wrote");
  const auto bytes = static_cast<std::uint64_t>(st.st_size);
  if (bytes > max_bytes)
    return refusal(path, fmt::format("{} bytes are more than a dump of this "
                                     "SPARE can have, {}",
                                     bytes, max_bytes));
  std::ifstream in(path, std::ios::binary);
  if (!in) return refusal(path, "cannot be opened", EACCES);
  return parse_saved_map(in, path);
}

}  // namespace nbd_remap
