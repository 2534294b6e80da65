#include "experiments/study_journal.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <sstream>

#include "models/error.hpp"
#include "models/files.hpp"

namespace pipemoe::program {
namespace {

// Whole lines only: a killed run may have written half of its last one.
std::string whole_lines(const std::filesystem::path& path) {
  std::string text = read_file(path, "journal");
  text.resize(text.find_last_of('\n') + 1);  // 0 when there is none
  return text;
}

void check_header(const std::filesystem::path& path, const std::string& text,
                  const std::string& header) {
  if (text.empty() || text.starts_with(header + "\n")) return;
  throw InputError(fmt::format(
      "{}: holds results of another study or program; choose another --output", path.string()));
}

}  // namespace

StudyJournal::StudyJournal(const std::filesystem::path& folder, const std::string& shard,
                           const std::string& header)
    : path_(folder / (shard.empty() ? "points.jsonl" : "points." + shard + ".jsonl")) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  std::string text;
  if (std::filesystem::exists(path_, error)) {
    text = whole_lines(path_);
    check_header(path_, text, header);
  }
  file_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ >= 0 && flock(file_, LOCK_EX | LOCK_NB) != 0) {
    throw InputError(fmt::format("{}: another run is writing it", path_.string()));
  }
  if (file_ < 0 || ftruncate(file_, static_cast<off_t>(text.size())) != 0) {
    throw InputError(fmt::format("{}: cannot write: {}", path_.string(), std::strerror(errno)));
  }
  if (text.empty()) {
    const std::string line = header + "\n";
    if (write(file_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
      throw InputError(fmt::format("{}: cannot write: {}", path_.string(), std::strerror(errno)));
    }
  }
}

StudyJournal::~StudyJournal() { close(file_); }

void StudyJournal::append(const PointResult& result) {
  const std::string line = to_json_line(result) + "\n";
  if (write(file_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    throw RunError(fmt::format("{}: cannot append: {}", path_.string(), std::strerror(errno)));
  }
}

std::map<std::size_t, PointResult> read_journals(const std::filesystem::path& folder,
                                                 const std::string& header) {
  std::map<std::size_t, PointResult> finished;
  if (!std::filesystem::is_directory(folder)) return finished;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with("points.") || !name.ends_with(".jsonl")) continue;
    const std::string text = whole_lines(entry.path());
    check_header(entry.path(), text, header);
    std::istringstream lines(text);
    std::string line;
    std::getline(lines, line);  // the header
    while (std::getline(lines, line)) {
      PointResult result = point_from_json_line(line);
      finished[result.point] = std::move(result);
    }
  }
  return finished;
}

}  // namespace pipemoe::program
