#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <random>
#include <thread>

#include "exec/process_group.hpp"
#include "models/error.hpp"
#include "tests/exec/mpi_ranks.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace pipemoe::test;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;
using Counts = std::vector<std::int64_t>;

double now_s() { return Seconds(Clock::now().time_since_epoch()).count(); }

// The number at `place` of what `from` sends to `to`: tells all three apart.
float number(int from, int to, std::int64_t place) {
  return static_cast<float>(from * 100000 + to * 10000 + place);
}

// counts(from, to) floats from each rank to each: every rank must get what every other meant for
// it, in the order of the ranks.
template <class CountOf>
void check_exchange(Communicator& communicator, ProcessGroup& group, CountOf count) {
  std::vector<float> send, expected;
  Counts send_counts, receive_counts;
  for (int other = 0; other < group.size(); ++other) {
    send_counts.push_back(count(group.rank(), other));
    receive_counts.push_back(count(other, group.rank()));
    for (std::int64_t i = 0; i < send_counts.back(); ++i) {
      send.push_back(number(group.rank(), other, i));
    }
    for (std::int64_t i = 0; i < receive_counts.back(); ++i) {
      expected.push_back(number(other, group.rank(), i));
    }
  }
  std::vector<float> received(expected.size(), -1);
  communicator.exchange({send, send_counts, received, receive_counts}, {});
  CHECK(received == expected);
}

}  // namespace

TEST_CASE("mpirun's ranks are one group", "[mpi][group]") {
  REQUIRE(std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr);
  CHECK(ranks().size() == std::atoi(std::getenv("OMPI_COMM_WORLD_SIZE")));
  CHECK(ranks().rank() == std::atoi(std::getenv("OMPI_COMM_WORLD_RANK")));
  CHECK(started_by_launcher());
  CHECK(built_with_mpi());
  CHECK_THAT(ranks().name(), Catch::StartsWith("Open MPI "));
}

TEST_CASE("every rank learns what every other says", "[mpi][group]") {
  std::vector<int> expected(static_cast<std::size_t>(ranks().size()));
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<int>(7 * i);
  CHECK(all_gather(ranks(), 7 * ranks().rank()) == expected);
}

TEST_CASE("what ranks say may differ in length", "[mpi][group]") {
  // Rank r says r numbers, rank 0 none.
  std::vector<double> mine(static_cast<std::size_t>(ranks().rank()), ranks().rank() + 0.5);
  const auto all = all_gather(ranks(), mine);
  REQUIRE(all.size() == static_cast<std::size_t>(ranks().size()));
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    CHECK(all[rank] == std::vector<double>(rank, static_cast<double>(rank) + 0.5));
  }
  const auto texts = all_gather(ranks(), std::string(mine.size(), 'x'));
  for (std::size_t rank = 0; rank < texts.size(); ++rank) {
    CHECK(texts[rank] == std::string(rank, 'x'));
  }
}

TEST_CASE("no rank leaves a barrier before the last has come", "[mpi][group]") {
  // Each rank in turn comes 30 ms late. Ranks on one host read one clock.
  for (int late = 0; late < ranks().size(); ++late) {
    if (ranks().rank() == late) std::this_thread::sleep_for(30ms);
    const double came = now_s();
    ranks().barrier();
    const double left = now_s();
    const auto all_came = all_gather(ranks(), came);
    CHECK(left >= *std::max_element(all_came.begin(), all_came.end()));
  }
}

TEST_CASE("clocks of one host are found to agree", "[mpi][group]") {
  // The true offset is 0. The error is at most half of the shortest of 40 round trips, which on few
  // cores that compile something besides takes its turns.
  const double offset = clock_offset(ranks()).count();
  CHECK(std::abs(offset) < 20e-3);
  if (ranks().rank() == 0) CHECK(offset == 0);
}

TEST_CASE("the first ranks make a group of their own", "[mpi][group]") {
  for (int size = 1; size <= ranks().size(); ++size) {
    const auto part = ranks().first(size);
    REQUIRE((part != nullptr) == (ranks().rank() < size));
    if (!part) continue;
    CHECK(part->size() == size);
    CHECK(part->rank() == ranks().rank());
    std::vector<int> expected(static_cast<std::size_t>(size));
    std::iota(expected.begin(), expected.end(), 0);
    CHECK(all_gather(*part, part->rank()) == expected);
    const auto communicator = part->communicator();
    check_exchange(*communicator, *part, [](int, int) { return 3; });
    part->barrier();
  }
}

TEST_CASE("an exchange brings every rank its parts", "[mpi][communicator]") {
  const auto communicator = ranks().communicator();
  const auto check = [&](auto count) { check_exchange(*communicator, ranks(), count); };
  check([](int, int) { return 5; });
  check([](int from, int to) { return 100 * from + 10 * to + 1; });
  check([](int from, int to) { return from == to ? 0 : 17; });  // nothing for itself
  check([](int, int to) { return to == 0 ? 1000 : 0; });        // all to one
  check([](int from, int) { return from == 0 ? 1000 : 0; });    // all from one
  check([](int from, int to) { return from < to ? 200 : 0; });  // some send, some receive
  check([](int, int) { return 0; });                            // nobody anything
}

TEST_CASE("exchanges of random counts bring every rank its parts", "[mpi][communicator]") {
  const auto communicator = ranks().communicator();
  for (std::uint32_t seed = 0; seed < 50; ++seed) {
    check_exchange(*communicator, ranks(), [&](int from, int to) -> std::int64_t {
      std::minstd_rand random(1 + seed * 1000 + static_cast<std::uint32_t>(from * 10 + to));
      random.discard(5);
      return random() % 3 == 0 ? 0 : random() % 9000;
    });
  }
}

TEST_CASE("communicators of two streams do not mix their exchanges", "[mpi][communicator]") {
  const auto one = ranks().communicator(), other = ranks().communicator();
  const auto exchanges = [&](Communicator& communicator, float value, std::vector<float>& got) {
    const auto size = static_cast<std::size_t>(ranks().size());
    const std::vector<float> send(size * 100, value);
    const Counts counts(size, 100);
    for (int i = 0; i < 20; ++i) communicator.exchange({send, counts, got, counts}, {});
  };
  std::vector<float> first(static_cast<std::size_t>(ranks().size()) * 100), second = first;
  {
    // In either order on different ranks: each communicator has a thread of its own.
    const std::jthread thread([&] { exchanges(*one, 1, first); });
    if (ranks().rank() % 2 == 1) std::this_thread::sleep_for(5ms);
    exchanges(*other, 2, second);
  }
  CHECK(first == std::vector<float>(first.size(), 1));
  CHECK(second == std::vector<float>(second.size(), 2));
}

TEST_CASE("a rank that waits for another leaves its core alone", "[mpi][communicator]") {
  const auto communicator = ranks().communicator();
  const auto size = static_cast<std::size_t>(ranks().size());
  const std::vector<float> send(size);
  std::vector<float> receive(size);
  const Counts counts(size, 1);
  ranks().barrier();
  if (ranks().rank() == ranks().size() - 1) std::this_thread::sleep_for(300ms);
  timespec before{}, after{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  const double begin = now_s();
  communicator->exchange({send, counts, receive, counts}, {});
  const double waited = now_s() - begin;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  const double burnt = static_cast<double>(after.tv_sec - before.tv_sec) +
                       1e-9 * static_cast<double>(after.tv_nsec - before.tv_nsec);
  if (ranks().size() > 1 && ranks().rank() == 0) {
    CHECK(waited > 0.2);
    CHECK(burnt < 0.5 * waited);
  }
}
