# SPDX-License-Identifier: BSD-3-Clause
add_unit_test(scanner_test
  SOURCES scanner_cells_test.cpp scanner_rescue_test.cpp scanner_test.cpp
    scanner_volume_test.cpp
  DEPS volume_fixture scanner fakes)
