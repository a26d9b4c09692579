#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// The one place that includes Boost.Beast, for the two sources of this folder.
// Nobody else should: it costs seconds of compile time.

#if defined(__SANITIZE_THREAD__)
// GCC's thread sanitizer does not understand fences. With one thread for each
// io_context its mutex orders all that they would.
#define BOOST_ASIO_DISABLE_FENCED_BLOCK 1
#endif
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>

namespace nbd_remap {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

}  // namespace nbd_remap
