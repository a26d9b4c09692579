# SPDX-License-Identifier: BSD-3-Clause
add_library(volume_fixture STATIC ../fakes/volume_fixture.cpp
  ../fakes/spotty_backend.cpp)
target_link_libraries(volume_fixture PUBLIC volume fakes)
add_unit_test(volume_parts_test
  SOURCES breaker_test.cpp disk_test.cpp health_test.cpp
    region_locks_test.cpp request_split_test.cpp
  DEPS volume_fixture)
add_unit_test(volume_test
  SOURCES volume_heal_test.cpp volume_main_test.cpp volume_pending_test.cpp
    volume_ranges_test.cpp volume_spare_test.cpp volume_threads_test.cpp
  DEPS volume_fixture)
add_unit_test(volume_grow_test
  SOURCES volume_grow_test.cpp volume_quiesce_test.cpp
  DEPS volume_fixture)
add_unit_test(volume_random_test SOURCES volume_random_test.cpp
  DEPS volume_fixture)
add_unit_test(volume_crash_test SOURCES volume_crash_test.cpp
  DEPS volume_fixture)
add_unit_test(volume_map_test
  SOURCES volume_map_crash_test.cpp volume_map_test.cpp
  DEPS volume_fixture)
