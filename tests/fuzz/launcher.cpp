// The variables by which launchers say how many ranks there are: NAME=VALUE, one a line.
#include "exec/launcher.hpp"

#include <map>
#include <sstream>

#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::launcher_target {

std::map<std::string, std::string> variables_of(std::string_view text) {
  std::map<std::string, std::string> variables;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    const auto equals = line.find('=');
    if (equals != std::string::npos) variables[line.substr(0, equals)] = line.substr(equals + 1);
  }
  return variables;
}

bool run(std::string_view text) {
  const auto variables = variables_of(text);
  std::optional<exec::LauncherClaim> claim;
  const bool accepted = accepts([&] {
    claim = exec::launcher_claim([&](const char* name) {
      const auto found = variables.find(name);
      return found == variables.end() ? nullptr : found->second.c_str();
    });
  });
  if (!accepted || !claim) return false;
  require(!claim->launcher.empty(), "a launcher without a name");
  if (claim->size) require_within(*claim->size, 1, exec::kMostRanks, "the number of ranks");
  if (claim->rank)
    require_within(*claim->rank, 0, claim->size ? *claim->size - 1 : exec::kMostRanks, "rank");
  if (claim->local_rank) require_within(*claim->local_rank, 0, exec::kMostRanks, "the local rank");
  return true;
}

std::vector<std::string> seeds() {
  return {"OMPI_COMM_WORLD_RANK=1\nOMPI_COMM_WORLD_SIZE=4\nOMPI_COMM_WORLD_LOCAL_RANK=1\n",
          "MV2_COMM_WORLD_RANK=0\nMV2_COMM_WORLD_SIZE=2\nMV2_COMM_WORLD_LOCAL_RANK=0\n",
          "PMI_RANK=0\nPMI_SIZE=2\nMPI_LOCALRANKID=0\n",
          "PMIX_RANK=3\n",
          "RANK=0\nWORLD_SIZE=2\nLOCAL_RANK=0\n",
          "SLURM_PROCID=1\nSLURM_STEP_NUM_TASKS=2\nSLURM_LOCALID=1\nPMIX_RANK=1\n"};
}

const Registration registration({"launcher", Syntax::Toml, run, seeds});

}  // namespace pipemoe::fuzz::launcher_target
