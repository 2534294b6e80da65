// How a command behaves that several ranks run: one voice, one exit code.
#pragma once

#include <CLI/App.hpp>
#include <functional>
#include <string>

#include "exec/process_group.hpp"
#include "experiments/commands.hpp"

namespace pipemoe::program {

struct RankOptions {
  double timeout_s = exec::kDefaultRankTimeout.count();
  bool single_rank = false;
};
/// Adds --rank-timeout and --single-rank.
void add_rank_options(CLI::App& command, RankOptions& options);

/// Runs `work` on this process's ranks. What agree() throws passes on, for all ranks throw it;
/// anything else is printed with this rank's number, and ends every rank: with exit code 2 for an
/// InputError, else 1. Alone, a rank passes everything on.
void on_ranks(const RankOptions& options, const std::function<void(exec::ProcessGroup&)>& work);

/// Whether every rank could read its input and got the same: `read` returns all that was asked for
/// as JSON text. Throws what is wrong on one rank (an InputError that names the rank, where only
/// some fail) and SilentExit on the others. Collective.
void agree(exec::ProcessGroup& group, const std::function<std::string()>& read);

}  // namespace pipemoe::program
