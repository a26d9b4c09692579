# SPDX-License-Identifier: BSD-3-Clause
add_unit_test(remapctl_test SOURCES remapctl_completion_test.cpp
    remapctl_spare_test.cpp remapctl_test.cpp DEPS spare_tool wire)
add_dependencies(remapctl_test nbd-remapctl nbd-remap-spare)
target_compile_definitions(remapctl_test PRIVATE
  NBD_REMAPCTL="$<TARGET_FILE:nbd-remapctl>"
  NBD_REMAPCTL_COMPLETION="${PROJECT_SOURCE_DIR}/server/nbd-remapctl.bash-completion"
  NBD_REMAPCTL_POD="${PROJECT_SOURCE_DIR}/server/nbd-remapctl.pod")
add_unit_test(remapctl_offline_e2e_test SOURCES remap_grow_test.cpp
  remap_quiesce_test.cpp   remapctl_offline_test.cpp DEPS e2e_harness)
add_dependencies(remapctl_offline_e2e_test nbd-remapctl nbd-remap-spare)
target_compile_definitions(remapctl_offline_e2e_test PRIVATE
  NBD_REMAPCTL="$<TARGET_FILE:nbd-remapctl>")
add_unit_test(remap_replace_e2e_test SOURCES remap_replace_test.cpp
  DEPS e2e_harness)
add_dependencies(remap_replace_e2e_test nbd-remapctl)
target_compile_definitions(remap_replace_e2e_test PRIVATE
  NBD_REMAPCTL="$<TARGET_FILE:nbd-remapctl>")
