"""A panel a layer: its makespan against the degree, predicted and measured."""

import math
import re

import style
from matplotlib.lines import Line2D
from page import LEFT, ROW_POINTS, ROW_WIDTH, WIDTH, Page, tidy
from results import phrases
from validation_results import Layer, Regime, Validation
from validation_scatter import colour, marks, tenths

# Inches.
HEADING_ROW, WORDS_ROW, PANEL, AXIS = 0.25, 0.53, 1.25, 0.40
GAP_X, PANEL_LEGEND_ROW = 0.40, 0.24
COLUMNS = (3, 4, 5)  # how many panels may stand in a row

MOST_LABELS = 10
FOLLOWED = 1.5  # a bar is drawn to this multiple of the greatest median or prediction at most

MEASURED = {"marker": "o", "markersize": 3.4, "color": style.INK, "linestyle": "none"}
BAR = {"color": style.INK, "linewidth": 0.8}
CLOSED_FORM = {"color": style.QUIET, "linewidth": 0.9, "linestyle": (0, (1, 1.5))}
MEASURED_BEST = {"marker": "o", "markersize": 8.0, "markerfacecolor": "none",
                 "markeredgecolor": style.INK, "markeredgewidth": 1.0, "linestyle": "none"}


def predicted_look(place: int) -> dict:
    return {"color": colour(place), "linewidth": 1.4}


def predicted_best_look(place: int) -> dict:
    return {"marker": "^", "markersize": 6.0, "color": colour(place), "linestyle": "none",
            "markeredgecolor": style.WHITE, "markeredgewidth": 0.4}


# Layout.


def columns_of(validation: Validation) -> int:
    """The fewest with which the panels take fewest rows; each regime begins a row."""
    return min(COLUMNS, key=lambda columns: sum(rows_of(regime, columns)
                                                for regime in validation.regimes))


def rows_of(regime: Regime, columns: int) -> int:
    return math.ceil(len(regime.layers) / columns)


def panels_height(validation: Validation) -> float:
    rows = [rows_of(regime, columns_of(validation)) for regime in validation.regimes]
    return HEADING_ROW * len(rows) + (WORDS_ROW + PANEL + AXIS) * sum(rows)


# Words.


def link_words(regime: Regime) -> str:
    found = re.fullmatch(r"alpha=([^,]+),beta=([^,]+)", regime.link)
    words = f"alpha {found[1]}, beta {found[2]} s/byte" if found else regime.link
    return f"emulated link: {words}" if words else ""


def shape_words(layer: Layer) -> str:
    return ", ".join(phrases(layer.shape, ("tokens_per_rank", "T {}"), ("model_dim", "M {}"),
                             ("hidden_dim", "H {}"), ("num_experts", "E {}"), ("top_k", "top-{}")))


def outcome_words(layer: Layer) -> str:
    if layer.predicted_best == layer.measured_best:
        return f"best {layer.measured_best}, as predicted"
    return (f"best {layer.measured_best}, predicted {layer.predicted_best}: "
            f"+{tenths(layer.regret)}")


# Drawing.


def draw_curves(axes, layer: Layer, place: int, places: list[int], top: float) -> None:
    """In milliseconds; bars end at `top` with a tip upwards when they are longer."""
    points = list(layer.points.values())
    axes.plot(places, [1e3 * point.closed_form for point in points], zorder=3, **CLOSED_FORM)
    axes.plot(places, [1e3 * point.predicted for point in points], zorder=2,
              **predicted_look(place))
    for x, point in zip(places, points):
        axes.plot([x, x], [1e3 * point.least, min(1e3 * point.most, top)], zorder=4, **BAR)
        if 1e3 * point.most > top:
            axes.plot(x, top, marker="^", markersize=3, color=style.INK, clip_on=False, zorder=4)
    axes.plot(places, [1e3 * point.measured for point in points], zorder=5, **MEASURED)


def draw_best(axes, layer: Layer, place: int, degrees: list[int]) -> None:
    axes.plot(degrees.index(layer.measured_best),
              1e3 * layer.points[layer.measured_best].measured, zorder=6, **MEASURED_BEST)
    axes.plot(degrees.index(layer.predicted_best), 0.045, transform=axes.get_xaxis_transform(),
              clip_on=False, zorder=6, **predicted_best_look(place))


def time_limits(layer: Layer) -> tuple[float, float, float]:
    """The axis' ends, and where bars end; in milliseconds."""
    points = layer.points.values()
    highest = 1e3 * max(max(point.measured, point.predicted, point.closed_form)
                        for point in points)
    lowest = 1e3 * min(min(point.least, point.predicted, point.closed_form, point.measured)
                       for point in points)
    top = max(highest, min(FOLLOWED * highest, 1e3 * max(point.most for point in points)))
    room = max(top - lowest, 0.1 * top)
    return lowest - 0.16 * room, top + 0.06 * room, top


def draw_panel(axes, layer: Layer, place: int, degrees: list[int]) -> None:
    low, high, top = time_limits(layer)
    axes.set(xlim=(-0.5, len(degrees) - 0.5), ylim=(low, high))
    draw_curves(axes, layer, place, [degrees.index(degree) for degree in layer.points], top)
    draw_best(axes, layer, place, degrees)
    step = math.ceil(len(degrees) / MOST_LABELS)
    axes.set_xticks(range(0, len(degrees), step), [str(degree) for degree in degrees[::step]])
    tidy(axes, "bottom", "left")
    axes.yaxis.get_major_locator().set_params(nbins=5)


def draw_words(axes, layer: Layer, width: float) -> None:
    """Above a panel that is so many points wide."""
    for text, above, size, look in (
            (layer.name, 26, style.TEXT, {"weight": "bold"}),
            (shape_words(layer), 16.5, style.SMALL, {"color": style.QUIET}),
            (outcome_words(layer), 7, style.SMALL, {"color": style.INK})):
        axes.annotate(style.shortened(text, size, width, look.get("weight", "normal")), (0, 1),
                      (0, above), xycoords="axes fraction", textcoords="offset points",
                      fontsize=size, **look)


def draw_heading(page: Page, regime: Regime, place: int) -> None:
    """The regime's mark, its name, and its link beside it."""
    y = page.take(HEADING_ROW)
    across = LEFT / WIDTH
    size = style.TEXT + 1
    name = style.shortened(regime.name, size, ROW_POINTS / 2, "bold")
    page.figure.text(across + 12 / 72 / WIDTH, y, name, weight="bold", fontsize=size, va="bottom")
    page.figure.add_artist(Line2D([across + 4 / 72 / WIDTH], [y + 0.065 / page.height],
                                  transform=page.figure.transFigure, **marks(place)))
    indent = 12 + style.text_width(name, size, "bold") + 10
    link = style.shortened(link_words(regime), style.TEXT, ROW_POINTS - indent)
    page.figure.text(across + indent / 72 / WIDTH, y, link, va="bottom", color=style.QUIET)


def draw_row(page: Page, layers: list[Layer], place: int, degrees: list[int],
             columns: int) -> None:
    width = (ROW_WIDTH - GAP_X * (columns - 1)) / columns
    page.take(WORDS_ROW)
    bottom = page.take(PANEL)
    for column, layer in enumerate(layers):
        axes = page.panel(column * (width + GAP_X), width, PANEL, bottom)
        draw_panel(axes, layer, place, degrees)
        draw_words(axes, layer, width * 72)
        axes.set_xlabel("pipeline degree", color=style.QUIET, labelpad=2)
        if column == 0:
            axes.set_ylabel("makespan (ms)", color=style.QUIET, labelpad=3)
    page.take(AXIS)


def draw_panels(page: Page, validation: Validation) -> None:
    """All on one axis of degrees; those that a layer was not run with stay empty."""
    degrees = sorted({degree for layer in validation.layers() for degree in layer.points})
    columns = columns_of(validation)
    for place, regime in enumerate(validation.regimes):
        draw_heading(page, regime, place)
        for first in range(0, len(regime.layers), columns):
            draw_row(page, regime.layers[first:first + columns], place, degrees, columns)


def draw_panel_legend(page: Page) -> None:
    page.legend(PANEL_LEGEND_ROW, [
        Line2D([], [], label="measured: median", **MEASURED),
        Line2D([], [], label="least to most (with tip: more)", marker="|", markersize=9,
               markeredgewidth=0.8, color=style.INK, linestyle="none"),
        Line2D([], [], label="measured best", **MEASURED_BEST),
        Line2D([], [], label="predicted (colour: regime)", **predicted_look(0)),
        Line2D([], [], label="predicted best", **predicted_best_look(0)),
        Line2D([], [], label="closed form", **CLOSED_FORM)])
