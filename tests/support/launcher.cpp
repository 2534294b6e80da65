#include "tests/support/launcher.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <thread>

namespace pipemoe::test {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

// /proc/PID/NAME; empty when the process has gone or is another user's.
std::string proc_file(pid_t pid, const std::string& name) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<pid_t> all_processes() {
  std::vector<pid_t> pids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") == std::string::npos) pids.push_back(std::stoi(name));
  }
  return pids;
}

// The fourth word of /proc/PID/stat, counted after the name in parentheses.
pid_t parent_of(pid_t pid) {
  const std::string stat = proc_file(pid, "stat");
  const auto name_end = stat.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream words(stat.substr(name_end + 1));
  std::string state;
  pid_t parent = 0;
  words >> state >> parent;
  return parent;
}

bool descends(pid_t pid, pid_t ancestor) {
  while (pid > 1 && pid != ancestor) pid = parent_of(pid);
  return pid == ancestor;
}

std::optional<pid_t> rank_process(pid_t launcher, int rank) {
  const std::string wanted = "OMPI_COMM_WORLD_RANK=" + std::to_string(rank);
  for (const pid_t pid : all_processes()) {
    const std::string environment = '\0' + proc_file(pid, "environ");
    if (environment.find('\0' + wanted + '\0') == std::string::npos) continue;
    if (pid != launcher && descends(pid, launcher)) return pid;
  }
  return std::nullopt;
}

long threads_of(pid_t pid) {
  std::error_code gone;
  const std::filesystem::directory_iterator tasks("/proc/" + std::to_string(pid) + "/task", gone);
  return gone ? 0 : std::distance(begin(tasks), end(tasks));
}

}  // namespace

std::string mpirun() {
  return std::string("env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 ") +
         PIPEMOE_MPI_SUPPRESSIONS " " PIPEMOE_MPIEXEC " --oversubscribe";
}

std::string on_ranks(int ranks, const std::string& arguments) {
  return "-np " + std::to_string(ranks) + " " PIPEMOE_PROGRAM " " + arguments;
}

std::vector<std::string> own_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with("pipemoe: ")) lines.push_back(line);
  }
  return lines;
}

Launched::Launched(const TemporaryDirectory& directory, const std::string& arguments) {
  const std::string command = std::string("cd ") + PIPEMOE_SOURCE_DIR + " && exec " + mpirun() +
                              " " + arguments + " >" + directory.path("out").string() + " 2>" +
                              directory.path("err").string() + " </dev/null";
  pid_ = fork();
  if (pid_ == 0) {
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
}

Launched::~Launched() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);  // mpirun ends its ranks
  if (wait(10) == -1) kill(pid_, SIGKILL);
}

pid_t Launched::wait_for_rank(int rank) const {
  // MPI's own threads and the streams' are started one after another within milliseconds: a second
  // without another one is in the middle of the iterations.
  const auto deadline = Clock::now() + 30s;
  auto since = Clock::now();
  for (long before = 0; Clock::now() < deadline; std::this_thread::sleep_for(20ms)) {
    const auto pid = rank_process(pid_, rank);
    const long threads = pid ? threads_of(*pid) : 0;
    if (threads != before) since = Clock::now();
    before = threads;
    if (threads >= 3 && Clock::now() - since > 1s) return *pid;
  }
  return 0;
}

int Launched::wait(double seconds) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  while (Clock::now() < deadline) {
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = 0;
      return status;
    }
    std::this_thread::sleep_for(10ms);
  }
  return -1;
}

std::vector<pid_t> processes_with(const std::string& text) {
  std::vector<pid_t> found;
  for (const pid_t pid : all_processes()) {
    if (proc_file(pid, "cmdline").find(text) != std::string::npos) found.push_back(pid);
  }
  return found;
}

}  // namespace pipemoe::test
