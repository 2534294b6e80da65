// The most that inputs may ask for. Each limit is far above any real use, and keeps the time and
// the memory that one line of input costs bounded.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pipemoe {

/// Chunks of one pass. A graph has up to seven tasks for each chunk.
inline constexpr std::int64_t kMostDegree = 4096;
/// Layers of a study on all its clusters together.
inline constexpr std::size_t kMostStudyPoints = 100'000;
/// Layers of a validation on all its regimes together.
inline constexpr std::size_t kMostValidationLayers = 1000;
/// Time of one task, in seconds: 30 years. Sums of such times still tell microseconds apart.
inline constexpr double kLongestTask = 1e9;
/// A time in a timeline, in seconds: a million of the longest tasks.
inline constexpr double kLongestTimeline = 1e15;
/// Start-up time of a link or of a fit, in seconds.
inline constexpr double kMostStartup = 1e3;
/// Time for each byte of an emulated link, in seconds: a kilobyte a second.
inline constexpr double kMostSecondsPerByte = 1e-3;
/// Time for each byte or flop of a fit, in seconds.
inline constexpr double kMostSlope = 1e3;
/// Bandwidth of a link in bytes a second, and the share of it that payload gets.
inline constexpr double kLeastBandwidth = 1, kMostBandwidth = 1e15;
inline constexpr double kLeastEfficiency = 1e-3;
/// Bytes or flops of a point of a fitted table.
inline constexpr double kMostAmount = 1e18;

}  // namespace pipemoe
