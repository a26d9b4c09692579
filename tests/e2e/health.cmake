# SPDX-License-Identifier: BSD-3-Clause
# Health and the drive's own word: nbd-remapctl against the plugin in nbdkit.
add_unit_test(remap_health_e2e_test SOURCES remap_health_test.cpp
  DEPS e2e_harness)
add_dependencies(remap_health_e2e_test nbd-remapctl)
target_compile_definitions(remap_health_e2e_test PRIVATE
  NBD_REMAPCTL="$<TARGET_FILE:nbd-remapctl>"
  SMART_FIXTURES="${PROJECT_SOURCE_DIR}/tests/fixtures/smart")
set_tests_properties(remap_health_e2e_test PROPERTIES TIMEOUT 300)
