#include "exec/execute.hpp"

#include <catch2/catch.hpp>

#include "exec/graph_runner.hpp"
#include "models/error.hpp"

using namespace pipemoe;
using namespace pipemoe::exec;
using namespace std::chrono_literals;

namespace {

// One dispatch and the expert that waits for it.
TaskGraph two_tasks() {
  TaskGraphBuilder builder("test", 1, compute_and_communication());
  const TaskId dispatch =
      builder.append({{.step = Step::Dispatch}, kCommunicationQueue, Collective{}});
  builder.depend(dispatch, builder.append({{.step = Step::Expert}, kComputeQueue, Products{}}));
  return std::move(builder).build();
}

// Says that iteration i took times[i]: the dispatch a quarter of it, the expert the rest.
class Scripted final : public Executor {
 public:
  explicit Scripted(std::vector<std::chrono::milliseconds> times) : times_(std::move(times)) {}

  std::string name() const override { return "scripted"; }
  std::map<std::string, std::string> versions() const override { return {{"script", "1"}}; }
  std::unique_ptr<GraphRunner> prepare(const TaskGraph&) override {
    return std::make_unique<Prepared>(times_, starts);
  }

  std::vector<Clock::time_point> starts;

 private:
  class Prepared final : public GraphRunner {
   public:
    Prepared(const std::vector<std::chrono::milliseconds>& times,
             std::vector<Clock::time_point>& starts)
        : times_(times), starts_(starts) {}
    void iterate(Clock::time_point start, std::span<Interval> intervals) override {
      const auto time = times_.at(starts_.size());
      intervals[0] = {start, start + time / 4};
      intervals[1] = {start + time / 4, start + time};
      starts_.push_back(start);
    }

   private:
    const std::vector<std::chrono::milliseconds>& times_;
    std::vector<Clock::time_point>& starts_;
  };

  std::vector<std::chrono::milliseconds> times_;
};

// Fails in its second iteration.
class Failing final : public Executor {
 public:
  std::string name() const override { return "failing"; }
  std::map<std::string, std::string> versions() const override { return {}; }
  std::unique_ptr<GraphRunner> prepare(const TaskGraph& graph) override {
    return std::make_unique<ThreadGraphRunner>(graph, [this](const Task& task, std::stop_token) {
      if (task.queue == kComputeQueue && ++iterations_ == 2) throw RunError("no more");
    });
  }

 private:
  int iterations_ = 0;
};

}  // namespace

TEST_CASE("a measured timeline is the iteration of median makespan", "[exec][execute]") {
  // Two warm-up iterations count for nothing; of 40 12 32 24 20 ms the median is 24: a quarter of
  // it, 6 ms, for the dispatch.
  Scripted executor({400ms, 4ms, 40ms, 12ms, 32ms, 24ms, 20ms});
  const auto group = single_process();
  const Timeline timeline = execute(two_tasks(), executor, *group, {.warm_up = 2, .repeats = 5});
  const std::vector<double> expected{0.040, 0.012, 0.032, 0.024, 0.020};
  REQUIRE(timeline.repeats.size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(timeline.repeats[i].count() == Approx(expected[i]).epsilon(1e-9));
  }
  CHECK(timeline.makespan().count() == Approx(0.024).epsilon(1e-9));
  CHECK(timeline.queues == compute_and_communication());
  REQUIRE(timeline.spans.size() == 2);
  const Span &dispatch = timeline.spans[0], &expert = timeline.spans[1];
  CHECK(dispatch.task.step == Step::Dispatch);
  CHECK(dispatch.queue == kCommunicationQueue);
  CHECK(dispatch.rank == 0);
  CHECK(dispatch.start == Seconds{0});
  CHECK(dispatch.end.count() == Approx(0.006).epsilon(1e-9));
  CHECK(expert.start == dispatch.end);
  CHECK(expert.end.count() == Approx(0.024).epsilon(1e-9));
}

TEST_CASE("of an even number of iterations the lower median is shown", "[exec][execute]") {
  Scripted executor({16ms, 8ms, 12ms, 4ms});
  const auto group = single_process();
  const Timeline timeline = execute(two_tasks(), executor, *group, {.warm_up = 0, .repeats = 4});
  CHECK(timeline.makespan().count() == Approx(0.008).epsilon(1e-9));
}

TEST_CASE("a measured timeline says who measured it", "[exec][execute]") {
  Scripted executor({8ms});
  const auto group = single_process();
  const Timeline timeline = execute(two_tasks(), executor, *group, {.warm_up = 0, .repeats = 1});
  CHECK_THAT(timeline.provenance.made_by, Catch::Contains("measured") &&
                                              Catch::Contains("1 rank:") &&
                                              Catch::Contains("scripted"));
  CHECK(timeline.provenance.versions.at("script") == "1");
  CHECK_FALSE(timeline.provenance.host.empty());
}

TEST_CASE("progress counts measured iterations", "[exec][execute]") {
  Scripted executor({4ms, 4ms, 4ms});
  const auto group = single_process();
  std::vector<std::pair<std::size_t, std::size_t>> seen;
  execute(two_tasks(), executor, *group,
          {.warm_up = 1, .repeats = 2, .progress = [&](std::size_t done, std::size_t total) {
             seen.emplace_back(done, total);
           }});
  CHECK(seen == std::vector<std::pair<std::size_t, std::size_t>>{{1, 2}, {2, 2}});
}

TEST_CASE("tasks of each measured iteration are told apart", "[exec][execute]") {
  Scripted executor({400ms, 8ms, 16ms});
  const auto group = single_process();
  const auto times =
      measure_tasks({two_tasks()}, executor, *group, {.warm_up = 1, .repeats = 2}).front();
  const auto& tasks = times.iterations;
  REQUIRE(tasks.size() == 2);
  CHECK(tasks[0][0].duration().count() == Approx(0.002).epsilon(1e-9));
  CHECK(tasks[0][1].duration().count() == Approx(0.006).epsilon(1e-9));
  CHECK(tasks[1][1].start.count() == Approx(0.004).epsilon(1e-9));
  CHECK(tasks[1][1].end.count() == Approx(0.016).epsilon(1e-9));
  CHECK(times.disturbance == std::vector{Seconds{}, Seconds{}});  // these spans cost nothing
  CHECK(times.makespans[0].count() == Approx(0.008).epsilon(1e-9));
}

TEST_CASE("iterations begin one after another", "[exec][execute]") {
  Scripted executor({1ms, 1ms, 1ms, 1ms});
  const auto group = single_process();
  const auto before = Clock::now();
  execute(two_tasks(), executor, *group, {.warm_up = 1, .repeats = 3});
  REQUIRE(executor.starts.size() == 4);
  CHECK(executor.starts.front() > before);
  CHECK(std::is_sorted(executor.starts.begin(), executor.starts.end()));
}

TEST_CASE("a failure in an iteration ends the measurement", "[exec][execute]") {
  Failing executor;
  const auto group = single_process();
  const TaskGraph graph = two_tasks();
  CHECK_THROWS_WITH(execute(graph, executor, *group, {.warm_up = 0, .repeats = 5}), "no more");
}

TEST_CASE("no iterations are not a measurement", "[exec][execute]") {
  Scripted executor({1ms});
  const auto group = single_process();
  CHECK_THROWS_AS(execute(two_tasks(), executor, *group, {.warm_up = 0, .repeats = 0}),
                  std::logic_error);
}

namespace {

// Makespans of measure_makespan() are ten times those that spans have.
class Disturbed final : public Executor {
 public:
  std::string name() const override { return "disturbed"; }
  std::map<std::string, std::string> versions() const override { return {}; }
  std::unique_ptr<GraphRunner> prepare(const TaskGraph&) override {
    return std::make_unique<Prepared>(*this);
  }

  int runs = 0, iterations = 0;

 private:
  class Prepared final : public GraphRunner {
   public:
    explicit Prepared(Disturbed& of) : of_(of) {}
    bool spans_disturb() const override { return true; }
    Seconds measure_makespan(Clock::time_point) override { return Seconds{1.0 * ++of_.runs}; }
    void iterate(Clock::time_point start, std::span<Interval> intervals) override {
      ++of_.iterations;
      intervals[0] = {start, start + 1ms};
      intervals[1] = {start + 1ms, start + 1ms * of_.iterations};
    }

   private:
    Disturbed& of_;
  };
};

}  // namespace

TEST_CASE("spans may be taken of some iterations only", "[exec][execute]") {
  Disturbed executor;
  const auto group = single_process();
  const std::vector graphs{two_tasks()};
  const auto timelines = execute(graphs, executor, *group,
                                 {.warm_up = 2, .repeats = 6, .rounds = 2, .spans_every = 2});
  // Turns of three iterations, two of them with spans, behind 2 and 1 that only warm up.
  CHECK(executor.runs == 6);
  CHECK(executor.iterations == 2 + 2 + 1 + 2);
  REQUIRE(timelines.front().repeats.size() == 6);
  CHECK(timelines.front().repeats.back() == Seconds{6});
  // Those with spans take 3, 4, 6 and 7 ms: the lower median.
  CHECK(timelines.front().makespan().count() == Approx(0.004));
}

TEST_CASE("a summary holds least, median and most", "[exec][statistics]") {
  const Summary odd = summarize({3, 1, 2});
  CHECK(odd.minimum == 1);
  CHECK(odd.median == 2);
  CHECK(odd.maximum == 3);
  CHECK(summarize({4, 1, 3, 2}).median == 2.5);
  const Summary one = summarize({7});
  CHECK(one.minimum == 7);
  CHECK(one.median == 7);
  CHECK(one.maximum == 7);
  CHECK(one.outliers.empty());
}

TEST_CASE("values beyond five median deviations are outliers", "[exec][statistics]") {
  // Median 10.5, deviations 2.5 1.5 0.5 0.5 1.5 7.5: median 1.5, so 7.5 is just within 5 of them.
  CHECK(summarize({8, 9, 10, 11, 12, 18}).outliers.empty());
  // Median 10.5, deviations 2.5 1.5 0.5 0.5 1.5 7.6: median 1.5, limit 7.5.
  CHECK(summarize({8, 9, 10, 11, 12, 18.1}).outliers == std::vector<std::size_t>{5});
  // Median 9.5, deviations 1.5 0.5 0.5 1.5 2.5 109.5: median 1.5 again, on the other side.
  CHECK(summarize({-100, 8, 9, 10, 11, 12}).outliers == std::vector<std::size_t>{0});
}

TEST_CASE("a tight series has no outliers within five percent", "[exec][statistics]") {
  // All but one equal: no deviation at the median, so the limit is 5 % of 100.
  CHECK(summarize({100, 100, 100, 100, 104.9}).outliers.empty());
  CHECK(summarize({100, 105.1, 100, 94.9, 100, 100, 100}).outliers ==
        std::vector<std::size_t>{1, 3});
}

TEST_CASE("the median's index is that of a value that occurs", "[exec][statistics]") {
  CHECK(median_index({5}) == 0);
  CHECK(median_index({3, 1, 2}) == 2);
  CHECK(median_index({4, 1, 3, 2}) == 3);  // the lower of 2 and 3
  CHECK(median_index({2, 1, 2, 2}) == 0);  // the first of equals
}

TEST_CASE("statistics of nothing are refused", "[exec][statistics]") {
  CHECK_THROWS_AS(summarize({}), std::logic_error);
  CHECK_THROWS_AS(median_index({}), std::logic_error);
}
