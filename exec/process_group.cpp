#include "exec/process_group.hpp"

#include <fmt/core.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <limits>

#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

class SingleProcess final : public ProcessGroup {
 public:
  SingleProcess() : ProcessGroup(0, 1) {}

  std::string name() const override { return "one process"; }
  void barrier() override {}
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) override {
    return {{mine.begin(), mine.end()}};
  }
  std::unique_ptr<Communicator> communicator() override { return copy_communicator(); }
  std::unique_ptr<ProcessGroup> first(int ranks) override {
    ensure(ranks == 1, "single process: first of more than one rank");
    return single_process();
  }
  [[noreturn]] void abort(int exit_code) override { std::_Exit(exit_code); }
};

double now_s() { return Seconds(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

bool started_by_launcher() {
  constexpr std::array kVariables{"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_SIZE"};
  for (const char* name : kVariables) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

std::unique_ptr<ProcessGroup> single_process() { return std::make_unique<SingleProcess>(); }

std::unique_ptr<ProcessGroup> join_ranks() {
  return started_by_launcher() ? join_mpi() : single_process();
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
