// One rank's group; several ranks are tested under mpirun.
#include "exec/process_group.hpp"

#include <catch2/catch.hpp>

using namespace pipemoe;
using namespace pipemoe::exec;

TEST_CASE("a process alone is a group of one rank", "[exec][group]") {
  const auto group = join_ranks();
  CHECK(group->rank() == 0);
  CHECK(group->size() == 1);
  CHECK(group->name() == "one process");
  CHECK_FALSE(started_by_launcher());
  CHECK(clock_offset(*group) == Seconds{0});
  CHECK_NOTHROW(group->barrier());
  CHECK(all_gather(*group, 3) == std::vector<int>{3});
  CHECK(all_gather(*group, std::vector<double>{1, 2}) == std::vector<std::vector<double>>{{1, 2}});
  CHECK(all_gather(*group, std::string("text")) == std::vector<std::string>{"text"});
  CHECK(group->first(1)->size() == 1);
  CHECK_THROWS_AS(group->first(2), std::logic_error);
}
