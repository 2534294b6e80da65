#!/usr/bin/env bash
# Sets up what is missing, builds the release program and runs the main job: plans and simulates the
# example layer on the authors' 64-GPU cluster, draws it, and runs the 174-layer study at the fitted
# level. With --full the study also runs at the node level, and every figure is drawn.
# Safe to run again.
set -euo pipefail
cd "$(dirname "$0")"
full=false
case "${1-}" in
  "") ;;
  --full) full=true ;;
  *) echo "run.sh: $1 is no option, only --full is" >&2; exit 2 ;;
esac

source .ci/packages.sh
.ci/install-packages "${build_packages[@]}"

echo "== building build/release/pipemoe (planning, simulation, CPU ranks)"
echo "   left out: the CUDA backend (cmake --workflow --preset gpu, with CUDA toolkit and NCCL)"
cmake --preset release
cmake --build --preset release

pipemoe=build/release/pipemoe
results=build/results
inputs=(--layer experiments/layers/pipemoe-example.toml
        --cluster experiments/clusters/rtx2080ti-100gib-64.toml)
mkdir -p "$results"

echo "== pipemoe plan"
$pipemoe plan "${inputs[@]}"
echo
echo "== pipemoe simulate --network node"
$pipemoe simulate "${inputs[@]}" --network node \
  --output "$results/timeline.json" --trace "$results/trace.json"
/usr/bin/python3 plots/timeline.py "$results/timeline.json" \
  --output "$results/timeline.png" --output "$results/timeline.svg"
echo "== written: $results/timeline.{json,png,svg} and trace.json (open in https://ui.perfetto.dev)"
echo

study() {  # name, file, network level
  echo "== pipemoe study $2 --network $3"
  rm -rf "${results:?}/$1"
  $pipemoe study "$2" --network "$3" --output "$results/$1"
  echo "== written: $results/$1"
}

study study174-fitted experiments/study174/study.toml fitted
if $full; then
  study study174-no-startup experiments/study174/no-startup.toml node
  study study174 experiments/study174/study.toml node
  study study243 experiments/study243/study.toml node
  for name in study174 study243; do
    /usr/bin/python3 plots/study.py "$results/$name" --output "$results/$name/plots" \
      $([ "$name" = study174 ] && echo --without-startup "$results/study174-no-startup")
  done
  echo "== figures in $results/study174/plots and $results/study243/plots"
fi
