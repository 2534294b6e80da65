#!/usr/bin/python3
"""Draws the results of `pipemoe validate`: predicted against measured makespans of all layers, and
each layer's makespan against the degree.

Needs Debian's python3-matplotlib. Bad input: one line on standard error, exit status 2, no file.
"""

import argparse
import sys

import style  # before matplotlib: it sets how that one behaves
from matplotlib.figure import Figure
from page import GAP, MARGIN, ROW_POINTS, SMALL_ROW, TEXT_ROW, TITLE_ROW, Page
from results import basis_words, check_writable, counted, exit_status, percent, phrases, printable
from timeline import draw_header, suffix_of, write_figure
from validation_panels import (draw_panel_legend, draw_panels, panel_legend_height,
                               panels_height)
from validation_results import Layer, Validation, read_validation
from validation_scatter import draw_scatter_row, scatter_height

FOOTER_GAP = 0.10  # inches
LINES = 4  # of text at most under the heading


# Words.


def place(validation: Validation) -> str:
    """Which device of which host, as far as it is told."""
    words = [validation.device, validation.host and f"host {validation.host}"]
    return ", ".join(filter(None, words)) or "an unnamed host"


def heading(validation: Validation) -> str:
    ranks = validation.ranks()
    ranks = f", {counted(ranks, 'rank')}" if ranks else ""
    return (f"{validation.name or 'validation'} on {place(validation)}{ranks}, commit "
            f"{printable(validation.provenance['commit']) or 'unknown'}")


def errors_words(validation: Validation, room: float) -> str:
    """Nothing when they take more than `room` points: the table has them, too."""
    errors = validation.errors
    words = f"error: median {percent(errors.median)}, p95 {percent(errors.p95)}"
    return words if style.text_width(words, style.TITLE, "bold") <= room else ""


def shared_words(layers: list[Layer]) -> list[str]:
    """Of the layers' types what they all agree on."""
    found = (phrases(layers[0].shape, (key, "{}")) for key in ("dtype", "activation")
             if all(layer.shape.get(key) == layers[0].shape.get(key) for layer in layers))
    words = ", ".join(word for words in found for word in words)
    return [words] if words else []


def layers_words(validation: Validation) -> str:
    """How many layers; where one stands in several regimes, in how many of these."""
    layers = validation.layers()
    names = {layer.name for layer in layers}
    words = counted(len(names), "layer")
    return words if len(names) == len(layers) else (
        f"{words} in {counted(len(validation.regimes), 'regime')}")


def run_words(validation: Validation) -> str:
    """What was run, and how the links were."""
    layers = validation.layers()
    made = validation.configuration
    parts = [f"{counted(validation.errors.points, 'makespan')} of {layers_words(validation)}, "
             "one iteration forward and backward"]
    if isinstance(made.get("schedule"), str):
        parts.append(f"schedule {printable(made['schedule'])}")
    if isinstance(made.get("repeats"), int):
        parts.append(f"measured: median of {counted(made['repeats'], 'repeat')}")
    parts += shared_words(layers)
    text = "; ".join(parts) + "."
    emulated = [regime for regime in validation.regimes if regime.link]
    if emulated:
        which = "All links are" if len(emulated) == len(validation.regimes) else "Some links are"
        text += (f" {which} emulated, as the regimes say: there an exchange lasts as long as such "
                 "a link would take.")
    if any(layer.shape for layer in layers):
        text += " T: tokens a rank, M: model dim, H: hidden dim, E: experts."
    if any(forward != backward for layer in layers for forward, backward in layer.points):
        text += " Degree m/n: m forward, n backward."
    return text


def small_print(validation: Validation) -> str:
    made = validation.provenance
    parts = [made["program"], f"commit {made['commit']}", made["made_by"],
             validation.host and f"host {validation.host}", *validation.versions(),
             basis_words(validation.errors.basis), *made["notes"]]
    return "  ·  ".join(filter(None, map(printable, parts)))


# Drawing.


def draw(validation: Validation) -> Figure:
    lines = style.wrapped(run_words(validation), style.TEXT, ROW_POINTS, LINES)
    footer = style.wrapped(small_print(validation), style.SMALL, ROW_POINTS, most_lines=4)
    page = Page(2 * MARGIN + TITLE_ROW + TEXT_ROW * len(lines) + GAP + scatter_height(validation)
                + panel_legend_height(validation) + panels_height(validation) + FOOTER_GAP
                + SMALL_ROW * len(footer))
    head = heading(validation)
    room = ROW_POINTS - style.text_width(head, style.TITLE, "bold") - 20
    draw_header(page, head, errors_words(validation, room), lines)
    page.take(GAP)
    draw_scatter_row(page, validation)
    draw_panel_legend(page, validation)
    draw_panels(page, validation)
    page.take(FOOTER_GAP)
    for line in footer:
        page.line(SMALL_ROW, line, style.SMALL, color=style.QUIET)
    return page.figure


# Running.


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="validation.py",
                                     description="Draw the results of pipemoe validate.")
    parser.add_argument("results", metavar="RESULTS_FOLDER", help="what pipemoe validate wrote")
    parser.add_argument("--output", metavar="FILE", action="append", required=True,
                        help="the picture, .png or .svg; may be repeated")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    suffixes = [suffix_of(path) for path in options.output]
    check_writable(options.output)
    validation = read_validation(options.results)
    style.configure()
    write_figure(draw(validation), options.output, suffixes)


def main(arguments: list[str]) -> int:
    """The exit status: 0, or 2 after one line on standard error."""
    return exit_status("validation.py", lambda: run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
