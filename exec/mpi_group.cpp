// The only file that includes <mpi.h>.

#include <fmt/core.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "exec/launcher.hpp"
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

using Clock = std::chrono::steady_clock;

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

/// The limit of calls of MPI that wait for all ranks and have no form that can be tested. When it
/// is reached, this process says so and ends itself, and the launcher then ends the others. At such
/// calls a rank cannot learn who is missing, or who else waits. So the first three ranks speak,
/// three seconds after each other: mpirun, which takes more than one, has ended the later ones by
/// then. All other ranks are silent.
class CallLimit {
 public:
  /// Added to the timeout: processes take time to start and to end even when none has stopped.
  static constexpr std::chrono::seconds kMore{10};

  CallLimit(const char* calls, int rank, Seconds timeout) noexcept {
    try {
      thread_ = std::jthread([=](const std::stop_token& stop) {
        sleep(timeout + kMore + std::min(rank, kSpeakers) * kTurn, stop);
        if (!stop.stop_requested()) end(calls, rank, timeout);
      });
    } catch (const std::system_error&) {  // no thread to be had: no limit
    }
  }

 private:
  static constexpr int kSpeakers = 3;
  static constexpr std::chrono::seconds kTurn{3};

  // The time in which this process itself is stopped does not count. Launchers let a stopped
  // process continue for a moment before they end it, and then it must not speak.
  static void sleep(Seconds time, const std::stop_token& stop) {
    constexpr std::chrono::milliseconds kStep{100};
    std::mutex mutex;
    std::unique_lock lock(mutex);
    std::condition_variable_any never;
    for (Seconds slept{0}; slept < time && !stop.stop_requested(); slept += kStep) {
      never.wait_for(lock, stop, kStep, [] { return false; });
    }
  }

  [[noreturn]] static void end(const char* calls, int rank, Seconds timeout) {
    if (rank < kSpeakers) {
      const std::string text = fmt::format(
          "pipemoe: rank {}: {} did not end within {:g} s (--rank-timeout, and {} s more): another "
          "rank has stopped, failed, or not been started\n",
          rank, calls, (timeout + kMore).count(), kMore.count());
      std::fputs(text.c_str(), stderr);
    }
    std::_Exit(1);
  }

  std::jthread thread_;
};

/// How a wait spends its time.
enum class Waiting {
  /// Sleeps between tests, because the computing thread may need the core. Never yields, because
  /// that gives the core away for a whole time slice of milliseconds.
  BesideComputation,
  /// Tests without pause for the first milliseconds, so that ranks leave a barrier together.
  Alone,
};

/// The limit of all waits of this process for other ranks, and how a rank learns which others still
/// answer when it is reached: it tells all that it is there; who waits and is told so does the
/// same. Those that are not heard of within a few seconds have stopped, or are at work and do not
/// wait.
class RollCall {
 public:
  /// Collective, and waits without a limit of its own.
  explicit RollCall(Seconds timeout)
      : timeout_(timeout),
        is_here_(static_cast<std::size_t>(size_of_comm(MPI_COMM_WORLD)), 0),
        rank_(rank_in(MPI_COMM_WORLD)) {
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  ~RollCall() { MPI_Comm_free(&comm_); }
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;

  Seconds timeout() const { return timeout_; }

  /// Waits for a request, which makes progress only when tested. Throws RunError on `stop`.
  void wait(MPI_Request& request, const char* what, Waiting how, const std::stop_token& stop = {}) {
    constexpr int kEagerTests = 16;
    constexpr std::chrono::milliseconds kEagerTime{5}, kBetweenAnswers{50};
    const auto begun = Clock::now();
    auto answered = begun;
    for (int test = 0;; ++test) {
      int done = 0;
      check_mpi(MPI_Test(&request, &done, MPI_STATUS_IGNORE), what);
      if (done) return;
      if (stop.stop_requested()) throw RunError("exchange stopped");
      const auto now = Clock::now();
      if (now - begun > timeout_) end_wait(what);
      if (now - answered > kBetweenAnswers) {
        answer();
        answered = now;
      }
      if (how == Waiting::Alone && now - begun < kEagerTime) {
        std::this_thread::yield();
      } else if (test >= kEagerTests) {
        std::this_thread::sleep_for(std::chrono::microseconds(10));
      }
    }
  }

  void answer() {
    const std::lock_guard lock(mutex_);
    for (;;) {
      int there = 0;
      MPI_Status status;
      check_mpi(MPI_Iprobe(MPI_ANY_SOURCE, kTag, comm_, &there, &status), "MPI_Iprobe");
      if (!there) return;
      char nothing = 0;
      check_mpi(MPI_Recv(&nothing, 1, MPI_CHAR, status.MPI_SOURCE, kTag, comm_, MPI_STATUS_IGNORE),
                "MPI_Recv");
      is_here_[static_cast<std::size_t>(status.MPI_SOURCE)] = 1;
      tell();
    }
  }

  [[noreturn]] void end_wait(const std::string& what) {
    constexpr std::chrono::seconds kGrace{3}, kUntilKilled{20};
    {
      const std::lock_guard lock(mutex_);
      tell();
    }
    const auto begun = Clock::now();
    while (Clock::now() - begun < kGrace) {
      answer();
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    const std::lock_guard lock(mutex_);
    const auto first = std::find(is_here_.begin(), is_here_.end(), 1) - is_here_.begin();
    if (first == rank_) throw RunError(message(what));
    std::this_thread::sleep_for(kUntilKilled);  // the first rank speaks and ends all
    std::_Exit(1);
  }

 private:
  static constexpr int kTag = 1;

  // The caller holds the mutex.
  void tell() {
    if (std::exchange(is_here_[static_cast<std::size_t>(rank_)], char{1})) return;
    static const char kNothing = 0;
    for (std::size_t other = 0; other < is_here_.size(); ++other) {
      if (static_cast<int>(other) == rank_) continue;
      MPI_Request request = MPI_REQUEST_NULL;
      check_mpi(MPI_Isend(&kNothing, 1, MPI_CHAR, static_cast<int>(other), kTag, comm_, &request),
                "MPI_Isend");
      MPI_Request_free(&request);  // one byte leaves without a receiver
    }
  }

  std::string message(const std::string& what) const {
    std::string missing;
    int count = 0;
    for (std::size_t rank = 0; rank < is_here_.size(); ++rank) {
      if (is_here_[rank]) continue;
      missing += fmt::format("{}{}", count++ == 0 ? "" : ", ", rank);
    }
    const double seconds = timeout_.count();
    if (count == 0) {
      return fmt::format(
          "{} did not end within {:g} s although all ranks are there: they wait for "
          "different things",
          what, seconds);
    }
    return fmt::format(
        "{} {} did not come to {} within {:g} s (--rank-timeout): stopped, failed, or still at "
        "work",
        count == 1 ? "rank" : "ranks", missing, what, seconds);
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  Seconds timeout_;
  std::mutex mutex_;
  std::vector<char> is_here_;  // by rank: whether it is known to wait after a timeout
  int rank_;
};

MPI_Comm duplicate(MPI_Comm parent, RollCall& roll_call) {
  MPI_Comm comm = MPI_COMM_NULL;
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Comm_idup(parent, &comm, &request), "MPI_Comm_idup");
  roll_call.wait(request, "the start of a communicator", Waiting::Alone);
  return comm;
}

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm parent, std::shared_ptr<RollCall> roll_call)
      : roll_call_(std::move(roll_call)), comm_(duplicate(parent, *roll_call_)) {
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
    roll_call_->wait(request, "an exchange", Waiting::BesideComputation, stop);
  }

 private:
  std::shared_ptr<RollCall> roll_call_;
  MPI_Comm comm_;
};

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
  MpiGroup(MPI_Comm comm, bool world, std::shared_ptr<RollCall> roll_call)
      : ProcessGroup(rank_in(comm), size_of_comm(comm)),
        comm_(comm),
        world_(world),
        roll_call_(std::move(roll_call)) {
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
  }
  ~MpiGroup() override {
    if (!world_) {
      MPI_Comm_free(&comm_);
      return;
    }
    meet_at_the_end();
    const CallLimit limit("MPI_Finalize", rank(), timeout());
    roll_call_.reset();
    MPI_Finalize();
  }
  MpiGroup(const MpiGroup&) = delete;
  MpiGroup& operator=(const MpiGroup&) = delete;

  Seconds timeout() const override { return roll_call_->timeout(); }
  void answer_roll_call() override { roll_call_->answer(); }
  [[noreturn]] void end_wait(const std::string& what) override { roll_call_->end_wait(what); }

  std::string name() const override {
    return fmt::format("Open MPI {}.{}.{}", OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION,
                       OMPI_RELEASE_VERSION);
  }

  void barrier() override { meet("a barrier"); }

  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) override {
    std::vector<int> counts(static_cast<std::size_t>(size())), begins;
    const int count = checked_int(static_cast<std::int64_t>(mine.size()));
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Iallgather(&count, 1, MPI_INT, counts.data(), 1, MPI_INT, comm_, &request),
              "MPI_Iallgather");
    wait(request, "a gather");
    std::int64_t total = 0;
    for (const int one : counts) {
      begins.push_back(checked_int(total));
      total += one;
    }
    std::vector<std::byte> all(static_cast<std::size_t>(checked_int(total)));
    check_mpi(MPI_Iallgatherv(mine.data(), count, MPI_BYTE, all.data(), counts.data(),
                              begins.data(), MPI_BYTE, comm_, &request),
              "MPI_Iallgatherv");
    wait(request, "a gather");
    std::vector<std::vector<std::byte>> by_rank;
    for (std::size_t rank = 0; rank < counts.size(); ++rank) {
      const auto begin = all.begin() + begins[rank];
      by_rank.emplace_back(begin, begin + counts[rank]);
    }
    return by_rank;
  }

  std::unique_ptr<Communicator> communicator() override {
    return std::make_unique<MpiCommunicator>(comm_, roll_call_);
  }

  std::unique_ptr<ProcessGroup> first(int ranks) override {
    barrier();
    const CallLimit limit("MPI_Comm_split", rank(), timeout());
    MPI_Comm part = MPI_COMM_NULL;
    const int colour = rank() < ranks ? 0 : MPI_UNDEFINED;
    check_mpi(MPI_Comm_split(comm_, colour, rank(), &part), "MPI_Comm_split");
    if (part == MPI_COMM_NULL) return nullptr;
    return std::make_unique<MpiGroup>(part, /*world=*/false, roll_call_);
  }

  [[noreturn]] void abort(int exit_code) override {
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  void wait(MPI_Request& request, const char* what) {
    roll_call_->wait(request, what, Waiting::Alone);
  }
  void meet(const char* what) {
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Ibarrier(comm_, &request), "MPI_Ibarrier");
    wait(request, what);
  }

  // MPI_Finalize waits for all ranks and has no limit.
  void meet_at_the_end() noexcept {
    try {
      meet("the end of the run");
    } catch (const std::exception& error) {
      std::fprintf(stderr, "pipemoe: rank %d: %s\n", rank(), error.what());
      abort(1);
    }
  }

  MPI_Comm comm_;
  bool world_;
  std::shared_ptr<RollCall> roll_call_;
};

}  // namespace

bool built_with_mpi() { return true; }

std::unique_ptr<ProcessGroup> join_mpi(Seconds timeout) {
  check_is_open_mpi();
  const auto claim = launcher_claim();
  const CallLimit limit("the start of MPI", claim ? claim->rank.value_or(0) : 0, timeout);
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_MULTIPLE) {
    throw RunError("this MPI does not let several threads communicate (MPI_THREAD_MULTIPLE)");
  }
  return std::make_unique<MpiGroup>(MPI_COMM_WORLD, /*world=*/true,
                                    std::make_shared<RollCall>(timeout));
}

}  // namespace pipemoe::exec
