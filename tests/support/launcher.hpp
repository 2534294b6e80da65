// Starts pipemoe on several ranks as a user does, and looks after what was started.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "tests/support/program.hpp"

namespace pipemoe::test {

/// mpirun with what a container needs: several ranks a core, everyone root.
std::string mpirun();

/// "-np N pipemoe", for run_program(mpirun(), ...).
std::string on_ranks(int ranks, const std::string& arguments);

/// Lines of `text` that begin with "pipemoe: ": what the program itself says, not mpirun.
std::vector<std::string> own_lines(const std::string& text);

/// mpirun in the background.
class Launched {
 public:
  /// `directory` gets the files out and err.
  Launched(const TemporaryDirectory& directory, const std::string& arguments);
  ~Launched();
  Launched(const Launched&) = delete;
  Launched& operator=(const Launched&) = delete;

  /// The process of a rank, once it is there and its threads have begun to run tasks; 0 if that
  /// takes more than half a minute.
  pid_t wait_for_rank(int rank) const;
  /// How mpirun ended, as waitpid() says; -1 if it has not after so many seconds.
  int wait(double seconds);

 private:
  pid_t pid_ = 0;
};

/// Processes, mpirun or rank, whose command line contains `text`.
std::vector<pid_t> processes_with(const std::string& text);

}  // namespace pipemoe::test
