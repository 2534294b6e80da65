// Version and commit of this build; the values are generated when it is built.
#pragma once

namespace pipemoe {

extern const char* const kVersion;
extern const char* const kCommit;

}  // namespace pipemoe
