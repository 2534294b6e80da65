// Whole files in, whole files out.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace pipemoe {

/// Throws InputError "<path>: cannot read this <what>".
std::string read_file(const std::filesystem::path& path, const std::string& what);

/// Atomic: writes a temporary file beside `path`, then renames it. Throws InputError naming the
/// path when it cannot be written; then nothing of it is left.
void write_file(const std::filesystem::path& path, std::string_view text);

}  // namespace pipemoe
