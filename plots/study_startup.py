"""Why a higher degree is not always better: time against degree with and without start-ups."""

import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from page import Unit
from results import InputError, percent
from study_panels import finish, panels, tall, telling
from study_results import Layer, Pass, Study
from study_sheet import sheet

LEGEND_ROW = 0.19

WITH = {"color": style.VERMILLION, "linewidth": 1.4}
WITHOUT = {"color": style.BLUE, "linewidth": 1.4, "dashes": (4, 1.5)}
MINIMUM = {"marker": "o", "markersize": 5, "markeredgecolor": style.INK, "markeredgewidth": 0.9,
           "linestyle": "none"}
EQUAL = {"marker": "o", "markersize": 3.4, "markeredgewidth": 0, "linestyle": "none"}


def matching(without: Study, layer: Layer) -> Layer:
    """The layer of the same grid values. Throws InputError when there is none."""
    for other in without.layers:
        if other.values == layer.values:
            return other
    sizes = ", ".join(f"{key} {value}" for key, value in layer.values.items())
    raise InputError(f"study {without.name} has no layer with {sizes}")


def run_of(degrees: list[int]) -> str:
    """In words: "5", "2 to 32" or, with gaps, "32 and 3 more"."""
    if len(degrees) == 1:
        return str(degrees[0])
    if degrees[-1] - degrees[0] == len(degrees) - 1:
        return f"{degrees[0]} to {degrees[-1]}"
    return f"{degrees[-1]} and {len(degrees) - 1} more"


def draw_curve(axes, pass_: Pass, unit: Unit, look: dict) -> None:
    axes.plot(list(pass_.times), [time / unit.seconds for time in pass_.times.values()], zorder=3,
              **look)
    equal = pass_.equals_of_best()
    axes.plot(equal, [pass_.times[degree] / unit.seconds for degree in equal], zorder=4,
              color=look["color"], **EQUAL)
    axes.plot(equal[-1], pass_.times[equal[-1]] / unit.seconds, zorder=5, color=look["color"],
              **MINIMUM)


def draw_panel(axes, pass_: Pass, other: Pass, unit: Unit) -> None:
    draw_curve(axes, other, unit, WITHOUT)
    draw_curve(axes, pass_, unit, WITH)
    most = max(*pass_.times, *other.times)
    axes.set_xscale("log", base=2)
    axes.set(xlim=(0.9, most * 1.12),
             ylim=(0, 1.08 * max(*pass_.times.values(), *other.times.values()) / unit.seconds))
    ticks = [2**power for power in range(10) if 2**power <= most]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def largest_share(study: Study, pass_name: str) -> str:
    """Of layers whose largest degree is the best, or as fast."""
    hits = sum(layer.passes[pass_name].largest_is_best() for layer in study.layers)
    return percent(hits / len(study.layers))


def startup_words(study: Study, without: Study) -> str:
    largest = max(max(pass_.times) for layer in study.layers for pass_ in layer.passes.values())
    ours, theirs = ([largest_share(one, name) for name in style.PASSES] for one in (study, without))
    return (f"The largest degree ({largest}) is best, or as fast as the best, on {ours[0]} of all "
            f"layers forward and {ours[1]} backward; with every start-up time zero (study "
            f"{without.name}) on {theirs[0]} and {theirs[1]}. Each chunk pays its start-ups anew.")


def draw_startup(study: Study, without: Study) -> Figure:
    """Four telling layers' times with start-ups and without; `without` holds the same layers.
    Throws InputError when it does not."""
    chosen = telling(study)
    others = [matching(without, one.layer) for one in chosen]
    page = sheet(study, f"{study.name}: start-ups and the best degree on {study.cluster['name']}",
                 startup_words(study, without), tall(2) + LEGEND_ROW)
    for (place, name), axes in panels(page, chosen).items():
        pass_, other = chosen[place].layer.passes[name], others[place].passes[name]
        unit = Unit.of(max(pass_.times.values()))
        draw_panel(axes, pass_, other, unit)
        finish(axes, place, name, f"best {run_of(pass_.equals_of_best())}; start-ups "
                                  f"zero: {run_of(other.equals_of_best())}", unit)
    page.legend(LEGEND_ROW, [Line2D([], [], label="with start-ups", **WITH),
                             Line2D([], [], label="all start-ups zero", **WITHOUT),
                             Line2D([], [], label="best degree, of equals the largest",
                                    color=style.WHITE, **MINIMUM),
                             Line2D([], [], label="as fast", color=style.QUIET, **EQUAL)])
    return page.figure
