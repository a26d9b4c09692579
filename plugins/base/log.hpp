#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// Log: where a module says what it did. The host decides where it goes: the
// plugins pass it to nbdkit, the tools to standard error, tests keep it.
//
// Threads  a LogSink is called from any thread, at once, and must not block.

#include <functional>
#include <string_view>

namespace nbd_remap {

enum class LogLevel { info, warning, error };
using LogSink = std::function<void(LogLevel, std::string_view)>;

}  // namespace nbd_remap
