#include "exec/backend.hpp"

#include <stdexcept>

namespace pipemoe::exec {

Seconds PreparedGraph::run(Clock::time_point) {
  throw std::logic_error("pipemoe bug: run() of a graph whose spans do not disturb");
}

}  // namespace pipemoe::exec
