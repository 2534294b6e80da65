// main of tests that need a GPU.
#include "kernels/cuda.hpp"
#include "tests/support/catch_runner.hpp"

int main(int argc, char** argv) {
  return pipemoe::test::run_catch(argc, argv, [] {
    return std::string(pipemoe::cuda::device_count() == 0 ? "no CUDA device" : "");
  });
}
