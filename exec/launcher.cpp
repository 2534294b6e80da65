#include "exec/launcher.hpp"

#include <fmt/core.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

// The variables that one launcher sets. A null pointer means that it has no such variable.
struct Names {
  const char* launcher;
  const char* rank;
  const char* size;
  const char* local_rank;
  bool joins_by_mpi;
};

// They are asked in this order. srun may set Open MPI's or PMI's variables as well, and
// mpirun starts its processes with what is set around it, so Slurm's own come last.
constexpr std::array kLaunchers{
    Names{"Open MPI's mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
          "OMPI_COMM_WORLD_LOCAL_RANK", true},
    Names{"MVAPICH's launcher", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE",
          "MV2_COMM_WORLD_LOCAL_RANK", true},
    Names{"a launcher with PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", true},
    Names{"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", false},
    Names{"srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", false}};

std::optional<int> number(const Variables& variables, const char* name) {
  const char* text = name == nullptr ? nullptr : variables(name);
  if (text == nullptr) return std::nullopt;
  int value = -1;
  const char* end = text + std::strlen(text);
  const auto [rest, error] = std::from_chars(text, end, value);
  if (error != std::errc() || rest != end || value < 0 || value > kMostRanks) {
    throw InputError(fmt::format("environment variable {} is \"{}\", must be an integer 0..{}",
                                 name, text, kMostRanks));
  }
  return value;
}

// torchrun's names are so general that only all three together mean it. srun's are inherited by
// whatever runs inside a step; a script that sbatch runs has SLURM_PROCID alone.
std::optional<LauncherClaim> claim_of(const Names& names, const Variables& variables) {
  const auto rank = number(variables, names.rank), size = number(variables, names.size);
  if (!rank || !size) return std::nullopt;
  const auto local = number(variables, names.local_rank);
  if (std::strcmp(names.rank, "RANK") == 0 && !local) return std::nullopt;
  if (*size < 1 || *rank >= *size) {
    throw InputError(fmt::format("environment variables {} and {} say rank {} of {}", names.rank,
                                 names.size, *rank, *size));
  }
  return LauncherClaim{names.launcher, rank, size, local, names.joins_by_mpi};
}

bool ignored = false;

}  // namespace

std::optional<LauncherClaim> launcher_claim(const Variables& variables) {
  const bool pmix = variables("PMIX_RANK") != nullptr;
  for (const Names& names : kLaunchers) {
    auto claim = claim_of(names, variables);
    if (!claim) continue;
    claim->joins_by_mpi |= pmix;  // srun --mpi=pmix
    return claim;
  }
  if (!pmix) return std::nullopt;
  LauncherClaim claim{"a launcher with PMIx"};
  claim.rank = number(variables, "PMIX_RANK");
  return claim;
}

std::optional<LauncherClaim> launcher_claim() {
  if (ignored) return std::nullopt;
  return launcher_claim([](const char* name) { return std::getenv(name); });
}

void ignore_launcher() { ignored = true; }

}  // namespace pipemoe::exec
