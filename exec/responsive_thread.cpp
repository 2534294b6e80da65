#include "exec/responsive_thread.hpp"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace pipemoe::exec {
namespace {

// The kernel's first version of struct sched_attr, which glibc 2.36 does not declare.
struct SchedulerAttributes {
  std::uint32_t size = sizeof(SchedulerAttributes);
  std::uint32_t policy = SCHED_OTHER;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;
  std::uint32_t priority = 0;
  std::uint64_t runtime_ns = 0;  ///< of SCHED_OTHER: the slice
  std::uint64_t deadline_ns = 0;
  std::uint64_t period_ns = 0;
};

}  // namespace

void use_precise_timers() { prctl(PR_SET_TIMERSLACK, 1); }

void become_responsive() {
  constexpr std::uint64_t kShortestSlice = 100'000;
  SchedulerAttributes attributes;
  attributes.runtime_ns = kShortestSlice;
  syscall(SYS_sched_setattr, 0, &attributes, 0);  // a kernel that refuses it changes nothing
}

}  // namespace pipemoe::exec
