"""Time against degree, and what that time is made of."""

import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation
from page import Unit
from results import percent
from study_costs import Costs, costs_of, split
from study_panels import finish, outcome_words, panels, tall, telling
from study_results import Layer, Pass, Study
from study_sheet import sheet

LEGEND_ROW = 0.19

COMPUTE = style.Look("compute", style.ORANGE)
STARTUP = style.Look("start-ups", style.YELLOW)
EXPOSED = style.Look("exposed communication", style.BLUE)
HIDDEN = style.Look("hidden communication: runs beside what is hatched, adds no time",
                    style.ORANGE, hatch="//////")

SIMULATED = {"marker": "o", "markersize": 2.2, "color": style.INK, "linewidth": 0.6}
CHOSEN = {"marker": "v", "markersize": 5.5, "color": style.WHITE, "markeredgecolor": style.INK,
          "markeredgewidth": 0.9, "linestyle": "none"}
BEST = {"marker": "o", "markersize": 6.5, "color": style.WHITE, "markeredgecolor": style.INK,
        "markeredgewidth": 1.1, "linestyle": "none"}


def edges_of(degrees: list[int]) -> list[float]:
    """Borders between bars that touch, one bar a degree."""
    middles = [(low + high) / 2 for low, high in zip(degrees, degrees[1:])]
    return [degrees[0] - 0.5, *middles, degrees[-1] + 0.5]


def draw_split(axes, costs: Costs, degrees: list[int], unit: Unit) -> None:
    """Areas that add up to the model's time, and as a hatch the part of them that communicates,
    too."""
    splits = [split(costs, degree) for degree in degrees]
    edges, below = edges_of(degrees), [0.0] * len(degrees)
    for look, parts in ((COMPUTE, [one.compute for one in splits]),
                        (STARTUP, [one.startup for one in splits]),
                        (EXPOSED, [one.exposed for one in splits])):
        above = [low + part / unit.seconds for low, part in zip(below, parts)]
        axes.stairs(above, edges, baseline=below, fill=True, facecolor=look.colour,
                    edgecolor=style.WHITE, linewidth=0.3, zorder=1)
        below = above
    axes.stairs([one.hidden / unit.seconds for one in splits], edges, fill=True, facecolor="none",
                edgecolor=HIDDEN.ink, hatch=HIDDEN.hatch, linewidth=0, zorder=2)


def draw_panel(axes, pass_: Pass, costs: Costs | None, unit: Unit) -> None:
    degrees, times = list(pass_.times), [time / unit.seconds for time in pass_.times.values()]
    if costs is not None:
        draw_split(axes, costs, degrees, unit)
    axes.plot(degrees, times, zorder=4, **SIMULATED)
    up = ScaledTranslation(0, 7 / 72, axes.figure.dpi_scale_trans)
    axes.plot(pass_.chosen, pass_.times[pass_.chosen] / unit.seconds, zorder=5,
              transform=axes.transData + up, **CHOSEN)
    axes.plot(pass_.best, pass_.times[pass_.best] / unit.seconds, zorder=3, **BEST)
    axes.set(xlim=(edges_of(degrees)[0] - 0.3, edges_of(degrees)[-1] + 0.3),
             ylim=(0, 1.13 * max(times)))
    ticks = [tick for tick in (1, 4, 8, 16, 24, 32, 64, 128, 256, 512) if tick <= max(degrees)]
    axes.set_xticks(ticks[:6] if max(degrees) <= 32 else ticks[3:])


def apart(study: Study, layers: list[Layer]) -> float:
    """How far model and simulation lie apart at most on these layers, as a share."""
    shares = [0.0]
    for layer in layers:
        for name, pass_ in layer.passes.items():
            costs = costs_of(study, layer, name)
            if costs is not None:
                shares += [abs(split(costs, degree).total() / time - 1)
                           for degree, time in pass_.times.items()]
    return max(shares)


def areas() -> list[Patch]:
    """The legend of the split."""
    plain = [Patch(facecolor=look.colour, edgecolor=style.INK, linewidth=0.6, label=look.label)
             for look in (COMPUTE, STARTUP, EXPOSED)]
    return plain + [Patch(facecolor=HIDDEN.colour, edgecolor=HIDDEN.ink, linewidth=0,
                          hatch=HIDDEN.hatch, label=HIDDEN.label)]


def degrees_words(study: Study, layers: list[Layer], has_split: bool) -> str:
    text = f"Dots: simulated at network level {study.network}. "
    if not has_split:
        return text + "Without a split: the cluster's costs are not lines with a start-up."
    return text + ("Areas: the cost model's time, split; T(1) = 2d + e, T(r) = max(2rd, 2d + re) "
                   "with the cluster's fitted constants, on these layers at most "
                   f"{percent(apart(study, layers))} from the simulation. A higher degree hides "
                   "communication beside compute until start-ups cost more than it hides.")


def draw_degrees(study: Study) -> Figure:
    """Forward and backward time of four telling layers against the degree, split."""
    chosen = telling(study)
    layers = [one.layer for one in chosen]
    has_split = all(costs_of(study, layer, name) for layer in layers for name in style.PASSES)
    page = sheet(study, f"{study.name}: time against pipeline degree on {study.cluster['name']}",
                 degrees_words(study, layers, has_split),
                 tall(2) + 2 * LEGEND_ROW)
    for (place, name), axes in panels(page, chosen).items():
        pass_ = layers[place].passes[name]
        unit = Unit.of(max(pass_.times.values()))
        draw_panel(axes, pass_, costs_of(study, layers[place], name) if has_split else None, unit)
        finish(axes, place, name, outcome_words(pass_), unit)
    if has_split:
        page.legend(LEGEND_ROW, areas())
    page.legend(LEGEND_ROW, [Line2D([], [], label="simulated", **SIMULATED),
                             Line2D([], [], label="chosen", **CHOSEN),
                             Line2D([], [], label="best", **BEST)])
    return page.figure
