// Names for what a thread gives to a GPU, as profilers show them.
#pragma once

#include <nvtx3/nvToolsExt.h>

namespace pipemoe::exec {

/// Around the calls of its scope; costs next to nothing unless a profiler listens.
class ProfilerRange {
 public:
  explicit ProfilerRange(const char* name) { nvtxRangePushA(name); }
  ~ProfilerRange() { nvtxRangePop(); }
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;
};

}  // namespace pipemoe::exec
