// What the program that started this process says of it: how many ranks there are, and which one
// this is.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace pipemoe::exec {

/// The most ranks that a launcher may claim.
inline constexpr int kMostRanks = 10'000'000;

struct LauncherClaim {
  std::string launcher;           ///< "Open MPI's mpirun", "srun", ...
  std::optional<int> rank, size;  ///< of all processes
  std::optional<int> local_rank;  ///< among those of this host
  bool joins_by_mpi = true;  ///< whether an MPI that it works with makes its processes one group
};

/// Value of an environment variable; null: not set.
using Variables = std::function<const char*(const char* name)>;

/// What a launcher claims through variables: Open MPI, PMIx, MPICH and others with PMI, MVAPICH,
/// torchrun, or Slurm's srun. Empty without one; a batch script that Slurm runs is no rank. Throws
/// InputError if a variable holds no number or if they contradict each other.
std::optional<LauncherClaim> launcher_claim(const Variables& variables);

/// The same of this process's environment; empty after ignore_launcher().
std::optional<LauncherClaim> launcher_claim();

/// Makes this process run alone, whatever its launcher says.
void ignore_launcher();

}  // namespace pipemoe::exec
