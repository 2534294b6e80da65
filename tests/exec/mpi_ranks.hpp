// Test cases that several ranks run in step: what is collective, each rank calls equally often.
#pragma once

#include "exec/process_group.hpp"

namespace pipemoe::test {

/// All ranks that mpirun started.
exec::ProcessGroup& ranks();

}  // namespace pipemoe::test
