// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fakes/sparse_image.hpp"

#include <algorithm>
#include <cstring>

namespace nbd_remap {

void SparseImage::read(std::uint64_t offset, Bytes buffer) const {
  while (!buffer.empty()) {
    const std::uint64_t at = offset % kPage;
    const std::size_t n = std::min<std::size_t>(kPage - at, buffer.size());
    const auto page = pages_.find(offset / kPage);
    if (page == pages_.end())
      std::memset(buffer.data(), 0, n);
    else
      std::memcpy(buffer.data(), page->second.data() + at, n);
    offset += n;
    buffer = buffer.subspan(n);
  }
}

void SparseImage::write(std::uint64_t offset, ConstBytes data) {
  while (!data.empty()) {
    const std::uint64_t at = offset % kPage;
    const std::size_t n = std::min<std::size_t>(kPage - at, data.size());
    std::memcpy(pages_[offset / kPage].data() + at, data.data(), n);
    offset += n;
    data = data.subspan(n);
  }
}

void SparseImage::zero(std::uint64_t offset, std::uint64_t length, bool punch) {
  const std::uint64_t end = offset + length;
  while (offset < end) {
    const std::uint64_t at = offset % kPage;
    const std::uint64_t n = std::min(kPage - at, end - offset);
    if (n == kPage && punch) {
      const auto next = pages_.lower_bound(end / kPage);
      pages_.erase(pages_.lower_bound(offset / kPage), next);
      offset = std::max(offset + n, round_down(end, kPage));
      continue;
    }
    const auto page = pages_.find(offset / kPage);
    if (page != pages_.end())
      std::memset(page->second.data() + at, 0, n);
    else if (!punch)
      pages_[offset / kPage] = {};
    offset += n;
  }
}

Extent SparseImage::extent(std::uint64_t offset, std::uint64_t length) const {
  const std::uint64_t end = offset + length;
  auto page = pages_.lower_bound(offset / kPage);
  const auto begin = [&] {
    return page == pages_.end() ? end : std::min(end, page->first * kPage);
  };
  if (begin() > offset) return {begin() - offset, true, true};
  std::uint64_t at = offset;
  for (; at < end && page != pages_.end() && page->first == at / kPage; ++page)
    at = std::min(end, (page->first + 1) * kPage);
  return {at - offset, false, false};
}

}  // namespace nbd_remap
