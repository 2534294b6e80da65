// --link alpha=TIME,beta=SECONDS_PER_BYTE.
#include "exec/communicator.hpp"
#include "models/limits.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::link_target {

bool run(std::string_view text) {
  exec::Link link;
  if (!accepts([&] { link = exec::parse_link(std::string(text)); })) return false;
  require_within(link.alpha.count(), 0, kMostStartup, "alpha");
  require_within(link.beta.value, 0, kMostSecondsPerByte, "beta");
  require_time(link(Bytes{std::int64_t{1} << 40}), "a terabyte's time");
  require(exec::to_string(link).find("nan") == std::string::npos, "a link's text has a nan");
  const std::string written = fmt::format("alpha={}s,beta={}", link.alpha.count(), link.beta.value);
  require(exec::parse_link(written) == link, "a link reads back as another one: " + written);
  return true;
}

std::vector<std::string> seeds() {
  return {"alpha=1ms,beta=1e-9", "alpha=0.5us,beta=0", "alpha=4s,beta=2.5e-8",
          "alpha=0s,beta=1e-3"};
}

const Registration registration({"link", Syntax::Bytes, run, seeds});

}  // namespace pipemoe::fuzz::link_target
