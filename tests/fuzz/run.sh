#!/usr/bin/env bash
# tests/fuzz/run.sh TIME [TARGET]...: builds the fuzz targets (all, or these) and runs each for TIME
# (20s, 10m, 1h), two at a time. Ends with a table, and with 1 if there is a finding. Everything is
# written to build/fuzz: runs/corpus/<target>, which later runs continue, and runs/findings.
set -euo pipefail
cd "$(dirname "$0")/../.."

all_targets=(layer cluster cluster_version_1 settings study validation graph timeline study_journal
             validation_journal launcher link degrees json)
folder=build/fuzz/runs

usage() {
  echo "usage: tests/fuzz/run.sh TIME [TARGET]..., TIME of each target such as 20s or 10m" >&2
  echo "targets: ${all_targets[*]}" >&2
  exit 2
}

[[ ${1-} =~ ^([1-9][0-9]*)([smh])$ ]] || usage
case ${BASH_REMATCH[2]} in s) unit=1 ;; m) unit=60 ;; h) unit=3600 ;; esac
seconds=$((BASH_REMATCH[1] * unit))
shift
targets=("$@")
[ $# -gt 0 ] || targets=("${all_targets[@]}")
for target in "${targets[@]}"; do
  [ -e "tests/fuzz/$target.cpp" ] && [[ " ${all_targets[*]} " = *" $target "* ]] || usage
done

source .ci/packages.sh
.ci/install-packages "${build_packages[@]}" "${fuzz_packages[@]}"
echo "== building build/fuzz"
cmake --preset fuzz >/dev/null
cmake --build build/fuzz -j 2 --target "${targets[@]/#/fuzz_}"

longest_input() {
  case $1 in
    link | degrees) echo 128 ;;
    launcher | settings) echo 1024 ;;
    study | validation) echo 4096 ;;
    *) echo 8192 ;;
  esac
}

run_target() {
  local program=build/fuzz/tests/fuzz/fuzz_$1 corpus=$folder/corpus/$1 dictionary=()
  mkdir -p "$corpus" "$folder/findings/$1"
  rm -rf "$folder/seeds/$1"
  "$program" --write-seeds "$folder/seeds/$1"
  [ -e "tests/fuzz/dictionaries/$1.txt" ] && dictionary=("-dict=tests/fuzz/dictionaries/$1.txt")
  local known=()
  [ -d "tests/fuzz/regressions/$1" ] && known=("tests/fuzz/regressions/$1")
  # The targets themselves allow an input 1 s of CPU time; the timeout here ends one that hangs.
  # Without -entropic=0 a third of the time goes to statistics of rare features.
  "$program" "${dictionary[@]}" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=1024 \
    -max_len="$(longest_input "$1")" -print_final_stats=1 -entropic=0 -len_control=0 \
    -artifact_prefix="$folder/findings/$1/" "$corpus" "$folder/seeds/$1" "${known[@]}" \
    >"$folder/$1.log" 2>&1 || echo "$?" >"$folder/$1.failed"
}

echo "== running ${#targets[@]} targets for $seconds s each, two at a time; logs in $folder"
mkdir -p "$folder"
for target in "${targets[@]}"; do
  rm -f "$folder/$target.failed" "$folder/$target.log"
  while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || true; done
  run_target "$target" &
done
wait

number_of() {  # the last number behind a word of a log
  grep -oE "$1 *[0-9.]+" "$2" | tail -n 1 | grep -oE '[0-9.]+$' || echo -
}

printf '\n%-20s %12s %8s %11s %11s %9s %9s\n' \
  target executions per_s accepted_% slowest_ms peak_MiB findings
findings=0
for target in "${targets[@]}"; do
  log=$folder/$target.log
  executions=$(number_of 'fuzz: executions' "$log")
  accepted=$(number_of 'accepted' "$log")
  share=-
  [ "$executions" = - ] || share=$(awk "BEGIN {printf \"%.1f\", 100 * $accepted / $executions}")
  [ "$executions" = - ] && executions=$(grep -oE '^#[0-9]+' "$log" | tail -n 1 | tr -d '#')
  found=0
  [ -e "$folder/$target.failed" ] && found=1
  findings=$((findings + found))
  printf '%-20s %12s %8s %11s %11s %9s %9s\n' "$target" "${executions:--}" \
    "$(number_of 'stat::average_exec_per_sec:' "$log")" "$share" \
    "$(number_of 'slowest_ms' "$log")" "$(number_of 'stat::peak_rss_mb:' "$log")" "$found"
done

for target in "${targets[@]}"; do
  [ -e "$folder/$target.failed" ] || continue
  log=$folder/$target.log
  echo
  grep -m 1 -E 'FINDING|ERROR: |runtime error' "$log" || tail -n 5 "$log"
  grep -oE "$folder/findings/[^ ]+" "$log" | tail -n 1 || echo "see $log"
done
[ "$findings" -eq 0 ]
