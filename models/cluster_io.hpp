// Cluster profiles as files (TOML).
#pragma once

#include <string>

#include "models/cluster.hpp"

namespace pipemoe {

class ConfigFile;
/// Throws InputError naming file, key, value and allowed range; of a profile of version 1, which
/// has no `schema`, the command that converts it.
Cluster read_cluster(const ConfigFile& file);
/// For conversion: a profile as it was before it had a `schema`. Its tables by bytes become
/// constants: a slowdown the median of its table, the fit of queued collectives its median saving,
/// and what all-to-alls take longer in layers one `Lengthening` of their fit. A calibration makes
/// better ones, of the measurements themselves.
Cluster read_version_1_cluster(const ConfigFile& file);

/// A profile that read_cluster reads back as an equal cluster, to the last bit.
std::string to_toml(const Cluster& cluster);

}  // namespace pipemoe
