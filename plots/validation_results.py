"""The result folder of `pipemoe validate`: points.csv and summary.json."""

import os
import re
from dataclasses import dataclass

from results import (LARGEST, InputError, cell, count, member, number, parse_json, printable, read,
                     read_rows, said_of, section)
from study_results import fastest

LEAST_S = 1e-9
MOST_LAYERS = 100
ROUNDING = 1e-6  # between an error in the summary and the same one of the points
DEVICES = ("device", "gpu", "cpu")  # names among the versions, the first there is


@dataclass(frozen=True)
class Point:
    """Makespans of one layer at one degree, in seconds; least <= most."""

    predicted: float
    closed_form: float
    measured: float
    least: float  # measured
    most: float

    def error(self) -> float:
        """Of the prediction, as a share of the measurement."""
        return abs(self.predicted / self.measured - 1)


@dataclass(frozen=True)
class Layer:
    """One layer: its points by degree, ascending; both best degrees are among them."""

    name: str
    shape: dict  # as the configuration has it; empty when it does not
    points: dict[int, Point]
    predicted_best: int
    measured_best: int
    # What a degree costs over the measured best one, as a share of that one's time.
    regret: float  # of the predicted best
    regret_closed_form: float  # of the closed form's best
    regret_degree_1: float


@dataclass(frozen=True)
class Errors:
    """Of the predicted makespans, as shares."""

    points: int
    median: float
    p95: float
    largest: float


@dataclass(frozen=True)
class Regime:
    """Layers over one link, at least one."""

    name: str
    link: str  # emulated; empty for a real one
    errors: Errors
    layers: list[Layer]

    def points(self) -> list[Point]:
        return [point for layer in self.layers for point in layer.points.values()]


@dataclass(frozen=True)
class Validation:
    """What was predicted and measured, and where that comes from."""

    name: str
    host: str
    device: str  # empty when the results do not name it
    provenance: dict
    configuration: dict
    errors: Errors
    regimes: list[Regime]

    def layers(self) -> list[Layer]:
        return [layer for regime in self.regimes for layer in regime.layers]

    def ranks(self) -> int | None:
        """How many took part, as far as it is said."""
        found = re.search(r"\b(\d{1,9}) ranks?\b", self.provenance["made_by"])
        return int(found[1]) if found else None

    def versions(self) -> list[str]:
        """Name and version of each; but for the link, which has a place of its own."""
        return [f"{printable(name)}: {printable(version)}"
                for name, version in section(self.provenance, "versions").items()
                if name != "emulated link"]


# Points.


def makespan(row: dict[str, str], name: str) -> float:
    return number(row, name, LEAST_S)


def read_point(row: dict[str, str]) -> Point:
    point = Point(predicted=makespan(row, "predicted_makespan_s"),
                  closed_form=makespan(row, "closed_form_makespan_s"),
                  measured=makespan(row, "measured_makespan_s"),
                  least=makespan(row, "measured_min_s"), most=makespan(row, "measured_max_s"))
    if point.least > point.most:
        raise InputError("measured_min_s must be at most measured_max_s")
    return point


def name_of(row: dict[str, str], column: str) -> str:
    name = printable(cell(row, column))
    if not name:
        raise InputError(f"{column} is empty")
    return name


def read_points(path: str) -> dict[str, dict[str, dict[int, Point]]]:
    """Points by regime, layer and degree; each in order of first appearance."""
    regimes: dict[str, dict[str, dict[int, Point]]] = {}
    regime_of: dict[str, str] = {}
    for line, row in enumerate(read_rows(path), start=2):
        with said_of(f"{path}: row {line}"):
            regime, layer = name_of(row, "regime"), name_of(row, "layer")
            if regime_of.setdefault(layer, regime) != regime:
                raise InputError(f"layer {layer} is in two regimes")
            points = regimes.setdefault(regime, {}).setdefault(layer, {})
            degree = count(row, "degree")
            if degree in points:
                raise InputError(f"layer {layer}, degree {degree} stands twice")
            points[degree] = read_point(row)
    if not regimes:
        raise InputError(f"{path}: nothing to draw: there are no points")
    if len(regime_of) > MOST_LAYERS:
        raise InputError(f"{path}: {len(regime_of)} layers, a page holds {MOST_LAYERS}")
    return regimes


# The summary.


def share(record: object, name: str) -> float:
    value = member(record, name, int, float)
    if not 0 <= value < LARGEST:  # not-a-number fails it too
        raise InputError(f"{name} must be a number of at least 0")
    return value


def read_errors(record: object, points: list[Point]) -> Errors:
    """Throws InputError unless they are of these points."""
    errors = Errors(member(record, "points", int), share(record, "median_error"),
                    share(record, "p95_error"), share(record, "largest_error"))
    largest = max(point.error() for point in points)
    if errors.points != len(points) or abs(errors.largest - largest) > ROUNDING * (1 + largest):
        raise InputError("it is of other points than those in points.csv")
    return errors


def best_degree(record: dict, name: str, times: dict[int, float]) -> int:
    degree = member(record, name, int)
    if degree not in fastest(times):
        raise InputError(f"{name} is {degree}, but degree {fastest(times)[0]} is the fastest in "
                         "points.csv")
    return degree


def read_layer(name: str, record: dict, shape: dict, points: dict[int, Point]) -> Layer:
    points = dict(sorted(points.items()))
    with said_of(f"layer {name}"):
        predicted = best_degree(record, "predicted_best_degree",
                                {degree: point.predicted for degree, point in points.items()})
        measured = best_degree(record, "measured_best_degree",
                               {degree: point.measured for degree, point in points.items()})
        return Layer(name, shape, points, predicted, measured, share(record, "regret"),
                     share(record, "regret_closed_form"), share(record, "gain_over_degree_1"))


def tables(record: dict, name: str) -> dict[str, dict]:
    """The tables of an array by their names; those without one are left out."""
    values = record.get(name)
    return {printable(value["name"]): value for value in values
            if isinstance(value, dict) and "name" in value} if isinstance(values, list) else {}


def read_regime(name: str, summary: dict, described: dict,
                points: dict[str, dict[int, Point]]) -> Regime:
    records = {printable(record["layer"]): record for record in summary["layers"]}
    for layer in points:
        if layer not in records:
            raise InputError(f"layer {layer} of points.csv is not among the layers")
    shapes = tables(described, "layer")
    layers = [read_layer(layer, records[layer], shapes.get(layer, {}), of_layer)
              for layer, of_layer in points.items()]
    with said_of(f"regime {name}"):
        errors = {printable(other): record for other, record in summary["regimes"].items()}
        errors = read_errors(errors.get(name),
                             [point for layer in layers for point in layer.points.values()])
    return Regime(name, printable(described.get("link") or ""), errors, layers)


def check_provenance(made: dict) -> None:
    for name in ("program", "commit", "host", "made_by"):
        member(made, name, str)
    if not all(isinstance(note, str) for note in member(made, "notes", list)):
        raise InputError("notes must hold texts")


def device_of(made: dict) -> str:
    versions = {name.lower(): printable(version)
                for name, version in section(made, "versions").items()}
    return next((versions[name] for name in DEVICES if versions.get(name)), "")


def summary_of(text: bytes, points: dict[str, dict[str, dict[int, Point]]]) -> Validation:
    """The validation that a summary and its points tell of."""
    summary = parse_json(text)
    made = member(summary, "provenance", dict)
    check_provenance(made)
    configuration = member(made, "configuration", dict)
    member(summary, "regimes", dict)
    for record in member(summary, "layers", list):
        member(record, "layer", str)
    described = tables(configuration, "regime")
    regimes = [read_regime(name, summary, described.get(name, {}), of_regime)
               for name, of_regime in points.items()]
    with said_of("all"):
        errors = read_errors(summary.get("all"), [p for one in regimes for p in one.points()])
    return Validation(name=printable(member(configuration, "name", str)),
                      host=printable(made["host"]), device=device_of(made), provenance=made,
                      configuration=configuration, errors=errors, regimes=regimes)


def read_validation(folder: str) -> Validation:
    """Throws InputError unless both files are there and tell of the same points."""
    points = read_points(os.path.join(folder, "points.csv"))
    path = os.path.join(folder, "summary.json")
    with said_of(path):
        return summary_of(read(path), points)
