# SPDX-License-Identifier: BSD-3-Clause
add_library(replace_fixture STATIC ../fakes/replace_fixture.cpp
  ../fakes/spare_replace_fixture.cpp)
target_link_libraries(replace_fixture PUBLIC replace volume_fixture)
add_unit_test(replace_test
  SOURCES replace_crash_test.cpp replace_faults_test.cpp replace_test.cpp
  DEPS replace_fixture)
add_unit_test(spare_replace_test
  SOURCES spare_replace_crash_test.cpp spare_replace_faults_test.cpp
    spare_replace_test.cpp
  DEPS replace_fixture)
