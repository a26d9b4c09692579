#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Whole NBD sessions, as a well-behaved client would send them, and what a seed
// makes of them: fields set to extreme values, bits turned, messages dropped,
// doubled, swapped, cut short, and noise between them.
//
// A seed is a session, to the byte.

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace nbd_remap {

using Message = std::vector<std::string>;  // its fields
using Session = std::vector<Message>;

// Either way of the handshake, options before it, then up to a dozen requests
// in a volume of this size, then usually a disconnect.
Session make_session(std::mt19937_64& random, std::uint64_t size);
void mutate(std::mt19937_64& random, Session& session);
std::string bytes_of(const Session& session);

}  // namespace nbd_remap
