"""What each term of contention buys: errors and choices with and without it, on all checked-in
validations.

    python3 experiments/ablation/ablate.py --program build/release/pipemoe

Predicts every measured point with the profile as it is and with terms left out, and prints one row
of a table for each variant. Needs Python 3.11 and nothing else; takes some minutes.
"""

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

EXPERIMENTS = Path(__file__).resolve().parents[1]
GPU, CPU = "validation-gpu", "validation-cpu"
REGIMES = ("nccl", "zero-cta", "peer-copy")


def shipped(machine: str) -> dict[str, str]:
    """Profiles of the regimes of a machine with peer access."""
    files = {"nccl": "nccl", "zero-cta": "nccl-zero-cta", "peer-copy": "peer-copy"}
    return {regime: f"clusters/{machine}-{file}.toml" for regime, file in files.items()}


def apart(path: str) -> dict[str, str]:
    """The profile of GPUs without peer access."""
    return {"without-peer-access": path}


def beside(folder: str, regimes: tuple[str, ...]) -> dict[str, str]:
    """Profiles beside a validation's results."""
    return {regime: f"{folder}/profile-{regime}.toml" for regime in regimes}


X4 = f"{GPU}/results-h100-x4"
X4_APART = f"{X4}/without-peer-access"
# A set's name, the folder of its results, and its profiles.
SETS = {
    "h200-x2": (f"{GPU}/results-h200-x2", shipped("h200-x2")),
    "h200-x2-apart": (
        f"{GPU}/results-h200-x2/without-peer-access",
        apart("clusters/h200-x2-without-peer-access.toml"),
    ),
    "h100-x2": (f"{GPU}/results-h100-x2", shipped("h100-x2")),
    "h100-x2-apart": (
        f"{GPU}/results-h100-x2/without-peer-access",
        apart("clusters/h100-x2-without-peer-access.toml"),
    ),
    "h100-x4": (X4, beside(X4, REGIMES)),
    "h100-x4-apart": (X4_APART, apart(f"{X4_APART}/profile-without-peer-access.toml")),
    "h100-staged": (f"{GPU}/results-h100", {"staged": "clusters/h100-staged-1.toml"}),
    "cpu": (
        f"{CPU}/results",
        beside(f"{CPU}/results", ("communication-bound", "compute-bound", "start-up-bound")),
    ),
}


def without(profile: str, header: str) -> str:
    """The profile without tables whose header begins so."""
    parts = re.split(r"(?m)^(?=\[)", profile)
    return "".join(part for part in parts if not part.startswith(header))


def without_saving(profile: str) -> str:
    """The profile whose queued collectives save nothing."""
    return re.sub(r"(?m)^queued_saving_s = .*\n", "", profile)


def without_contention(profile: str) -> str:
    """The profile whose tasks do not slow each other."""
    return without(without(profile, "[[contention"), "[contention")


VARIANTS = {
    "as shipped: a pair by size and kind, one saving": lambda profile: profile,
    "by kind only": lambda profile: without(profile, "[[contention"),
    "no saving": without_saving,
    "no contention": without_contention,
    "neither": lambda profile: without_saving(without_contention(profile)),
}


@dataclass(frozen=True)
class Point:
    """A layer over one all-to-all at one pair of degrees, and what it took."""

    regime: str
    layer: str
    degrees: tuple[int, int]
    measured: float  # seconds
    recorded: float  # what the profile of the time predicted


class Set:
    """The checked-in points of one validation."""

    def __init__(self, name: str):
        self.name = name
        folder, profiles = SETS[name]
        summary = json.loads((EXPERIMENTS / folder / "summary.json").read_text())
        configuration = summary["provenance"]["configuration"]
        self.schedule = configuration["schedule"]
        self.profiles = {
            regime: (EXPERIMENTS / path).read_text() for regime, path in profiles.items()
        }
        self.layers = {
            (regime["name"], layer["name"]): layer
            for regime in configuration["regime"]
            for layer in regime.get("layer", configuration.get("layer"))
        }
        with (EXPERIMENTS / folder / "points.csv").open(newline="") as file:
            self.points = [point_of(row) for row in csv.DictReader(file)]

    def equal_degrees(self, regime: str) -> bool:
        """Whether the executor of the regime needs equal degrees."""
        conditions = tomllib.loads(self.profiles[regime]).get("conditions", {})
        return conditions.get("equal_degrees", False)


def point_of(row: dict[str, str]) -> Point:
    """A row of points.csv; a degree is 4 or 4/2."""
    forward, _, backward = row["degree"].partition("/")
    return Point(
        row["regime"],
        row["layer"],
        (int(forward), int(backward or forward)),
        float(row["measured_makespan_s"]),
        float(row["predicted_makespan_s"]),
    )


class Predictor:
    """Runs the program for each point, several at a time."""

    def __init__(self, program: Path, folder: Path, jobs: int):
        self.program = program
        self.folder = folder
        self.jobs = jobs

    def makespans(self, of: Set, change) -> list[float]:
        """Of all points in their order, with changed profiles."""
        files = {}
        for regime, profile in of.profiles.items():
            files[regime] = self.folder / f"{of.name}-{regime}.toml"
            files[regime].write_text(change(profile))
        for (regime, name), layer in of.layers.items():
            text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in layer.items())
            (self.folder / f"{of.name}-{regime}-{name}.toml").write_text(text)

        def makespan(point: Point) -> float:
            layer = self.folder / f"{of.name}-{point.regime}-{point.layer}.toml"
            command = [self.program, "simulate", "--network", "fitted", "--json"]
            command += ["--schedule", of.schedule, "--layer", layer]
            command += ["--cluster", files[point.regime]]
            command += ["--forward-degree", str(point.degrees[0])]
            command += ["--backward-degree", str(point.degrees[1])]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{of.name} {point}: {done.stderr.strip()}")
            return json.loads(done.stdout)["makespan_s"]

        with ThreadPoolExecutor(self.jobs) as pool:
            return list(pool.map(makespan, of.points))


TOLERANCE, UNEQUAL_GAIN = 0.01, 0.015  # as calibrations write them


def chosen(times: dict[tuple[int, int], float], equal_only: bool) -> tuple[int, int]:
    """The fewest chunks within the tolerance; unequal degrees only if they are that much faster."""

    def fewest(only_equal: bool) -> tuple[int, float, tuple[int, int]]:
        among = {d: t for d, t in times.items() if not only_equal or d[0] == d[1]}
        fastest = min(among.values())
        return min((sum(d), t, d) for d, t in among.items() if t <= (1 + TOLERANCE) * fastest)

    equal = fewest(True)
    if equal_only:
        return equal[2]
    any_degrees = fewest(False)
    return any_degrees[2] if any_degrees[1] < (1 - UNEQUAL_GAIN) * equal[1] else equal[2]


class Summary:
    """Errors of one variant's predictions, and how good its choices are."""

    def __init__(self):
        self.errors: list[float] = []
        self.regrets: list[float] = []  # of degrees, one for each layer and all-to-all
        self.together: list[float] = []  # of all-to-all and degrees, one for each layer

    def add(self, of: Set, predicted: list[float]) -> None:
        """The points of one set."""
        groups: dict[tuple[str, str], dict] = {}
        for point, time in zip(of.points, predicted, strict=True):
            self.errors.append(abs(time / point.measured - 1))
            group = groups.setdefault((point.regime, point.layer), {})
            group[point.degrees] = (time, point.measured)
        by_layer: dict[str, list[tuple[float, float, float]]] = {}
        for (regime, layer), group in groups.items():
            times = {degrees: time for degrees, (time, _) in group.items()}
            time, measured = group[chosen(times, of.equal_degrees(regime))]
            best = min(measured for _, measured in group.values())
            self.regrets.append(measured / best - 1)
            by_layer.setdefault(layer, []).append((time, measured, best))
        for ways in by_layer.values():
            if len(ways) > 1:  # the same layer over several all-to-alls
                self.together.append(min(ways)[1] / min(best for _, _, best in ways) - 1)

    def merge(self, other: "Summary") -> None:
        """The points of another summary too."""
        self.errors += other.errors
        self.regrets += other.regrets
        self.together += other.together

    def __str__(self) -> str:
        def within(regrets: list[float]) -> str:
            return f"{sum(regret <= 0.01 for regret in regrets)}/{len(regrets)}"

        errors = sorted(self.errors)
        place = 0.95 * (len(errors) - 1)
        below = int(place)
        above = min(below + 1, len(errors) - 1)
        p95 = errors[below] + (place - below) * (errors[above] - errors[below])
        text = f"{100 * statistics.median(errors):.2f}, {100 * p95:.1f}, {within(self.regrets)}"
        return f"{text}, {within(self.together)}" if self.together else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, required=True, help="pipemoe")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="[all]")
    options = parser.parse_args()
    sets = [Set(name) for name in options.sets]
    print("median and p95 of |error| in %, degrees within 1 % of the best, all-to-alls with degrees")
    print("| variant | " + " | ".join(one.name for one in sets) + " | pooled |")
    print("|---" * (len(sets) + 2) + "|")

    def print_row(name: str, predict) -> None:
        pooled, cells = Summary(), []
        for one in sets:
            summary = Summary()
            summary.add(one, predict(one))
            pooled.merge(summary)
            cells.append(str(summary))
        print(f"| {name} | " + " | ".join(cells) + f" | {pooled} |", flush=True)

    print_row("as the run predicted", lambda one: [point.recorded for point in one.points])
    with tempfile.TemporaryDirectory() as folder:
        predictor = Predictor(options.program.resolve(), Path(folder), options.jobs)
        for name, change in VARIANTS.items():
            print_row(name, lambda one, change=change: predictor.makespans(one, change))


if __name__ == "__main__":
    main()
