#include "models/cluster_io.hpp"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <random>

#include "models/config.hpp"
#include "models/error.hpp"
#include "tests/support/random_layers.hpp"

using namespace pipemoe;
using namespace pipemoe::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;

namespace {

Cluster read(const std::string& text) {
  return read_cluster(ConfigFile::parse(text, "c.toml", "cluster"));
}

// Draws what a profile may hold.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : random_(seed) {}

  Cluster cluster() {
    Cluster made{.name = text(), .source = text()};
    made.nodes = integer(1, 64);
    made.gpus_per_node = integer(1, 8);
    const std::int64_t memory = integer(1, std::int64_t{1} << 50);
    made.gpu = {text(), {memory}, {integer(1, memory)}};
    made.nic = link();
    made.gpu_link = link();
    if (chance()) made.fat_tree = FatTree{integer(1, 64), 1 + number()};
    if (chance()) made.overlap = Overlap{slowdown(), slowdown(), text()};
    for (auto count = made.overlap ? integer(0, 3) : 0; count > 0; --count) {
      const ExpertSizes sizes{integer(1, 64), count, integer(1, 4096)};  // no two alike
      made.overlap->experts.push_back({sizes, slowdown(), slowdown()});
      if (chance()) made.overlap->experts.back().pass = chance() ? Pass::Forward : Pass::Backward;
    }
    for (auto count = integer(0, 3); count > 0; --count) {
      made.all_to_all[integer(1, 512)] = fit<Bytes>();
      if (chance()) made.all_to_all_queued[integer(1, 512)] = fit<Bytes>();
    }
    made.degrees.equal = chance();
    if (chance()) made.degrees.tolerance = 0.01;
    if (chance()) made.degrees.unequal_gain = 0.015;
    for (auto count = integer(0, 3); count > 0; --count) {
      made.all_to_all_in_layers.push_back({{integer(1, 64), count, integer(1, 4096)}, slowdown()});
    }
    for (const Dtype dtype : {Dtype::Fp32, Dtype::Bf16, Dtype::Fp16}) {
      if (chance()) made.gemm[dtype] = fit<Flops>();
    }
    for (const MemoryPass pass : kMemoryPasses) {
      if (chance()) made.passes[pass] = chance() ? PassCost{fit<Bytes>()} : NotModelled{};
    }
    if (chance()) add_experts(made);
    return made;
  }

 private:
  bool chance() { return integer(0, 1) == 1; }
  std::int64_t integer(std::int64_t from, std::int64_t to) {
    return std::uniform_int_distribution<std::int64_t>(from, to)(random_);
  }
  // Of any size, most with 17 significant digits.
  double number() {
    const double digits = std::uniform_real_distribution<double>(0, 1)(random_);
    return chance() ? digits : std::ldexp(digits, static_cast<int>(integer(-80, 9)));
  }
  Slowdown slowdown() {
    if (chance()) return 1 + number();
    Slowdown::Points points;
    double bytes = 0;
    for (auto count = integer(1, 4); count > 0; --count) {
      bytes += 1 + number();
      points.emplace_back(bytes, 1 + number());
    }
    return Slowdown(std::move(points));
  }
  std::string text() {
    static const std::string letters = "ab \"\\\n\t#='[]\x7f\x01é";
    std::string made;
    for (auto count = integer(0, 12); count > 0; --count) {
      made += letters.substr(static_cast<std::size_t>(integer(0, 13)), 1);
    }
    return chance() ? made : made + "é";
  }
  LinkPhysics link() { return {{(1 + number()) * 1e9}, (1 + number() / 600) / 2}; }

  template <class Work>
  Fit<Work> fit() {
    Fit<Work> made;
    made.model = AlphaBeta<Work>{Seconds{number()}, {number()}};
    if (chance()) {
      TimeTable table{{{number(), Seconds{number()}}}};
      for (auto count = integer(1, 4); count > 0; --count) {
        const auto [amount, time] = table.points.back();
        table.points.emplace_back(amount + 1 + number(), time + Seconds{number()});
      }
      made.model = table;
    }
    if (chance()) made.r_squared = std::min(1.0, number());
    const double from = number();
    if (chance()) made.range = WorkRange{from, from + 1 + number()};
    made.source = text();
    return made;
  }

  void add_experts(Cluster& cluster) {
    std::int64_t dim = 1;  // every shape another
    for (const Pass pass :
         {Pass::Forward, Pass::Backward, Pass::InputGradient, Pass::WeightGradient}) {
      for (const Activation activation : {Activation::Gelu, Activation::SwiGlu}) {
        const MoeLayer shape{.model_dim = dim += integer(1, 99),
                             .hidden_dim = integer(1, 999),
                             .num_experts = integer(1, 9),
                             .activation = activation};
        cluster.experts.push_back(
            {Dtype::Bf16, activation, pass, shape.gemms(pass, 0, 1), fit<Flops>()});
      }
    }
  }

  std::mt19937_64 random_;
};

constexpr const char* kFirst = R"(name = "c"
source = "s"
nodes = 1
gpus_per_node = 2
[gpu]
name = "G"
memory_bytes = 10
usable_memory_bytes = 10
link_bytes_per_s = 1
efficiency = 1
[network]
topology = "star"
nic_bytes_per_s = 1
efficiency = 1
[fits]
)";

constexpr const char* kExpert = R"([[fits.expert]]
dtype = "bf16"
activation = "swiglu"
pass = "input_gradient"
experts_per_rank = 4
model_dim = 3
hidden_dim = 5
flops = [0, 100]
seconds = [1, 3]
range_flops = [10, 50]
source = "measured"
)";

// kFirst and kExpert with the latter's only `from` replaced.
Cluster read_expert(const std::string& from = "", const std::string& to = "") {
  std::string text = kExpert;
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return read(kFirst + text.replace(at, from.size(), to));
}

}  // namespace

TEST_CASE("the shipped profiles read back as they were written", "[models][cluster][io]") {
  for (const int ranks : {16, 32, 64}) {
    const Cluster cluster = authors_cluster(ranks);
    CHECK(read(to_toml(cluster)) == cluster);
  }
}

TEST_CASE("random profiles read back to the last bit", "[models][cluster][io]") {
  Draw draw(7);
  for (int i = 0; i < 300; ++i) {
    const Cluster cluster = draw.cluster();
    const std::string text = to_toml(cluster);
    CAPTURE(i, text);
    REQUIRE(read(text) == cluster);
  }
}

TEST_CASE("a written profile reads like a shipped one", "[models][cluster][io]") {
  const std::string text = to_toml(authors_cluster(64));
  CHECK_THAT(text, Contains("nodes = 16\ngpus_per_node = 4\n"
                            "not_modelled = [\"gate\", \"permutation\", \"activation\"]\n"));
  CHECK_THAT(text, Contains("\n[fits.all_to_all.64]\nalpha_s = 0.000783\n"
                            "beta_s_per_byte = 3.84e-10\nsource = \"PipeMoE solver.py"));
}

TEST_CASE("an expert's fit is for one exact shape", "[models][cluster][io]") {
  const Cluster cluster = read_expert();
  REQUIRE(cluster.experts.size() == 1);
  const ExpertFit& expert = cluster.experts[0];
  CHECK(expert.dtype == Dtype::Bf16);
  CHECK(expert.activation == Activation::SwiGlu);
  CHECK(expert.pass == Pass::InputGradient);
  // The second matrix's gradient is 3 -> 5 wide, that of SwiGLU's first one 2 * 5 -> 3.
  CHECK(expert.gemms == GemmShapes{{4, 0, 5, 3}, {4, 0, 3, 10}});
  CHECK(expert.fit(Flops{50}) == Seconds{2});
  CHECK(expert.fit.range == WorkRange{10, 50});
}

TEST_CASE("an expert's fit that cannot be used is refused", "[models][cluster][io]") {
  const std::string where = "c.toml: fits.expert[0].";
  for (const char* key : {"dtype", "activation", "pass", "experts_per_rank", "model_dim",
                          "hidden_dim", "seconds", "source"}) {
    CAPTURE(key);
    CHECK_THROWS_WITH(read_expert(std::string(key) + " =", "# "),
                      Equals(where + key + " is missing"));
  }
  CHECK_THROWS_WITH(read_expert("bf16", "fp64"), Contains(where + "dtype is fp64, must be one of"));
  CHECK_THROWS_WITH(read_expert("swiglu", "tanh"), Contains(where + "activation is tanh"));
  CHECK_THROWS_WITH(
      read_expert("input_gradient", "sideways"),
      Equals(where + "pass is sideways, must be one of forward, backward, input_gradient, "
                     "weight_gradient"));
  CHECK_THROWS_WITH(read_expert("model_dim = 3", "model_dim = 0"), Contains("model_dim is 0"));
  CHECK_THROWS_WITH(read_expert("seconds = [1, 3]", "seconds = [3, 1]"),
                    Contains(where + "seconds") && Contains("times must not fall"));
  CHECK_THROWS_WITH(read_expert("source", "typo = 1\nsource"),
                    Contains(where + "typo is an unknown key"));
  CHECK_THROWS_WITH(read(std::string(kFirst) + kExpert + kExpert),
                    Equals("c.toml: fits.expert[1].pass of this shape is fitted twice"));
  CHECK_THROWS_WITH(read(std::string(kFirst) + "expert = 3"),
                    Equals("c.toml: fits.expert must be a list of tables"));
  CHECK_THROWS_WITH(read(std::string(kFirst) + "expert = [3]"),
                    Equals("c.toml: fits.expert holds 3, must hold tables"));
}

TEST_CASE("an overlap slows, by a factor from a source", "[models][cluster][io]") {
  const auto read_overlap = [](const std::string& keys) {
    return read(std::string(kFirst) + "[overlap]\n" + keys).overlap;
  };
  CHECK_FALSE(read(kFirst).overlap.has_value());
  CHECK(read_overlap("compute_slowdown = 1.25\ncommunication_slowdown = 1\nsource = 's'") ==
        Overlap{1.25, 1, "s"});
  const Slowdown by_bytes(Slowdown::Points{{1000, 1.5}, {2e6, 1.25}});
  CHECK(read_overlap("compute_slowdown_bytes = [1000, 2e6]\ncompute_slowdown = [1.5, 1.25]\n"
                     "communication_slowdown = 1\nsource = 's'") == Overlap{by_bytes, 1, "s"});
  CHECK_THROWS_WITH(read_overlap("compute_slowdown_bytes = [1000]\ncompute_slowdown = [1, 1]"),
                    Contains("overlap.compute_slowdown holds 2 numbers, must hold 1 as "
                             "compute_slowdown_bytes does"));
  CHECK_THROWS_WITH(read_overlap("compute_slowdown_bytes = [2, 1]\ncompute_slowdown = [1, 1]"),
                    Contains("overlap.compute_slowdown needs bytes that rise"));
  CHECK_THROWS_WITH(read_overlap("compute_slowdown = 0.5"),
                    Contains("overlap.compute_slowdown is 0.5, must be at least 1"));
  CHECK_THROWS_WITH(read_overlap("compute_slowdown = 1"),
                    Equals("c.toml: overlap.communication_slowdown is missing"));
  CHECK_THROWS_WITH(read_overlap("compute_slowdown = 1\ncommunication_slowdown = nan"),
                    Contains("communication_slowdown is nan"));
  CHECK_THROWS_WITH(
      read_overlap("compute_slowdown = 1\ncommunication_slowdown = 1\nsource = 's'\ntypo = 1"),
      Contains("overlap.typo is an unknown key"));
}

namespace {

// Of experts of one size, with more keys.
std::string expert_overlap(const std::string& keys = "") {
  return "[[overlap.expert]]\nexperts_per_rank = 2\nmodel_dim = 8\nhidden_dim = 16\n" + keys +
         "compute_slowdown = 1.5\ncommunication_slowdown = 2\n";
}

Overlap overlap_of(const std::string& experts) {
  return read(std::string(kFirst) +
              "[overlap]\ncompute_slowdown = 1\ncommunication_slowdown = 1\nsource = 's'\n" +
              experts)
      .overlap.value();
}

}  // namespace

TEST_CASE("an overlap may be of experts of their sizes", "[models][cluster][io]") {
  const std::string expert = expert_overlap();
  const Overlap overlap = overlap_of(expert);
  for (const Pass pass : {Pass::Forward, Pass::WeightGradient}) {
    REQUIRE(overlap.of({2, 8, 16}, pass) != nullptr);
    CHECK(*overlap.of({2, 8, 16}, pass) == ExpertOverlap{{2, 8, 16}, 1.5, 2});
  }
  CHECK(overlap.of({2, 8, 17}, Pass::Forward) == nullptr);
  CHECK_THROWS_WITH(overlap_of(expert + expert), Contains("stands twice"));
  CHECK_THROWS_WITH(overlap_of(expert + "typo = 1\n"), Contains("typo is an unknown key"));
}

TEST_CASE("an overlap may be of experts of one pass", "[models][cluster][io]") {
  const std::string forward = expert_overlap("pass = 'forward'\n"),
                    backward = expert_overlap("pass = 'backward'\n");
  const Overlap one = overlap_of(forward);
  CHECK(one.of({2, 8, 16}, Pass::Forward) != nullptr);
  CHECK(one.of({2, 8, 16}, Pass::InputGradient) == nullptr);
  const Overlap both = overlap_of(forward + backward);
  CHECK(both.of({2, 8, 16}, Pass::Forward)->pass == Pass::Forward);
  for (const Pass pass : {Pass::Backward, Pass::InputGradient, Pass::WeightGradient}) {
    CHECK(both.of({2, 8, 16}, pass)->pass == Pass::Backward);
  }
  CHECK_THROWS_WITH(overlap_of(forward + forward), Contains("stands twice"));
  CHECK_THROWS_WITH(overlap_of(forward + expert_overlap()), Contains("stands twice"));
  CHECK_THROWS_WITH(overlap_of(expert_overlap("pass = 'input_gradient'\n")),
                    Contains("pass must be forward or backward"));
  CHECK_THROWS_WITH(overlap_of(expert_overlap("pass = 'sideways'\n")), Contains("pass"));
}

TEST_CASE("exchanges may take longer in layers of their sizes", "[models][cluster][io]") {
  const std::string layer =
      "[[fits.all_to_all_in_layers]]\nexperts_per_rank = 2\nmodel_dim = 8\nhidden_dim = 16\n"
      "slowdown = 1.25\n";
  const Cluster cluster = read(std::string(kFirst) + layer);
  REQUIRE(cluster.all_to_all_in_layers.size() == 1);
  CHECK(cluster.all_to_all_in_layers.front() == ExchangesInLayers{{2, 8, 16}, 1.25});
  CHECK_THROWS_WITH(read(std::string(kFirst) + layer + layer), Contains("stands twice"));
  CHECK_THROWS_WITH(read(std::string(kFirst) + layer + "typo = 1\n"), Contains("typo"));
}

TEST_CASE("a profile may be of exchanges that are limited", "[models][cluster][io]") {
  CHECK(read(kFirst).exchange_ctas == 0);
  const Cluster cluster = read("exchange_ctas = 24\n" + std::string(kFirst));
  CHECK(cluster.exchange_ctas == 24);
  CHECK(read(to_toml(cluster)) == cluster);
  for (const char* wrong : {"0", "65", "true", "1.5"}) {
    CHECK_THROWS_WITH(read(fmt::format("exchange_ctas = {}\n", wrong) + kFirst),
                      Contains("exchange_ctas"));
  }
}

TEST_CASE("a profile may want one degree for both phases", "[models][cluster][io]") {
  CHECK_FALSE(read(kFirst).degrees.equal);
  CHECK(read("equal_degrees = true\n" + std::string(kFirst)).degrees.equal);
  CHECK_THROWS_WITH(read("equal_degrees = 1\n" + std::string(kFirst)), Contains("equal_degrees"));
  CHECK(read(kFirst).degrees.tolerance == 0);
  CHECK(read("degree_tolerance = 0.01\n" + std::string(kFirst)).degrees.tolerance == 0.01);
  CHECK_THROWS_WITH(read("degree_tolerance = -1\n" + std::string(kFirst)),
                    Contains("degree_tolerance"));
}
