# SPDX-License-Identifier: BSD-3-Clause
add_unit_test(base_test
  SOURCES aligned_buffer_test.cpp bad_areas_test.cpp crc32c_test.cpp
    error_class_test.cpp gate_test.cpp result_test.cpp unique_fd_test.cpp
    units_test.cpp
  DEPS base)
