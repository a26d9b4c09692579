#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What stays the same while it is the same disk, whatever path leads to it
// (contract M3). Printable, never empty, at most kMaxIdentity bytes.
//
//   "scsi naa.5000c500a1b2c3d4"      wwid, or else serial, from sysfs
//   "... start=2048"                 a partition: its disk and first sector
//   "file fsid=85f97a9c ino=12 btime=1700000000.000000001"
//   that of its backing file         a loop device (and its offset)
//   "dev 8:16"                       when nothing better is known

#include <string>

namespace nbd_remap {

inline constexpr std::size_t kMaxIdentity = 95;

// REQUIRES: fd is open on a regular file or a block device.
std::string file_identity(int fd);
std::string device_identity(int fd);

}  // namespace nbd_remap
