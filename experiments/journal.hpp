// What a long command has finished so far: one line a point, appended, so that a killed run loses
// nothing but the points it was at.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace pipemoe::program {

class Journal {
 public:
  /// Opens it for appending; makes its folder. What is there must be of the same work: its first
  /// line is `header`. Half a last line, from a run that was killed while it wrote, is cut off.
  /// Throws InputError, also while another process holds it.
  Journal(std::filesystem::path path, const std::string& header);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  /// One write of one whole line. Throws RunError when the disk does not take it.
  void append(const std::string& line);

 private:
  std::filesystem::path path_;
  int file_ = -1;
};

/// The whole lines of a journal, without its header; none where there is no file.
/// Throws InputError when it is of other work than `header` says.
std::vector<std::string> read_journal(const std::filesystem::path& path, const std::string& header);

}  // namespace pipemoe::program
