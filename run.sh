#!/usr/bin/env bash
# Sets up what is missing, builds the release program and runs the main job: plans and simulates the
# example layer on the authors' 64-GPU cluster, and draws it. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")"
source .ci/packages.sh
.ci/install-packages "${build_packages[@]}"

echo "== building build/release/pipemoe (models, simulation)"
cmake --preset release
cmake --build --preset release

inputs=(--layer experiments/layers/pipemoe-example.toml
        --cluster experiments/clusters/rtx2080ti-100gib-64.toml)
results=build/results
mkdir -p "$results"

echo "== pipemoe plan"
build/release/pipemoe plan "${inputs[@]}"
echo
echo "== pipemoe simulate --network node"
build/release/pipemoe simulate "${inputs[@]}" --network node \
  --output "$results/timeline.json" --trace "$results/trace.json"
/usr/bin/python3 plots/timeline.py "$results/timeline.json" \
  --output "$results/timeline.png" --output "$results/timeline.svg"
echo "== written: $results/timeline.{json,png,svg} and trace.json (open in https://ui.perfetto.dev)"
