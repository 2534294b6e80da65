// Whole files in, whole files out: the one reader and the one writer of the project.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace pipemoe {

/// No file that the program reads may be larger. The largest one that it writes is a timeline.
inline constexpr std::size_t kLargestFile = std::size_t{1} << 28;

/// Throws InputError "<path>: cannot read this <what>: <why>".
std::string read_file(const std::filesystem::path& path, const std::string& what);

/// Writes a file or leaves it as it was. Symbolic links are followed. A regular file is replaced
/// at once by a temporary one beside it, after that has reached the disk, and keeps its mode and
/// owner. Written in place are files that a replacement would not reach: devices, FIFOs, files
/// with several hard links, mount points, and files in folders that cannot be written to.
/// Throws InputError "<path>: cannot write: <why>".
void write_file(const std::filesystem::path& path, std::string_view text);

/// A file that a command reads or writes, with the option that names it.
struct NamedFile {
  std::string option;
  std::filesystem::path path;  ///< empty: the option is not given
};
/// To be called before the work begins. Throws InputError if an output cannot be a file, or is the
/// same file as an input or as another output. Devices and FIFOs may be named twice.
void check_outputs(const std::vector<NamedFile>& inputs, const std::vector<NamedFile>& outputs);

}  // namespace pipemoe
