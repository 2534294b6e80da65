// Catch2's runner, compiled once for all test programs: it alone takes half a minute.
#pragma once

#include <functional>
#include <string>

namespace pipemoe::test {

/// Runs the test cases that the arguments choose; returns the program's exit code. Where
/// `cannot_run` returns a reason, the cases can still be listed, but running them prints it and
/// returns 77, which ctest reports as skipped.
int run_catch(int argc, char** argv, const std::function<std::string()>& cannot_run = {});

}  // namespace pipemoe::test
