// The ranks of one run: how many, how they agree, and how one of them ends them all.
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

/// Every member is called by all ranks alike ("collective") unless it says otherwise, and by one
/// thread at a time. What a rank says to others it says in this process's byte order.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// "Open MPI 4.1.4", or "one process".
  virtual std::string name() const = 0;

  virtual void barrier() = 0;
  /// Every rank's bytes, by rank; their numbers may differ.
  virtual std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine) = 0;
  /// A communicator of its own for a stream.
  virtual std::unique_ptr<Communicator> communicator() = 0;
  /// Ranks 0..ranks-1 as a group; null on the others. Requires 1 <= ranks <= size().
  virtual std::unique_ptr<ProcessGroup> first(int ranks) = 0;
  /// Ends every rank's process with this exit code; not collective.
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
std::unique_ptr<ProcessGroup> single_process();

/// All ranks that the launcher started; single_process() where there is none. At most once in a
/// process. Throws InputError under a launcher of several ranks when this build has no MPI.
std::unique_ptr<ProcessGroup> join_ranks();

/// `value` of every rank, by rank. T: trivially copyable.
template <class T>
std::vector<T> all_gather(ProcessGroup& group, const T& value) {
  std::vector<T> values;
  for (const auto& bytes : group.all_gather(std::as_bytes(std::span(&value, 1)))) {
    std::memcpy(&values.emplace_back(), bytes.data(), sizeof(T));
  }
  return values;
}

/// All values of every rank, by rank.
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

/// What to add to this rank's steady clock to read rank 0's: the middle of the shortest of many
/// round trips. 0 on rank 0.
Seconds clock_offset(ProcessGroup& group);

}  // namespace pipemoe::exec
