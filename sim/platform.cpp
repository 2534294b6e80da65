#include "sim/platform.hpp"

#include <fmt/format.h>
#include <simgrid/version.h>

#include <array>
#include <simgrid/kernel/routing/NetZoneImpl.hpp>
#include <string>

#include "models/error.hpp"

namespace pipemoe::sim {
namespace {

namespace s4u = simgrid::s4u;

// CM02 charges bytes over bandwidth and nothing else; opposing flows do not slow each other. The
// default precisions merge events that are closer than 1e-9 s, i.e. lose whole microsecond tasks.
constexpr std::array<const char*, 4> kSettings{"network/model:CM02", "network/crosstraffic:0",
                                               "surf/precision:1e-15", "maxmin/precision:1e-12"};

s4u::LinkInRoute both_ways(const s4u::SplitDuplexLink* link) {
  return {link, s4u::LinkInRoute::Direction::UP};
}

s4u::SplitDuplexLink* add_link(s4u::NetZone* zone, const std::string& name) {
  constexpr double kUntilSetBandwidths = 1;
  auto* link = zone->create_split_duplex_link(name, kUntilSetBandwidths);
  link->set_latency(0.0);  // a collective's start-up is over when its flows begin
  return link;
}

// A route from anything in a star zone through `links` to its centre, and back.
void connect(s4u::NetZone* star, const simgrid::kernel::routing::NetPoint* point,
             const simgrid::kernel::routing::NetPoint* gateway,
             const std::vector<s4u::LinkInRoute>& links) {
  star->add_route(const_cast<simgrid::kernel::routing::NetPoint*>(point), nullptr,
                  const_cast<simgrid::kernel::routing::NetPoint*>(gateway), nullptr, links, true);
}

s4u::Host* add_host(s4u::NetZone* zone, const std::string& name,
                    const std::vector<s4u::LinkInRoute>& links) {
  constexpr double kSpeed = 1;  // nothing computes here
  s4u::Host* host = zone->create_host(name, kSpeed);
  connect(zone, host->get_netpoint(), nullptr, links);
  // A zone's seal() does not reach the CPUs of a zone without a parent.
  host->seal();
  return host;
}

// A leaf switch. Its gateway needs a zone of its own: beside sub-zones SimGrid cannot route to it.
s4u::NetZone* add_leaf(s4u::NetZone* top, const std::string& name, ClusterPlatform& platform) {
  s4u::NetZone* leaf = s4u::create_star_zone(name)->set_parent(top);
  s4u::NetZone* gateway_zone = s4u::create_star_zone(name + "-gateway")->set_parent(leaf);
  const auto* router = gateway_zone->create_router(name + "-router");
  connect(leaf, gateway_zone->get_netpoint(), router, {});
  platform.uplinks.push_back(add_link(top, name + "-uplink"));
  connect(top, leaf->get_netpoint(), router, {both_ways(platform.uplinks.back())});
  return leaf;
}

void add_node(s4u::NetZone* parent, const std::string& name, std::int64_t gpus,
              ClusterPlatform& platform) {
  s4u::NetZone* zone = s4u::create_star_zone(name)->set_parent(parent);
  const auto* router = zone->create_router(name + "-router");
  platform.nics.push_back(add_link(parent, name + "-nic"));
  connect(parent, zone->get_netpoint(), router, {both_ways(platform.nics.back())});
  platform.nodes.push_back(add_host(zone, name + "-host", {}));
  for (std::int64_t gpu = 0; gpu < gpus; ++gpu) {
    const std::string gpu_name = fmt::format("{}-gpu{}", name, gpu);
    platform.gpu_links.push_back(add_link(zone, gpu_name + "-link"));
    platform.gpus.push_back(add_host(zone, gpu_name, {both_ways(platform.gpu_links.back())}));
  }
}

void set_bandwidth(const std::vector<const s4u::SplitDuplexLink*>& links, double bytes_per_s) {
  for (const auto* link : links) {
    link->get_link_up()->set_bandwidth(bytes_per_s);
    link->get_link_down()->set_bandwidth(bytes_per_s);
  }
}

}  // namespace

void ClusterPlatform::set_bandwidths(const Cluster& cluster) {
  Bandwidths wanted{cluster.gpu_link.payload().value, cluster.nic.payload().value, 0};
  if (cluster.fat_tree) {
    const auto& [nodes_per_leaf, oversubscription] = *cluster.fat_tree;
    wanted.uplink = static_cast<double>(nodes_per_leaf) * wanted.nic / oversubscription;
  }
  if (wanted == bandwidths) return;  // a large cluster has thousands of links to set
  set_bandwidth(gpu_links, wanted.gpu_link);
  set_bandwidth(nics, wanted.nic);
  set_bandwidth(uplinks, wanted.uplink);
  bandwidths = wanted;
}

World& World::instance() {
  // Never destroyed: SimGrid tears its engine down itself when the process exits.
  static World& world = *new World;
  return world;
}

World::World() {
  static std::string program = "pipemoe", quiet = "--log=root.thres:warning";
  static std::array<char*, 3> arguments{program.data(), quiet.data(), nullptr};
  int count = 2;
  engine_ = new s4u::Engine(&count, arguments.data());
  for (const char* setting : kSettings) s4u::Engine::set_config(setting);
  root_ = s4u::create_empty_zone("root");
  for (auto* model : engine_->get_all_models()) {
    if (model->get_name() == "Network_CM02") network_model_ = model;
  }
  ensure(network_model_ != nullptr, "SimGrid has no network model CM02");
}

// The first run() seals the root zone for ever, so later platforms cannot be its children: each is
// a zone without a parent that uses the root's models.
s4u::NetZone* World::new_platform_zone() {
  s4u::NetZone* zone = s4u::create_star_zone(fmt::format("platform{}", zones_.size()));
  auto* to = zone->get_impl();
  const auto* from = root_->get_impl();
  to->set_network_model(from->get_network_model());
  to->set_cpu_pm_model(from->get_cpu_pm_model());
  to->set_cpu_vm_model(from->get_cpu_vm_model());
  to->set_disk_model(from->get_disk_model());
  to->set_host_model(from->get_host_model());
  zones_.push_back(zone);
  return zone;
}

const ClusterPlatform& World::cluster(const Cluster& cluster) {
  const Shape shape{cluster.nodes, cluster.gpus_per_node,
                    cluster.fat_tree ? cluster.fat_tree->nodes_per_leaf : 0};
  auto found = clusters_.find(shape);
  if (found == clusters_.end()) found = clusters_.emplace(shape, build(cluster)).first;
  found->second.set_bandwidths(cluster);
  return found->second;
}

ClusterPlatform World::build(const Cluster& cluster) {
  s4u::NetZone* top = new_platform_zone();
  ClusterPlatform platform;
  s4u::NetZone* parent = top;
  for (std::int64_t node = 0; node < cluster.nodes; ++node) {
    if (cluster.fat_tree && node % cluster.fat_tree->nodes_per_leaf == 0) {
      const std::int64_t leaf = node / cluster.fat_tree->nodes_per_leaf;
      parent = add_leaf(top, fmt::format("{}-leaf{}", top->get_name(), leaf), platform);
    }
    add_node(parent, fmt::format("{}-node{}", top->get_name(), node), cluster.gpus_per_node,
             platform);
  }
  platform.set_bandwidths(cluster);
  top->seal();
  return platform;
}

std::string simgrid_description() {
  std::string settings;
  for (const char* setting : kSettings) settings += std::string(" ") + setting;
  return fmt::format("{}.{}{}", SIMGRID_VERSION_MAJOR, SIMGRID_VERSION_MINOR, settings);
}

}  // namespace pipemoe::sim
