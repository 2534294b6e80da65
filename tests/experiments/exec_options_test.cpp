#include "experiments/exec_options.hpp"

#include <catch2/catch.hpp>

namespace exec_options_tests {

using namespace pipemoe;
using namespace pipemoe::program;
using Catch::Contains;

TEST_CASE("NCCL's exchanges are limited as the profile's were", "[program][run]") {
  Cluster cluster;
  cluster.name = "measured";
  cluster.conditions["exchange_ctas"] = std::int64_t{24};
  exec::ExecutorOptions backend{.backend = "cuda", .communicator = "nccl"};
  SECTION("unless the user says otherwise") {
    CHECK_FALSE(take_exchange_ctas(backend, cluster));
    CHECK(backend.exchange_ctas == 24);
    CHECK_FALSE(take_exchange_ctas(backend, cluster));
  }
  SECTION("another number stays, and is told") {
    backend.exchange_ctas = 16;
    const auto note = take_exchange_ctas(backend, cluster);
    REQUIRE(note);
    CHECK_THAT(*note, Contains("limited to 16 CTAs") &&
                          Contains("those of profile measured limited to 24 CTAs"));
    CHECK(backend.exchange_ctas == 16);
  }
  SECTION("none is another number") {
    backend.exchange_ctas = 0;
    CHECK_THAT(take_exchange_ctas(backend, cluster).value(), Contains("without a limit"));
    CHECK(backend.exchange_ctas == 0);
  }
  SECTION("a profile without a limit gives none") {
    cluster.conditions.erase("exchange_ctas");
    CHECK_FALSE(take_exchange_ctas(backend, cluster));
    CHECK(backend.exchange_ctas == 0);
  }
  SECTION("copy engines have no CTAs to limit") {
    backend.communicator = "peer-copy";
    CHECK_FALSE(take_exchange_ctas(backend, cluster));
    CHECK_FALSE(backend.exchange_ctas);
  }
}

}  // namespace exec_options_tests
