// Runs the test cases on every rank that mpirun started, all ranks in step. A rank that fails ends
// them all: the others may be waiting for it.
#define CATCH_CONFIG_EXTERNAL_INTERFACES
#include <catch2/catch.hpp>
#include <cstdio>
#include <iostream>

#include "tests/exec/mpi_ranks.hpp"
#include "tests/support/catch_runner.hpp"

namespace pipemoe::test {
namespace {

std::unique_ptr<exec::ProcessGroup> joined;

class EndAllRanks final : public Catch::TestEventListenerBase {
 public:
  using TestEventListenerBase::TestEventListenerBase;

  // The reporter has printed each failed assertion by now.
  void testCaseEnded(const Catch::TestCaseStats& stats) override {
    if (stats.totals.assertions.failed == 0) return;
    std::cout << "rank " << ranks().rank() << " failed: " << stats.testInfo.name << std::endl;
    std::fflush(nullptr);
    ranks().abort(1);
  }
};
CATCH_REGISTER_LISTENER(EndAllRanks)

}  // namespace

exec::ProcessGroup& ranks() { return *joined; }

}  // namespace pipemoe::test

int main(int argc, char** argv) {
  pipemoe::test::joined = pipemoe::exec::join_ranks();
  const int failed = pipemoe::test::run_catch(argc, argv);
  pipemoe::test::joined.reset();
  return failed;
}
