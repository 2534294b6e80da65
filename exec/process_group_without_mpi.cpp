// What a build without MPI has in place of mpi_group.cpp.
#include "exec/process_group.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {

bool built_with_mpi() { return false; }

std::unique_ptr<ProcessGroup> join_mpi(Seconds) {
  throw InputError(
      "started by mpirun, but this build has no MPI: configure with -DPIPEMOE_WITH_MPI=ON");
}

}  // namespace pipemoe::exec
