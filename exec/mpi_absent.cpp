// mpi_group.hpp in a build without MPI.
#include "exec/mpi_group.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {

bool built_with_mpi() { return false; }

std::unique_ptr<ProcessGroup> join_mpi() {
  throw InputError(
      "started by mpirun, but this build has no MPI: configure with -DPIPEMOE_WITH_MPI=ON");
}

}  // namespace pipemoe::exec
