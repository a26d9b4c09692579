# SPDX-License-Identifier: BSD-3-Clause
add_unit_test(ctl_map_test SOURCES ctl_map_test.cpp DEPS ctl)
