// A task graph as a Boost.Graph, for that library's algorithms and writers. In a header of its own:
// it brings a thousand others.
#pragma once

#include <boost/graph/compressed_sparse_row_graph.hpp>

#include "models/task_graph.hpp"

namespace pipemoe {

/// Why one task comes before another.
enum class Precedence { Data, QueueOrder };

using BoostGraph = boost::compressed_sparse_row_graph<boost::directedS, boost::no_property,
                                                      Precedence, boost::no_property, TaskId>;

inline BoostGraph boost_graph(const TaskGraph& graph) {
  std::vector<TaskGraph::Edge> edges;
  std::vector<Precedence> precedences;
  for (TaskId id = 0; id < graph.size(); ++id) {
    for (const TaskGraph::Successor after : graph.successors(id)) {
      edges.emplace_back(id, after.task);
      precedences.push_back(after.is_data ? Precedence::Data : Precedence::QueueOrder);
    }
  }
  return BoostGraph(boost::edges_are_sorted, edges.begin(), edges.end(), precedences.begin(),
                    static_cast<TaskId>(graph.size()));
}

}  // namespace pipemoe
