# SPDX-License-Identifier: BSD-3-Clause
add_unit_test(remap_test
  SOURCES remap_format_test.cpp slot_pool_test.cpp spare_format_test.cpp
    remap_store_test.cpp
  DEPS remap fakes)
add_unit_test(remap_fault_test
  SOURCES remap_fault_test.cpp remap_sweep_test.cpp DEPS remap fakes)
add_unit_test(metadata_survey_test
  SOURCES metadata_damage_test.cpp metadata_survey_test.cpp DEPS remap fakes)
add_unit_test(metadata_seeded_test
  SOURCES metadata_seeded_test.cpp DEPS spare_tool remap fakes)
add_unit_test(remap_crash_test SOURCES remap_crash_test.cpp DEPS remap fakes)
bound_tests(600 remap_crash_test metadata_survey_test metadata_seeded_test)
add_unit_test(remap_grow_test SOURCES remap_grow_layout_test.cpp remap_grow_test.cpp DEPS remap fakes)
add_unit_test(state_area_test SOURCES state_area_test.cpp DEPS remap fakes)
add_unit_test(remap_resume_test SOURCES remap_resume_test.cpp DEPS remap fakes)
add_unit_test(remap_refusal_test SOURCES remap_refusal_test.cpp
  DEPS remap fakes)
add_unit_test(remap_load_test SOURCES remap_load_test.cpp DEPS remap fakes)
bound_tests(600 remap_load_test)
add_unit_test(remap_golden_test
  SOURCES ../golden/golden_test.cpp ../golden/golden_features_test.cpp
  DEPS remap fakes)
target_compile_definitions(remap_golden_test PRIVATE
  GOLDEN_DIR="${PROJECT_SOURCE_DIR}/tests/golden")
