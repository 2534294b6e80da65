#include "tests/support/catch_runner.hpp"

int main(int argc, char** argv) { return pipemoe::test::run_catch(argc, argv); }
