"""What the programs of this folder share: reading results and saying what is wrong with them,
writing pictures whole or not at all.
"""

import contextlib
import csv
import io
import json
import math
import os
import sys

import style  # before matplotlib: it sets how that one behaves
from matplotlib.figure import Figure
from PIL import Image

SUFFIXES = ("png", "svg")
LARGEST = 1e15  # number in a table
# What costs rest on, from the best to the worst.
BASES = ("measured", "interpolated", "estimated", "not_modelled")
COLOURS = 128  # of a PNG: text and lines look the same, and the file is a quarter as large


class InputError(Exception):
    """What the user gave cannot be used; the message names it and says why."""


@contextlib.contextmanager
def said_of(origin: str):
    """Puts `origin` before the message of an InputError that is thrown within."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


# Reading.


def read(path: str) -> bytes:
    """The content of a file, or of standard input when `path` is "-"."""
    try:
        if path == "-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}") from None


def parse_json(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("it is no JSON") from None


def member(record: object, name: str, *kinds: type):
    """record[name]; throws InputError when that is not there or of none of these kinds."""
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise InputError(f"{name} is missing or malformed")
    return value


def check_schema(record: object, schema: str) -> None:
    found = member(record, "schema", str)
    if found != schema:
        raise InputError(f"schema is {printable(found) or 'empty'}, must be {schema}")


def section(record: object, name: str) -> dict:
    """A table within a table; empty when there is none of this name."""
    value = record.get(name) if isinstance(record, dict) else None
    return value if isinstance(value, dict) else {}


# Tables.


def read_rows(path: str) -> list[dict[str, str]]:
    with said_of(path):
        try:
            rows = list(csv.DictReader(io.StringIO(read(path).decode(), newline=""), strict=True))
        except (ValueError, csv.Error):
            raise InputError("it is no CSV") from None
        for line, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise InputError(f"row {line}: it has not as many cells as the first row")
        return rows


def cell(row: dict[str, str], name: str) -> str:
    if name not in row:
        raise InputError(f"there is no column {name}")
    return row[name]


def number(row: dict[str, str], name: str, least: float = 0) -> float:
    text = cell(row, name)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value < LARGEST:  # not-a-number fails it too
        raise InputError(f"{name} is {printable(text) or 'empty'}, must be a number of at least "
                         f"{least:g}")
    return value


def seconds(row: dict[str, str], name: str) -> float:
    value = number(row, name)
    if value == 0:
        raise InputError(f"{name} is 0, must take time")
    return value


def count(row: dict[str, str], name: str, least: int = 1) -> int:
    value = number(row, name, least)
    if value != int(value):
        raise InputError(f"{name} is {printable(row[name])}, must be an integer")
    return int(value)


def read_basis(record: dict) -> dict[str, float]:
    """The share of each basis; empty when the record does not say."""
    if "basis" not in record:
        return {}
    shares = {name: member(record["basis"], name, int, float) for name in BASES}
    if not all(0 <= share <= 1 + 1e-6 for share in shares.values()):  # not-a-number fails it too
        raise InputError("basis must hold shares of 0..1")
    return shares


# Words.


def basis_words(basis: dict[str, float]) -> str:
    """What makespans rest on; empty when that is unknown."""
    texts = {name: percent(share, 0) for name, share in basis.items() if share > 0}
    parts = [("under 1 %" if text == "0 %" else text) + " " + name.replace("_", " ")
             for name, text in texts.items()]
    return "rests on: " + ", ".join(parts) if parts else ""


def printable(value: object) -> str:
    """One line; what would break it, or an SVG, becomes a space."""
    value = f"{value:g}" if isinstance(value, float) else value
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def percent(share: float, digits: int = 1) -> str:
    """Without decimals where they are zero: "0 %" and "100 %"."""
    text = f"{100 * share:.{digits}f}"
    return (f"{float(text):.0f}" if float(text).is_integer() else text) + " %"


def phrases(table: dict, *templates: tuple[str, str]) -> list[str]:
    """Each template, filled with the value of its key, where there is such a value."""
    return [template.format(printable(table[key])) for key, template in templates
            if table.get(key) not in (None, 0)]


def cluster_words(cluster: dict) -> str:
    """A cluster profile's machines and GPU, as far as it names them."""
    machines = phrases(cluster, ("nodes", "{} nodes"), ("gpus_per_node", "{} GPUs"))
    gpu = phrases(section(cluster, "gpu"), ("name", "{}"))
    return ", ".join(filter(None, [" × ".join(machines), *gpu]))


# Writing.


def rendered(figure: Figure, suffix: str) -> bytes:
    """The picture as a PNG or an SVG; equal figures give equal bytes."""
    picture = io.BytesIO()
    figure.savefig(picture, **style.save_options(suffix))
    return with_few_colours(picture) if suffix == "png" else picture.getvalue()


def with_few_colours(png: io.BytesIO) -> bytes:
    """The same PNG with a palette instead of three bytes a pixel."""
    image = Image.open(png).convert("RGB").quantize(
        COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    small = io.BytesIO()
    image.save(small, "PNG", optimize=True, dpi=(style.DOTS_PER_INCH, style.DOTS_PER_INCH))
    return small.getvalue()


def check_writable(paths: list[str]) -> None:
    """Throws InputError, before anything is drawn, where a picture cannot be written later."""
    for path in paths:
        folder = os.path.dirname(path) or "."
        if os.path.isdir(path):
            raise InputError(f"{path}: cannot write: Is a directory")
        if not os.path.isdir(folder):
            why = "Not a directory" if os.path.exists(folder) else "No such file or directory"
            raise InputError(f"{path}: cannot write: {why}")


def write_all(pictures: dict[str, bytes]) -> None:
    """Writes every file, none of them half. Throws InputError when one cannot be written; the
    others are then as they were, unless it is the last step, a rename, that failed."""
    staged: list[tuple[str, str]] = []
    path = ""
    try:
        for path, picture in pictures.items():
            staged.append((f"{path}.tmp{os.getpid()}", path))
            with open(staged[-1][0], "wb") as file:
                file.write(picture)
        for temporary, path in staged:
            os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from None
    finally:
        for temporary, _ in staged:
            if os.path.exists(temporary):
                os.remove(temporary)


def exit_status(program: str, run, *arguments) -> int:
    """Of `run(*arguments)`: 0, or 2 after one line on standard error when it throws InputError."""
    try:
        run(*arguments)
    except InputError as error:
        print(f"{program}: {printable(error)}", file=sys.stderr)
        return 2
    return 0
