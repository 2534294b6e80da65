#include "models/files.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <utility>

#include "models/error.hpp"

namespace pipemoe {
namespace {

namespace fs = std::filesystem;

class File {
 public:
  explicit File(int descriptor) : descriptor_(descriptor) {}
  ~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  File(File&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  File& operator=(File&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }

  bool is_open() const { return descriptor_ >= 0; }
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

File open_file(const fs::path& path, int flags, mode_t mode = 0) {
  return File(::open(path.c_str(), flags | O_CLOEXEC | O_NOCTTY, mode));
}

// The status of what the path leads to. It is empty if that is nothing, and then errno says why.
std::optional<struct stat> status_of(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return std::nullopt;
  return status;
}

bool is_regular(const struct stat& status) { return S_ISREG(status.st_mode); }

[[noreturn]] void fail(const fs::path& path, int error) {
  throw InputError(fmt::format("{}: cannot write: {}", path.string(), std::strerror(error)));
}

// Returns where a chain of symbolic links ends, whether or not there is a file.
fs::path without_links(const fs::path& path) {
  constexpr int kMostLinks = 40;  // as the kernel allows
  fs::path target = path;
  std::error_code error;
  for (int i = 0; i < kMostLinks && fs::is_symlink(fs::symlink_status(target, error)); ++i) {
    const fs::path next = fs::read_symlink(target, error);
    if (error) break;
    target = next.is_absolute() ? next : target.parent_path() / next;
  }
  return target;
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// Returns 0 or an error number.
int write_all(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(file, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno;
    text.remove_prefix(static_cast<std::size_t>(count));
  }
  return 0;
}

// A FIFO or a device cannot be synchronised, and need not be.
int sync(int file) {
  return ::fsync(file) == 0 || errno == EINVAL || errno == EROFS || errno == ENOTSUP ? 0 : errno;
}

void write_in_place(const fs::path& path, const fs::path& target, bool regular,
                    std::string_view text) {
  const File file = open_file(target, O_WRONLY | (regular ? O_TRUNC : 0));
  if (!file.is_open()) fail(path, errno);
  int error = write_all(file.get(), text);
  if (error == 0) error = sync(file.get());
  if (error != 0) fail(path, error);
}

// A new file beside `target`. It has no name, so that nothing is left of it if the program is
// killed, until `name_it`; where the file system has no nameless files it has its name at once.
class Replacement {
 public:
  explicit Replacement(const fs::path& target)
      : target_(target),
        name_(folder_of(target) / fmt::format(".{}.{}.tmp", target.filename().string(), getpid())),
        file_(open_file(folder_of(target), O_WRONLY | O_TMPFILE, 0666)) {
    if (file_.is_open() || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)) return;
    ::unlink(name_.c_str());
    file_ = open_file(name_, O_WRONLY | O_CREAT | O_EXCL, 0666);
    is_named_ = file_.is_open();
  }
  ~Replacement() {
    if (is_named_) ::unlink(name_.c_str());
  }
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;

  bool is_open() const { return file_.is_open(); }

  int write(std::string_view text, const std::optional<struct stat>& replaced) {
    if (replaced) {
      // Another user's file may not be ours to give away; then the new one is ours.
      if (::fchown(file_.get(), replaced->st_uid, replaced->st_gid) != 0) errno = 0;
      if (::fchmod(file_.get(), replaced->st_mode & 07777) != 0) return errno;
    }
    const int error = write_all(file_.get(), text);
    return error != 0 ? error : sync(file_.get());
  }

  int take_the_place() {
    if (!is_named_) {
      ::unlink(name_.c_str());  // what a killed process of the same number may have left
      const std::string path = fmt::format("/proc/self/fd/{}", file_.get());
      if (::linkat(AT_FDCWD, path.c_str(), AT_FDCWD, name_.c_str(), AT_SYMLINK_FOLLOW) != 0) {
        return errno;
      }
      is_named_ = true;
    }
    if (::rename(name_.c_str(), target_.c_str()) != 0) return errno;
    is_named_ = false;
    const File folder = open_file(folder_of(target_), O_RDONLY | O_DIRECTORY);
    if (folder.is_open()) sync(folder.get());
    return 0;
  }

 private:
  fs::path target_, name_;
  File file_;
  bool is_named_ = false;
};

// Whether the error is one of those with which a read-only folder refuses a new file, or a file
// that is mounted by itself its replacement, although the file itself may be written to.
bool only_in_place(int error) {
  return error == EACCES || error == EPERM || error == EROFS || error == EBUSY;
}

void replace(const fs::path& path, const fs::path& target, const std::optional<struct stat>& before,
             std::string_view text) {
  if (before && ::access(target.c_str(), W_OK) != 0) fail(path, errno);
  Replacement replacement(target);
  int error = replacement.is_open() ? 0 : errno;
  if (error == 0) {
    if (const int failed = replacement.write(text, before); failed != 0) fail(path, failed);
    error = replacement.take_the_place();
  }
  if (error == 0) return;
  if (!before || !only_in_place(error)) fail(path, error);
  write_in_place(path, target, /*regular=*/true, text);
}

}  // namespace

std::string read_file(const std::filesystem::path& path, const std::string& what) {
  const auto refuse = [&](const std::string& why) {
    throw InputError(fmt::format("{}: cannot read this {}: {}", path.string(), what, why));
  };
  const File file = open_file(path, O_RDONLY);
  if (!file.is_open()) refuse(std::strerror(errno));
  std::string text;
  std::string buffer(std::size_t{1} << 16, '\0');
  for (;;) {
    const ssize_t count = ::read(file.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) refuse(std::strerror(errno));
    if (count == 0) return text;
    text.append(buffer, 0, static_cast<std::size_t>(count));
    if (text.size() > kLargestFile) {
      refuse(fmt::format("it is larger than {} MiB", kLargestFile >> 20));
    }
  }
}

void write_file(const std::filesystem::path& path, std::string_view text) {
  const fs::path target = without_links(path);
  const auto before = status_of(target);
  if (!before && errno != ENOENT) fail(path, errno);
  if (before && S_ISDIR(before->st_mode)) fail(path, EISDIR);
  if (before && (!is_regular(*before) || before->st_nlink > 1)) {
    write_in_place(path, target, is_regular(*before), text);
  } else {
    replace(path, target, before, text);
  }
}

namespace {

// Returns a text that is the same for two names of one file, whether or not the file exists. It is
// empty for a device or a FIFO.
std::string identity(const fs::path& path) {
  const fs::path target = without_links(path);
  const auto status = status_of(target);
  if (status && !is_regular(*status)) return "";
  if (status) return fmt::format("{} {}", status->st_dev, status->st_ino);
  std::error_code error;
  const fs::path folder = fs::weakly_canonical(folder_of(target), error);
  return (folder / target.filename()).string();
}

void check_can_be_file(const NamedFile& output) {
  const auto refuse = [&](const char* why) {
    throw InputError(
        fmt::format("{} {}: cannot write: {}", output.option, output.path.string(), why));
  };
  const fs::path target = without_links(output.path);
  const auto status = status_of(target);
  if (!status && errno != ENOENT) refuse(std::strerror(errno));
  if (status && S_ISDIR(status->st_mode)) refuse("it is a folder");
  const auto folder = status_of(folder_of(target));
  if (!folder) refuse(errno == ENOENT ? "the folder does not exist" : std::strerror(errno));
  const fs::path& written = status ? target : folder_of(target);
  if (::access(written.c_str(), W_OK) != 0) refuse(std::strerror(errno));
}

}  // namespace

void check_outputs(const std::vector<NamedFile>& inputs, const std::vector<NamedFile>& outputs) {
  std::vector<std::pair<std::string, std::string>> taken;  // identity and option
  for (const NamedFile& input : inputs) {
    if (!input.path.empty()) taken.emplace_back(identity(input.path), input.option);
  }
  for (const NamedFile& output : outputs) {
    if (output.path.empty()) continue;
    check_can_be_file(output);
    const std::string name = identity(output.path);
    for (const auto& [other, option] : taken) {
      if (name.empty() || name != other) continue;
      throw InputError(fmt::format("{} {}: is the same file as that of {}; name another one",
                                   output.option, output.path.string(), option));
    }
    taken.emplace_back(name, output.option);
  }
}

}  // namespace pipemoe
