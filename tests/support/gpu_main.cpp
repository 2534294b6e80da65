// main of tests that need a GPU: without one they list, and say "skipped" (77) instead of running.
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

#include "kernels/cuda.hpp"

int main(int argc, char** argv) {
  Catch::Session session;
  if (const int code = session.applyCommandLine(argc, argv); code != 0) return code;
  const Catch::ConfigData& options = session.configData();
  const bool lists = options.listTests || options.listTags || options.listReporters ||
                     options.listTestNamesOnly || options.showHelp;
  if (!lists && pipemoe::cuda::device_count() == 0) {
    Catch::cerr() << "skipped: no CUDA device\n";
    return 77;
  }
  return session.run();
}
