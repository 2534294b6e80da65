# What the project needs from Debian 12; sourced by run.sh and test.sh.
build_packages=(
  ca-certificates cmake g++ git ninja-build pkg-config
  libboost-dev            # Boost.Graph: the task graph
  libcli11-dev            # the program's options
  libfmt-dev              # text
  libopenblas-dev         # the experts' matrix products on CPUs
  libopenmpi-dev openmpi-bin  # several ranks
  libsimgrid-dev          # simulation
  libtomlplusplus-dev     # layer and cluster files
  nlohmann-json3-dev      # results
  mold                    # the linker
  libbenchmark-dev        # benchmarks
  python3-matplotlib      # plots
)
test_packages=(catch2 clang-format)
tidy_packages=(clang-tidy-19)
