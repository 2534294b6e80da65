// The program: exit code 0, 1 (the run failed) or 2 (bad input, one line that says what).
#include "experiments/commands.hpp"

int main(int argc, char** argv) { return pipemoe::program::run(argc, argv); }
