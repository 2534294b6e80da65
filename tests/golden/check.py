"""Compares what a program computes with what was recorded.

    python3 tests/golden/check.py --program build/release/pipemoe

Prints a line for each difference. The exit code is 0 when there is none but those that
expected_changes.csv holds: its columns are patterns, in which `*` stands for any text.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import golden
from golden import Failure, Result, Run

EXPECTED = golden.FOLDER / "expected_changes.csv"
PATTERN_COLUMNS = ("kind", "layer", "cluster", "schedule", "column")


@dataclass(frozen=True)
class Difference:
    """One value that is not what was recorded."""

    run: Run
    column: str
    old: object
    new: object
    relative: float | None = None

    def __str__(self) -> str:
        text = f"{self.run}: {self.column}: {self.old} -> {self.new}"
        return text if self.relative is None else f"{text}, relative {self.relative:.3g}"


def differences(
    run: Run, old: Result, new: Result | Failure, tolerance: float
) -> Iterator[Difference]:
    """Degrees must be equal, times equal to within the relative tolerance."""
    if isinstance(new, Failure):
        yield Difference(run, "failure", "none", new)
        return
    after = asdict(new)
    for column, before in asdict(old).items():
        if isinstance(before, int):
            if after[column] != before:
                yield Difference(run, column, before, after[column])
            continue
        relative = golden.relative_difference(before, after[column])
        if relative > tolerance:
            yield Difference(run, column, before, after[column], relative)


def read_expected(path: Path) -> list[dict[str, str]]:
    """The rows of expected changes."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def reason(difference: Difference, expected: list[dict[str, str]]) -> str | None:
    """Why the difference is expected; None when it is not."""
    values = asdict(difference.run) | {"column": difference.column}
    for row in expected:
        if all(fnmatchcase(values[column], row[column]) for column in PATTERN_COLUMNS):
            return row["reason"]
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare a program with what was recorded.")
    parser.add_argument("--program", type=golden.program_at, required=True, help="pipemoe")
    parser.add_argument("--tolerance", type=float, default=1e-9, help="relative, of times [1e-9]")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time [2]")
    parser.add_argument(
        "--inputs",
        type=Path,
        default=golden.INPUTS,
        help="folder of layers/ and clusters/ [experiments]",
    )
    options = parser.parse_args()
    expected = read_expected(EXPECTED)
    recorded = golden.read_table(golden.RUNS) + golden.read_table(golden.NODE_WITHOUT_CONTENTION)
    runs = [run for run, _ in recorded]
    results = golden.run_all(options.program, runs, options.jobs, options.inputs)
    differ = as_expected = 0
    for (run, old), new in zip(recorded, results, strict=True):
        found = list(differences(run, old, new, options.tolerance))
        reasons = [reason(difference, expected) for difference in found]
        for difference, why in zip(found, reasons, strict=True):
            print(difference if why is None else f"{difference} (expected: {why})")
        differ += bool(found)
        as_expected += bool(found) and None not in reasons
    closing = f"{len(runs)} runs, {differ} differ"
    print(f"{closing}, {as_expected} of them as expected" if as_expected else closing)
    return 0 if differ == as_expected else 1


if __name__ == "__main__":
    sys.exit(main())
