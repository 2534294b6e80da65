"""The result folder of `pipemoe validate`: points.csv and summary.json."""

import os
import re
from dataclasses import dataclass

from results import (LARGEST, InputError, cell, member, number, parse_json, printable, read,
                     read_basis, read_rows, said_of, section)
from study_results import fastest

LEAST_S = 1e-9
MOST_LAYERS = 100  # those of all regimes
ROUNDING = 1e-6  # between an error in the summary and the same one of the points
DEVICES = ("device", "gpu", "cpu")  # names among the versions, the first there is


Degrees = tuple[int, int]  # of forward and of backward


def label(degrees: Degrees) -> str:
    forward, backward = degrees
    return str(forward) if forward == backward else f"{forward}/{backward}"


def degrees_of(text: str, name: str) -> Degrees:
    found = re.fullmatch(r"([1-9]\d{0,8})(?:/([1-9]\d{0,8}))?", text)
    if not found:
        raise InputError(f'{name} is "{printable(text)}", must be a degree, or forward\'s / '
                         "backward's")
    return int(found[1]), int(found[2] or found[1])


def order(degrees: Degrees) -> tuple[bool, Degrees]:
    """Equal degrees first."""
    return degrees[0] != degrees[1], degrees


@dataclass(frozen=True)
class Point:
    """Makespans of one layer at one pair of degrees, in seconds; least <= most."""

    predicted: float
    closed_form: float
    measured: float
    least: float  # measured
    most: float
    limit: float | None  # of the whole layer; None when it is not known
    # Whether it is what plan chooses, by that time.
    predicted_chosen: bool
    closed_form_chosen: bool

    def error(self) -> float:
        """Of the prediction, as a share of the measurement."""
        return abs(self.predicted / self.measured - 1)


@dataclass(frozen=True)
class Layer:
    """One layer: its points by degrees, equal ones first; both best degrees are among them."""

    name: str
    shape: dict  # as the configuration has it; empty when it does not
    points: dict[Degrees, Point]
    predicted_best: Degrees
    measured_best: Degrees
    # What a degree costs over the measured best one, as a share of that one's time.
    regret: float  # of the chosen
    regret_closed_form: float  # of the closed form's choice
    regret_degree_1: float

    def limit(self) -> float | None:
        """The longer of computing and communicating in each pass, in seconds."""
        return next(iter(self.points.values())).limit


@dataclass(frozen=True)
class Choice:
    """Regime and degree for a layer that stands in several regimes: what the prediction prefers
    costs `regret` over the measured best, as a share of that one's time."""

    layer: str
    regret: float
    regret_closed_form: float


@dataclass(frozen=True)
class Errors:
    """Of the predicted makespans, as shares."""

    points: int
    median: float
    p95: float
    largest: float
    basis: dict[str, float]  # what the predictions rest on, on average; empty: unknown


@dataclass(frozen=True)
class Regime:
    """Layers over one communicator and link, at least one; each name stands once."""

    name: str
    communicator: str  # empty when the results do not name it
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
    choices: list[Choice]  # one for each layer of several regimes, or none

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

Points = dict[str, dict[str, dict[Degrees, Point]]]  # by regime, layer and degrees


def makespan(row: dict[str, str], name: str) -> float:
    return number(row, name, LEAST_S)


def flag(row: dict[str, str], name: str) -> bool:
    text = cell(row, name)
    if text not in ("0", "1"):
        raise InputError(f"{name} is {text}, must be 0 or 1")
    return text == "1"


def read_point(row: dict[str, str]) -> Point:
    point = Point(predicted=makespan(row, "predicted_makespan_s"),
                  closed_form=makespan(row, "closed_form_makespan_s"),
                  measured=makespan(row, "measured_makespan_s"),
                  least=makespan(row, "measured_min_s"), most=makespan(row, "measured_max_s"),
                  limit=makespan(row, "limit_s") if cell(row, "limit_s") else None,
                  predicted_chosen=flag(row, "chosen"),
                  closed_form_chosen=flag(row, "closed_form_chosen"))
    if point.least > point.most:
        raise InputError("measured_min_s must be at most measured_max_s")
    return point


def name_of(row: dict[str, str], column: str) -> str:
    name = printable(cell(row, column))
    if not name:
        raise InputError(f"{column} is empty")
    return name


def read_points(path: str) -> Points:
    """Regimes, layers and degrees in order of first appearance."""
    regimes: Points = {}
    for line, row in enumerate(read_rows(path), start=2):
        with said_of(f"{path}: row {line}"):
            regime, layer = name_of(row, "regime"), name_of(row, "layer")
            points = regimes.setdefault(regime, {}).setdefault(layer, {})
            degrees = degrees_of(cell(row, "degree"), "degree")
            if degrees in points:
                raise InputError(f"layer {layer}, degree {label(degrees)} stands twice")
            points[degrees] = read_point(row)
    if not regimes:
        raise InputError(f"{path}: nothing to draw: there are no points")
    layers = sum(map(len, regimes.values()))
    if layers > MOST_LAYERS:
        raise InputError(f"{path}: {layers} layers, a page holds {MOST_LAYERS}")
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
                    share(record, "p95_error"), share(record, "largest_error"),
                    read_basis(record))
    largest = max(point.error() for point in points)
    if errors.points != len(points) or abs(errors.largest - largest) > ROUNDING * (1 + largest):
        raise InputError("it is of other points than those in points.csv")
    return errors


def said_degrees(record: dict, name: str) -> Degrees:
    """A number is of both passes."""
    return degrees_of(str(member(record, name, int, str)), name)


def best_places(points: dict, name: str) -> list:
    """The keys of the points where `name`, a time of Point, is least: of those that were chosen by
    it, if any was."""
    chosen = {key: point for key, point in points.items()
              if getattr(point, f"{name}_chosen", False)}
    return fastest({key: getattr(point, name) for key, point in (chosen or points).items()})


def best_degrees(record: dict, name: str, points: dict[Degrees, Point]) -> Degrees:
    degrees, best = said_degrees(record, f"{name}_best_degree"), best_places(points, name)
    if degrees not in best:
        raise InputError(f"{name}_best_degree is {label(degrees)}, but it is {label(best[0])} in "
                         "points.csv")
    return degrees


def check_limit(points: list[Point]) -> None:
    least, most = (end(point.limit or 0 for point in points) for end in (min, max))
    if most - least > ROUNDING * most:
        raise InputError("limit_s must be the same for all degrees")


def read_layer(name: str, record: dict, shape: dict, points: dict[Degrees, Point]) -> Layer:
    points = dict(sorted(points.items(), key=lambda item: order(item[0])))
    with said_of(f"layer {name}"):
        check_limit(list(points.values()))
        predicted = best_degrees(record, "predicted", points)
        measured = best_degrees(record, "measured", points)
        return Layer(name, shape, points, predicted, measured, share(record, "regret"),
                     share(record, "regret_closed_form"), share(record, "gain_over_degree_1"))


def tables(record: dict, name: str) -> dict[str, dict]:
    """The tables of an array by their names; those without one are left out."""
    values = record.get(name)
    return {printable(value["name"]): value for value in values
            if isinstance(value, dict) and "name" in value} if isinstance(values, list) else {}


def records_of(summary: dict) -> dict[tuple[str, str], dict]:
    """What the summary says of each layer, by regime and layer."""
    records: dict[tuple[str, str], dict] = {}
    for record in member(summary, "layers", list):
        place = tuple(printable(member(record, name, str)) for name in ("regime", "layer"))
        if records.setdefault(place, record) is not record:
            raise InputError(f"layers: layer {place[1]} of regime {place[0]} stands twice")
    return records


def said_or_shared(described: dict, configuration: dict, name: str) -> str:
    """A text of the regime, else of the whole configuration, else nothing."""
    texts = (table.get(name) for table in (described, configuration))
    return next((printable(text) for text in texts if isinstance(text, str)), "")


def read_regime(name: str, summary: dict, configuration: dict,
                points: dict[str, dict[Degrees, Point]]) -> Regime:
    described = tables(configuration, "regime").get(name, {})
    shapes = tables(described, "layer") or tables(configuration, "layer")
    records = records_of(summary)
    with said_of(f"regime {name}"):
        for layer in points:
            if (name, layer) not in records:
                raise InputError(f"layer {layer} of points.csv is not among the layers")
        layers = [read_layer(layer, records[name, layer], shapes.get(layer, {}), of_layer)
                  for layer, of_layer in points.items()]
        errors = {printable(other): record for other, record in summary["regimes"].items()}
        errors = read_errors(errors.get(name),
                             [point for layer in layers for point in layer.points.values()])
    return Regime(name, said_or_shared(described, configuration, "communicator"),
                  printable(described.get("link") or ""), errors, layers)


# Choices of regime and degree.

Places = dict[tuple[str, Degrees], Point]  # one layer's points by regime and degrees


def in_several_regimes(points: Points) -> dict[str, Places]:
    """The layers that stand in more than one."""
    found: dict[str, Places] = {}
    for regime, layers in points.items():
        for layer, degrees in layers.items():
            found.setdefault(layer, {}).update({(regime, pair): point
                                                for pair, point in degrees.items()})
    return {layer: places for layer, places in found.items()
            if len({regime for regime, _ in places}) > 1}


def preferred(record: dict, name: str, places: Places) -> Point:
    """The point that is best by `name`, a time of Point; throws InputError unless the record says
    so, too."""
    regime = printable(member(record, f"{name}_regime", str))
    degrees = said_degrees(record, f"{name}_degree")
    best = best_places(places, name)
    if (regime, degrees) not in best:
        raise InputError(f"{name} is {regime} at {label(degrees)}, but it is {best[0][0]} at "
                         f"{label(best[0][1])} in points.csv")
    return places[regime, degrees]


def regret_of(record: dict, name: str, choice: Point, best: Point) -> float:
    regret, expected = share(record, name), choice.measured / best.measured - 1
    if abs(regret - expected) > ROUNDING * (1 + expected):
        raise InputError(f"{name} is {regret:g}, but {expected:g} of points.csv")
    return regret


def read_choice(layer: str, record: dict, places: Places) -> Choice:
    with said_of(f"layer {layer}"):
        best = preferred(record, "measured", places)
        predicted = preferred(record, "predicted", places)
        closed_form = preferred(record, "closed_form", places)
        return Choice(layer, regret_of(record, "regret", predicted, best),
                      regret_of(record, "regret_closed_form", closed_form, best))


def read_choices(summary: dict, points: Points) -> list[Choice]:
    """None when the summary has no such list."""
    if "choices" not in summary:
        return []
    several = in_several_regimes(points)
    with said_of("choices"):
        records = {printable(member(record, "layer", str)): record
                   for record in member(summary, "choices", list)}
        if len(records) != len(summary["choices"]) or set(records) != set(several):
            raise InputError("they must be of every layer in several regimes, once each")
        return [read_choice(layer, records[layer], places) for layer, places in several.items()]


# The whole.


def check_provenance(made: dict) -> None:
    for name in ("program", "commit", "host", "made_by"):
        member(made, name, str)
    if not all(isinstance(note, str) for note in member(made, "notes", list)):
        raise InputError("notes must hold texts")


def device_of(made: dict) -> str:
    versions = {name.lower(): printable(version)
                for name, version in section(made, "versions").items()}
    return next((versions[name] for name in DEVICES if versions.get(name)), "")


def summary_of(text: bytes, points: Points) -> Validation:
    """The validation that a summary and its points tell of."""
    summary = parse_json(text)
    made = member(summary, "provenance", dict)
    check_provenance(made)
    configuration = member(made, "configuration", dict)
    member(summary, "regimes", dict)
    regimes = [read_regime(name, summary, configuration, of_regime)
               for name, of_regime in points.items()]
    with said_of("all"):
        errors = read_errors(summary.get("all"), [p for one in regimes for p in one.points()])
    return Validation(name=printable(member(configuration, "name", str)),
                      host=printable(made["host"]), device=device_of(made), provenance=made,
                      configuration=configuration, errors=errors, regimes=regimes,
                      choices=read_choices(summary, points))


def read_validation(folder: str) -> Validation:
    """Throws InputError unless both files are there and tell of the same points."""
    points = read_points(os.path.join(folder, "points.csv"))
    path = os.path.join(folder, "summary.json")
    with said_of(path):
        return summary_of(read(path), points)
