#!/usr/bin/env bash
# On a machine with a GPU: checks numerics, measures the five layers without exchanges, pairs with
# and without CUDA graph and stream priority, then calibrates, predicts and measures the layers of
# validation.toml over the staged link. Goes on where an interrupted run was. Takes the program of
# the `gpu` preset, or $PIPEMOE.
set -euo pipefail
cd "$(dirname "$0")/../.."
output=${1:-build/results/validation-gpu}
pipemoe=${PIPEMOE:-build/gpu/pipemoe}
mkdir -p "$output"
layers=experiments/layers

run() { "$pipemoe" run --backend cuda "$@"; }
once() {  # file, command...: unless the file is there
  local file=$1
  shift
  [ -s "$file" ] || { "$@" >"$file.part" && mv "$file.part" "$file"; }
}

numerics() {
  local shape=(--set layer.model_dim=256 --set layer.hidden_dim=320 --set layer.num_experts=8)
  local few=(--warm-up 0 --repeats 1 --verify)
  for dtype in fp32 bf16; do
    for degree in 1 2 3 5 8; do
      for tokens in 512 203; do
        for from in "--communicator staged" "--communicator nccl" "--communicator elided"; do
          run --layer $layers/small.toml "${shape[@]}" --set layer.dtype=$dtype \
            --set layer.tokens_per_rank=$tokens --forward-degree "$degree" \
            --backward-degree $((degree % 4 + 1)) $from "${few[@]}" | grep -E "verified"
        done
      done
    done
    for ranks in 2 4; do
      mpirun --oversubscribe -np $ranks "$pipemoe" run --backend cuda --layer $layers/small.toml \
        "${shape[@]}" --set layer.dtype=$dtype --set layer.tokens_per_rank=203 \
        --set layer.capacity_factor=1.25 --skew 2 --forward-degree 3 --backward-degree 5 \
        "${few[@]}" | grep -E "verified"
    done
  done
}

echo "== numerics"
once "$output/numerics.txt" numerics
sort "$output/numerics.txt" | uniq -c | tail -4

echo "== layers without exchanges"
for layer in small gpt2 qwen3 mixtral dsv3; do
  once "$output/elided-$layer.json" run --layer $layers/$layer.toml --schedule sequential \
    --communicator elided --repeats 30 --json
done

echo "== pairs: CUDA graph, priority of the communication stream"
for layer in small gpt2; do
  for degree in 1 4; do
    at=(--layer $layers/$layer.toml --forward-degree $degree --backward-degree $degree --repeats 40)
    once "$output/pair-$layer-$degree-graph.json" run "${at[@]}" --json
    once "$output/pair-$layer-$degree-no-graph.json" run "${at[@]}" --no-cuda-graph --json
    once "$output/pair-$layer-$degree-no-priority.json" run "${at[@]}" --no-priority --json
  done
done

echo "== validation"
"$pipemoe" validate experiments/validation-gpu/validation.toml --output "$output/validation"
if /usr/bin/python3 -c "import matplotlib" 2>/dev/null; then
  /usr/bin/python3 plots/validation.py "$output/validation" --output "$output/validation.png"
fi
echo "== written: $output"
