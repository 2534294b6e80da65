#include "exec/process_group.hpp"

#include <fmt/core.h>

#include <chrono>
#include <cstdlib>
#include <limits>

#include "exec/launcher.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

class SingleProcess final : public ProcessGroup {
 public:
  explicit SingleProcess(Seconds timeout) : ProcessGroup(0, 1), timeout_(timeout) {}

  std::string name() const override { return "one process"; }
  Seconds timeout() const override { return timeout_; }
  [[noreturn]] void end_wait(const std::string& what) override {
    throw RunError(fmt::format("{} did not end within {:g} s", what, timeout_.count()));
  }
  void barrier() override {}
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) override {
    return {{mine.begin(), mine.end()}};
  }
  std::unique_ptr<Communicator> communicator() override { return copy_communicator(); }
  std::unique_ptr<ProcessGroup> first(int ranks) override {
    ensure(ranks == 1, "single process: first of more than one rank");
    return single_process(timeout_);
  }
  [[noreturn]] void abort(int exit_code) override { std::_Exit(exit_code); }

 private:
  Seconds timeout_;
};

double now_s() { return Seconds(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

bool started_by_launcher() {
  const auto claim = launcher_claim();
  return claim && (claim->joins_by_mpi || claim->size.value_or(1) > 1);
}

std::unique_ptr<ProcessGroup> single_process(Seconds timeout) {
  return std::make_unique<SingleProcess>(timeout);
}

std::unique_ptr<ProcessGroup> join_ranks(Seconds timeout) {
  const LauncherClaim claim = launcher_claim().value_or(LauncherClaim{});
  if (!started_by_launcher()) return single_process(timeout);
  std::unique_ptr<ProcessGroup> group;
  if (claim.joins_by_mpi) {
    group = join_mpi(timeout);
    if (!claim.size || *claim.size == group->size()) return group;
  }
  // Each rank is alone, or in a part of all: only what the launcher says tells which one speaks.
  const bool speaks = claim.rank.value_or(0) == 0;
  if (!speaks) throw SilentRank{2};
  const int size = required(claim.size, "a claim without its size");
  throw InputError(fmt::format(
      "{} says that it started {} ranks, of which {} joined by MPI: start them with mpirun -np {} "
      "or srun --mpi=pmix, or give --single-rank to run each one alone",
      claim.launcher, size, group == nullptr ? 0 : group->size(), size));
}

std::vector<std::string> all_gather(ProcessGroup& group, const std::string& mine) {
  std::vector<std::string> texts;
  for (const auto& bytes : group.all_gather(std::as_bytes(std::span(mine)))) {
    texts.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return texts;
}

// All ranks join each gather. That is slower than a ping-pong with rank 0, but the shortest of many
// trips is as good.
Seconds clock_offset(ProcessGroup& group) {
  constexpr int kTrips = 40;
  double offset = 0, shortest = std::numeric_limits<double>::infinity();
  for (int trip = 0; trip < kTrips && group.size() > 1; ++trip) {
    group.barrier();
    const double sent = now_s();
    const double theirs = all_gather(group, now_s()).front();
    const double received = now_s();
    if (received - sent < shortest) {
      shortest = received - sent;
      offset = theirs - (sent + received) / 2;
    }
  }
  return Seconds{group.rank() == 0 ? 0 : offset};
}

}  // namespace pipemoe::exec
