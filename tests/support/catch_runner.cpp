#define CATCH_CONFIG_RUNNER
#include "tests/support/catch_runner.hpp"

#include <catch2/catch.hpp>

namespace pipemoe::test {

int run_catch(int argc, char** argv, const std::function<std::string()>& cannot_run) {
  Catch::Session session;
  if (const int code = session.applyCommandLine(argc, argv); code != 0) return code;
  const Catch::ConfigData& options = session.configData();
  const bool lists = options.listTests || options.listTags || options.listReporters ||
                     options.listTestNamesOnly || options.showHelp;
  const std::string reason = lists || !cannot_run ? "" : cannot_run();
  if (reason.empty()) return session.run();
  constexpr int kSkipped = 77;
  Catch::cerr() << "skipped: " << reason << "\n";
  return kSkipped;
}

}  // namespace pipemoe::test
