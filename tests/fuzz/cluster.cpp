// Cluster profiles.
#include "models/cluster_io.hpp"
#include "models/config.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::cluster_target {

bool run(std::string_view text) {
  Cluster cluster;
  ConfigFile file;
  const bool accepted = accepts([&] {
    file = ConfigFile::parse(text, "cluster.toml", "cluster");
    cluster = read_cluster(file);
  });
  if (!accepted) return false;
  require_sane(cluster);
  require_json(file.to_json(), "the profile as JSON");
  require_round_trip(cluster);
  require_usable(cluster);
  return true;
}

std::vector<std::string> seeds() {
  std::vector<std::string> texts;
  for (const char* name : {"rtx2080ti-100gib-16", "rtx2080ti-100gib-64", "h200-x2-nccl",
                           "h100-staged-1", "h100-x2-without-peer-access"}) {
    texts.push_back(shipped_toml(fmt::format("experiments/clusters/{}.toml", name), 2));
  }
  std::string tree = texts.front();
  const std::string star = "topology = \"star\"\n";
  tree.replace(tree.find(star), star.size(),
               "topology = \"fat_tree\"\nnodes_per_leaf = 2\noversubscription = 1.5\n");
  texts.push_back(tree);
  return texts;
}

const Registration registration({"cluster", Syntax::Toml, run, seeds});

}  // namespace pipemoe::fuzz::cluster_target
