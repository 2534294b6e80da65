#include "experiments/journal.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>
#include <utility>

#include "models/error.hpp"
#include "models/files.hpp"
#include "models/json_reader.hpp"
#include "models/version.hpp"

namespace pipemoe::program {
namespace {

using Json = nlohmann::ordered_json;

// A device or a FIFO would not give back what is appended to it.
void check_is_regular(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status) || std::filesystem::is_regular_file(status)) return;
  throw InputError(fmt::format("{}: a journal must be a regular file", path.string()));
}

void check_header(const std::string& line, const std::filesystem::path& path,
                  const JournalHeader& header) {
  if (line == header.text) return;
  Json theirs = parse_json(line, path.string() + ":1"), ours = Json::parse(header.text);
  if (!theirs.is_object() || !theirs.contains("commit") || !theirs["commit"].is_string()) {
    throw InputError(
        fmt::format("{}:1: is no header of a journal of this version; choose another "
                    "--output",
                    path.string()));
  }
  const std::string commit = theirs["commit"].get<std::string>();
  theirs.erase("commit");
  ours.erase("commit");
  if (theirs != ours) {
    throw InputError(fmt::format(
        "{}: holds results of another study or program; choose another --output", path.string()));
  }
  if (header.other == OtherCommit::Accept) return;
  throw InputError(
      fmt::format("{}: was made by another commit, {}, and this is {}: choose another --output, or "
                  "give --force to continue it",
                  path.string(), commit, kCommit));
}

}  // namespace

JournalHeader::JournalHeader(const std::string& work, OtherCommit other_commit)
    : other(other_commit) {
  Json json = Json::parse(work);
  json["commit"] = kCommit;
  text = json.dump();
}

Journal::Journal(std::filesystem::path path, const JournalHeader& header) : path_(std::move(path)) {
  std::error_code error;
  std::filesystem::create_directories(path_.parent_path(), error);
  if (error) {
    throw InputError(
        fmt::format("{}: cannot be a folder: {}", path_.parent_path().string(), error.message()));
  }
  check_is_regular(path_);
  file_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) {
    throw InputError(fmt::format("{}: cannot write: {}", path_.string(), std::strerror(errno)));
  }
  try {
    lock();
    const std::string text = read_file(path_, "journal");
    const std::size_t whole = text.find_last_of('\n') + 1;  // 0 when there is none
    lines_ = journal_lines(text, path_, header);
    if (whole < text.size() && ftruncate(file_, static_cast<off_t>(whole)) != 0) {
      throw InputError(fmt::format("{}: cannot write: {}", path_.string(), std::strerror(errno)));
    }
    if (whole == 0) append(header.text);
  } catch (...) {
    close(file_);
    throw;
  }
}

// The children of a killed run hold its lock until they are killed too, a moment later.
void Journal::lock() {
  constexpr int kTries = 40;
  constexpr std::chrono::milliseconds kBetween{50};
  for (int i = 0; flock(file_, LOCK_EX | LOCK_NB) != 0; ++i) {
    if (errno != EWOULDBLOCK && errno != EINTR) {
      throw InputError(fmt::format("{}: cannot lock: {}", path_.string(), std::strerror(errno)));
    }
    if (i == kTries) {
      throw InputError(fmt::format(
          "{}: another run is writing it; wait for that one, or choose another --output",
          path_.string()));
    }
    std::this_thread::sleep_for(kBetween);
  }
}

Journal::~Journal() {
  fsync(file_);
  close(file_);
}

void Journal::append(const std::string& line) {
  const std::string whole = line + "\n";
  const ssize_t written = write(file_, whole.data(), whole.size());
  if (written == static_cast<ssize_t>(whole.size())) return;
  const int error = written < 0 ? errno : ENOSPC;  // a short write: the disk is full
  throw RunError(fmt::format("{}: cannot append: {}", path_.string(), std::strerror(error)));
}

std::vector<JournalLine> journal_lines(const std::string& text, const std::filesystem::path& path,
                                       const JournalHeader& header) {
  std::vector<JournalLine> lines;
  std::istringstream stream(text);
  std::string line;
  for (int number = 1; std::getline(stream, line); ++number) {
    if (stream.eof()) break;  // no end of line
    if (number == 1) {
      check_header(line, path, header);
    } else {
      lines.push_back({fmt::format("{}:{}", path.string(), number), line});
    }
  }
  return lines;
}

std::vector<JournalLine> read_journal(const std::filesystem::path& path,
                                      const JournalHeader& header) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return {};
  check_is_regular(path);
  return journal_lines(read_file(path, "journal"), path, header);
}

}  // namespace pipemoe::program
