# SPDX-License-Identifier: BSD-3-Clause
add_unit_test(wire_test
  SOURCES http_client_test.cpp http_server_test.cpp http_socket_test.cpp
    http_target_test.cpp
  DEPS wire)
