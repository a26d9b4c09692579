# SPDX-License-Identifier: BSD-3-Clause
if(TARGET remap)
  add_unit_test(remap_table_test SOURCES remap_table_test.cpp DEPS remap)
else()
  add_unit_test(remap_table_test
    SOURCES remap_table_test.cpp
      ${PROJECT_SOURCE_DIR}/plugins/remap/remap_table.cpp
    DEPS base)
endif()
