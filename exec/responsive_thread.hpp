// A thread that mostly sleeps and must run as soon as it wakes, on a core where another computes.
#pragma once

namespace pipemoe::exec {

/// Timers of the calling thread are not late (by default the kernel may add 50 us).
void use_precise_timers();

/// Asks the scheduler for the shortest time slice: on Linux 6.12 and later a thread that wakes with
/// a shorter slice takes the core at once; before, the wish is ignored and waking up on a busy core
/// may take milliseconds.
void become_responsive();

}  // namespace pipemoe::exec
