// SPDX-License-Identifier: BSD-3-Clause
// Linked against one layer's whole archive: see add_layer().
int main() { return 0; }
