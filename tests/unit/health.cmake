# SPDX-License-Identifier: BSD-3-Clause
add_unit_test(health_layer_test
  SOURCES health_keeper_test.cpp health_memory_test.cpp health_report_test.cpp
    spare_forecast_test.cpp
  DEPS health)
add_unit_test(smart_test
  SOURCES disk_place_test.cpp smart_report_test.cpp smart_run_test.cpp
  DEPS ctl fakes)
target_compile_definitions(smart_test PRIVATE
  SMART_FIXTURES="${PROJECT_SOURCE_DIR}/tests/fixtures/smart")
