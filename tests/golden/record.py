"""Makes runs.csv and node_without_contention.csv anew from a given program.

    python3 tests/golden/record.py --program build/release/pipemoe

Only for a change of results that is meant: check.py compares with what was recorded before.
"""

import argparse
import sys
from collections.abc import Iterator
from itertools import cycle, product
from pathlib import Path

import golden
from golden import Run


class Layer:
    """A layer file, and what decides where it can run."""

    def __init__(self, name: str, experts: int, dtype: str):
        self.file = name + ".toml"
        self.experts = experts
        self.dtype = dtype


class Cluster:
    """A cluster file, and what decides which layers run on it."""

    def __init__(self, name: str, ranks: int, dtype: str):
        self.file = name + ".toml"
        self.ranks = ranks
        self.dtype = dtype  # the one whose matrix products are fitted
        self.has_overlap = dtype == "bf16"


LAYERS = {
    layer.file.removesuffix(".toml"): layer
    for layer in (
        Layer("pipemoe-example", 64, "fp32"),
        Layer("qwen3", 64, "bf16"),
        Layer("dsv3", 32, "bf16"),
        Layer("mixtral", 8, "bf16"),
        Layer("gpt2", 2, "bf16"),
        Layer("small", 2, "bf16"),
        Layer("cpu-example", 4, "fp32"),
    )
}
CLUSTERS = {
    cluster.file.removesuffix(".toml"): cluster
    for cluster in (
        Cluster("rtx2080ti-100gib-16", 16, "fp32"),
        Cluster("rtx2080ti-100gib-32", 32, "fp32"),
        Cluster("rtx2080ti-100gib-64", 64, "fp32"),
        Cluster("h100-staged-1", 1, "bf16"),
        Cluster("h100-x2-nccl", 2, "bf16"),
        Cluster("h100-x2-nccl-zero-cta", 2, "bf16"),
        Cluster("h100-x2-peer-copy", 2, "bf16"),
        Cluster("h100-x2-without-peer-access", 2, "bf16"),
        Cluster("h200-staged-1", 1, "bf16"),
        Cluster("h200-x2-nccl", 2, "bf16"),
        Cluster("h200-x2-nccl-zero-cta", 2, "bf16"),
        Cluster("h200-x2-peer-copy", 2, "bf16"),
        Cluster("h200-x2-without-peer-access", 2, "bf16"),
    )
}

PLANNED = ("pipemoe", "pipemoe-deferred")
WITHOUT_DEGREES = ("sequential", "fastermoe")
SCHEDULES = ("sequential", "fastermoe", "tutel", "pipemoe", "pipemoe-deferred")

# Forward and backward; what is empty is chosen.
EQUAL_DEGREES = (("1", "1"), ("2", "2"), ("3", "3"), ("4", "4"), ("8", "8"))
UNEQUAL_DEGREES = (("1", "2"), ("2", "1"), ("3", "8"), ("8", "3"), ("4", "2"), ("2", "4"))
CHOSEN_DEGREES = (("", ""), ("3", ""), ("", "4"), ("", ""))
DEGREES = EQUAL_DEGREES + UNEQUAL_DEGREES + CHOSEN_DEGREES
TUTEL_DEGREES = (("1", "1"), ("2", "2"), ("4", "4"), ("8", "8"))  # divide the slots of all layers

# Run with every degree.
CLOSELY = (
    ("pipemoe-example", "rtx2080ti-100gib-64"),
    ("qwen3", "h200-x2-nccl"),
)
# Run with overrides.
CHANGED = (
    *CLOSELY,
    ("dsv3", "h100-x2-peer-copy"),
    ("mixtral", "h200-x2-nccl-zero-cta"),
)

LAYER_OVERRIDES = (
    "layer.capacity_factor=1.1",
    "layer.capacity_factor=dropless",
    "layer.model_dim=1536",
    "layer.model_dim=2048;layer.hidden_dim=3072",
    "layer.tokens_per_rank=5000",
    "layer.tokens_per_rank=777;layer.capacity_factor=dropless",
    "layer.top_k=1",
    "layer.activation=gelu",
    "layer.activation=swiglu",
    "layer.num_experts=128;layer.capacity_factor=1.25",
)
CLUSTER_OVERRIDES = (
    "cluster.conditions.equal_degrees=false",
    "cluster.conditions.equal_degrees=true",
    "cluster.conditions.degree_tolerance=0;cluster.conditions.unequal_degrees_gain=0",
    "cluster.conditions.degree_tolerance=0.05;cluster.conditions.equal_degrees=false",
    "cluster.conditions.unequal_degrees_gain=0.1;cluster.conditions.equal_degrees=false",
    "cluster.network.nic_bytes_per_s=5e9",
)
# For profiles without one. At the node level it has a pair of its own, which expected_changes.csv
# can name.
NEW_OVERLAP_AT_NODE_LEVEL = ("pipemoe-example", "rtx2080ti-100gib-16")
NEW_OVERLAP = (
    "cluster.contention.forward.products=1.2;cluster.contention.forward.collectives=1.4;"
    "cluster.contention.gradients.products=1.2;cluster.contention.gradients.collectives=1.4;"
    "cluster.contention.source=override"
)
LINK_OVERRIDES = (
    "cluster.network.nic_bytes_per_s=5e9",
    "cluster.network.nic_bytes_per_s=50e9;cluster.network.efficiency=1",
    "cluster.gpu.link_bytes_per_s=2e9",
    "cluster.nodes=8;cluster.gpus_per_node=8",
    "cluster.nodes=64;cluster.gpus_per_node=1",
    'cluster.network.topology="fat_tree";cluster.network.nodes_per_leaf=4;'
    "cluster.network.oversubscription=1",
    'cluster.network.topology="fat_tree";cluster.network.nodes_per_leaf=4;'
    "cluster.network.oversubscription=2",
    'cluster.network.topology="fat_tree";cluster.network.nodes_per_leaf=2;'
    "cluster.network.oversubscription=3.5",
    'cluster.network.topology="fat_tree";cluster.network.nodes_per_leaf=5;'
    "cluster.network.oversubscription=4;cluster.network.nic_bytes_per_s=25e9",
)


def needed(layer: Layer, cluster: Cluster, overrides: str = "") -> str:
    """`overrides` after those without which the layer would not run on the cluster."""
    all_of_them = []
    if layer.dtype != cluster.dtype:
        all_of_them.append(f"layer.dtype={cluster.dtype}")
    if layer.experts % cluster.ranks != 0 and "num_experts" not in overrides:
        all_of_them.append(f"layer.num_experts={cluster.ranks}")
    if overrides:
        all_of_them.append(overrides)
    return ";".join(all_of_them)


def pair_of(names: tuple[str, str]) -> tuple[Layer, Cluster]:
    """A layer and a cluster by their names."""
    layer, cluster = names
    return LAYERS[layer], CLUSTERS[cluster]


def made(
    kind: str,
    layer: Layer,
    cluster: Cluster,
    schedule: str,
    degrees: tuple[str, str] = ("", ""),
    overrides: str = "",
) -> Run:
    """A run of a layer on a cluster, with the overrides without which it could not be."""
    if schedule in WITHOUT_DEGREES:
        degrees = ("", "")
    return Run(
        kind, layer.file, cluster.file, schedule, *degrees, needed(layer, cluster, overrides)
    )


class InTurn:
    """Degrees in turn, as each schedule can have them."""

    def __init__(self):
        self.degrees = cycle(DEGREES)
        self.tutel_degrees = cycle(TUTEL_DEGREES)

    def next(self, schedule: str) -> tuple[str, str]:
        if schedule in WITHOUT_DEGREES:
            return ("", "")
        return next(self.tutel_degrees if schedule == "tutel" else self.degrees)


def runs_of_all_pairs() -> Iterator[Run]:
    """Every layer on every cluster, with schedules and degrees in turn."""
    planned, schedules, degrees = cycle(PLANNED), cycle(SCHEDULES), InTurn()
    for layer, cluster in product(LAYERS.values(), CLUSTERS.values()):
        yield made("plan", layer, cluster, next(planned))
        schedule = next(schedules)
        yield made("fitted", layer, cluster, schedule, degrees.next(schedule))


def runs_of_all_degrees() -> Iterator[Run]:
    """A few layers with every schedule and degree at the fitted level."""
    for pair in map(pair_of, CLOSELY):
        for schedule in PLANNED:
            yield made("plan", *pair, schedule)
        for schedule in WITHOUT_DEGREES:
            yield made("fitted", *pair, schedule)
        for degrees in TUTEL_DEGREES:
            yield made("fitted", *pair, "tutel", degrees)
        for schedule, degrees in product(PLANNED, (*EQUAL_DEGREES, ("", ""))):
            yield made("fitted", *pair, schedule, degrees)


def runs_with_overrides() -> Iterator[Run]:
    """A few layers with changed values: one is planned, the next simulated, in turn."""
    planned, schedules, degrees = cycle(PLANNED), cycle(SCHEDULES), InTurn()
    plans = True
    for overrides in LAYER_OVERRIDES + CLUSTER_OVERRIDES:
        for pair in map(pair_of, CHANGED):
            if plans:
                yield made("plan", *pair, next(planned), overrides=overrides)
            else:
                schedule = next(schedules)
                yield made("fitted", *pair, schedule, degrees.next(schedule), overrides)
            plans = not plans
        plans = not plans  # the layers planned are simulated with the next override


def runs_with_new_overlap() -> Iterator[Run]:
    """Streams that slow each other on a cluster of several nodes."""
    pair = pair_of(("pipemoe-example", "rtx2080ti-100gib-32"))
    for schedule in PLANNED:
        yield made("plan", *pair, schedule, overrides=NEW_OVERLAP)
        yield made("fitted", *pair, schedule, ("3", "8"), NEW_OVERLAP)
    for schedule in SCHEDULES:
        yield made("fitted", *pair, schedule, ("2", "2"), NEW_OVERLAP)


def node_runs() -> Iterator[Run]:
    """The node level where streams do not slow each other."""
    schedules, degrees = cycle(SCHEDULES), InTurn()
    clusters = [cluster for cluster in CLUSTERS.values() if not cluster.has_overlap]
    with_new_overlap = pair_of(NEW_OVERLAP_AT_NODE_LEVEL)
    for pair in product(LAYERS.values(), clusters):
        if pair == with_new_overlap:
            continue
        schedule = next(schedules)
        yield made("node", *pair, schedule, degrees.next(schedule))
    pair = pair_of(("pipemoe-example", "rtx2080ti-100gib-64"))
    for schedule in SCHEDULES:
        yield made("node", *pair, schedule, ("4", "4"))
    for overrides, _ in product(LINK_OVERRIDES, range(2)):
        schedule = next(schedules)
        yield made("node", *pair, schedule, degrees.next(schedule), overrides)
    for overrides in LAYER_OVERRIDES:
        yield made("node", *pair, "pipemoe", degrees.next("pipemoe"), overrides)


def node_runs_without_contention() -> Iterator[Run]:
    """The node level where streams slow each other, by the profile or by overrides."""
    layers, schedules, degrees = cycle(LAYERS.values()), cycle(SCHEDULES), InTurn()
    with_overlap = [cluster for cluster in CLUSTERS.values() if cluster.has_overlap]
    for cluster, _ in product(with_overlap, range(3)):
        schedule = next(schedules)
        yield made("node", next(layers), cluster, schedule, degrees.next(schedule))
    pair = pair_of(NEW_OVERLAP_AT_NODE_LEVEL)
    for schedule, _ in product(SCHEDULES, range(2)):
        yield made("node", *pair, schedule, degrees.next(schedule), NEW_OVERLAP)


def record(program: Path, path: Path, runs: list[Run], jobs: int) -> None:
    """Runs each once, and writes those whose input the program accepts."""
    unique = list(dict.fromkeys(runs))
    rows = []
    for one, result in zip(unique, golden.run_all(program, unique, jobs), strict=True):
        if isinstance(result, golden.Result):
            rows.append((one, result))
        elif result.exit_code == golden.BAD_INPUT:
            print(f"left out: {one}: {result.message}")
        else:
            sys.exit(f"{one}: {result}")
    golden.write_table(path, rows)
    print(f"{path.name}: {len(rows)} runs, {path.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description="Record what a program computes.")
    parser.add_argument("--program", type=golden.program_at, required=True, help="pipemoe")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time [2]")
    options = parser.parse_args()
    runs = [
        *runs_of_all_pairs(),
        *runs_of_all_degrees(),
        *runs_with_overrides(),
        *runs_with_new_overlap(),
        *node_runs(),
    ]
    record(options.program, golden.RUNS, runs, options.jobs)
    record(
        options.program,
        golden.NODE_WITHOUT_CONTENTION,
        list(node_runs_without_contention()),
        options.jobs,
    )


if __name__ == "__main__":
    main()
