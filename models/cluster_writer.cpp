#include <fmt/core.h>
#include <fmt/ranges.h>

#include <utility>

#include "models/cluster_io.hpp"

namespace pipemoe {
namespace {

// A basic string: what TOML must not see raw is escaped.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (code < 0x20 || code == 0x7f) {
      out += fmt::format("\\u{:04x}", code);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string line(const std::string& key, const std::string& text) {
  return fmt::format("{} = {}\n", key, quoted(text));
}
std::string line(const std::string& key, std::int64_t value) {
  return fmt::format("{} = {}\n", key, value);
}
// The shortest decimal that reads back as the same double.
std::string line(const std::string& key, double value) {
  return fmt::format("{} = {}\n", key, value);
}
std::string line(const std::string& key, const std::vector<double>& values) {
  return fmt::format("{} = [{}]\n", key, fmt::join(values, ", "));
}

template <class Work>
std::string model_toml(const Fit<Work>& fit) {
  const std::string unit = unit_name<Work>();
  if (const AlphaBeta<Work>* alpha_beta = fit.line()) {
    return line("alpha_s", alpha_beta->alpha.count()) +
           line("beta_s_per_" + unit, alpha_beta->beta.value);
  }
  std::vector<double> amounts, seconds;
  for (const auto& [amount, time] : std::get<TimeTable>(fit.model).points) {
    amounts.push_back(amount);
    seconds.push_back(time.count());
  }
  return line(unit + "s", amounts) + line("seconds", seconds);
}

template <class Work>
std::string fit_toml(const Fit<Work>& fit) {
  std::string text = model_toml(fit);
  if (fit.r_squared) text += line("r_squared", *fit.r_squared);
  if (fit.range) {
    text += line(std::string("range_") + unit_name<Work>() + "s",
                 std::vector<double>{fit.range->from, fit.range->to});
  }
  return text + line("source", fit.source);
}

std::string sizes_toml(const ExpertSizes& sizes) {
  return line("experts_per_rank", sizes.experts_per_rank) + line("model_dim", sizes.model_dim) +
         line("hidden_dim", sizes.hidden_dim);
}

std::string expert_toml(const ExpertFit& expert) {
  return "\n[[fits.expert]]\n" + line("dtype", to_string(expert.dtype)) +
         line("activation", to_string(expert.activation)) + line("pass", to_string(expert.pass)) +
         sizes_toml(expert_sizes(expert.pass, expert.gemms)) + fit_toml(expert.fit);
}

std::string slowdown_toml(const std::string& key, const Slowdown& slowdown) {
  if (slowdown == Slowdown(slowdown.points().front().second)) {
    return line(key, slowdown.points().front().second);
  }
  std::vector<double> bytes, factors;
  for (const auto& [amount, factor] : slowdown.points()) {
    bytes.push_back(amount);
    factors.push_back(factor);
  }
  return line(key + "_bytes", bytes) + line(key, factors);
}

std::string fits_toml(const Cluster& cluster) {
  std::string text = "\n[fits]\n";
  for (const auto& [ranks, fit] : cluster.all_to_all) {
    text += fmt::format("\n[fits.all_to_all.{}]\n", ranks) + fit_toml(fit);
  }
  for (const auto& [ranks, fit] : cluster.all_to_all_queued) {
    text += fmt::format("\n[fits.all_to_all_queued.{}]\n", ranks) + fit_toml(fit);
  }
  for (const ExchangesInLayers& exchanges : cluster.all_to_all_in_layers) {
    text += "\n[[fits.all_to_all_in_layers]]\n" + sizes_toml(exchanges.sizes) +
            slowdown_toml("slowdown", exchanges.slowdown);
  }
  for (const auto& [dtype, fit] : cluster.gemm) {
    text += fmt::format("\n[fits.gemm.{}]\n", to_string(dtype)) + fit_toml(fit);
  }
  for (const auto& [pass, cost] : cluster.passes) {
    if (const auto* fit = std::get_if<Fit<Bytes>>(&cost)) {
      text += fmt::format("\n[fits.{}]\n", to_string(pass)) + fit_toml(*fit);
    }
  }
  for (const ExpertFit& expert : cluster.experts) text += expert_toml(expert);
  return text;
}

std::string link_toml(const std::string& bandwidth_key, const LinkPhysics& link) {
  return line(bandwidth_key, link.bandwidth.value) + line("efficiency", link.efficiency);
}

std::string network_toml(const Cluster& cluster) {
  std::string text = "\n[network]\n" + line("topology", cluster.fat_tree ? "fat_tree" : "star") +
                     link_toml("nic_bytes_per_s", cluster.nic);
  if (cluster.fat_tree) {
    text += line("nodes_per_leaf", cluster.fat_tree->nodes_per_leaf) +
            line("oversubscription", cluster.fat_tree->oversubscription);
  }
  return text;
}

template <class Slowdowns>
std::string slowdowns_toml(const Slowdowns& of) {
  return slowdown_toml("compute_slowdown", of.compute) +
         slowdown_toml("communication_slowdown", of.communication);
}

std::string overlap_toml(const Cluster& cluster) {
  if (!cluster.overlap) return "";
  std::string text =
      "\n[overlap]\n" + slowdowns_toml(*cluster.overlap) + line("source", cluster.overlap->source);
  for (const ExpertOverlap& expert : cluster.overlap->experts) {
    text += "\n[[overlap.expert]]\n" + sizes_toml(expert.sizes) +
            (expert.pass ? line("pass", to_string(*expert.pass)) : "") + slowdowns_toml(expert);
  }
  return text;
}

std::string gpu_toml(const Cluster& cluster) {
  return "\n[gpu]\n" + line("name", cluster.gpu.name) +
         line("memory_bytes", cluster.gpu.memory.count) +
         line("usable_memory_bytes", cluster.gpu.usable_memory.count) +
         link_toml("link_bytes_per_s", cluster.gpu_link);
}

std::string not_modelled_toml(const Cluster& cluster) {
  std::vector<std::string> names;
  for (const auto& [pass, cost] : cluster.passes) {
    if (std::holds_alternative<NotModelled>(cost)) names.push_back(quoted(to_string(pass)));
  }
  return names.empty() ? "" : fmt::format("not_modelled = [{}]\n", fmt::join(names, ", "));
}

}  // namespace

std::string to_toml(const Cluster& cluster) {
  return line("name", cluster.name) + line("source", cluster.source) +
         line("nodes", cluster.nodes) + line("gpus_per_node", cluster.gpus_per_node) +
         (cluster.degrees.equal ? "equal_degrees = true\n" : "") +
         (cluster.degrees.tolerance > 0 ? line("degree_tolerance", cluster.degrees.tolerance)
                                        : "") +
         (cluster.degrees.unequal_gain > 0
              ? line("unequal_degrees_gain", cluster.degrees.unequal_gain)
              : "") +
         (cluster.exchange_ctas > 0 ? line("exchange_ctas", cluster.exchange_ctas) : "") +
         not_modelled_toml(cluster) + gpu_toml(cluster) + network_toml(cluster) +
         overlap_toml(cluster) + fits_toml(cluster);
}

}  // namespace pipemoe
