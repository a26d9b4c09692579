# SPDX-License-Identifier: BSD-3-Clause
add_unit_test(baddisk_unit_test
  SOURCES bad_cache_test.cpp bad_control_test.cpp bad_faults_test.cpp
    bad_list_test.cpp bad_parameters_test.cpp
    bad_sectors_test.cpp
  DEPS baddisk fakes)
