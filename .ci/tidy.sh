#!/usr/bin/env bash
# Looks for accesses to optionals that may be empty, and for values used after they were moved away.
# Reads what is compiled in a build folder (build/release, or the one that is given).
set -euo pipefail
cd "$(dirname "$0")/.."
source .ci/packages.sh
.ci/install-packages "${tidy_packages[@]}"

build=${1:-build/release}
python3 - "$build" <<'PYTHON' | xargs -d '\n' -P "$(nproc)" -n 1 clang-tidy-19 -p "$build" -quiet \
  --extra-arg=-w --warnings-as-errors='*' -header-filter='/(models|sim|kernels|exec|experiments)/' \
  -checks='-*,bugprone-unchecked-optional-access,bugprone-use-after-move' \
  2> >(grep -v 'warnings\? generated' >&2)
import json, sys
for entry in json.load(open(sys.argv[1] + "/compile_commands.json")):
    if not entry["file"].endswith(".cu") and "/tests/" not in entry["file"]:
        print(entry["file"])
PYTHON
