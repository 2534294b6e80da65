"""The result folder of `pipemoe study`: points.csv, <cluster>-degrees.csv and summary.json."""

import copy
import os
from dataclasses import dataclass

import style
from results import (InputError, cell, check_schema, count, member, number, parse_json, printable,
                     read, read_basis, read_rows, said_of, seconds, section)

SCHEMA = "pipemoe.study/1"
FIXED_DEGREES = (1, 2, 4, 8)
EQUAL = 1 + 1e-9  # times within it are one time, as the study itself holds
MISSES = ("", "uneven chunks", "link physics", "uneven chunks and link physics")


def loss(time: float, best: float) -> float:
    """What `time` is over `best`, minus 1; 0 for one time that was summed in two ways."""
    return time / best - 1 if time > best * EQUAL else 0.0


def fastest(times: dict[int, float]) -> list[int]:
    """The degrees of the least time, ascending as `times` is."""
    least = min(times.values())
    return [degree for degree, time in times.items() if time <= least * EQUAL]


@dataclass(frozen=True)
class Pass:
    """One pass of one layer: simulated seconds by degree, ascending; holds chosen and best."""

    chosen: int
    best: int  # of the fastest degrees the smallest; the study's own may be another of them
    miss: str  # one of MISSES
    times: dict[int, float]

    def regret(self) -> float:
        return loss(self.times[self.chosen], self.times[self.best])

    def equals_of_best(self) -> list[int]:
        """The degrees as fast as the best, itself among them."""
        return fastest(self.times)

    def largest_is_best(self) -> bool:
        return max(self.times) in self.equals_of_best()


@dataclass(frozen=True)
class Layer:
    """One layer on the cluster; seconds are of one iteration."""

    point: int
    values: dict[str, str]  # of the grid's keys
    tokens: int
    model_dim: int
    hidden_dim: int
    passes: dict[str, Pass]
    iteration_s: float
    deferred_s: float  # with deferred weight gradients; 0 when not studied
    others_s: dict[str, float]  # of other schedules, by name

    def best_s(self) -> float:
        return sum(pass_.times[pass_.best] for pass_ in self.passes.values())

    def regret(self) -> float:
        return loss(self.iteration_s, self.best_s())

    def fixed_regret(self, *degrees: int) -> float | None:
        """With the fastest of these degrees, one for both passes; None when none was tried."""
        times = [sum(pass_.times[degree] for pass_ in self.passes.values()) for degree in degrees
                 if all(degree in pass_.times for pass_ in self.passes.values())]
        return loss(min(times), self.best_s()) if times else None


@dataclass(frozen=True)
class Study:
    """One cluster's layers, at least one, and where the results come from."""

    name: str
    note: str
    network: str
    program: str
    commit: str
    file: dict  # the study file
    cluster: dict  # the profile as used, but for what the grid sets; names the cluster
    ranks: int
    layers: list[Layer]
    failed: int  # layers without a result
    basis: dict[str, float]  # what the chosen degrees' times rest on, on average; empty: unknown

    def grid(self, key: str) -> list:
        """The values of a layer's key in the study file's grid; empty when it is none."""
        values = section(section(self.file, "grid"), "layer").get(key)
        return values if isinstance(values, list) else []

    def setting(self, key: str):
        """What the study file sets for all layers; None when it does not."""
        return section(self.file, "layer").get(key)


# Points and degrees.


def read_degrees(path: str) -> dict[int, dict[str, dict[int, float]]]:
    """Seconds by point, pass and degree."""
    times: dict[int, dict[str, dict[int, float]]] = {}
    for line, row in enumerate(read_rows(path), start=2):
        with said_of(f"{path}: row {line}"):
            of_point = times.setdefault(count(row, "point", 0), {name: {} for name in style.PASSES})
            for name in style.PASSES:
                of_point[name][count(row, "degree")] = seconds(row, f"{name}_s")
    return times


def read_pass(row: dict[str, str], name: str, times: dict[int, float]) -> Pass:
    chosen, best = (count(row, f"{name}_{which}_degree") for which in ("chosen", "best"))
    for degree in (chosen, best):
        if degree not in times:
            raise InputError(f"{name} degree {degree} is not among the degrees of its point")
    times = dict(sorted(times.items()))
    if best not in fastest(times):
        raise InputError(f"{name}_best_degree is {best}, but degree {fastest(times)[0]} is faster")
    miss = cell(row, f"{name}_miss")
    if miss not in MISSES:
        raise InputError(f"{name}_miss is {printable(miss)}, must be empty or one of "
                         + ", ".join(MISSES[1:]))
    return Pass(chosen, fastest(times)[0], miss, times)


def other_schedules(columns: list[str]) -> list[str]:
    """The names of the schedules that follow ours."""
    columns = columns[columns.index("deferred_iteration_s") + 1:]
    return [name[:-2] for name in columns if name.endswith("_s")]


def read_layer(row: dict[str, str], study_file: dict, degrees: dict) -> Layer:
    point = count(row, "point", 0)
    fixed = {key: str(value) for key, value in section(study_file, "layer").items()}
    grid = section(study_file, "grid")
    keys = [key for kind in ("layer", "cluster") for key in section(grid, kind)]
    times = degrees.get(point, {name: {} for name in style.PASSES})
    deferred = number(row, "deferred_iteration_s")
    return Layer(point=point, values={key: cell(row, key) for key in keys},
                 tokens=count(row, "tokens_per_rank"),
                 model_dim=count(fixed | row, "model_dim"),
                 hidden_dim=count(fixed | row, "hidden_dim"),
                 passes={name: read_pass(row, name, times[name]) for name in style.PASSES},
                 iteration_s=seconds(row, "iteration_s"), deferred_s=deferred,
                 others_s={name: seconds(row, f"{name}_s") for name in other_schedules(list(row))
                           if row[f"{name}_s"]})


def read_layers(folder: str, cluster: str, study_file: dict) -> tuple[list[Layer], int, int]:
    """The cluster's layers, how many more have failed, and the number of ranks."""
    path = os.path.join(folder, "points.csv")
    degrees = read_degrees(os.path.join(folder, f"{cluster}-degrees.csv"))
    layers, failed, ranks = [], 0, 0
    for line, row in enumerate(read_rows(path), start=2):
        with said_of(f"{path}: row {line}"):
            if cell(row, "cluster") != cluster:
                continue
            ranks = count(row, "ranks")
            if cell(row, "error"):
                failed += 1
            else:
                layers.append(read_layer(row, study_file, degrees))
    if not layers:
        raise InputError(f"{path}: cluster {cluster} has no layer with a result")
    return layers, failed, ranks


# The summary.


def overridden(profile: dict, settings: dict) -> dict:
    """The profile with these values at their dotted keys."""
    profile = copy.deepcopy(profile)
    for key, value in settings.items():
        *path, last = key.split(".")
        table = profile
        for name in path:
            table = table[name] if isinstance(table.get(name), dict) else table.setdefault(name, {})
        table[last] = value
    return profile


def read_profile(configuration: dict, cluster: str) -> dict:
    """The profile of this cluster as the study changed it; its name alone when it is not there."""
    changes = section(section(configuration, "study"), "cluster")
    for profile in configuration.values():
        if isinstance(profile, dict) and profile.get("name") == cluster and "fits" in profile:
            return overridden(profile, changes)
    return {"name": cluster}


def read_summary(folder: str) -> dict:
    """Throws InputError unless it has the members that read_study takes for granted."""
    path = os.path.join(folder, "summary.json")
    with said_of(path):
        summary = parse_json(read(path))
        check_schema(summary, SCHEMA)
        for name in ("study", "note", "network"):
            member(summary, name, str)
        made = member(summary, "provenance", dict)
        member(made, "program", str)
        member(made, "commit", str)
        member(member(made, "configuration", dict), "study", dict)
        if not member(summary, "clusters", list):
            raise InputError("clusters is empty")
        for cluster in summary["clusters"]:
            member(cluster, "cluster", str)
    return summary


def read_study(folder: str, cluster: str | None) -> Study:
    """The results on a cluster, the summary's first by default. Throws InputError."""
    summary = read_summary(folder)
    names = [record["cluster"] for record in summary["clusters"]]
    cluster = names[0] if cluster is None else cluster
    if cluster not in names:
        raise InputError(f"{folder}: there is no cluster {cluster}, only " + ", ".join(names))
    made = summary["provenance"]
    file = made["configuration"]["study"]
    layers, failed, ranks = read_layers(folder, cluster, file)
    return Study(name=printable(summary["study"]), note=printable(summary["note"]),
                 network=printable(summary["network"]), program=printable(made["program"]),
                 commit=printable(made["commit"]), file=file,
                 cluster=read_profile(made["configuration"], cluster), ranks=ranks, layers=layers,
                 failed=failed, basis=read_basis(summary["clusters"][names.index(cluster)]))
