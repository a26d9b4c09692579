#pragma once
// SPDX-License-Identifier: BSD-3-Clause
// What is fuzzed: one function for each place where bytes come from somebody
// else. Each takes any bytes, and aborts (require, fuzz_input.hpp) where an
// answer is not what the header of the code promises. libFuzzer calls them
// (libfuzzer_entry.cpp), and so does replay_test.cpp, with the inputs that are
// kept.
//
// Threads  one at a time. What one call left behind, the next does not see.

#include "plugins/base/units.hpp"

namespace nbd_remap {

void fuzz_metadata(ConstBytes input);    // single structures of a SPARE
void fuzz_spare(ConstBytes input);       // a whole SPARE: survey, open, repair
void fuzz_parameters(ConstBytes input);  // words of the plugins; NBD URIs
void fuzz_import(ConstBytes input);      // mapfiles, lists of blocks, dumps
void fuzz_http(ConstBytes input);        // a connection of the control socket
void fuzz_control(ConstBytes input);     // what the control requests say
void fuzz_answers(ConstBytes input);     // what a server answers nbd-remapctl

}  // namespace nbd_remap
