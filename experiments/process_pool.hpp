// Runs jobs in processes of their own.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace pipemoe::program {

/// Runs job(0) .. job(count - 1), at most `processes` at a time, each in a fresh copy of this
/// process, so that one's crash or state reaches no other, and hands each one's text to `finished`
/// as it ends (in any order, on the caller's thread). A job that dies hands over its death:
/// `died` is then the reason, else empty. Throws RunError when no process can be started.
void run_in_processes(std::size_t count, std::size_t processes,
                      const std::function<std::string(std::size_t job)>& job,
                      const std::function<void(std::size_t job, const std::string& text,
                                               const std::string& died)>& finished);

}  // namespace pipemoe::program
