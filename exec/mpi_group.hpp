// The one door to Open MPI.
#pragma once

#include <memory>

#include "exec/process_group.hpp"

namespace pipemoe::exec {

/// The ranks of MPI_COMM_WORLD; in a build without MPI throws InputError.
std::unique_ptr<ProcessGroup> join_mpi();

}  // namespace pipemoe::exec
