"""A panel a layer: its makespan against the degree, predicted and measured."""

import math
import re
from dataclasses import dataclass

import style
from matplotlib.lines import Line2D
from page import LEFT, ROW_POINTS, ROW_WIDTH, WIDTH, Page, tidy
from results import phrases
from validation_results import Degrees, Layer, Regime, Validation, label
from validation_scatter import colour, marks, tenths

# Inches.
HEADING_ROW, WORDS_ROW, SHAPE_ROW, PANEL, AXIS = 0.25, 0.40, 0.13, 1.25, 0.40
GAP_X, LEGEND_ROW, LEGEND_GAP = 0.40, 0.17, 0.07
COLUMNS = (3, 4, 5)  # how many panels may stand in a row

MOST_LABELS = 10
FOLLOWED = 1.5  # a bar is drawn to this multiple of the greatest median or prediction at most

MEASURED = {"marker": "o", "markersize": 3.4, "color": style.INK, "linestyle": "none"}
BAR = {"color": style.INK, "linewidth": 0.8}
CLOSED_FORM = {"color": style.QUIET, "linewidth": 0.9, "linestyle": (0, (1, 1.5))}
LIMIT = {"color": style.QUIET, "linewidth": 0.7, "linestyle": (0, (7, 3))}
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


@dataclass(frozen=True)
class Grid:
    """What all panels of a page share; lengths in inches."""

    columns: int
    shape_lines: int  # above each panel
    degrees: list[int]  # on the axis; those that a layer was not run with stay empty
    unequal: int  # places behind them for a layer's unequal degrees

    def width(self) -> float:
        return panel_width(self.columns)

    def words_row(self) -> float:
        return WORDS_ROW + SHAPE_ROW * self.shape_lines


def panel_width(columns: int) -> float:
    return (ROW_WIDTH - GAP_X * (columns - 1)) / columns


def equal(layer: Layer) -> list[Degrees]:
    return [degrees for degrees in layer.points if degrees[0] == degrees[1]]


def unequal(layer: Layer) -> list[Degrees]:
    return [degrees for degrees in layer.points if degrees[0] != degrees[1]]


def place_of(layer: Layer, degrees: Degrees, grid: Grid) -> int:
    """On the axis."""
    if degrees[0] == degrees[1]:
        return grid.degrees.index(degrees[0])
    return len(grid.degrees) + unequal(layer).index(degrees)


def grid_of(validation: Validation) -> Grid:
    columns, layers = columns_of(validation), validation.layers()
    width = 72 * panel_width(columns)
    return Grid(columns, max(len(shape_lines(layer, width)) for layer in layers),
                sorted({degrees[0] for layer in layers for degrees in equal(layer)}),
                max(len(unequal(layer)) for layer in layers))


def panels_height(validation: Validation) -> float:
    grid = grid_of(validation)
    rows = [rows_of(regime, grid.columns) for regime in validation.regimes]
    return HEADING_ROW * len(rows) + (grid.words_row() + PANEL + AXIS) * sum(rows)


# Words.


def link_words(regime: Regime) -> str:
    found = re.fullmatch(r"alpha=([^,]+),beta=([^,]+)", regime.link)
    return f"alpha {found[1]}, beta {found[2]} s/byte" if found else regime.link


def regime_words(regime: Regime) -> str:
    said = {"communicator": regime.communicator, "emulated link": link_words(regime)}
    return "; ".join(f"{name}: {words}" for name, words in said.items() if words)


def shape_lines(layer: Layer, width: float) -> list[str]:
    """One line, or two where one takes more than so many points: the tensors', the experts'."""
    parts = [", ".join(phrases(layer.shape, *part)) for part in (
        (("tokens_per_rank", "T {}"), ("model_dim", "M {}"), ("hidden_dim", "H {}")),
        (("num_experts", "E {}"), ("top_k", "top-{}")))]
    parts = list(filter(None, parts))
    line = ", ".join(parts)
    return [line] if style.text_width(line, style.SMALL) <= width else parts


def outcome_words(layer: Layer) -> str:
    if layer.predicted_best == layer.measured_best:
        return f"best {label(layer.measured_best)}, as chosen"
    return (f"best {label(layer.measured_best)}, chosen {label(layer.predicted_best)}: "
            f"+{tenths(layer.regret)}")


# Drawing.


def draw_curves(axes, layer: Layer, place: int, grid: Grid, top: float) -> None:
    """In milliseconds; bars end at `top` with a tip upwards when they are longer."""
    points = [layer.points[degrees] for degrees in equal(layer)]
    places = [place_of(layer, degrees, grid) for degrees in equal(layer)]
    if layer.limit() is not None:
        axes.axhline(1e3 * layer.limit(), zorder=1, **LIMIT)
    axes.plot(places, [1e3 * point.closed_form for point in points], zorder=3, **CLOSED_FORM)
    axes.plot(places, [1e3 * point.predicted for point in points], zorder=2,
              **predicted_look(place))
    for degrees in unequal(layer):
        point, x = layer.points[degrees], place_of(layer, degrees, grid)
        axes.plot([x - 0.3, x + 0.3], [1e3 * point.closed_form] * 2, zorder=3, **CLOSED_FORM)
        axes.plot([x - 0.3, x + 0.3], [1e3 * point.predicted] * 2, zorder=2,
                  **predicted_look(place))
    places = [place_of(layer, degrees, grid) for degrees in layer.points]
    points = list(layer.points.values())
    for x, point in zip(places, points):
        axes.plot([x, x], [1e3 * point.least, min(1e3 * point.most, top)], zorder=4, **BAR)
        if 1e3 * point.most > top:
            axes.plot(x, top, marker="^", markersize=3, color=style.INK, clip_on=False, zorder=4)
    axes.plot(places, [1e3 * point.measured for point in points], zorder=5, **MEASURED)


def draw_best(axes, layer: Layer, place: int, grid: Grid) -> None:
    axes.plot(place_of(layer, layer.measured_best, grid),
              1e3 * layer.points[layer.measured_best].measured, zorder=6, **MEASURED_BEST)
    axes.plot(place_of(layer, layer.predicted_best, grid), 0.045, clip_on=False, zorder=6,
              transform=axes.get_xaxis_transform(), **predicted_best_look(place))


def time_limits(layer: Layer) -> tuple[float, float, float]:
    """The axis' ends, and where bars end; in milliseconds."""
    points = layer.points.values()
    highest = 1e3 * max(max(point.measured, point.predicted, point.closed_form)
                        for point in points)
    lowest = 1e3 * min(min(point.least, point.predicted, point.closed_form, point.measured)
                       for point in points)
    top = max(highest, min(FOLLOWED * highest, 1e3 * max(point.most for point in points)))
    limits = [] if layer.limit() is None else [1e3 * layer.limit()]
    lowest, greatest = min([lowest, *limits]), max([top, *limits])
    room = max(greatest - lowest, 0.1 * greatest)
    return lowest - 0.16 * room, greatest + 0.06 * room, top


def draw_panel(axes, layer: Layer, place: int, grid: Grid) -> None:
    low, high, top = time_limits(layer)
    axes.set(xlim=(-0.5, len(grid.degrees) + grid.unequal - 0.5), ylim=(low, high))
    draw_curves(axes, layer, place, grid, top)
    draw_best(axes, layer, place, grid)
    step = math.ceil(len(grid.degrees) / MOST_LABELS)
    ticks = {x: str(grid.degrees[x]) for x in range(0, len(grid.degrees), step)}
    ticks |= {place_of(layer, degrees, grid): label(degrees) for degrees in unequal(layer)}
    axes.set_xticks(list(ticks), list(ticks.values()))
    tidy(axes, "bottom", "left")
    axes.yaxis.get_major_locator().set_params(nbins=5)


def draw_words(axes, layer: Layer, grid: Grid) -> None:
    """Above a panel: name, shape, outcome."""
    width = 72 * grid.width()
    shape = [(line, style.SMALL, {"color": style.QUIET}) for line in shape_lines(layer, width)]
    above = 16.5 + 72 * SHAPE_ROW * grid.shape_lines  # points
    for text, size, look in ((layer.name, style.TEXT, {"weight": "bold"}), *shape,
                             (outcome_words(layer), style.SMALL, {"color": style.INK})):
        axes.annotate(style.shortened(text, size, width, look.get("weight", "normal")), (0, 1),
                      (0, above), xycoords="axes fraction", textcoords="offset points",
                      fontsize=size, **look)
        above -= 72 * SHAPE_ROW


def draw_heading(page: Page, regime: Regime, place: int) -> None:
    """The regime's mark, its name, and its communicator and link beside it."""
    y = page.take(HEADING_ROW)
    across = LEFT / WIDTH
    size = style.TEXT + 1
    name = style.shortened(regime.name, size, ROW_POINTS / 2, "bold")
    page.figure.text(across + 12 / 72 / WIDTH, y, name, weight="bold", fontsize=size, va="bottom")
    page.figure.add_artist(Line2D([across + 4 / 72 / WIDTH], [y + 0.065 / page.height],
                                  transform=page.figure.transFigure, **marks(place)))
    indent = 12 + style.text_width(name, size, "bold") + 10
    words = style.shortened(regime_words(regime), style.TEXT, ROW_POINTS - indent)
    page.figure.text(across + indent / 72 / WIDTH, y, words, va="bottom", color=style.QUIET)


def draw_row(page: Page, layers: list[Layer], place: int, grid: Grid) -> None:
    page.take(grid.words_row())
    bottom = page.take(PANEL)
    for column, layer in enumerate(layers):
        axes = page.panel(column * (grid.width() + GAP_X), grid.width(), PANEL, bottom)
        draw_panel(axes, layer, place, grid)
        draw_words(axes, layer, grid)
        axes.set_xlabel("pipeline degree", color=style.QUIET, labelpad=2)
        if column == 0:
            axes.set_ylabel("makespan (ms)", color=style.QUIET, labelpad=3)
    page.take(AXIS)


def draw_panels(page: Page, validation: Validation) -> None:
    grid = grid_of(validation)
    for place, regime in enumerate(validation.regimes):
        draw_heading(page, regime, place)
        for first in range(0, len(regime.layers), grid.columns):
            draw_row(page, regime.layers[first:first + grid.columns], place, grid)


# The legend of all panels.


def has_limits(validation: Validation) -> bool:
    return any(layer.limit() is not None for layer in validation.layers())


def panel_legend_height(validation: Validation) -> float:
    return LEGEND_GAP + LEGEND_ROW * (2 if has_limits(validation) else 1)


def draw_panel_legend(page: Page, validation: Validation) -> None:
    """Limits have a row of their own: beside the others there is no room."""
    page.take(LEGEND_GAP)
    page.legend(LEGEND_ROW, [
        Line2D([], [], label="measured: median", **MEASURED),
        Line2D([], [], label="least to most (with tip: more)", marker="|", markersize=9,
               markeredgewidth=0.8, color=style.INK, linestyle="none"),
        Line2D([], [], label="measured best", **MEASURED_BEST),
        Line2D([], [], label="predicted (colour: regime)", **predicted_look(0)),
        Line2D([], [], label="chosen", **predicted_best_look(0)),
        Line2D([], [], label="closed form", **CLOSED_FORM)])
    if has_limits(validation):
        page.legend(LEGEND_ROW, [
            Line2D([], [], label="limit: the longer of compute and communication", **LIMIT)])
