# SPDX-License-Identifier: BSD-3-Clause
if(TARGET remap)
  set(remap_table_source)
  set(remap_table_layer remap)
else()
  set(remap_table_source ${PROJECT_SOURCE_DIR}/plugins/remap/remap_table.cpp)
  set(remap_table_layer base)
endif()
add_unit_test(remap_table_test
  SOURCES remap_table_test.cpp remap_table_threads_test.cpp
    ${remap_table_source}
  DEPS ${remap_table_layer})
add_unit_test(remap_table_memory_test
  SOURCES remap_table_memory_test.cpp ${remap_table_source}
  DEPS ${remap_table_layer})
