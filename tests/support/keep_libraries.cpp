// Preloaded by tests of several ranks: what Open MPI loads stays loaded, so that a leak inside it
// has a library's name at the end of the program and can be told from one of ours.
#include <dlfcn.h>

extern "C" int dlclose(void*) noexcept { return 0; }
