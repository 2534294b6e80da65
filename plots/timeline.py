#!/usr/bin/python3
"""Draws one timeline, as `pipemoe simulate --json` prints it: a lane a queue, a bar a task.

Needs Debian's python3-matplotlib. Bad input: one line on standard error, exit status 2, no file.
"""

import argparse
import os
import sys
from dataclasses import dataclass

import style  # before matplotlib: it sets how that one behaves
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from page import (GAP, LEFT, MARGIN, RIGHT, ROW_POINTS, SMALL_ROW, TEXT_ROW, TITLE_ROW, WIDTH, Page,
                  Unit, tidy)
from results import (SUFFIXES, InputError, basis_words, check_schema, check_writable, cluster_words,
                     exit_status, member, parse_json, percent, phrases, printable, read, read_basis,
                     rendered, said_of, section, write_all)

SCHEMA = "pipemoe.timeline/2"
LONGEST_S = 1e9
LARGEST_INDEX = 100_000_000
MOST_QUEUES = 16

# Inches.
PASS_ROW, TICK_ROW, LEGEND_ROW = 0.28, 0.26, 0.16
LANE = 0.42

LANE_PAD = 9  # points between a lane and its name

BAR = 0.80  # of a lane's height


# Reading.


@dataclass(frozen=True)
class Span:
    """One task on one rank; seconds since the iteration's start, end not before start."""

    step: str
    chunk: int
    pass_name: str
    queue: str
    rank: int
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """When each task ran, and where that result comes from; some span takes time."""

    provenance: dict
    queues: list[str]  # names, in the order of the lanes
    spans: list[Span]
    basis: dict[str, float]  # shares of the makespan by what its costs rest on; empty: unknown

    def makespan(self) -> float:
        """End of the last span."""
        return max(span.end for span in self.spans)

    def forward(self) -> float:
        """Until the last forward span ends; 0 without a forward pass."""
        return max((span.end for span in self.spans if span.pass_name == "forward"), default=0.0)

    def ranks(self) -> list[int]:
        return sorted({span.rank for span in self.spans})


def known(record: dict, name: str, names) -> str:
    value = member(record, name, str)
    if value not in names:
        raise InputError(f"{name} is {printable(value)}, must be one of "
                         + ", ".join(names))
    return value


def index(record: dict, name: str) -> int:
    value = member(record, name, int)
    if not 0 <= value <= LARGEST_INDEX:
        raise InputError(f"{name} must be 0..{LARGEST_INDEX}")
    return value


def read_queues(root: dict) -> list[str]:
    """Their names: 1..16, no two alike."""
    queues = [member(record, "name", str) for record in member(root, "queues", list)]
    if not 1 <= len(queues) <= MOST_QUEUES or len(set(queues)) < len(queues):
        raise InputError(f"queues must be 1..{MOST_QUEUES} with different names")
    return queues


def read_span(record: object, queues: list[str]) -> Span:
    span = Span(step=known(record, "step", style.STEPS),
                chunk=index(record, "chunk"),
                pass_name=known(record, "pass", style.PASSES),
                queue=known(record, "queue", queues),
                rank=index(record, "rank"),
                start=member(record, "start_s", int, float),
                end=member(record, "end_s", int, float))
    if not 0 <= span.start <= span.end < LONGEST_S:  # not-a-number fails it too
        raise InputError("spans must have 0 <= start_s <= end_s < 1e9")
    return span


def read_provenance(record: object) -> dict:
    for name in ("program", "commit", "made_by"):
        member(record, name, str)
    if not all(isinstance(note, str) for note in member(record, "notes", list)):
        raise InputError("notes must hold texts")
    return record


def read_timeline(text: bytes) -> Timeline:
    """Throws InputError unless `text` is the JSON of a timeline in which something takes time."""
    with said_of("not a timeline"):
        root = parse_json(text)
        check_schema(root, SCHEMA)
        queues = read_queues(root)
        timeline = Timeline(
            read_provenance(root.get("provenance")), queues,
            [read_span(record, queues) for record in member(root, "spans", list)],
            read_basis(root))
    if not any(span.end > span.start for span in timeline.spans):
        raise InputError("nothing to draw: no task takes time")
    return timeline


def load(path: str) -> Timeline:
    """The timeline in a file, or on standard input when `path` is "-"."""
    with said_of("standard input" if path == "-" else path):
        return read_timeline(read(path))


# Words. The configuration is shown as far as it is there: measured timelines may have another.


def title(configuration: object) -> str:
    """What ran, and where."""
    names = [section(configuration, name).get("name") for name in ("layer", "cluster")]
    if not names[0] and isinstance(configuration, dict):
        names[0] = configuration.get("graph")
    return " on ".join(printable(name) for name in names if name) or "timeline"


def layer_line(layer: dict) -> str:
    """The layer's sizes; empty without a layer."""
    batch = phrases(layer, ("batch_size", "{}"), ("sequence_length", "{} tokens a rank"))
    tokens = phrases(layer, ("tokens_per_rank", "{} tokens a rank")) or [" × ".join(batch)]
    sizes = phrases(layer, ("model_dim", "model dim {}"), ("hidden_dim", "hidden dim {}"),
                    ("num_experts", "{} experts"), ("top_k", "top-{}"))
    capacity = phrases(layer, ("capacity_factor", "capacity {}")) or ["dropless"] * bool(layer)
    kind = phrases(layer, ("dtype", "{}"), ("activation", "{}"))
    return ", ".join(filter(None, tokens + sizes + capacity + kind))


def run_line(configuration: object) -> str:
    run = configuration if isinstance(configuration, dict) else {}
    degrees = phrases(run, ("forward_degree", "{} forward"), ("backward_degree", "{} backward"))
    parts = phrases(run, ("schedule", "schedule {}"))
    parts += ["degree " + ", ".join(degrees)] if degrees else []
    parts += phrases(run, ("network", "network level {}"))
    return "; ".join(filter(None, parts + [cluster_words(section(run, "cluster"))]))


def small_print(timeline: Timeline, rank: int) -> str:
    made = timeline.provenance
    parts = [made["program"], "commit " + made["commit"], made["made_by"]]
    if len(timeline.ranks()) > 1:
        parts.append(f"rank {rank} of {len(timeline.ranks())}")
    parts.append(basis_words(timeline.basis))
    return "  ·  ".join(filter(None, map(printable, parts + made["notes"])))


# Drawing.


def draw_header(page: Page, heading: str, figures: str, lines: list[str]) -> None:
    """The title with `figures` at its right, then lines of small text."""
    room = ROW_POINTS - style.text_width(figures, style.TITLE, "bold") - 20
    page.line(TITLE_ROW, style.shortened(heading, style.TITLE, room, "bold"), style.TITLE,
              weight="bold")
    page.figure.text(1 - RIGHT / WIDTH, page.below / page.height, figures, ha="right",
                     va="bottom", fontsize=style.TITLE, weight="bold")
    for line in lines:
        page.line(TEXT_ROW, style.shortened(line, style.TEXT, ROW_POINTS), style.TEXT,
                  color=style.QUIET)


def draw_passes(axes, timeline: Timeline, unit: Unit, until: float) -> None:
    """The extent of each pass, named and timed as far as there is room, on an axis to `until`."""
    forward, makespan = timeline.forward(), timeline.makespan()
    for name, start, end in (("forward", 0.0, forward), ("backward", forward, makespan)):
        room = (end - start) / until * ROW_POINTS - 20
        texts = [f"{name} {unit.text(end - start)}", name] if end > start else []
        axes.plot([start, end], [0.42, 0.42], color=style.RULE, linewidth=0.7, zorder=1)
        for text in texts:
            if style.text_width(text, style.TEXT) <= room:
                axes.text((start + end) / 2, 0.42, text, ha="center", va="center_baseline",
                          bbox={"facecolor": style.WHITE, "edgecolor": "none", "pad": 3})
                break
    for time in sorted({0.0, forward, makespan}):
        axes.plot([time, time], [0.17, 0.67], color=style.RULE, linewidth=0.7, clip_on=False)
    axes.set(xlim=(0, until), ylim=(0, 1))
    axes.axis("off")


def number_sizes(spans: list[Span], points_per_second: float) -> list[float]:
    """The size of each bar's chunk number: one that all bars have room for, else the smallest we
    print, and 0 on the bars without room. Each bar must have room for the longest number, or a row
    of equal bars would lose its numbers from 10 on."""
    longest = max((str(span.chunk) for span in spans), key=len)
    widths = [(span.end - span.start) * points_per_second for span in spans]
    for size in style.NUMBERS:
        room = [style.text_width(longest, size) + 0.2 * size <= width for width in widths]
        if all(room):
            break
    return [size if fits else 0 for fits in room]


def draw_bars(axes, step: str, lane: int, spans: list[Span], points_per_second: float) -> None:
    """The tasks of one step of one pass on one lane."""
    look = style.STEPS[step]
    widths = [span.end - span.start for span in spans]
    # A thin bar gets a thin edge: its colour must not drown.
    edges = [min(0.6, max(0.15, 0.08 * width * points_per_second)) for width in widths]
    axes.barh([lane] * len(spans), widths, BAR, [span.start for span in spans], color=look.colour,
              edgecolor=style.INK, linewidth=edges, hatch=look.hatch, clip_on=False, zorder=2)
    ground = {"facecolor": look.colour, "edgecolor": "none", "pad": 0.8} if look.hatch else None
    for span, size in zip(spans, number_sizes(spans, points_per_second)):
        if size > 0:
            axes.text((span.start + span.end) / 2, lane, str(span.chunk), fontsize=size,
                      color=look.ink, ha="center", va="center_baseline", bbox=ground, zorder=4)


def lane_names(queues: list[str]) -> tuple[list[str], float]:
    """The queues' names as they fit at the left of the lanes, and their size."""
    room = LEFT * 72 - LANE_PAD - 2
    names = [printable(queue) for queue in queues]
    for size in style.NUMBERS:
        if all(style.text_width(name, size) <= room for name in names):
            break
    return [style.shortened(name, size, room) for name in names], size


def draw_lanes(axes, timeline: Timeline, spans: list[Span], until: float) -> None:
    """A lane a queue, each as long as the timeline, on an axis to `until`."""
    makespan, forward = timeline.makespan(), timeline.forward()
    groups: dict[tuple, list[Span]] = {}
    for span in spans:
        groups.setdefault((span.queue, span.pass_name, span.step), []).append(span)
    lanes = range(len(timeline.queues))
    for lane in lanes:
        axes.barh(lane, makespan, BAR, color=style.GROUND, linewidth=0, zorder=0)
    for (queue, _, step), group in groups.items():
        draw_bars(axes, step, timeline.queues.index(queue), group, ROW_POINTS / until)
    if 0 < forward < makespan:
        for width, colour in ((2.2, style.WHITE), (1.0, style.INK)):
            axes.axvline(forward, color=colour, linewidth=width, zorder=3)
    axes.set(xlim=(0, until), ylim=(len(lanes) - 0.5, -0.5))
    names, size = lane_names(timeline.queues)
    axes.set_yticks(lanes, names)
    axes.tick_params(axis="y", length=0, pad=LANE_PAD, labelcolor=style.INK, labelsize=size)


def draw_time_axis(axes, until: float, unit: Unit) -> None:
    """Ticks below the lanes, their unit at the left below the lanes' names."""
    ticks = MaxNLocator(nbins=9, steps=[1, 2, 2.5, 5, 10]).tick_values(0, until / unit.seconds)
    ticks = [tick for tick in ticks if 0 <= tick * unit.seconds <= until]
    axes.set_xticks([tick * unit.seconds for tick in ticks], [f"{tick:g}" for tick in ticks])
    tidy(axes, "bottom", axis="x")
    axes.annotate(f"time ({unit.name})", (0, 0), (-LANE_PAD, -5), xycoords="axes fraction",
                  textcoords="offset points", ha="right", va="top", color=style.QUIET)


def draw_legend(page: Page, spans: list[Span]) -> None:
    present = {span.step for span in spans}
    handles = [Patch(facecolor=look.colour, edgecolor=style.INK, linewidth=0.6, hatch=look.hatch,
                     label=look.label)
               for step, look in style.STEPS.items() if step in present]
    page.legend(LEGEND_ROW, handles)


def drawn_spans(timeline: Timeline, rank: int) -> list[Span]:
    """Those spans of a rank that take time."""
    return [span for span in timeline.spans if span.rank == rank and span.end > span.start]


def draw(timeline: Timeline, rank: int) -> Figure:
    """The timeline of one of its ranks."""
    spans = drawn_spans(timeline, rank)
    lanes = LANE * len(timeline.queues)
    configuration = timeline.provenance.get("configuration")
    lines = list(filter(None, [layer_line(section(configuration, "layer")),
                               run_line(configuration)]))
    footer = style.wrapped(small_print(timeline, rank), style.SMALL, ROW_POINTS, most_lines=4)
    unit = Unit.of(timeline.makespan())

    page = Page(2 * MARGIN + TITLE_ROW + TEXT_ROW * len(lines) + PASS_ROW + lanes + TICK_ROW
                + LEGEND_ROW + GAP + SMALL_ROW * len(footer))
    draw_header(page, title(configuration), "makespan " + unit.text(timeline.makespan()), lines)
    draw_passes(page.axes(PASS_ROW), timeline, unit, timeline.makespan())
    axes = page.axes(lanes)
    draw_lanes(axes, timeline, spans, timeline.makespan())
    draw_time_axis(axes, timeline.makespan(), unit)
    page.take(TICK_ROW)
    draw_legend(page, spans)
    page.take(GAP)
    for line in footer:
        page.line(SMALL_ROW, line, style.SMALL, color=style.QUIET)
    return page.figure


# Writing.


def suffix_of(path: str) -> str:
    suffix = os.path.splitext(path)[1].lstrip(".").lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: the suffix must be one of .png, .svg")
    return suffix


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="timeline.py", description="Draw one timeline.")
    parser.add_argument("timeline", metavar="FILE",
                        help="what pipemoe simulate --json prints; - for standard input")
    parser.add_argument("--output", metavar="FILE", action="append", required=True,
                        help="the picture, .png or .svg; may be repeated")
    parser.add_argument("--rank", type=int, help="whose lanes to draw [the first]")
    return parser.parse_args(arguments)


def chosen_rank(timeline: Timeline, path: str, rank: int | None) -> int:
    """The wanted rank, or the first. Throws InputError when there is no such rank."""
    if rank is None:
        return timeline.ranks()[0]
    if rank not in timeline.ranks():
        raise InputError(f"{path}: there is no rank {rank}")
    return rank


def write_figure(figure: Figure, paths: list[str], suffixes: list[str]) -> None:
    pictures = {suffix: rendered(figure, suffix) for suffix in SUFFIXES if suffix in suffixes}
    write_all({path: pictures[suffix] for path, suffix in zip(paths, suffixes)})


def run(options: argparse.Namespace) -> None:
    suffixes = [suffix_of(path) for path in options.output]
    check_writable(options.output)
    timeline = load(options.timeline)
    rank = chosen_rank(timeline, options.timeline, options.rank)
    style.configure()
    write_figure(draw(timeline, rank), options.output, suffixes)


def main(arguments: list[str]) -> int:
    """The exit status: 0, or 2 after one line on standard error."""
    return exit_status("timeline.py", lambda: run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
