// The only file that includes <mpi.h>.

#include <fmt/core.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>
#include <string_view>
#include <thread>
#include <utility>

#include "exec/process_group.hpp"
#include "models/error.hpp"

namespace pipemoe::exec {
namespace {

void check_mpi(int status, const char* call) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw RunError(fmt::format("{}: {}", call, text));
}

int checked_int(std::int64_t value) {
  if (value > std::numeric_limits<int>::max()) {
    throw RunError(fmt::format("an exchange of {} floats is more than MPI counts", value));
  }
  return static_cast<int>(value);
}

/// Counts and displacements in the form that MPI needs.
struct Parts {
  std::vector<int> counts, begins;

  explicit Parts(std::span<const std::int64_t> parts) {
    std::int64_t begin = 0;
    for (const std::int64_t count : parts) {
      counts.push_back(checked_int(count));
      begins.push_back(checked_int(begin));
      begin += count;
    }
  }
};

/// Waits for `request`, which makes progress only when tested. Sleeps between tests, because the
/// computing thread may need the core. Never yields, because that gives the core away for a whole
/// time slice of milliseconds.
void wait_politely(MPI_Request& request, std::chrono::seconds timeout,
                   const std::stop_token& stop) {
  using Clock = std::chrono::steady_clock;
  constexpr int kEagerTests = 16;
  constexpr std::chrono::microseconds kSleep{10};
  const auto deadline = Clock::now() + timeout;
  for (int test = 0;; ++test) {
    int done = 0;
    check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Ialltoallv");
    if (done) return;
    if (stop.stop_requested()) throw RunError("exchange stopped");
    if (Clock::now() > deadline) {
      throw RunError(
          fmt::format("an exchange did not end in {} s: a rank has stopped", timeout.count()));
    }
    if (test >= kEagerTests) std::this_thread::sleep_for(kSleep);
  }
}

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(MPI_Comm parent) {
    check_mpi(MPI_Comm_dup(parent, &comm_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  ~MpiCommunicator() override { MPI_Comm_free(&comm_); }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  void exchange(const Exchange& exchange, std::stop_token stop) override {
    const Parts send(exchange.send_counts), receive(exchange.receive_counts);
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Ialltoallv(exchange.send.data(), send.counts.data(), send.begins.data(),
                             MPI_FLOAT, exchange.receive.data(), receive.counts.data(),
                             receive.begins.data(), MPI_FLOAT, comm_, &request),
              "MPI_Ialltoallv");
    wait_politely(request, kTimeout, stop);
  }

 private:
  static constexpr std::chrono::seconds kTimeout{120};

  MPI_Comm comm_ = MPI_COMM_NULL;
};

int rank_in(MPI_Comm comm) {
  int rank = 0;
  check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
  return rank;
}

int size_of_comm(MPI_Comm comm) {
  int size = 0;
  check_mpi(MPI_Comm_size(comm, &size), "MPI_Comm_size");
  return size;
}

// SimGrid's library has functions of the same names for the programs that it simulates.
void check_is_open_mpi() {
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(version, &length);
  if (std::string_view(version).find("Open MPI") == std::string_view::npos) {
    throw RunError(fmt::format("MPI calls go to {}: link libmpi before libsimgrid", version));
  }
}

class MpiGroup final : public ProcessGroup {
 public:
  /// `world`: MPI has been initialised, and this group finalises it.
  MpiGroup(MPI_Comm comm, bool world)
      : ProcessGroup(rank_in(comm), size_of_comm(comm)), comm_(comm), world_(world) {
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  ~MpiGroup() override {
    if (world_) {
      MPI_Finalize();
    } else {
      MPI_Comm_free(&comm_);
    }
  }
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;

  std::string name() const override {
    return fmt::format("Open MPI {}.{}.{}", OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION,
                       OMPI_RELEASE_VERSION);
  }

  void barrier() override { check_mpi(MPI_Barrier(comm_), "MPI_Barrier"); }

  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) override {
    std::vector<int> counts(static_cast<std::size_t>(size())), begins;
    const int count = checked_int(static_cast<std::int64_t>(mine.size()));
    check_mpi(MPI_Allgather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, comm_), "MPI_Allgather");
    std::int64_t total = 0;
    for (const int one : counts) {
      begins.push_back(checked_int(total));
      total += one;
    }
    std::vector<std::byte> all(static_cast<std::size_t>(checked_int(total)));
    check_mpi(MPI_Allgatherv(mine.data(), count, MPI_BYTE, all.data(), counts.data(), begins.data(),
                             MPI_BYTE, comm_),
              "MPI_Allgatherv");
    std::vector<std::vector<std::byte>> by_rank;
    for (std::size_t rank = 0; rank < counts.size(); ++rank) {
      const auto begin = all.begin() + begins[rank];
      by_rank.emplace_back(begin, begin + counts[rank]);
    }
    return by_rank;
  }

  std::unique_ptr<Communicator> communicator() override {
    return std::make_unique<MpiCommunicator>(comm_);
  }

  std::unique_ptr<ProcessGroup> first(int ranks) override {
    MPI_Comm part = MPI_COMM_NULL;
    const int colour = rank() < ranks ? 0 : MPI_UNDEFINED;
    check_mpi(MPI_Comm_split(comm_, colour, rank(), &part), "MPI_Comm_split");
    if (part == MPI_COMM_NULL) return nullptr;
    return std::make_unique<MpiGroup>(part, /*world=*/false);
  }

  [[noreturn]] void abort(int exit_code) override {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  MPI_Comm comm_;
  bool world_;
};

}  // namespace

bool built_with_mpi() { return true; }

std::unique_ptr<ProcessGroup> join_mpi() {
  check_is_open_mpi();
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_MULTIPLE) {
    throw RunError("this MPI does not let several threads communicate (MPI_THREAD_MULTIPLE)");
  }
  return std::make_unique<MpiGroup>(MPI_COMM_WORLD, /*world=*/true);
}

}  // namespace pipemoe::exec
