#include "models/provenance.hpp"

#include <unistd.h>

#include "models/version.hpp"

namespace pipemoe {

Provenance provenance(std::string made_by) {
  Provenance made;
  made.program = std::string("pipemoe ") + kVersion;
  made.commit = kCommit;
  char host[256] = "";
  if (gethostname(host, sizeof host - 1) == 0) made.host = host;
  made.made_by = std::move(made_by);
  return made;
}

}  // namespace pipemoe
