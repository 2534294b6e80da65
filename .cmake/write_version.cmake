# Run at each build: writes version.cpp when the commit has changed.
execute_process(COMMAND git describe --always --dirty --abbrev=12 --exclude=*
                WORKING_DIRECTORY ${SOURCE} OUTPUT_VARIABLE commit ERROR_QUIET
                OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT commit)
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT [[
#include "models/version.hpp"

namespace pipemoe {
const char* const kVersion = "@VERSION@";
const char* const kCommit = "@commit@";
}  // namespace pipemoe
]] @ONLY)
