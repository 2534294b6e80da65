#include "experiments/process_pool.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <new>
#include <utility>
#include <vector>

#include "models/error.hpp"

namespace pipemoe::program {
namespace {

constexpr int kOutOfMemory = 3;  // exit code

struct Child {
  std::size_t job = 0;
  int attempt = 1;
  pid_t process = 0;
  int pipe = -1;
  std::string text;
};

void write_all(int file, const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t count = write(file, text.data() + done, text.size() - done);
    if (count < 0 && errno != EINTR) _exit(1);
    if (count > 0) done += static_cast<std::size_t>(count);
  }
}

[[noreturn]] void run_child(int pipe, pid_t parent, std::size_t index,
                            const std::function<std::string(std::size_t)>& job) {
  // A killed study leaves no orphans.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);
  try {
    write_all(pipe, job(index));
  } catch (const std::bad_alloc&) {
    _exit(kOutOfMemory);
  } catch (...) {
    _exit(1);
  }
  _exit(0);
}

Child start(std::size_t index, int attempt, const std::function<std::string(std::size_t)>& job) {
  int ends[2];
  if (pipe(ends) != 0) throw RunError(fmt::format("no pipe: {}", std::strerror(errno)));
  std::fflush(nullptr);  // or a child would print what we have not yet
  const pid_t parent = getpid();
  const pid_t process = fork();
  if (process < 0) throw RunError(fmt::format("no process: {}", std::strerror(errno)));
  if (process == 0) {
    close(ends[0]);
    run_child(ends[1], parent, index, job);
  }
  close(ends[1]);
  return {index, attempt, process, ends[0], ""};
}

std::string how_it_died(int status) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
  if (WIFSIGNALED(status)) {
    return fmt::format("killed by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status)));
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == kOutOfMemory) return "out of memory";
  return fmt::format("exit code {}", WEXITSTATUS(status));
}

// Takes what the child has written; false once it has ended.
bool read_some(Child& child) {
  char buffer[65536];
  const ssize_t count = read(child.pipe, buffer, sizeof buffer);
  if (count < 0 && errno == EINTR) return true;
  if (count <= 0) return false;
  child.text.append(buffer, static_cast<std::size_t>(count));
  return true;
}

std::string reap(const Child& child) {
  close(child.pipe);
  int status = 0;
  while (waitpid(child.process, &status, 0) < 0 && errno == EINTR) {
  }
  return how_it_died(status);
}

}  // namespace

PoolSummary run_in_processes(std::size_t count, std::size_t processes,
                             const std::function<std::string(std::size_t)>& job,
                             const std::function<void(std::size_t, const std::string&)>& finished) {
  PoolSummary summary;
  std::vector<Child> running;
  std::deque<std::pair<std::size_t, int>> again;  // jobs and their next attempts
  for (std::size_t next = 0; next < count || !again.empty() || !running.empty();) {
    while (running.size() < processes && !again.empty()) {
      const auto [index, attempt] = again.front();
      again.pop_front();
      running.push_back(start(index, attempt, job));
    }
    while (next < count && running.size() < processes) running.push_back(start(next++, 1, job));
    std::vector<pollfd> waits;
    for (const Child& child : running) waits.push_back({child.pipe, POLLIN, 0});
    if (poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) {
      throw RunError(fmt::format("poll: {}", std::strerror(errno)));
    }
    for (std::size_t i = waits.size(); i-- > 0;) {
      if (waits[i].revents == 0 || read_some(running[i])) continue;
      const Child child = std::move(running[i]);
      running.erase(running.begin() + static_cast<std::ptrdiff_t>(i));
      const std::string died = reap(child);
      if (died.empty()) {
        finished(child.job, child.text);
      } else if (child.attempt < kMostAttempts) {
        ++summary.retried;
        again.emplace_back(child.job, child.attempt + 1);
      } else {
        summary.given_up.emplace_back(child.job, died);
      }
    }
  }
  return summary;
}

}  // namespace pipemoe::program
