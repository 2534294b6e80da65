#!/usr/bin/env bash
# Sets up what is missing, builds with address and undefined-behaviour sanitizers and runs every
# test. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")"
source .ci/packages.sh
.ci/install-packages "${build_packages[@]}" "${test_packages[@]}"

echo "== building and testing build/dev"
cmake --workflow --preset dev
