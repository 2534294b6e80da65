// Profiles read back as they were written; contention, experts and conditions; version 1.
#include "models/cluster_io.hpp"

#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <limits>
#include <random>

#include "models/config.hpp"
#include "models/error.hpp"
#include "models/layer.hpp"
#include "tests/support/random_layers.hpp"

namespace pipemoe::cluster_io_test {

using namespace test;
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
    if (chance()) made.contention = Contention{slowdowns(), text()};
    for (auto count = made.contention ? integer(0, 3) : 0; count > 0; --count) {
      const ExpertSizes sizes{integer(1, 64), count, integer(1, 4096)};  // no two alike
      made.contention->experts.push_back({sizes, slowdowns()});
    }
    for (auto count = integer(0, 3); count > 0; --count) {
      made.collectives[collective()] = {fit<Bytes>(), chance() ? Seconds{number()} : Seconds{}};
    }
    for (auto count = integer(0, 4); count > 0; --count) made.conditions[text()] = condition();
    for (const Dtype dtype : {Dtype::Fp32, Dtype::Bf16, Dtype::Fp16}) {
      if (chance()) made.gemm[dtype] = fit<Flops>();
    }
    for (std::size_t i = 0; i < kMemoryKernels; ++i) {
      if (!chance()) continue;
      made.kernels[static_cast<MemoryKernel>(i)] =
          chance() ? KernelCost{fit<Bytes>()} : NotModelled{};
    }
    if (chance()) add_experts(made);
    return made;
  }

 private:
  bool chance() { return integer(0, 1) == 1; }
  std::int64_t integer(std::int64_t from, std::int64_t to) {
    return std::uniform_int_distribution<std::int64_t>(from, to)(random_);
  }
  // Any size, most with 17 significant digits.
  double number() {
    const double digits = std::uniform_real_distribution<double>(0, 1)(random_);
    return chance() ? digits : std::ldexp(digits, static_cast<int>(integer(-80, 9)));
  }
  SlowdownsByKind slowdowns() {
    return {{1 + number(), 1 + number()}, {1 + number(), 1 + number()}};
  }
  std::string text() {
    static const std::string letters = "ab \"\\#='[]{},.é";
    std::string made;
    for (auto count = integer(0, 12); count > 0; --count) {
      made += letters.substr(static_cast<std::size_t>(integer(0, 12)), 1);
    }
    return chance() ? made : made + "é";
  }
  std::pair<CollectiveKind, Group> collective() {
    return {static_cast<CollectiveKind>(integer(0, 3)), {integer(1, 512), integer(1, 2)}};
  }
  // Any sign, whole or not.
  Condition condition() {
    switch (integer(0, 4)) {
      case 0:
        return chance();
      case 1:
        return integer(std::numeric_limits<std::int64_t>::min(),
                       std::numeric_limits<std::int64_t>::max());
      case 2:
        return static_cast<double>(integer(-100, 100));
      case 3:
        return (chance() ? -1 : 1) * std::ldexp(number(), static_cast<int>(integer(-900, 900)));
      default:
        return text();
    }
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
    for (const ProductKind kind : {ProductKind::Forward, ProductKind::BothGradients,
                                   ProductKind::InputGradient, ProductKind::WeightGradient}) {
      for (const Activation activation : {Activation::Gelu, Activation::SwiGlu}) {
        const MoeLayer shape{.model_dim = dim += integer(1, 99),
                             .hidden_dim = integer(1, 999),
                             .num_experts = integer(1, 9),
                             .activation = activation};
        cluster.experts.push_back(
            {Dtype::Bf16, activation, kind, shape.gemms(kind, 1), fit<Flops>()});
      }
    }
  }

  std::mt19937_64 random_;
};

constexpr const char* kFirst = R"(schema = "pipemoe.cluster/2"
name = "c"
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
kind = "input_gradient"
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
  CHECK(expert.kind == ProductKind::InputGradient);
  // The second matrix's gradient is 3 -> 5 wide, that of SwiGLU's first one 2 * 5 -> 3.
  CHECK(expert.shapes == GemmShapes{{4, 0, 5, 3}, {4, 0, 3, 10}});
  CHECK(expert.fit(Flops{50}) == Seconds{2});
  CHECK(expert.fit.range == WorkRange{10, 50});
}

TEST_CASE("an expert's fit that cannot be used is refused", "[models][cluster][io]") {
  const std::string where = "c.toml: fits.expert[0].";
  for (const char* key : {"dtype", "activation", "kind", "experts_per_rank", "model_dim",
                          "hidden_dim", "seconds", "source"}) {
    CAPTURE(key);
    CHECK_THROWS_WITH(read_expert(std::string(key) + " =", "# "),
                      Equals(where + key + " is missing"));
  }
  CHECK_THROWS_WITH(read_expert("bf16", "fp64"), Contains(where + "dtype is fp64, must be one of"));
  CHECK_THROWS_WITH(read_expert("swiglu", "tanh"), Contains(where + "activation is tanh"));
  CHECK_THROWS_WITH(
      read_expert("input_gradient", "sideways"),
      Equals(where + "kind is sideways, must be one of forward, input_gradient, weight_gradient, "
                     "both_gradients"));
  CHECK_THROWS_WITH(read_expert("model_dim = 3", "model_dim = 0"), Contains("model_dim is 0"));
  CHECK_THROWS_WITH(read_expert("seconds = [1, 3]", "seconds = [3, 1]"),
                    Contains(where + "seconds") && Contains("times must not fall"));
  CHECK_THROWS_WITH(read_expert("source", "typo = 1\nsource"),
                    Contains(where + "typo is an unknown key"));
  CHECK_THROWS_WITH(read(std::string(kFirst) + kExpert + kExpert),
                    Equals("c.toml: fits.expert[1].model_dim of this shape is fitted twice"));
  CHECK_THROWS_WITH(read(std::string(kFirst) + "expert = 3"),
                    Equals("c.toml: fits.expert must be a list of tables"));
  CHECK_THROWS_WITH(read(std::string(kFirst) + "expert = [3]"),
                    Equals("c.toml: fits.expert holds 3, must hold tables"));
}

namespace {

constexpr const char* kPairs =
    "forward = {products = 1.25, collectives = 1}\ngradients = {products = 1.5, collectives = 2}\n";
const SlowdownsByKind kRead{{1.25, 1}, {1.5, 2}};

Cluster with_contention(const std::string& keys) {
  return read(std::string(kFirst) + "[contention]\n" + keys);
}

// Contention of experts of one size.
std::string expert_contention(const std::string& pairs = kPairs) {
  return "[[contention.expert]]\nexperts_per_rank = 2\nmodel_dim = 8\nhidden_dim = 16\n" + pairs;
}

}  // namespace

TEST_CASE("contention slows, by a pair of factors for each kind of product",
          "[models][cluster][io]") {
  CHECK_FALSE(read(kFirst).contention.has_value());
  const std::string pairs(kPairs);
  CHECK(with_contention(pairs + "source = 's'").contention == Contention{kRead, "s"});
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = pairs + "source = 's'\n";
    text.replace(text.find(from), from.size(), to);
    return text;
  };
  CHECK_THROWS_WITH(with_contention(changed("1.25", "0.5")),
                    Contains("contention.forward.products is 0.5, must be at least 1"));
  CHECK_THROWS_WITH(with_contention(changed("1.25", "nan")), Contains("forward.products is nan"));
  CHECK_THROWS_WITH(with_contention(changed("1.25", "[1, 2]")), Contains("forward.products"));
  CHECK_THROWS_WITH(with_contention(changed(", collectives = 2", "")),
                    Equals("c.toml: contention.gradients.collectives is missing"));
  CHECK_THROWS_WITH(with_contention(changed("gradients", "backward")),
                    Equals("c.toml: contention.gradients is missing"));
  CHECK_THROWS_WITH(with_contention(changed("source", "typo = 1\nsource")),
                    Contains("contention.typo is an unknown key"));
  CHECK_THROWS_WITH(with_contention(changed("products = 1.25", "products = 1.25, typo = 1")),
                    Contains("contention.forward.typo is an unknown key"));
  CHECK_THROWS_WITH(with_contention(kPairs), Equals("c.toml: contention.source is missing"));
}

TEST_CASE("contention may be of experts of their sizes", "[models][cluster][io]") {
  const std::string general =
      "forward = {products = 1, collectives = 1}\ngradients = {products = 1, collectives = 1}\n"
      "source = 's'\n";
  const Contention contention = with_contention(general + expert_contention()).contention.value();
  CHECK(contention == Contention{{}, "s", {{{2, 8, 16}, kRead}}});
  const MoeLayer layer{.model_dim = 8, .hidden_dim = 16, .num_experts = 2};
  const auto of = [&](std::int64_t hidden_dim, ProductKind kind) {
    MoeLayer wide = layer;
    wide.hidden_dim = hidden_dim;
    return contention.of({{.step = Step::Expert}, 0, wide.products(kind, std::int64_t{2}, 1)});
  };
  CHECK(of(16, ProductKind::Forward) == kRead.forward);
  for (const ProductKind kind :
       {ProductKind::InputGradient, ProductKind::WeightGradient, ProductKind::BothGradients}) {
    CHECK(of(16, kind) == kRead.gradients);
  }
  CHECK(of(17, ProductKind::Forward) == Slowdowns{});
  CHECK_THROWS_WITH(with_contention(general + expert_contention() + expert_contention()),
                    Contains("is there twice"));
  CHECK_THROWS_WITH(with_contention(general + expert_contention() + "typo = 1\n"),
                    Contains("typo is an unknown key"));
  CHECK_THROWS_WITH(with_contention(general + expert_contention("")),
                    Contains("forward is missing"));
}

TEST_CASE("a collective's fit may say what it saves when queued", "[models][cluster][io]") {
  const auto with = [](const std::string& saving) {
    return read(std::string(kFirst) +
                "[fits.all_to_all.2]\nalpha_s = 1\nbeta_s_per_byte = 1\nsource = 's'\n" + saving)
        .collectives.begin()
        ->second.queued_saving;
  };
  CHECK(with("") == Seconds{});
  CHECK(with("queued_saving_s = 5e-6\n") == Seconds{5e-6});
  CHECK_THROWS_WITH(with("queued_saving_s = -1\n"), Contains("queued_saving_s is -1"));
  CHECK_THROWS_WITH(read(std::string(kFirst) + "[fits.gate]\nalpha_s = 1\nbeta_s_per_byte = 1\n"
                                               "source = 's'\nqueued_saving_s = 1\n"),
                    Contains("queued_saving_s is an unknown key"));
}

TEST_CASE("conditions are kept as they are, of four types", "[models][cluster][io]") {
  const auto with = [](const std::string& conditions) {
    return read(std::string(kFirst) + "[conditions]\n" + conditions).conditions;
  };
  CHECK(read(kFirst).conditions.empty());
  const Conditions conditions = with(
      "ctas = 24\nequal_degrees = true\ntolerance = 1.0\nshift = -0.5\n\"nccl version\" = '2'\n");
  CHECK(conditions == Conditions{{"ctas", std::int64_t{24}},
                                 {"equal_degrees", true},
                                 {"tolerance", 1.0},
                                 {"shift", -0.5},
                                 {"nccl version", std::string("2")}});
  for (const char* wrong : {"x = [1]", "x = nan", "x = -inf", "x = 2024-01-01"}) {
    CAPTURE(wrong);
    CHECK_THROWS_WITH(with(wrong), Contains("conditions.x"));
  }
  for (const char* wrong :
       {"degree_tolerance = -1", "degree_tolerance = 'much'", "unequal_degrees_gain = 2",
        "equal_degrees = 1", "exchange_ctas = 1e300", "exchange_ctas = 65"}) {
    CAPTURE(wrong);
    CHECK_THROWS_WITH(with(wrong), Contains("conditions.") && Contains("must be"));
  }
}

TEST_CASE("physical quantities have ranges", "[models][cluster][io]") {
  const auto refused = [](const std::string& key, const std::string& value) {
    CAPTURE(key, value);
    const std::string path = PIPEMOE_SOURCE_DIR "/experiments/clusters/rtx2080ti-100gib-64.toml";
    const std::string last = key.substr(key.rfind('.') + 1);
    CHECK_THROWS_WITH(read_cluster(ConfigFile::load(path, "cluster", {{key, value}})),
                      Contains("--set cluster." + key) && Contains(last));
  };
  for (const char* value : {"0", "4.9e-324", "0.9", "1e16", "-1", "inf", "nan"}) {
    refused("network.nic_bytes_per_s", value);
    refused("gpu.link_bytes_per_s", value);
  }
  for (const char* value : {"0", "4.9e-324", "1.01"}) refused("network.efficiency", value);
  for (const char* value : {"1001", "1e308", "-1e-12"}) {
    refused("fits.all_to_all.64.beta_s_per_byte", value);
    refused("fits.gemm.fp32.beta_s_per_flop", value);
  }
  for (const char* value : {"1001", "1e308", "-1e-12"}) {
    refused("fits.all_to_all.64.alpha_s", value);
  }
}

TEST_CASE("whole doubles of conditions stay doubles", "[models][cluster][io]") {
  Cluster cluster = authors_cluster(64);
  cluster.conditions = {{"double", 1.0},
                        {"large", 1e300},
                        {"negative", -7.0},
                        {"zero", -0.0},
                        {"2^63", 9223372036854775808.0},
                        {"integer", std::int64_t{1}},
                        {"a.b c=\"é", false}};
  const std::string text = to_toml(cluster);
  CAPTURE(text);
  CHECK(read(text).conditions == cluster.conditions);
  CHECK_THAT(text, Contains("double = 1.0\n") && Contains("integer = 1\n"));
}

// ---- version 1 ----

namespace {

// kFirst as it was before it had a schema, with what has another name or place now.
const std::string kVersion1 =
    "equal_degrees = true\ndegree_tolerance = 0.01\nexchange_ctas = 24\n" +
    std::string(kFirst).substr(std::string(kFirst).find("name ="));
constexpr const char* kOverlap = R"([overlap]
compute_slowdown = 1.5
communication_slowdown = 1.25
source = "s"
[[overlap.expert]]
experts_per_rank = 2
model_dim = 8
hidden_dim = 16
pass = "backward"
compute_slowdown = 2
communication_slowdown = 3
)";
constexpr const char* kBackwardExpert = R"([[fits.expert]]
dtype = "bf16"
activation = "relu"
pass = "backward"
experts_per_rank = 4
model_dim = 3
hidden_dim = 5
alpha_s = 1
beta_s_per_flop = 2
source = "measured"
)";

Cluster read_version_1(const std::string& text) {
  return read_version_1_cluster(ConfigFile::parse(text, "c.toml", "cluster"));
}

}  // namespace

TEST_CASE("a profile of version 1 is refused with the command that converts it",
          "[models][cluster][io]") {
  CHECK_THROWS_AS(read(kVersion1), InputError);
  CHECK_THROWS_WITH(read(kVersion1),
                    Equals("c.toml: is a profile of version 1: pipemoe import profile c.toml "
                           "--output NEW converts it"));
  CHECK_THROWS_WITH(read("schema = 'pipemoe.cluster/3'\n" + kVersion1),
                    Equals("c.toml: schema is pipemoe.cluster/3, must be pipemoe.cluster/2"));
  CHECK_THROWS_WITH(read_version_1(kFirst),
                    Equals("c.toml: schema is there: this is no profile of version 1"));
}

TEST_CASE("a profile of version 1 converts: its words, and how to choose as conditions",
          "[models][cluster][io]") {
  const Cluster cluster = read_version_1(kVersion1 + kBackwardExpert + kOverlap);
  CHECK(cluster.conditions == Conditions{{"equal_degrees", true},
                                         {"degree_tolerance", 0.01},
                                         {"exchange_ctas", std::int64_t{24}}});
  REQUIRE(cluster.experts.size() == 1);
  CHECK(cluster.experts[0].kind == ProductKind::BothGradients);
  CHECK(cluster.experts[0].shapes.size() == 4);
  REQUIRE(cluster.contention.has_value());
  // Forward experts of that size have no table of their own.
  CHECK(*cluster.contention ==
        Contention{{{1.5, 1.25}}, "s", {{{2, 8, 16}, {{1.5, 1.25}, {2, 3}}}}});
  CHECK(read(to_toml(cluster)) == cluster);
}

TEST_CASE("tables of version 1 become their medians", "[models][cluster][io]") {
  const Cluster cluster = read_version_1(
      kVersion1 +
      "[overlap]\ncompute_slowdown_bytes = [1, 2, 3]\ncompute_slowdown = [1.5, 3, 2]\n"
      "communication_slowdown = 1.25\nsource = 's'\n"
      "[[overlap.expert]]\nexperts_per_rank = 2\nmodel_dim = 8\nhidden_dim = 16\n"
      "compute_slowdown = 4\ncommunication_slowdown_bytes = [1, 2]\n"
      "communication_slowdown = [6, 5]\n");
  CHECK(cluster.contention == Contention{{{2, 1.25}}, "s", {{{2, 8, 16}, {{4, 5}}}}});
  const auto refused = [](const std::string& keys) {
    return read_version_1(kVersion1 + "[overlap]\ncommunication_slowdown = 1\nsource = 's'\n" +
                          keys);
  };
  CHECK_THROWS_WITH(refused("compute_slowdown_bytes = [1]\ncompute_slowdown = [1, 1]\n"),
                    Contains("overlap.compute_slowdown holds 2 numbers, must hold 1 as "
                             "compute_slowdown_bytes does"));
  CHECK_THROWS_WITH(
      refused("compute_slowdown_bytes = [1]\ncompute_slowdown = [0.5]\n"),
      Contains("overlap.compute_slowdown holds 0.5, must hold factors of at least 1"));
}

TEST_CASE("exchanges of version 1 save their median, and take longer as in its layers",
          "[models][cluster][io]") {
  const std::string alone =
      "[fits.all_to_all.2]\nbytes = [100, 200, 300]\nseconds = [10, 20, 30]\nsource = 's'\n";
  const std::string queued =
      "[fits.all_to_all_queued.2]\nbytes = [100, 200, 300]\nseconds = [8, 17, 18]\nsource = 's'\n";
  const std::string in_layers =
      "[[fits.all_to_all_in_layers]]\nexperts_per_rank = 2\nmodel_dim = 8\nhidden_dim = 16\n";
  const auto fit = [&](const std::string& more) {
    return read_version_1(kVersion1 + alone + more).collectives.begin()->second;
  };
  CHECK(fit("").queued_saving == Seconds{});
  // 2, 3 and 12 s less, of which the start-up is 10.
  CHECK(fit(queued).queued_saving == Seconds{3});
  CHECK(fit(queued)(Bytes{200}) == Seconds{20});
  // Queued exchanges of 8 and 17 s take 1.25 t + 2 s: 1.5 and 1.25 + 2 / 17 times as long.
  const CollectiveFit longer =
      fit(queued + in_layers + "slowdown_bytes = [100, 200]\nslowdown = [1.5, " +
          std::to_string(1.25 + 2.0 / 17) + "]\n");
  CHECK(longer(Bytes{200}).count() == Approx(1.25 * 20 + 2).epsilon(1e-4));
  CHECK(longer.queued_saving == Seconds{3});
  CHECK_THROWS_WITH(fit(in_layers + "slowdown = 0.5\n"), Contains("slowdown is 0.5"));
}

TEST_CASE("what version 1 refused is refused in converting", "[models][cluster][io]") {
  for (const char* wrong :
       {"exchange_ctas = 0", "exchange_ctas = 65", "exchange_ctas = true", "exchange_ctas = 1.5",
        "degree_tolerance = -1", "equal_degrees = 1", "unequal_degrees_gain = 2", "typo = 1"}) {
    CAPTURE(wrong);
    const std::string key = std::string(wrong).substr(0, std::string(wrong).find(' '));
    const std::string base(kFirst);
    CHECK_THROWS_WITH(read_version_1(std::string(wrong) + "\n" + base.substr(base.find("name ="))),
                      Contains(key));
  }
  // Version 2's words are not known there, nor version 1's in version 2.
  CHECK_THROWS_WITH(read_version_1(kVersion1 + "[contention]\n"), Contains("contention"));
  CHECK_THROWS_WITH(read(std::string(kFirst) + kOverlap), Contains("overlap is an unknown key"));
  CHECK_THROWS_WITH(read(std::string(kFirst) + kBackwardExpert), Contains("kind is missing"));
  CHECK_THROWS_WITH(read("equal_degrees = true\n" + std::string(kFirst)),
                    Contains("equal_degrees is an unknown key"));
}

TEST_CASE("every shipped profile reads, and reads back to the last bit", "[models][cluster][io]") {
  const std::filesystem::path folder = std::string(PIPEMOE_SOURCE_DIR) + "/experiments/clusters";
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".toml") continue;
    CAPTURE(entry.path().string());
    const Cluster cluster = shipped_cluster(entry.path().stem().string());
    CHECK(cluster.name == entry.path().stem().string());
    REQUIRE(read(to_toml(cluster)) == cluster);
    ++files;
  }
  CHECK(files >= 13);
}

}  // namespace pipemoe::cluster_io_test
