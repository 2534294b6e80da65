#include "exec/communicator.hpp"

#include <time.h>

#include <catch2/catch.hpp>
#include <numeric>
#include <thread>

#include "models/error.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;
using Counts = std::vector<std::int64_t>;

// Takes its time and moves nothing.
class Waiting final : public Communicator {
 public:
  explicit Waiting(Clock::duration time) : time_(time) {}
  void exchange(const Exchange&, std::stop_token) override { std::this_thread::sleep_for(time_); }

 private:
  Clock::duration time_;
};

Seconds thread_cpu_time() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return Seconds{static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec)};
}

// How long an exchange of so many floats takes over an emulated link.
Seconds time_of(const Link& link, Clock::duration real, std::int64_t sent, std::int64_t received) {
  const std::vector<float> send(static_cast<std::size_t>(sent));
  std::vector<float> receive(static_cast<std::size_t>(received));
  const Counts send_counts{sent}, receive_counts{received};
  const auto communicator = emulate_link(link, std::make_unique<Waiting>(real));
  const auto start = Clock::now();
  communicator->exchange({send, send_counts, receive, receive_counts}, {});
  return Clock::now() - start;
}

// Whether some exchange takes less: a busy machine only makes them longer.
bool once_below(Clock::duration most, const Link& link, Clock::duration real, std::int64_t sent,
                std::int64_t received) {
  for (int i = 0; i < 100; ++i) {
    if (time_of(link, real, sent, received) < most) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("one rank exchanges by copying", "[exec][communicator]") {
  std::vector<float> send(1000), receive(1000, -1);
  std::iota(send.begin(), send.end(), 0.0F);
  const Counts counts{1000};
  copy_communicator()->exchange({send, counts, receive, counts}, {});
  CHECK(receive == send);
}

TEST_CASE("one rank cannot receive more than it sends", "[exec][communicator]") {
  const std::vector<float> send(3);
  std::vector<float> receive(4);
  const Counts three{3}, four{4};
  CHECK_THROWS_AS(copy_communicator()->exchange({send, three, receive, four}, {}),
                  std::logic_error);
}

TEST_CASE("an emulated link passes the numbers on", "[exec][communicator]") {
  const std::vector<float> send{1, 2, 3};
  std::vector<float> receive(3);
  const Counts counts{3};
  emulate_link({}, copy_communicator())->exchange({send, counts, receive, counts}, {});
  CHECK(receive == send);
}

TEST_CASE("an emulated link takes alpha and beta for each byte", "[exec][communicator]") {
  // 20 ms + 10,000 floats * 4 bytes * 1 us = 60 ms, for the larger of both directions.
  const Link link{20ms, {1e-6}};
  for (const auto& [sent, received] : {std::pair{10000, 10000}, {10000, 10}, {10, 10000}}) {
    CAPTURE(sent, received);
    CHECK(time_of(link, 0ms, sent, received) >= 60ms);
    CHECK(once_below(160ms, link, 0ms, sent, received));
  }
  CHECK(time_of(link, 0ms, 0, 0) >= 20ms);
  CHECK(once_below(60ms, link, 0ms, 0, 0));
}

TEST_CASE("a real exchange slower than the emulated link takes no longer for it",
          "[exec][communicator]") {
  // One after the other they would take 200 + 150 ms.
  CHECK(time_of({150ms, {}}, 200ms, 1, 1) >= 200ms);
  CHECK(once_below(340ms, {150ms, {}}, 200ms, 1, 1));
}

TEST_CASE("waiting for an emulated link leaves the core to others", "[exec][communicator]") {
  const Seconds before = thread_cpu_time();
  const Seconds waited = time_of({300ms, {}}, 0ms, 1, 1);
  const Seconds burnt = thread_cpu_time() - before;
  CHECK(waited >= 300ms);
  CHECK(burnt < 0.1 * waited);
}

TEST_CASE("an exchange over an emulated link ends when it is told to stop",
          "[exec][communicator]") {
  const std::vector<float> send(1);
  std::vector<float> receive(1);
  const Counts counts{1};
  const auto communicator = emulate_link({60s, {}}, copy_communicator());
  std::stop_source stop;
  const auto start = Clock::now();
  const std::jthread stopper([&] {
    std::this_thread::sleep_for(20ms);
    stop.request_stop();
  });
  CHECK_THROWS_WITH(communicator->exchange({send, counts, receive, counts}, stop.get_token()),
                    "exchange stopped");
  CHECK(Clock::now() - start < 10s);
}

TEST_CASE("an emulated link's time may be longer than a clock counts", "[exec][communicator]") {
  // 1e300 s: more nanoseconds than 64 bits hold, which once made the wait end at once.
  const std::vector<float> send(1);
  std::vector<float> receive(1);
  const Counts counts{1};
  const auto communicator = emulate_link({.alpha = Seconds{1e300}}, std::make_unique<Waiting>(0ms));
  std::stop_source stop;
  const auto start = Clock::now();
  const std::jthread stopper([&] {
    std::this_thread::sleep_for(100ms);
    stop.request_stop();
  });
  CHECK_THROWS_AS(communicator->exchange({send, counts, receive, counts}, stop.get_token()),
                  RunError);
  CHECK(Clock::now() - start >= 100ms);
}

TEST_CASE("a link is read as a time and seconds per byte", "[exec][link]") {
  const auto check = [](const std::string& text, Seconds alpha, double beta) {
    CAPTURE(text);
    const Link link = parse_link(text);
    CHECK(link.alpha.count() == Approx(alpha.count()).epsilon(1e-12));
    CHECK(link.beta.value == Approx(beta).epsilon(1e-12));
  };
  check("alpha=1ms,beta=1e-9", Seconds{1e-3}, 1e-9);
  check("alpha=2.5us,beta=4e-10", Seconds{2.5e-6}, 4e-10);
  check("alpha=1000s,beta=1e-3", Seconds{1000}, 1e-3);
  check("alpha=1e-3s,beta=1E-6", Seconds{1e-3}, 1e-6);
  check("alpha=0s,beta=0", Seconds{0}, 0);
}

TEST_CASE("a link that cannot be read is refused with an example", "[exec][link]") {
  const std::string text = GENERATE(
      as<std::string>(), "", "alpha=1ms", "beta=1e-9", "alpha=1ms,",
      "alpha=1ms,beta=", "alpha=,beta=1e-9", "beta=1e-9,alpha=1ms", "alpha=1,beta=1e-9",
      "alpha=ms,beta=1e-9", "alpha=1min,beta=1e-9", "alpha=1 ms,beta=1e-9", "alpha=-1ms,beta=1e-9",
      "alpha=1ms,beta=-1e-9", "alpha=nanms,beta=1e-9", "alpha=infs,beta=1e-9", "alpha=1ms,beta=nan",
      "alpha=1ms,beta=inf", "alpha=1ms,beta=1e-9s", "alpha=1ms,beta=1e999", "alpha=1ms beta=1e-9",
      "alpha=1001s,beta=0", "alpha=0s,beta=2e-3", "alpha=1ms,beta=1e-9,beta=2e-9",
      " alpha=1ms,beta=1e-9", "alpha=1ms,beta=1e-9 ", "slow");
  CAPTURE(text);
  CHECK_THROWS_AS(parse_link(text), InputError);
  CHECK_THROWS_WITH(parse_link(text),
                    Catch::StartsWith("--link " + text) && Catch::Contains("alpha=1ms,beta=1e-9"));
}

TEST_CASE("a link names its numbers with units", "[exec][link]") {
  CHECK(to_string(parse_link("alpha=1500us,beta=2e-9")) ==
        "alpha 1.5 ms, beta 2e-09 s/byte (0.5 GB/s)");
}
