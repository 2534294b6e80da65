// Where a result comes from.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace pipemoe {

struct Provenance {
  std::string program;  ///< "pipemoe 0.1.0"
  std::string commit;   ///< of the sources, "-dirty" when they were changed
  std::string host;
  std::string made_by;                          ///< "simulation, node level", ...
  std::map<std::string, std::string> versions;  ///< of libraries, devices, drivers
  std::vector<std::string> notes;               ///< what a reader must know, one line each
  std::string configuration = "null";           ///< everything that was asked for, as JSON text

  bool operator==(const Provenance&) const = default;
};

/// Filled with program, commit and host.
Provenance provenance(std::string made_by);

}  // namespace pipemoe
