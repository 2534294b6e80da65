#!/usr/bin/env bash
# Calibrates, predicts and measures twelve layers on two ranks of this machine, then draws the
# results. Goes on where an interrupted run was. Needs build/release/pipemoe (./run.sh builds it).
set -euo pipefail
cd "$(dirname "$0")/../.."
output=${1:-build/results/validation-cpu}
mpirun -np 2 build/release/pipemoe validate experiments/validation-cpu/validation.toml \
  --output "$output"
/usr/bin/python3 plots/validation.py "$output" --output "$output/validation.png"
echo "== written: $output/validation.png"
