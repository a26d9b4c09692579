# SPDX-License-Identifier: BSD-3-Clause
add_unit_test(tools_test
  SOURCES ctl_client_test.cpp ctl_render_test.cpp format_page_test.cpp
    saved_map_test.cpp spare_restore_test.cpp spare_scan_test.cpp spare_tool_test.cpp
    tool_text_test.cpp
  DEPS ctl spare_tool fakes)
target_compile_definitions(tools_test PRIVATE
  NBD_REMAP_FORMAT_POD="${PROJECT_SOURCE_DIR}/plugins/remap/nbd-remap-format.pod")
