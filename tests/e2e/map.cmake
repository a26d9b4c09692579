# SPDX-License-Identifier: BSD-3-Clause
# The map commands: nbd-remapctl against the remap plugin in a real nbdkit.
add_executable(remap_map_e2e_test remap_map_test.cpp remap_scan_test.cpp)
target_link_libraries(remap_map_e2e_test PRIVATE e2e_harness GTest::gtest_main)
target_precompile_headers(remap_map_e2e_test PRIVATE
  <gtest/gtest.h> <nlohmann/json.hpp>)
add_dependencies(remap_map_e2e_test nbd-remapctl)
target_compile_definitions(remap_map_e2e_test PRIVATE
  NBD_REMAPCTL="$<TARGET_FILE:nbd-remapctl>")
add_test(NAME RemapMap_e2e_test COMMAND remap_map_e2e_test)
set_tests_properties(RemapMap_e2e_test PROPERTIES TIMEOUT 300)
