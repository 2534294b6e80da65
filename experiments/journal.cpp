#include "experiments/journal.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <sstream>
#include <utility>

#include "models/error.hpp"
#include "models/files.hpp"

namespace pipemoe::program {
namespace {

// Whole lines only: a killed run may have written half of its last one. Empty without a file.
std::string whole_lines(const std::filesystem::path& path, const std::string& header) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return "";
  std::string text = read_file(path, "journal");
  text.resize(text.find_last_of('\n') + 1);  // 0 when there is none
  if (text.empty() || text.starts_with(header + "\n")) return text;
  throw InputError(fmt::format(
      "{}: holds results of another study or program; choose another --output", path.string()));
}

}  // namespace

Journal::Journal(std::filesystem::path path, const std::string& header) : path_(std::move(path)) {
  std::error_code error;
  std::filesystem::create_directories(path_.parent_path(), error);
  const std::string text = whole_lines(path_, header);
  file_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ >= 0 && flock(file_, LOCK_EX | LOCK_NB) != 0) {
    throw InputError(fmt::format("{}: another run is writing it", path_.string()));
  }
  if (file_ < 0 || ftruncate(file_, static_cast<off_t>(text.size())) != 0) {
    throw InputError(fmt::format("{}: cannot write: {}", path_.string(), std::strerror(errno)));
  }
  if (text.empty()) append(header);
}

Journal::~Journal() { close(file_); }

void Journal::append(const std::string& line) {
  const std::string whole = line + "\n";
  if (write(file_, whole.data(), whole.size()) != static_cast<ssize_t>(whole.size())) {
    throw RunError(fmt::format("{}: cannot append: {}", path_.string(), std::strerror(errno)));
  }
}

std::vector<std::string> read_journal(const std::filesystem::path& path,
                                      const std::string& header) {
  std::istringstream text(whole_lines(path, header));
  std::vector<std::string> lines;
  std::string line;
  std::getline(text, line);  // the header
  while (std::getline(text, line)) lines.push_back(line);
  return lines;
}

}  // namespace pipemoe::program
