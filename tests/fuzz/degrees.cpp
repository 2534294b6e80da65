// Degrees as journals and tables have them, "4" or "4/2". (--forward-degree is a number of CLI11;
// lists of degrees are part of studies and validations.)
#include "models/schedule.hpp"
#include "tests/fuzz/target.hpp"

namespace pipemoe::fuzz::degrees_target {

bool run(std::string_view text) {
  Degrees degrees;
  if (!accepts([&] { degrees = degrees_from(std::string(text)); })) return false;
  require(degrees.forward_degree >= 1 && degrees.backward_degree >= 1, "a degree below 1");
  require(degrees_from(to_string(degrees)) == degrees, "degrees read back as others");
  const MoeLayer layer{
      .tokens_per_rank = 64, .model_dim = 8, .hidden_dim = 8, .num_experts = 4, .top_k = 1};
  accepts([&] { build_graph("pipemoe", layer, cluster_of(4), degrees); });
  return true;
}

std::vector<std::string> seeds() { return {"1", "4/2", "16", "4096/1"}; }

const Registration registration({"degrees", Syntax::Bytes, run, seeds});

}  // namespace pipemoe::fuzz::degrees_target
