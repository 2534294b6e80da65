"""Compares results of the 174-layer study with what was recorded.

    build/release/pipemoe study experiments/study174/study.toml --network node --output FOLDER
    python3 tests/golden/check_study.py --results FOLDER --level node

Journal and tables must both have the recorded choices and times. Prints a line for each
difference; the exit code is 0 when there is none.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import golden
import study
from study import Key, Row


class Comparison:
    """Compares times to within a relative tolerance, and gathers what differs."""

    def __init__(self, tolerance: float):
        self.tolerance = tolerance
        self.compared = 0
        self.differences: list[str] = []

    def times(self, what: str, old: float, text: str | float | None) -> None:
        self.compared += 1
        if text is None or text == "":
            self.differences.append(f"{what}: {old} -> missing")
            return
        new = float(text)
        relative = golden.relative_difference(old, new)
        if relative > self.tolerance:
            self.differences.append(f"{what}: {old} -> {new}, relative {relative:.3g}")

    def equal(self, what: str, old: object, new: object) -> None:
        self.compared += 1
        if old != new:
            self.differences.append(f"{what}: {old} -> {new}")


def chosen_degrees(rows: dict[Key, Row]) -> dict[tuple[int, str, str], int]:
    """The chosen degrees by point, schedule and flag."""
    return {
        (key.point, key.schedule, flag): key.degree
        for key, row in rows.items()
        for flag in row.flags
    }


def compare_journal(old: dict[Key, Row], results: Path, to: Comparison) -> None:
    """The journal: every recorded time and choice."""
    new = study.read_results(results)
    new_choices = chosen_degrees(new)
    for (point, schedule, flag), degree in chosen_degrees(old).items():
        what = f"journal, point {point} {schedule}: {flag}"
        to.equal(what, degree, new_choices.get((point, schedule, flag)))
    for key, row in old.items():
        found = new.get(key)
        if found is None:
            to.equal(f"journal, {key}", "there", "missing")
            continue
        to.equal(f"journal, {key}: cluster", row.cluster, found.cluster)
        to.times(f"journal, {key}: forward_s", row.forward_s, found.forward_s)
        to.times(f"journal, {key}: backward_s", row.backward_s, found.backward_s)


def compare_points(old: dict[Key, Row], results: Path, to: Comparison) -> None:
    """points.csv: choices, their times, and the times of other schedules."""
    new = {int(row["point"]): row for row in study.read_points(results)}
    to.equal("points.csv, number of points", len({key.point for key in old}), len(new))
    for key, row in old.items():
        found = new.get(key.point)
        if found is None:
            to.equal(f"points.csv, {key}", "there", "missing")
            continue
        for column, value in point_columns(key, row):
            what = f"points.csv, point {key.point}: {column}"
            if isinstance(value, int):
                to.equal(what, str(value), found.get(column))
            else:
                to.times(what, value, found.get(column))


def point_columns(key: Key, row: Row) -> Iterator[tuple[str, int | float]]:
    """Columns of points.csv that show this row, with their values."""
    if not key.schedule.startswith("pipemoe"):
        name = f"tutel-{key.degree}" if key.schedule == "tutel" else key.schedule
        yield f"{name}_s", row.forward_s + row.backward_s
        return
    prefix = "deferred_" if key.schedule == "pipemoe-deferred" else ""
    for phase, time in (("forward", row.forward_s), ("backward", row.backward_s)):
        if f"{phase}_chosen" in row.flags:
            yield f"{prefix}{phase}_chosen_degree", key.degree
            yield f"{prefix}{phase}_chosen_s", time


def compare_degrees(old: dict[Key, Row], results: Path, to: Comparison) -> None:
    """<cluster>-degrees.csv: times of both phases by degree."""
    new = {}
    for cluster in sorted({row.cluster for row in old.values()}):
        with (results / f"{cluster}-degrees.csv").open(newline="") as file:
            new |= {(int(row["point"]), int(row["degree"])): row for row in csv.DictReader(file)}
    for key, row in old.items():
        found = new.get((key.point, key.degree), {})
        what = f"{row.cluster}-degrees.csv, {key}"
        if key.schedule == "pipemoe":
            to.times(f"{what}: forward_s", row.forward_s, found.get("forward_s"))
            to.times(f"{what}: backward_s", row.backward_s, found.get("backward_s"))
        elif key.schedule == "pipemoe-deferred":
            column = "deferred_backward_s"
            to.times(f"{what}: {column}", row.backward_s, found.get(column))


def compare(results: Path, level: str, tolerance: float, left_out: list[str]) -> Comparison:
    """Compares a result folder with what was recorded of the level, but for schedules left out."""
    found = study.level_of(results)
    if found != level:
        raise ValueError(f"{results} is of the network level {found}")
    table = study.read_table(study.table_path(level))
    old = {key: row for key, row in table.items() if key.schedule not in left_out}
    comparison = Comparison(tolerance)
    compare_journal(old, results, comparison)
    compare_points(old, results, comparison)
    compare_degrees(old, results, comparison)
    return comparison


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare a study with what was recorded.")
    parser.add_argument("--results", type=Path, required=True, help="the study's output folder")
    parser.add_argument("--level", choices=study.LEVELS, required=True, help="its network level")
    parser.add_argument("--tolerance", type=float, default=1e-9, help="relative, of times [1e-9]")
    parser.add_argument("--leave-out", action="append", default=[], metavar="SCHEDULE",
                        help="whose times are meant to have changed")
    options = parser.parse_args()
    try:
        comparison = compare(options.results, options.level, options.tolerance, options.leave_out)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for difference in comparison.differences:
        print(difference)
    print(f"{comparison.compared} values, {len(comparison.differences)} differ")
    return 1 if comparison.differences else 0


if __name__ == "__main__":
    sys.exit(main())
