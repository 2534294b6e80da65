#!/usr/bin/env bash
# Builds with thread sanitizer and runs the tests of everything that has threads. Ends with a line
# for each suite; returns 0 only if all tests passed and no race was reported. The reports are in
# build/tsan/reports. Usage: tests/tsan.sh [SUITE...], of kernels, exec, mpi and sim.
set -euo pipefail
cd "$(dirname "$0")/.."

suites=("${@:-kernels exec mpi sim}")
read -ra suites <<<"${suites[*]}"
build=build/tsan
reports=$PWD/$build/reports
declare -A program=([kernels]=kernels_tests [exec]=exec_tests [mpi]=exec_mpi_tests [sim]=sim_tests)

targets=()
for suite in "${suites[@]}"; do
  [ -n "${program[$suite]:-}" ] || { echo "no suite $suite; there are: ${!program[*]}" >&2; exit 2; }
  targets+=("${program[$suite]}")
done
cmake --preset tsan >/dev/null
cmake --build "$build" --target "${targets[@]}"
rm -rf "$reports"
mkdir -p "$reports"

# One thread in OpenBLAS: its own threads are not instrumented, and the program runs it so too.
export OPENBLAS_NUM_THREADS=1
# Ranks are more than cores, and everyone is root, in a container.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

# SimGrid has one engine in a process, so each of its test cases is a process of its own. Catch2's exit
# code for a list is the list's length.
one_by_one() {
  local name
  { "$1" --list-test-names-only || true; } | while read -r name; do
    [ -z "$name" ] || "$1" "$(sed 's/,/\\,/g; s/\[/\\[/g' <<<"$name")" </dev/null || echo "FAILED: $name"
  done
}

run_suite() {
  local tests=$build/tests/${program[$1]}
  export TSAN_OPTIONS="suppressions=$PWD/tests/support/races.supp log_path=$reports/$1 exitcode=66"
  case $1 in
    mpi) mpirun --oversubscribe --tag-output -np 2 "$tests" ;;
    sim) one_by_one "$tests" ;;
    *) "$tests" ;;
  esac
}

# Catch2 says "All tests passed (6 assertions in 2 test cases)", or "test cases: 3 | 2 passed | ...".
cases_in() {
  sed -nE 's/.*in ([0-9]+) test cases?\).*/\1/p; s/.*test cases: +([0-9]+) .*/\1/p' "$1" |
    awk '{ sum += $1 } END { print sum + 0 }'
}

bad=0 lines=()
for suite in "${suites[@]}"; do
  echo "== $suite"
  began=$SECONDS verdict=passed
  run_suite "$suite" >"$reports/$suite.log" 2>&1 || verdict="FAILED with exit code $?"
  if grep -qE "FAILED|test cases: .* failed" "$reports/$suite.log"; then verdict=FAILED; fi
  cases=$(cases_in "$reports/$suite.log")
  [ "$cases" -gt 0 ] || verdict="FAILED: no test has run"
  races=$(cat "$reports/$suite".[0-9]* 2>/dev/null | grep -c "WARNING: ThreadSanitizer" || true)
  if [ "$verdict" != passed ]; then tail -20 "$reports/$suite.log"; fi
  if [ "$verdict" != passed ] || [ "$races" != 0 ]; then bad=1; fi
  lines+=("$(printf '%-8s %4d test cases, %3d reports of thread sanitizer, %4d s: %s' \
    "$suite" "$cases" "$races" $((SECONDS - began)) "$verdict")")
done
echo
printf '%s\n' "${lines[@]}"
exit $bad
