#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// For a disk in the hands of somebody whose other disk is dying: what looks
// like data is not overwritten unless they say so.

#include "plugins/backend/backend.hpp"

namespace nbd_remap {

// Looks at either end, where whatever uses a disk has its marks. EEXIST (class
// caller): there is something. Else the disk's.
Status check_disk_is_empty(Backend& disk);

}  // namespace nbd_remap
