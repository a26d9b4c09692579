# SPDX-License-Identifier: BSD-3-Clause
add_unit_test(file_backend_test
  SOURCES bounded_backend_test.cpp disk_identity_test.cpp file_backend_test.cpp file_fault_test.cpp
    file_open_test.cpp open_backend_test.cpp
  DEPS fakes)
add_unit_test(fuse_backend_test SOURCES fuse_backend_test.cpp
  DEPS nbd_servers)
add_unit_test(fakes_test
  SOURCES crash_backend_test.cpp faulty_backend_test.cpp
  DEPS fakes)
