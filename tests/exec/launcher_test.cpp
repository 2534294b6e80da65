#include "exec/launcher.hpp"

#include <catch2/catch.hpp>
#include <map>

#include "models/error.hpp"

namespace launcher_tests {

using namespace pipemoe;
using namespace pipemoe::exec;
using Catch::Contains;

namespace {

std::optional<LauncherClaim> claim(const std::map<std::string, std::string>& variables) {
  return launcher_claim([&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

}  // namespace

TEST_CASE("each launcher's variables say rank, size and local rank", "[exec][launcher]") {
  struct Case {
    const char *rank, *size, *local_rank, *launcher;
    bool joins_by_mpi;
  };
  const auto one =
      GENERATE(Case{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
                    "Open MPI", true},
               Case{"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK",
                    "MVAPICH", true},
               Case{"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "PMI", true},
               Case{"RANK", "WORLD_SIZE", "LOCAL_RANK", "torchrun", false},
               Case{"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "srun", false});
  CAPTURE(one.launcher);
  const auto found = claim({{one.rank, "5"}, {one.size, "8"}, {one.local_rank, "1"}});
  REQUIRE(found.has_value());
  CHECK_THAT(found->launcher, Contains(one.launcher));
  CHECK(found->rank == 5);
  CHECK(found->size == 8);
  CHECK(found->local_rank == 1);
  CHECK(found->joins_by_mpi == one.joins_by_mpi);
  CHECK_THROWS_WITH(claim({{one.rank, "8"}, {one.size, "8"}, {one.local_rank, "0"}}),
                    Contains("say rank 8 of 8"));
  for (const char* wrong : {"", "-1", "1.5", "x", " 1", "99999999999999999999"}) {
    CAPTURE(wrong);
    CHECK_THROWS_WITH(claim({{one.rank, "0"}, {one.size, wrong}, {one.local_rank, "0"}}),
                      Contains(std::string(one.size) + " is") && Contains("must be an integer"));
  }
}

TEST_CASE("no launcher claims a process that it did not start as a rank", "[exec][launcher]") {
  CHECK_FALSE(claim({}).has_value());
  // A script that sbatch runs, and the shell that salloc gives.
  CHECK_FALSE(claim({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}, {"SLURM_JOB_ID", "1"}}));
  // Variables of a user's own.
  CHECK_FALSE(claim({{"WORLD_SIZE", "8"}, {"RANK", "0"}}).has_value());
}

TEST_CASE("with PMIx srun's ranks join by MPI", "[exec][launcher]") {
  const auto found =
      claim({{"PMIX_RANK", "1"}, {"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}});
  REQUIRE(found.has_value());
  CHECK(found->joins_by_mpi);
  CHECK(found->size == 2);
  const auto alone = claim({{"PMIX_RANK", "3"}});
  REQUIRE(alone.has_value());
  CHECK(alone->rank == 3);
  CHECK_FALSE(alone->size.has_value());
}

}  // namespace launcher_tests
