"""All points of a validation at once: predicted against measured, and the errors as a table."""

import math

import style
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from page import ROW_POINTS, TEXT_ROW, Page, tidy
from results import percent
from validation_results import Choice, Errors, Layer, Validation

# Inches.
SCATTER, AXIS, BELOW = 2.9, 0.38, 0.06
TABLE_LEFT, TABLE_ROW, TEXT_GAP = 3.65, 0.185, 0.11

# Points: right edges of the table's columns of numbers, from its left edge.
COLUMNS = (205, 261, 317, 373)
CELL_POINTS = 41  # what a cell takes, left of its right edge

CLOSED_FORM_WORDS = "Closed form: as if computing and communicating at once slowed neither."

BAND, BAND_COLOUR = 0.10, "#E0E0E0"
NARROWEST = 4.0  # least ratio of an axis' ends
MOST_TICKS = 9
ROWS = 6  # of the table, apart from those of regimes and of choices
CHOICE_ROWS = 3
TEXT_LINES = 3

# The lengths have no common divisor: the first 56 regimes differ from each other.
COLOURS = (style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, style.ORANGE, style.INK,
           style.SKY_BLUE)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def colour(place: int) -> str:
    """Of the regime at this place."""
    return COLOURS[place % len(COLOURS)]


def marks(place: int) -> dict:
    """How the points of the regime at this place look."""
    return {"marker": MARKERS[place % len(MARKERS)], "markersize": 4.6, "color": colour(place),
            "markeredgecolor": style.WHITE, "markeredgewidth": 0.4, "linestyle": "none"}


# The scatter.


def log_ticks(least: float, greatest: float) -> list[float]:
    """Round numbers from `least` to `greatest`, at most MOST_TICKS."""
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(greatest)) + 1)
    every = [1] if len(decades) > 5 else [1, 2, 5] if greatest > 12 * least else [1, 2, 3, 5, 7]
    ticks = [step * 10.0**decade for decade in decades for step in every]
    ticks = [tick for tick in ticks if least <= tick <= greatest]
    return ticks[::math.ceil(len(ticks) / MOST_TICKS)]


def limits(values: list[float]) -> tuple[float, float]:
    least, greatest = min(values) / 1.15, max(values) * 1.15
    wider = max(1.0, math.sqrt(NARROWEST * least / greatest))
    return least / wider, greatest * wider


def draw_scatter(axes, validation: Validation) -> None:
    """Milliseconds, measured from left to right, predicted upwards."""
    points = [point for regime in validation.regimes for point in regime.points()]
    ends = limits([1e3 * time for point in points for time in (point.measured, point.predicted)])
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.fill_between(ends, [(1 - BAND) * end for end in ends], [(1 + BAND) * end for end in ends],
                      color=BAND_COLOUR, linewidth=0, zorder=0)
    axes.plot(ends, ends, color=style.QUIET, linewidth=0.7, zorder=1)
    for place, regime in enumerate(validation.regimes):
        axes.plot([1e3 * point.measured for point in regime.points()],
                  [1e3 * point.predicted for point in regime.points()], zorder=2, **marks(place))
    ticks = log_ticks(*ends)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    tidy(axes, "left", "bottom")
    axes.set_xlabel("measured makespan (ms)", color=style.QUIET, labelpad=3)
    axes.set_ylabel("predicted makespan (ms)", color=style.QUIET, labelpad=3)
    axes.legend(handles=[Line2D([], [], color=style.QUIET, linewidth=0.7, label="as measured"),
                         Patch(color=BAND_COLOUR, label=f"±{percent(BAND)}")],
                loc="upper left", frameon=False, borderpad=0.2, handlelength=1.6,
                handletextpad=0.5, labelcolor=style.QUIET)


# The table, which is the scatter's legend, and the words below it.


def scatter_height(validation: Validation) -> float:
    """Inches of the row with scatter and table."""
    table = TABLE_ROW * (len(validation.regimes) + ROWS) + 2 * TEXT_GAP + TEXT_ROW * TEXT_LINES
    if validation.choices:
        table += TABLE_ROW * CHOICE_ROWS + TEXT_GAP
    return max(SCATTER + AXIS, table) + BELOW


class Table:
    """Rows of errors on axes that are measured in points, from the upper left corner."""

    def __init__(self, page: Page, height: float, bottom: float):
        self.width = ROW_POINTS - TABLE_LEFT * 72
        self.axes = page.panel(TABLE_LEFT, self.width / 72, height, bottom)
        self.axes.set(xlim=(0, self.width), ylim=(height * 72, 0))
        self.axes.axis("off")
        self.y = 0.0  # the lower edge of the last row

    def row(self, name: str, cells: list[str], **look) -> float:
        """The middle of a new row, its cells at the right."""
        self.y += TABLE_ROW * 72
        middle = self.y - TABLE_ROW * 36
        columns = COLUMNS[-len(cells):]
        room = columns[0] - CELL_POINTS - 14
        self.axes.text(14, middle, style.shortened(name, style.TEXT, room), va="center", **look)
        for right, text in zip(columns, cells):
            self.axes.text(right, middle, text, ha="right", va="center", **look)
        return middle

    def rule(self) -> None:
        self.axes.plot([0, COLUMNS[-1]], [self.y + 0.5] * 2, color=style.RULE, linewidth=0.7)

    def text(self, line: str) -> None:
        self.y += TEXT_ROW * 72
        self.axes.text(14, self.y - TEXT_ROW * 36, line, va="center", color=style.QUIET)


def tenths(share: float) -> str:
    return f"{100 * share:.1f} %"


def error_cells(errors: Errors) -> list[str]:
    shares = (errors.median, errors.p95, errors.largest)
    return [str(errors.points), *map(tenths, shares)]


def regret_cells(regrets: list[float]) -> list[str]:
    within = sum(regret <= 0.01 for regret in regrets) / len(regrets)
    return [tenths(sum(regrets) / len(regrets)), tenths(max(regrets)), percent(within, 0)]


def draw_regrets(table: Table, layers: list[Layer]) -> None:
    table.row("what a degree costs over the best", ["mean", "largest", "within 1 %"],
              color=style.QUIET)
    table.rule()
    table.row("chosen", regret_cells([layer.regret for layer in layers]))
    table.row("closed form's choice", regret_cells([layer.regret_closed_form for layer in layers]))
    table.row("always 1", regret_cells([layer.regret_degree_1 for layer in layers]))


def choice_cells(regrets: list[float]) -> list[str]:
    mean, largest, _ = regret_cells(regrets)
    return [mean, largest, f"{sum(regret <= 0.01 for regret in regrets)} of {len(regrets)}"]


def draw_choices(table: Table, choices: list[Choice]) -> None:
    """Of the layers in several regimes."""
    table.row("what regime and degree cost over the best", ["mean", "largest", "within 1 %"],
              color=style.QUIET)
    table.rule()
    table.row("chosen", choice_cells([choice.regret for choice in choices]))
    table.row("closed form's choice",
              choice_cells([choice.regret_closed_form for choice in choices]))
    table.y += TEXT_GAP * 72


def draw_table(table: Table, validation: Validation) -> None:
    table.row("error of the makespan", ["points", "median", "p95", "largest"], color=style.QUIET)
    table.rule()
    for place, regime in enumerate(validation.regimes):
        middle = table.row(regime.name, error_cells(regime.errors))
        table.axes.plot(5, middle, **marks(place))
    table.rule()
    table.row("all", error_cells(validation.errors), weight="bold")
    table.y += TEXT_GAP * 72
    draw_regrets(table, validation.layers())
    table.y += TEXT_GAP * 72
    if validation.choices:
        draw_choices(table, validation.choices)
    for line in style.wrapped(CLOSED_FORM_WORDS, style.TEXT, table.width - 14, TEXT_LINES):
        table.text(line)


def draw_scatter_row(page: Page, validation: Validation) -> None:
    height = scatter_height(validation)
    bottom = page.take(height)
    top = bottom + height / page.height
    draw_scatter(page.panel(0, SCATTER, SCATTER, top - SCATTER / page.height), validation)
    draw_table(Table(page, height, bottom), validation)
