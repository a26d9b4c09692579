# SPDX-License-Identifier: BSD-3-Clause
add_library(nbd_servers STATIC fake_nbd_server.cpp nbdkit_server.cpp)
target_include_directories(nbd_servers PUBLIC ${PROJECT_SOURCE_DIR})
target_compile_definitions(nbd_servers PRIVATE NBDKIT="${NBDKIT}")
target_link_libraries(nbd_servers PUBLIC fakes)
add_unit_test(nbd_backend_test
  SOURCES nbd_backend_test.cpp nbd_faults_test.cpp nbd_hostile_test.cpp
    nbd_journal_test.cpp nbd_lost_writes_test.cpp nbd_reconnect_test.cpp nbd_tls_test.cpp
    nbd_uri_test.cpp
  DEPS nbd_servers backend)
