"""Results of `pipemoe study` on the 174 layers, and the tables that hold a part of them.

A table has the degrees 1, 2, 4 and 8 of each schedule and those that were chosen. Its flags say
which degrees were chosen for which phase: by the schedule's own choice, and by the fitted cost
model with chunks of whole slots.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import golden

LEVELS = ("fitted", "node")
ALWAYS_KEPT = {1, 2, 4, 8}

# Positions in a journal's list of chosen degrees, by schedule and flag.
CHOICES = {
    "pipemoe": {
        "forward_chosen": 0,
        "backward_chosen": 1,
        "forward_whole_slots": 3,
        "backward_whole_slots": 4,
    },
    "pipemoe-deferred": {"backward_chosen": 2},
}
FLAGS = tuple(CHOICES["pipemoe"])
COLUMNS = ("point", "cluster", "schedule", "degree", "forward_s", "backward_s") + FLAGS


@dataclass(frozen=True)
class Key:
    """A schedule with one degree for both phases, on one point of the study."""

    point: int
    schedule: str
    degree: int

    def __str__(self) -> str:
        return f"point {self.point} {self.schedule} {self.degree}"


@dataclass(frozen=True)
class Row:
    """What the study says of it."""

    cluster: str
    forward_s: float
    backward_s: float
    flags: frozenset[str]  # those of FLAGS that are set


def table_path(level: str) -> Path:
    """Where the recorded results of a network level are."""
    return golden.FOLDER / f"study174-{level}.csv.gz"


def journals(results: Path) -> list[Path]:
    """The journals of a result folder, of one run or of several shards."""
    found = sorted(results.glob("points*.jsonl"))
    if not found:
        raise FileNotFoundError(f"{results} has no points.jsonl")
    return found


def level_of(results: Path) -> str:
    """The network level of a result folder."""
    with journals(results)[0].open() as file:
        return json.loads(file.readline())["network"]


def read_points(results: Path) -> list[dict[str, str]]:
    """points.csv of a result folder."""
    with (results / "points.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_results(results: Path) -> dict[Key, Row]:
    """All schedules and degrees of a result folder, as its journals say."""
    clusters = {int(row["point"]): row["cluster"] for row in read_points(results)}
    rows = {}
    for path in journals(results):
        with path.open() as file:
            next(file)  # what the results have in common
            for line in file:
                point = json.loads(line)
                rows.update(rows_of(point, clusters[point["point"]]))
    return dict(sorted(rows.items(), key=lambda item: item[0].point))


def rows_of(point: dict, cluster: str) -> Iterator[tuple[Key, Row]]:
    """The rows of one line of a journal; none of a point that failed."""
    for schedule, degree, forward_s, backward_s in point.get("runs", ()):
        flags = frozenset(
            flag
            for flag, position in CHOICES.get(schedule, {}).items()
            if point["chosen"][position] == degree
        )
        yield Key(point["point"], schedule, degree), Row(cluster, forward_s, backward_s, flags)


def kept(rows: dict[Key, Row]) -> dict[Key, Row]:
    """The part of the rows that is recorded: a chosen degree is kept for every schedule."""
    chosen = {(key.point, key.degree) for key, row in rows.items() if row.flags}
    return {
        key: row
        for key, row in rows.items()
        if key.degree in ALWAYS_KEPT or (key.point, key.degree) in chosen
    }


def write_table(path: Path, rows: dict[Key, Row]) -> None:
    """Writes a compressed table; equal rows give equal bytes."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for key, row in rows.items():
        flags = ["1" if flag in row.flags else "" for flag in FLAGS]
        times = [row.forward_s, row.backward_s]
        table.writerow([key.point, row.cluster, key.schedule, key.degree, *times, *flags])
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def read_table(path: Path) -> dict[Key, Row]:
    """Reads what write_table wrote."""
    with gzip.open(path, "rt", newline="") as file:
        return dict(parsed(csv.DictReader(file)))


def parsed(table: Iterable[dict[str, str]]) -> Iterator[tuple[Key, Row]]:
    """Rows of a table from their text."""
    for row in table:
        key = Key(int(row["point"]), row["schedule"], int(row["degree"]))
        flags = frozenset(flag for flag in FLAGS if row[flag])
        yield key, Row(row["cluster"], float(row["forward_s"]), float(row["backward_s"]), flags)
