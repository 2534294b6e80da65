#!/usr/bin/env bash
# On a machine with GPUs: checks numerics, then calibrates, predicts and measures. Goes on where an
# interrupted run was. Takes the program of the `gpu` preset, or $PIPEMOE.
# One GPU: layers without exchanges, pairs with and without CUDA graph and stream priority, and the
# layers of validation.toml over the staged link. More: those of several-gpus.toml with both
# all-to-alls of NCCL and with copies between peers, and those of without-peer-access.toml.
# run.sh [FOLDER ["numerics" or "studies"]]
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/validation-gpu
output=${1:-build/results/validation-gpu}
parts=${2:-numerics studies}
export PIPEMOE=${PIPEMOE:-build/gpu/pipemoe}
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
layers=experiments/layers
mkdir -p "$output"

run() { "$PIPEMOE" run --backend cuda "$@"; }
ranks() { mpirun --bind-to none --oversubscribe -np "$1" "$PIPEMOE" "${@:2}"; }
once() {  # file, command...: unless the file is there
  local file=$1
  shift
  [ -s "$file" ] || { "$@" >"$file.part" && mv "$file.part" "$file"; }
}
plot() {  # results of validate
  /usr/bin/python3 -c "import matplotlib" 2>/dev/null || return 0
  /usr/bin/python3 plots/validation.py "$1" --output "$1.png"
}

# Runs `options` of small layers on so many ranks: a line each, "options: verified ...". Several at
# a time, for most of each is the reference on the CPUs.
verify() {  # ranks, options a line on standard input
  xargs -P "$(($(nproc) * 3 / 4))" -I{} bash -c '
    set -o pipefail
    if [ "$1" -gt 1 ]; then launch="mpirun --bind-to none --oversubscribe -np $1"; fi
    result=$(${launch-} "$PIPEMOE" run --backend cuda --layer experiments/layers/small.toml \
      --set layer.model_dim=256 --set layer.hidden_dim=320 --set layer.num_experts=8 $2 \
      --warm-up 0 --repeats 1 --verify | grep -oE "verified.*") || exit 1
    echo "$1 ranks, $2: $result"' _ "$1" {}
}
shapes() {  # communicators: degrees, tokens that do not divide, both types
  for dtype in fp32 bf16; do
    for degree in 1 2 3 5 8; do
      for tokens in 512 203; do
        for communicator in "$@"; do
          echo "--communicator $communicator --set layer.dtype=$dtype" \
            "--set layer.tokens_per_rank=$tokens --forward-degree $degree" \
            "--backward-degree $((degree % 4 + 1))"
        done
      done
    done
  done
}
skewed() {  # communicator, capacity: an expert that is full and others that get few rows
  for dtype in fp32 bf16; do
    echo "--communicator $1 --set layer.dtype=$dtype --set layer.tokens_per_rank=203 $2" \
      "--skew 2 --forward-degree 3 --backward-degree 5"
  done
}
capacity="--set layer.capacity_factor=1.25"
dropless="--set layer.capacity_factor=dropless"

numerics_of_one() {
  shapes staged nccl nccl-zero-cta peer-copy elided | verify 1
  shapes peer-copy | verify 2
  for ranks in 2 4; do
    { skewed peer-copy "$capacity"; skewed staged "$capacity"; } | verify $ranks
  done
}
numerics_of_several() {
  { shapes nccl nccl-zero-cta peer-copy; skewed nccl "$capacity"; skewed nccl "$dropless"
    skewed nccl "$capacity --exchange-ctas 16"
    skewed nccl-zero-cta "$capacity"; skewed peer-copy "$capacity"; } | verify "$gpus"
}

studies_of_one() {
  echo "== layers without exchanges"
  for layer in small gpt2 qwen3 mixtral dsv3; do
    once "$output/elided-$layer.json" run --layer $layers/$layer.toml --schedule sequential \
      --communicator elided --repeats 30 --json
  done
  echo "== validation, staged"
  "$PIPEMOE" validate $here/validation.toml --output "$output/validation"
  plot "$output/validation"
  echo "== pairs: CUDA graph, priority of the communication stream"
  for layer in small gpt2; do
    for degree in 1 4; do
      at=(--layer $layers/$layer.toml --forward-degree $degree --backward-degree $degree
          --repeats 40)
      once "$output/pair-$layer-$degree-graph.json" run "${at[@]}" --json
      once "$output/pair-$layer-$degree-no-graph.json" run "${at[@]}" --no-cuda-graph --json
      once "$output/pair-$layer-$degree-no-priority.json" run "${at[@]}" --no-priority --json
    done
  done
}

# Clocks, power and what limits them, every five seconds for as long as this script runs: layers of
# tens of milliseconds are as fast as these let them.
watch_clocks() {
  [ -s "$output/clocks.csv" ] ||
    echo "timestamp,gpu,sm_mhz,power_w,temperature_c,limits" >"$output/clocks.csv"
  nvidia-smi --query-gpu=timestamp,index,clocks.sm,power.draw,temperature.gpu,clocks_event_reasons.active \
    --format=csv,noheader,nounits --loop=5 > >(sed -u "s/, /,/g" >>"$output/clocks.csv") &
  trap "kill $!" EXIT
}

# The layers of a file with as many experts a GPU as on two.
for_gpus() {
  awk -v gpus="$gpus" '{
    while (match($0, /num_experts = [0-9]+/)) {
      printf "%sexperts = %d", substr($0, 1, RSTART + 3),
        substr($0, RSTART + 14, RLENGTH - 14) * gpus / 2
      $0 = substr($0, RSTART + RLENGTH)
    }
    print
  }' "$1"
}
studies_of_several() {
  once "$output/topology.txt" nvidia-smi topo -m
  for study in several-gpus without-peer-access; do
    once "$output/$study.toml" for_gpus "$here/$study.toml"
  done
  echo "== validation, $gpus GPUs"
  ranks "$gpus" validate "$output/several-gpus.toml" --output "$output/several-gpus"
  plot "$output/several-gpus"
  echo "== one iteration of each all-to-all as a timeline"
  for communicator in nccl nccl-zero-cta peer-copy; do
    once "$output/qwen3-2-$communicator.json" ranks "$gpus" run --backend cuda \
      --layer $layers/qwen3.toml --communicator $communicator --schedule pipemoe-deferred \
      --cluster "$output/several-gpus/profile-${communicator#nccl-}.toml" --forward-degree 2 \
      --backward-degree 2 --set layer.num_experts=$((32 * gpus)) --json
  done
  echo "== validation without peer access"
  NCCL_P2P_DISABLE=1 ranks "$gpus" validate "$output/without-peer-access.toml" \
    --output "$output/without-peer-access"
  plot "$output/without-peer-access"
}

if [ "$gpus" -gt 1 ]; then kind=several; else kind=one; fi
if [[ $parts == *numerics* ]]; then
  echo "== numerics"
  once "$output/numerics.txt" numerics_of_$kind
  echo "$(wc -l <"$output/numerics.txt") runs verified, the worst:"
  sed 's/.*within //' "$output/numerics.txt" | sort -g | tail -1
fi
if [[ $parts == *studies* ]]; then
  watch_clocks
  studies_of_$kind
fi
echo "== written: $output"
