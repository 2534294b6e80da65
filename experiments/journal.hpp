// What a long command has finished so far: one line a point, appended, so that a killed run loses
// nothing but the points it was at.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace pipemoe::program {

/// A whole line of a journal and its place, "<path>:<number>", for messages.
struct JournalLine {
  std::string where;
  std::string text;
};

/// Whether results of another commit of the program may be continued.
enum class OtherCommit { Refuse, Accept };

/// The first line of a journal: what its results must have in common.
struct JournalHeader {
  /// `work`: JSON of what is run and of the program that runs it, but for the commit.
  explicit JournalHeader(const std::string& work, OtherCommit other_commit = OtherCommit::Refuse);

  std::string text;
  OtherCommit other;
};

class Journal {
 public:
  /// Makes the folder, locks the file for as long as this exists, and only then reads it. Half a
  /// last line, from a run that was killed while it wrote, is cut off. Throws InputError if the
  /// journal is of other work, and while another process holds it.
  Journal(std::filesystem::path path, const JournalHeader& header);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  /// What was in the file when it was opened, without its header.
  const std::vector<JournalLine>& lines() const { return lines_; }

  /// One write of one whole line. Throws RunError when the disk does not take it.
  void append(const std::string& line);

 private:
  void lock();

  std::filesystem::path path_;
  int file_ = -1;
  std::vector<JournalLine> lines_;
};

/// The whole lines of a journal's text, without its header. A killed run may have written half of
/// its last one, which is no line. Throws InputError when it is of other work than `header` says.
std::vector<JournalLine> journal_lines(const std::string& text, const std::filesystem::path& path,
                                       const JournalHeader& header);

/// The whole lines of a journal that another process may be writing, without its header; none where
/// there is no file. Throws InputError when it is of other work than `header` says.
std::vector<JournalLine> read_journal(const std::filesystem::path& path,
                                      const JournalHeader& header);

}  // namespace pipemoe::program
