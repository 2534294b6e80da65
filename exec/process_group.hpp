// The ranks of one run: how many there are, how they agree, and how one of them ends them all.
#pragma once

#include <cstddef>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "exec/communicator.hpp"
#include "models/units.hpp"

namespace pipemoe::exec {

/// How long a rank waits for others before it holds that one of them has failed.
inline constexpr Seconds kDefaultRankTimeout{60};

/// All ranks call each member alike ("collective") unless it says otherwise, one thread at a time.
/// Bytes travel in this process's byte order. Every wait for other ranks ends after timeout(): it
/// throws RunError on one of the ranks that still answer, naming those that do not; the others of
/// them wait to be ended by abort(), and end by themselves if that does not come. Where MPI starts,
/// splits and ends, nobody can learn who is missing: there the process itself ends, with a message
/// that names nobody, 10 s or more after timeout().
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;

  /// The limit of each wait for other ranks.
  virtual Seconds timeout() const = 0;
  /// For a rank that waits for another one by other means, a GPU's for example: tells the others
  /// that it is there, if they ask. To be called now and then. Not collective.
  virtual void answer_roll_call() {}
  /// Ends such a wait, for `what`, after timeout(). Not collective.
  [[noreturn]] virtual void end_wait(const std::string& what) = 0;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// "Open MPI 4.1.4", or "one process".
  virtual std::string name() const = 0;

  virtual void barrier() = 0;
  /// The bytes of every rank, by rank; their sizes may differ.
  virtual std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) = 0;
  /// A new communicator, for one queue of a graph.
  virtual std::unique_ptr<Communicator> communicator() = 0;
  /// A group of ranks 0..ranks-1; null on the other ranks. Requires 1 <= ranks <= size().
  virtual std::unique_ptr<ProcessGroup> first(int ranks) = 0;
  /// Ends the processes of all ranks with this exit code. Not collective.
  [[noreturn]] virtual void abort(int exit_code) = 0;

 protected:
  ProcessGroup(int rank, int size) : rank_(rank), size_(size) {}

 private:
  int rank_;
  int size_;
};

/// Whether a launcher (mpirun, srun) started this process as one of several ranks.
bool started_by_launcher();

/// Whether this build can join several ranks.
bool built_with_mpi();

/// A group of this process alone.
std::unique_ptr<ProcessGroup> single_process(Seconds timeout = kDefaultRankTimeout);

/// All ranks that the launcher started; single_process() if there is no launcher. At most once in a
/// process. Throws InputError if as many ranks as the launcher claims cannot be joined. That is for
/// one of them to say, so the others throw SilentRank.
std::unique_ptr<ProcessGroup> join_ranks(Seconds timeout = kDefaultRankTimeout);

/// Thrown on a rank that must end in silence, with this exit code, because another one says why.
struct SilentRank {
  int exit_code = 1;
};

/// The ranks of MPI_COMM_WORLD. In a build without MPI throws InputError.
std::unique_ptr<ProcessGroup> join_mpi(Seconds timeout);

/// The value of every rank, by rank. T must be trivially copyable.
template <class T>
std::vector<T> all_gather(ProcessGroup& group, const T& value) {
  std::vector<T> values;
  for (const auto& bytes : group.all_gather(std::as_bytes(std::span(&value, 1)))) {
    std::memcpy(&values.emplace_back(), bytes.data(), sizeof(T));
  }
  return values;
}

/// The values of every rank, by rank.
template <class T>
std::vector<std::vector<T>> all_gather(ProcessGroup& group, const std::vector<T>& mine) {
  std::vector<std::vector<T>> all;
  for (const auto& bytes : group.all_gather(std::as_bytes(std::span(mine)))) {
    all.emplace_back(bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(all.back().data(), bytes.data(), bytes.size());
  }
  return all;
}

std::vector<std::string> all_gather(ProcessGroup& group, const std::string& mine);

/// What to add to this rank's steady clock to get rank 0's time, measured in the middle of the
/// shortest of many round trips. 0 on rank 0. Collective.
Seconds clock_offset(ProcessGroup& group);

}  // namespace pipemoe::exec
