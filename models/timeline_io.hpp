// Timelines as files: JSON (round-trips), CSV, and the Trace Event Format that Perfetto opens.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/timeline.hpp"

namespace pipemoe {

std::string to_json(const Timeline& timeline);
/// Throws InputError, beginning with `origin`, for anything but a timeline.
Timeline timeline_from_json(std::string_view text, const std::string& origin);

/// One row a span: task,microbatch,block,pass,step,chunk,stage,queue,rank,start_s,end_s.
std::string to_csv(const Timeline& timeline);

/// One Perfetto process for each rank of each named timeline, in the order given; one track a
/// queue. Times in microseconds, as the format asks.
std::string to_chrome_trace(const std::vector<std::pair<std::string, const Timeline*>>& timelines);

}  // namespace pipemoe
