"""Runs of `pipemoe plan` and `pipemoe simulate`, their results, and the tables that hold both."""

import argparse
import csv
import json
import os
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
REPOSITORY = FOLDER.parents[1]
INPUTS = REPOSITORY / "experiments"
RUNS = FOLDER / "runs.csv"
NODE_WITHOUT_CONTENTION = FOLDER / "node_without_contention.csv"

BAD_INPUT = 2  # the program's exit code


@dataclass(frozen=True)
class Run:
    """What is run. Empty degrees are chosen by the program."""

    kind: str  # plan, or the network level of a simulation: fitted, node
    layer: str  # a file in experiments/layers
    cluster: str  # a file in experiments/clusters
    schedule: str
    forward_degree: str = ""
    backward_degree: str = ""
    overrides: str = ""  # values of --set, between semicolons

    def command(self, program: Path, inputs: Path) -> list[str]:
        """The command line of this run with the layers and clusters of the folder `inputs`."""
        command = [str(program), "plan" if self.kind == "plan" else "simulate"]
        command += ["--layer", str(inputs / "layers" / self.layer)]
        command += ["--cluster", str(inputs / "clusters" / self.cluster)]
        command += ["--schedule", self.schedule, "--json"]
        if self.kind != "plan":
            command += ["--network", self.kind]
        for option, degree in (
            ("--forward-degree", self.forward_degree),
            ("--backward-degree", self.backward_degree),
        ):
            if degree:
                command += [option, degree]
        for override in self.overrides.split(";") if self.overrides else ():
            command += ["--set", override]
        return command

    def __str__(self) -> str:
        degrees = f"{self.forward_degree or 'chosen'}/{self.backward_degree or 'chosen'}"
        words = [self.kind, self.layer, self.cluster, self.schedule, degrees, self.overrides]
        return " ".join(word for word in words if word)


@dataclass(frozen=True)
class Result:
    """What a run says: the degrees used, and the times of both phases in seconds."""

    chosen_forward_degree: int
    chosen_backward_degree: int
    forward_s: float
    backward_s: float


@dataclass(frozen=True)
class Failure:
    """A run without a result."""

    exit_code: int
    message: str

    def __str__(self) -> str:
        return f"exit code {self.exit_code}: {self.message}"


RUN_COLUMNS = tuple(Run.__dataclass_fields__)
RESULT_COLUMNS = tuple(Result.__dataclass_fields__)


def result_of(kind: str, output: str) -> Result:
    """The result in what the program printed."""
    printed = json.loads(output)
    if kind == "plan":
        forward, backward = printed["forward"], printed["backward"]
        return Result(forward["degree"], backward["degree"], forward["time_s"], backward["time_s"])
    used = printed["provenance"]["configuration"]
    return Result(
        used["forward_degree"],
        used["backward_degree"],
        printed["forward_s"],
        printed["backward_s"],
    )


def run(program: Path, one: Run, inputs: Path = INPUTS) -> Result | Failure:
    """Runs the program once."""
    done = subprocess.run(one.command(program, inputs), capture_output=True, text=True)
    if done.returncode != 0:
        return Failure(done.returncode, done.stderr.strip())
    try:
        return result_of(one.kind, done.stdout)
    except (KeyError, TypeError, ValueError) as error:
        return Failure(done.returncode, f"no result in what it printed: {error!r}")


def run_all(
    program: Path, runs: Iterable[Run], jobs: int, inputs: Path = INPUTS
) -> list[Result | Failure]:
    """Runs the program for each of `runs`, `jobs` at a time; results are in the same order."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda one: run(program, one, inputs), runs))


def write_table(path: Path, rows: Iterable[tuple[Run, Result]]) -> None:
    """Writes runs and their results; numbers are as short as reads back the same."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, RUN_COLUMNS + RESULT_COLUMNS, lineterminator="\n")
        table.writeheader()
        for one, result in rows:
            table.writerow(asdict(one) | asdict(result))


def read_table(path: Path) -> list[tuple[Run, Result]]:
    """Reads what write_table wrote."""
    with path.open(newline="") as file:
        return [
            (
                Run(*(row[column] for column in RUN_COLUMNS)),
                Result(
                    int(row["chosen_forward_degree"]),
                    int(row["chosen_backward_degree"]),
                    float(row["forward_s"]),
                    float(row["backward_s"]),
                ),
            )
            for row in csv.DictReader(file)
        ]


def relative_difference(old: float, new: float) -> float:
    """How far two numbers are apart, over the larger of them; infinite where one is no number."""
    if old == new:
        return 0.0
    difference = abs(new - old) / max(abs(old), abs(new))
    return difference if difference == difference else float("inf")


def program_at(text: str) -> Path:
    """An executable file, for the option --program."""
    path = Path(text).resolve()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text} is no program")
    return path
