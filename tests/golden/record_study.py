"""Makes study174-fitted.csv.gz or study174-node.csv.gz anew from a study's results.

    build/release/pipemoe study experiments/study174/study.toml --network node --output FOLDER
    python3 tests/golden/record_study.py --results FOLDER

Only for a change of results that is meant: check_study.py compares with what was recorded before.
"""

import argparse
from pathlib import Path

import study


def main() -> None:
    parser = argparse.ArgumentParser(description="Record the results of the 174-layer study.")
    parser.add_argument("--results", type=Path, required=True, help="the study's output folder")
    results = parser.parse_args().results
    path = study.table_path(study.level_of(results))
    rows = study.kept(study.read_results(results))
    study.write_table(path, rows)
    print(f"{path.name}: {len(rows)} rows, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
