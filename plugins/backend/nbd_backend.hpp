#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// A Backend over a remote NBD export, by libnbd.
//
// Threads      Opening starts one thread for each connection and one more:
//              never open before a fork (in nbdkit: after_fork or later). The
//              requests of all callers are in flight at once, on one
//              connection, or on options.connections if the server promises
//              that they show the same (multi-conn).
// Waits        Connecting together with the handshake, and each request, end
//              within options.deadline. A call larger than the server's limits
//              is several requests, one after the other, and each is allowed
//              that time; the first one that fails ends it. Looking up a host
//              name is bounded by the resolver alone.
// Loss         A connection that is lost, breaks the protocol or leaves a
//              request unanswered is made anew, and requests wait and are sent
//              again within options.deadline; what was acked and not flushed
//              is written again first. See nbd_link.hpp.
// Errors       The errno of an error reply decides the class. A server that
//              does not come back in time, or that is another one when it
//              does, is class transport.
// Durability   FUA by the server's flag, or by a flush after the write. A
//              server that offers neither answers ENOTSUP to both (can_flush
//              is false).
// Zero         A server without WRITE_ZEROES is sent zeroes.
// Exclusive    NBD has no locks, so options.exclusive has no effect: whoever
//              needs an owner must write one on the disk (the epoch on SPARE).
// Direct       Nothing is cached on this side, but the server may have a cache
//              whose write errors appear at a later flush: info().direct is
//              false, and options.direct has no effect.
// Blocks       The server's minimum block size, at least 512, is the logical
//              one; more than 32 KiB is refused. Its preferred one, if it is
//              sane, is the physical one. Unaligned reads are rounded out.

#include <memory>
#include <string>

#include "plugins/backend/backend.hpp"
#include "plugins/backend/open_backend.hpp"

namespace nbd_remap {

// Class caller: a malformed URI. Transport: not reachable, refused, no answer
// in time, or not NBD. Full: a size or block size that cannot be used.
Result<std::unique_ptr<Backend>> open_nbd_backend(const std::string& uri,
                                                  const OpenOptions& options);

}  // namespace nbd_remap
