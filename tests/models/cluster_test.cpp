// Cluster profiles: what their files may hold (models/cluster.hpp), and that they read back as they
// were written (models/cluster_io.hpp).
#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <cmath>

#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "models/error.hpp"
#include "tests/support/random_layers.hpp"

namespace pipemoe::cluster_test {

using namespace test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;

namespace {

constexpr const char* kCluster = R"(
schema = "pipemoe.cluster/2"
name = "two"
source = "made up"
nodes = 2
gpus_per_node = 1
not_modelled = ["gate", "permutation"]
[gpu]
name = "G"
memory_bytes = 1000
usable_memory_bytes = 900
link_bytes_per_s = 2e9
efficiency = 0.5
[network]
topology = "star"
nic_bytes_per_s = 1e9
efficiency = 0.8
[fits.all_to_all.2]
alpha_s = 0.5
beta_s_per_byte = 0.25
r_squared = 0.99
range_bytes = [10, 1000.5]
source = "measured"
[fits.gemm.bf16]
flops = [1e6, 2e6, 4e6]
seconds = [1, 1, 2]
source = "measured"
[fits.activation]
alpha_s = 0
beta_s_per_byte = 1e-9
source = "measured"
)";

Cluster read(std::string_view text, std::vector<Override> overrides = {}) {
  return read_cluster(ConfigFile::parse(text, "c.toml", "cluster", std::move(overrides)));
}

Cluster read_with(const std::string& key, const std::string& value) {
  return read(kCluster, {{key, value}});
}

// kCluster with its only occurrence of `from` replaced.
Cluster read_edited(const std::string& from, const std::string& to) {
  std::string text = kCluster;
  const auto at = text.find(from);
  REQUIRE(at != std::string::npos);
  return read(text.replace(at, from.size(), to));
}

const Fit<Bytes>& all_to_all_fit(const Cluster& cluster) {
  return cluster.collectives.at({CollectiveKind::AllToAll, cluster.all_ranks()});
}

}  // namespace

TEST_CASE("the authors' clusters carry the published constants", "[models][cluster]") {
  struct Published {
    int ranks;
    double alpha_s, beta_s_per_byte;
  };
  for (const auto& [ranks, alpha, beta] :
       {Published{16, 5.70e-4, 2.96e-10}, {32, 2.09e-4, 3.55e-10}, {64, 7.83e-4, 3.84e-10}}) {
    CAPTURE(ranks);
    const Cluster cluster = authors_cluster(ranks);
    CHECK(cluster.num_ranks() == ranks);
    CHECK(cluster.gpus_per_node == 4);
    CHECK(*all_to_all_fit(cluster).line() == AlphaBeta<Bytes>{Seconds{alpha}, {beta}});
    // 3.73e-14 s for each 4 * multiply-accumulate, which is 2 flops: 7.46e-14 s a flop.
    CHECK(*cluster.gemm.at(Dtype::Fp32).line() ==
          AlphaBeta<Flops>{Seconds{1.5e-4}, {2 * 3.73e-14}});
    for (const MemoryKernel kernel :
         {MemoryKernel::Gate, MemoryKernel::Permutation, MemoryKernel::Activation}) {
      CHECK(std::holds_alternative<NotModelled>(cluster.kernels.at(kernel)));
    }
  }
}

TEST_CASE("the authors' physics give the published slopes within 1.9 %", "[models][cluster]") {
  // A node's 4 GPUs send (P - 4) / P of their bytes through its one link.
  for (const int ranks : {16, 32, 64}) {
    CAPTURE(ranks);
    const Cluster cluster = authors_cluster(ranks);
    const double physical = (ranks - 4.0) / ranks * 4 / cluster.nic.payload().value;
    const double published = all_to_all_fit(cluster).line()->beta.value;
    CHECK(std::abs(physical / published - 1) < 0.0195);
  }
}

TEST_CASE("a cluster profile is read whole", "[models][cluster]") {
  const Cluster cluster = read(kCluster);
  CHECK(cluster.name == "two");
  CHECK(cluster.source == "made up");
  CHECK(cluster.nodes == 2);
  CHECK(cluster.gpus_per_node == 1);
  CHECK(cluster.gpu == Gpu{"G", {1000}, {900}});
  CHECK(cluster.gpu_link == LinkPhysics{{2e9}, 0.5});
  CHECK(cluster.gpu_link.payload().value == 1e9);
  CHECK(cluster.nic == LinkPhysics{{1e9}, 0.8});
  CHECK_FALSE(cluster.fat_tree.has_value());
  const Fit<Bytes>& exchange = all_to_all_fit(cluster);
  CHECK(exchange(Bytes{8}) == Seconds{2.5});
  CHECK(exchange.r_squared == 0.99);
  CHECK(exchange.range == WorkRange{10, 1000.5});
  CHECK(exchange.source == "measured");
  CHECK(std::holds_alternative<Fit<Bytes>>(cluster.kernels.at(MemoryKernel::Activation)));
  CHECK(std::holds_alternative<NotModelled>(cluster.kernels.at(MemoryKernel::Gate)));
}

TEST_CASE("a fit may be a table", "[models][cluster]") {
  const Cluster cluster = read(kCluster);
  const Fit<Flops>& gemm = cluster.gemm.at(Dtype::Bf16);
  CHECK(gemm.line() == nullptr);
  CHECK(gemm(Flops{3e6}) == Seconds{1.5});
  CHECK_FALSE(gemm.range.has_value());
  CHECK_FALSE(gemm.r_squared.has_value());
}

TEST_CASE("an invalid table is refused where it is", "[models][cluster]") {
  CHECK_THROWS_WITH(read_with("fits.gemm.bf16.seconds", "[1, 2]"),
                    Contains("fits.gemm.bf16.seconds holds 2 numbers, must hold 3 as flops does"));
  CHECK_THROWS_WITH(read_with("fits.gemm.bf16.seconds", "[1, 2, 1]"),
                    Contains("fits.gemm.bf16.seconds") && Contains("times must not fall"));
  CHECK_THROWS_WITH(read_with("fits.gemm.bf16.flops", "[1, 1, 2]"),
                    Contains("amounts must increase"));
  CHECK_THROWS_AS(read_with("fits.gemm.bf16.seconds", "[1, nan, 2]"), InputError);
  CHECK_THROWS_WITH(read_with("fits.gemm.bf16.alpha_s", "1"), Contains("exclude each other"));
  CHECK_THROWS_WITH(read_edited("flops = [1e6, 2e6, 4e6]\n", ""),
                    Equals("c.toml: fits.gemm.bf16.flops is missing"));
}

TEST_CASE("a kernel is known, and fitted or not modelled, once", "[models][cluster]") {
  CHECK_THROWS_WITH(
      read_with("not_modelled", "['gates']"),
      Contains("not_modelled is gates, must be one of gate, permutation, activation"));
  CHECK_THROWS_WITH(read_with("not_modelled", "['gate', 'gate']"),
                    Contains("has a fit or is listed twice"));
  CHECK_THROWS_WITH(read_with("not_modelled", "['activation']"), Contains("has a fit"));
  CHECK_THROWS_WITH(read_edited("[fits.activation]", "[fits.softmax]"),
                    Contains("fits.softmax is an unknown key"));
}

TEST_CASE("a kernel may be fitted or left out by its own name", "[models][cluster]") {
  const Cluster cluster = read(std::string(kCluster) + "[fits.unpermute_backward]\n" +
                               "alpha_s = 7\nbeta_s_per_byte = 0\nsource = 'measured'\n");
  const auto& fit = std::get<Fit<Bytes>>(cluster.kernels.at(MemoryKernel::UnpermuteBackward));
  CHECK(fit(Bytes{1}) == Seconds{7});
  CHECK_FALSE(cluster.kernels.contains(MemoryKernel::Unpermute));
  const Cluster partly = read_edited("\"gate\", ", "\"gate_backward\", ");
  CHECK(std::holds_alternative<NotModelled>(partly.kernels.at(MemoryKernel::GateBackward)));
  CHECK_FALSE(partly.kernels.contains(MemoryKernel::Gate));
}

TEST_CASE("collectives are fitted by kind and group, products by dtype", "[models][cluster]") {
  const auto renamed = [](const std::string& kind, const std::string& group) {
    return read_edited("fits.all_to_all.2]", "fits." + kind + "." + group + "]").collectives;
  };
  using Key = std::pair<CollectiveKind, Group>;
  CHECK(renamed("all_to_all", "2").contains(Key{CollectiveKind::AllToAll, {2, 1}}));
  CHECK(renamed("all_to_all", "16x4").contains(Key{CollectiveKind::AllToAll, {16, 4}}));
  CHECK(renamed("all_reduce", "2").contains(Key{CollectiveKind::AllReduce, {2, 1}}));
  CHECK(renamed("all_gather", "2").contains(Key{CollectiveKind::AllGather, {2, 1}}));
  CHECK(renamed("reduce_scatter", "2").contains(Key{CollectiveKind::ReduceScatter, {2, 1}}));
  CHECK_THROWS_WITH(renamed("all_to_all_queued", "2"),
                    Contains("fits.all_to_all_queued is an unknown key"));
  for (const char* group : {"0", "-2", "two", "2x", "99999999999999999999"}) {
    CAPTURE(group);
    CHECK_THROWS_WITH(renamed("all_to_all", group), Contains("must be a number of ranks"));
  }
  CHECK_THROWS_WITH(renamed("broadcast", "2"), Contains("fits.broadcast is an unknown key"));
  CHECK_THROWS_WITH(read_edited("gemm.bf16", "gemm.fp64"),
                    Contains("fits.gemm.fp64") && Contains("must be one of fp32"));
}

TEST_CASE("a fit's numbers are finite and not negative", "[models][cluster]") {
  for (const char* value : {"nan", "inf", "-1e-9", "'fast'"}) {
    CAPTURE(value);
    for (const char* key : {"alpha_s", "beta_s_per_byte"}) {
      CHECK_THROWS_WITH(read_with(std::string("fits.all_to_all.2.") + key, value),
                        Contains(std::string("fits.all_to_all.2.") + key + " is "));
    }
  }
  CHECK_THROWS_WITH(read_edited("alpha_s = 0.5", "alpha_s = nan"),
                    Contains("c.toml: fits.all_to_all.2.alpha_s is nan"));
  CHECK_THROWS_AS(read_with("fits.all_to_all.2.r_squared", "1.5"), InputError);
  for (const char* range : {"[1]", "[2, 1]", "[1, 1]", "[-1, 1]", "[0, inf]", "7"}) {
    CAPTURE(range);
    CHECK_THROWS_WITH(read_with("fits.all_to_all.2.range_bytes", range),
                      Contains("fits.all_to_all.2.range_bytes "));
  }
}

TEST_CASE("a fit says where it comes from and nothing unknown", "[models][cluster]") {
  CHECK_THROWS_WITH(read_edited("range_bytes = [10, 1000.5]\nsource = \"measured\"\n", ""),
                    Equals("c.toml: fits.all_to_all.2.source is missing"));
  CHECK_THROWS_WITH(read_with("fits.all_to_all.2.beta_s_per_flop", "1"),
                    Contains("beta_s_per_flop is an unknown key"));
  CHECK_THROWS_WITH(read_with("typo", "1"), Contains("typo is an unknown key"));
}

TEST_CASE("a fat tree has leaves and an oversubscription", "[models][cluster]") {
  const auto network = [](const std::string& keys) {
    return read_edited("topology = \"star\"", keys);
  };
  const std::string fat = "topology = \"fat_tree\"\n", leaf = "nodes_per_leaf = 1\n",
                    over = "oversubscription = 2.5\n";
  CHECK(network(fat + leaf + over).fat_tree == FatTree{1, 2.5});
  CHECK_THROWS_WITH(network(fat + over), Contains("network.nodes_per_leaf is missing"));
  CHECK_THROWS_WITH(network(fat + leaf), Contains("network.oversubscription is missing"));
  CHECK_THROWS_WITH(network(fat + leaf + "oversubscription = 0.5"), Contains("at least 1"));
  CHECK_THROWS_AS(network(fat + "nodes_per_leaf = 0\n" + over), InputError);
  CHECK_THROWS_WITH(network("topology = \"star\"\n" + leaf), Contains("nodes_per_leaf is an unk"));
  CHECK_THROWS_WITH(network("topology = \"torus\""),
                    Equals("c.toml: network.topology is torus, must be star or fat_tree"));
}

TEST_CASE("links have a positive bandwidth and an efficiency above 0 and at most 1",
          "[models][cluster]") {
  for (const char* link : {"gpu", "network"}) {
    const std::string efficiency = std::string(link) + ".efficiency";
    for (const char* value : {"0", "-0.5", "1.01", "nan", "inf"}) {
      CAPTURE(efficiency, value);
      CHECK_THROWS_WITH(read_with(efficiency, value), Contains(efficiency + " is "));
    }
    CHECK_NOTHROW(read_with(efficiency, "1"));
  }
  for (const char* value : {"0", "-1e9", "nan", "inf", "1e16"}) {
    CAPTURE(value);
    CHECK_THROWS_AS(read_with("network.nic_bytes_per_s", value), InputError);
    CHECK_THROWS_AS(read_with("gpu.link_bytes_per_s", value), InputError);
  }
}

TEST_CASE("sizes are positive, and usable memory is part of memory", "[models][cluster]") {
  for (const char* key : {"nodes", "gpus_per_node", "gpu.memory_bytes"}) {
    for (const char* value : {"0", "-1", "1.5", "1000000000000000000"}) {
      CAPTURE(key, value);
      CHECK_THROWS_WITH(read_with(key, value), Contains(std::string(key) + " is "));
    }
  }
  CHECK_THROWS_WITH(read_with("gpu.usable_memory_bytes", "1001"), Contains("must be 1..1000"));
  CHECK_NOTHROW(read_with("gpu.usable_memory_bytes", "1000"));
}

TEST_CASE("a profile without one of its tables or keys is refused", "[models][cluster]") {
  for (const char* key : {"name", "source", "nodes", "gpus_per_node"}) {
    CAPTURE(key);
    CHECK_THROWS_WITH(read_edited("\n" + std::string(key) + " = ", "\n# "),
                      Equals("c.toml: " + std::string(key) + " is missing"));
  }
  CHECK_THROWS_WITH(read("schema = 'pipemoe.cluster/2'\nname = 'a'\nsource = 'b'\nnodes = 1\n"
                         "gpus_per_node = 1\n"),
                    Equals("c.toml: gpu is missing"));
}

}  // namespace pipemoe::cluster_test
