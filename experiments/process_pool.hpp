// Runs jobs in processes of their own.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace pipemoe::program {

/// A job whose process dies is started again until it has had so many attempts.
inline constexpr int kMostAttempts = 3;

struct PoolSummary {
  std::size_t retried = 0;  ///< attempts that died and were followed by another one
  /// Jobs whose last attempt died too, and how it died.
  std::vector<std::pair<std::size_t, std::string>> given_up;
};

/// Runs job(0) .. job(count - 1), at most `processes` at a time, each in a fresh copy of this
/// process, so that the crash or state of one reaches no other. Hands the text of each to
/// `finished` as it ends, in any order, on the caller's thread. A process that is killed, runs out
/// of memory or lets an exception escape has died. Throws RunError when no process can be started.
PoolSummary run_in_processes(
    std::size_t count, std::size_t processes,
    const std::function<std::string(std::size_t job)>& job,
    const std::function<void(std::size_t job, const std::string& text)>& finished);

}  // namespace pipemoe::program
