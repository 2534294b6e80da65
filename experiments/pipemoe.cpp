// The program: exit code 0, 1 (the run failed) or 2 (bad input, one line that says what).
#include <cstdio>
#include <cstdlib>

#include "experiments/commands.hpp"

// Leaves without what libraries do at exit: there OpenBLAS waits for threads of its own, which try
// for ever to get memory where there is too little (ulimit -v). Sanitizers report at exit.
int main(int argc, char** argv) {
  const int code = pipemoe::program::run(argc, argv);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return code;
#else
  std::fflush(nullptr);
  std::_Exit(code);
#endif
}
