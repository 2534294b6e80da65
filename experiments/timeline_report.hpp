// What every command that makes a timeline does with it: files, JSON or a text for a person.
#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

#include "models/files.hpp"
#include "models/timeline.hpp"

namespace pipemoe::program {

struct TimelineOutputs {
  std::string trace;
  std::string csv;
  std::string output;
  bool json = false;
};

/// Adds --trace, --csv, --output and --json.
void add_timeline_outputs(CLI::App& command, TimelineOutputs& outputs);

/// To be called before the timeline is made. Throws InputError if an output cannot be a file, or is
/// also one of the inputs or another output.
void check_outputs(const std::vector<NamedFile>& inputs, const TimelineOutputs& outputs);

/// The files that were asked for.
void write_outputs(const Timeline& timeline, const TimelineOutputs& outputs);

/// Steps, the drawn timeline of rank 0, totals and notes. Durations are means over the ranks,
/// beside the busiest rank where there are several.
void print_timeline(const Timeline& timeline);

}  // namespace pipemoe::program
