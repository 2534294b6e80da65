#!/usr/bin/python3
"""Draws a predicted timeline above a measured one, on one time axis.

Takes what `pipemoe simulate --json` prints, or any timeline of the same schema. Needs Debian's
python3-matplotlib. Bad input: one line on standard error, exit status 2, no file.
"""

import argparse
import sys
from dataclasses import dataclass

import style  # before matplotlib: it sets how that one behaves
from matplotlib.figure import Figure
from page import (GAP, LEFT, MARGIN, ROW_POINTS, SMALL_ROW, TEXT_ROW, TITLE_ROW, WIDTH, Page,
                  Unit)
from results import InputError, check_writable, exit_status, printable, section
from timeline import (LANE, LEGEND_ROW, PASS_ROW, TICK_ROW, Span, Timeline, chosen_rank,
                      draw_header, draw_lanes, draw_legend, draw_passes, draw_time_axis,
                      drawn_spans, layer_line, load, run_line, small_print, suffix_of, title,
                      write_figure)

PART_GAP = 0.16  # inches between the two


@dataclass(frozen=True)
class Part:
    """One of the two timelines, as one of its ranks shows it."""

    name: str
    timeline: Timeline
    rank: int
    spans: list[Span]

    @staticmethod
    def of(name: str, timeline: Timeline, rank: int) -> "Part":
        return Part(name, timeline, rank, drawn_spans(timeline, rank))

    def lanes(self) -> float:
        """Their height."""
        return LANE * len(self.timeline.queues)

    def height(self) -> float:
        return TEXT_ROW + PASS_ROW + self.lanes()

    def caption(self) -> str:
        made_by = printable(self.timeline.provenance["made_by"])
        ranks = len(self.timeline.ranks())
        return made_by + (f", rank {self.rank} of {ranks}" if ranks > 1 else "")


def figures(predicted: Timeline, measured: Timeline, unit: Unit) -> str:
    """Both makespans and the relative error."""
    error = f"{100 * (predicted.makespan() / measured.makespan() - 1):+.1f} %"
    return (f"predicted {unit.text(predicted.makespan())}, "
            f"measured {unit.text(measured.makespan())}: {error.replace('-', '−')}")


def draw_part(page: Page, part: Part, unit: Unit, until: float):
    """Name, passes and lanes; the lanes' axes."""
    page.line(TEXT_ROW, part.name, style.TEXT, weight="bold")
    indent = style.text_width(part.name, style.TEXT, "bold") + 8
    caption = style.shortened(part.caption(), style.TEXT, ROW_POINTS - indent)
    page.figure.text(LEFT / WIDTH + indent / 72 / WIDTH, page.below / page.height, caption,
                     va="bottom", fontsize=style.TEXT, color=style.QUIET)
    draw_passes(page.axes(PASS_ROW), part.timeline, unit, until)
    axes = page.axes(part.lanes())
    draw_lanes(axes, part.timeline, part.spans, until)
    return axes


def draw(predicted: Part, measured: Part) -> Figure:
    until = max(part.timeline.makespan() for part in (predicted, measured))
    unit = Unit.of(until)
    configuration = predicted.timeline.provenance.get("configuration")
    lines = list(filter(None, [layer_line(section(configuration, "layer")),
                               run_line(configuration)]))
    footer = [line for part in (predicted, measured) for line in style.wrapped(
        f"{part.name}: {small_print(part.timeline, part.rank)}", style.SMALL, ROW_POINTS,
        most_lines=3)]
    page = Page(2 * MARGIN + TITLE_ROW + TEXT_ROW * len(lines) + predicted.height()
                + measured.height() + 2 * PART_GAP + TICK_ROW + LEGEND_ROW + GAP
                + SMALL_ROW * len(footer))
    draw_header(page, title(configuration),
                figures(predicted.timeline, measured.timeline, unit), lines)
    for part in (predicted, measured):
        page.take(PART_GAP)
        axes = draw_part(page, part, unit, until)
        if part is predicted:
            axes.set_xticks([])
            axes.spines[:].set_visible(False)
    draw_time_axis(axes, until, unit)
    page.take(TICK_ROW)
    draw_legend(page, predicted.spans + measured.spans)
    page.take(GAP)
    for line in footer:
        page.line(SMALL_ROW, line, style.SMALL, color=style.QUIET)
    return page.figure


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compare.py",
                                     description="Draw a predicted above a measured timeline.")
    parser.add_argument("predicted", metavar="PREDICTED", help="a timeline as JSON")
    parser.add_argument("measured", metavar="MEASURED", help="another of the same tasks")
    parser.add_argument("--output", metavar="FILE", action="append", required=True,
                        help="the picture, .png or .svg; may be repeated")
    parser.add_argument("--rank", type=int, help="whose measured lanes to draw [the first]")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    suffixes = [suffix_of(path) for path in options.output]
    check_writable(options.output)
    if options.predicted == options.measured == "-":
        raise InputError("standard input can be one of the two only")
    predicted, measured = load(options.predicted), load(options.measured)
    rank = chosen_rank(measured, options.measured, options.rank)
    style.configure()
    figure = draw(Part.of("predicted", predicted, predicted.ranks()[0]),
                  Part.of("measured", measured, rank))
    write_figure(figure, options.output, suffixes)


def main(arguments: list[str]) -> int:
    """The exit status: 0, or 2 after one line on standard error."""
    return exit_status("compare.py", lambda: run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
