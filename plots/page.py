"""A figure as a page of rows, and the words and axes that all pages share."""

import math
from dataclasses import dataclass

import style  # before matplotlib: it sets how that one behaves
from matplotlib.figure import Figure

# Inches.
WIDTH = 10.0
LEFT, RIGHT = 0.95, 0.22  # beside the rows
TITLE_ROW, TEXT_ROW, SMALL_ROW = 0.22, 0.165, 0.125
GAP, MARGIN = 0.08, 0.12

ROW_WIDTH = WIDTH - LEFT - RIGHT
ROW_POINTS = ROW_WIDTH * 72


@dataclass(frozen=True)
class Unit:
    """A unit of time in which `makespan` reads well."""

    name: str
    seconds: float

    @staticmethod
    def of(makespan: float) -> "Unit":
        if makespan >= 10:
            return Unit("s", 1.0)
        return Unit("ms", 1e-3) if makespan >= 1e-3 else Unit("µs", 1e-6)

    def text(self, seconds: float) -> str:
        """Four significant digits and the unit."""
        value = seconds / self.seconds
        digits = 3 - math.floor(math.log10(value)) if value > 0 else 0
        return f"{value:.{min(max(digits, 0), 9)}f} {self.name}"


class Page:
    """A figure that is filled from the top in rows; positions in inches."""

    def __init__(self, height: float):
        self.figure = Figure(figsize=(WIDTH, height), facecolor=style.WHITE)
        self.height = height
        self.below = height - MARGIN  # the top edge of what is still free

    def take(self, row: float) -> float:
        """Takes a row; its bottom edge as a share of the height."""
        self.below -= row
        return self.below / self.height

    def line(self, row: float, text: str, size: float, **options) -> None:
        """A row of text at the left edge of the rows."""
        options = {"x": LEFT / WIDTH, "s": text, "fontsize": size, "va": "bottom"} | options
        self.figure.text(y=self.take(row), **options)

    def axes(self, row: float):
        """A row of axes as wide as the page's rows."""
        return self.panel(0, ROW_WIDTH, row, self.take(row))

    def panel(self, left: float, width: float, height: float, bottom: float):
        """Axes of this width and height, `left` of the rows' left edge; `bottom` as take() gives
        it."""
        share = [(LEFT + left) / WIDTH, bottom, width / WIDTH, height / self.height]
        return self.figure.add_axes(share)

    def legend(self, row: float, handles: list, columns: int = 0) -> None:
        """A row of legend at the left edge; `columns` 0: all entries beside each other."""
        self.figure.legend(handles=handles, ncol=columns or len(handles), loc="lower left",
                           bbox_to_anchor=(LEFT / WIDTH, self.take(row)), frameon=False,
                           borderaxespad=0, borderpad=0, handlelength=1.6, handletextpad=0.5,
                           columnspacing=1.5)


def tidy(axes, *sides: str, axis: str = "both") -> None:
    """Thin quiet ticks on one axis or both, and only these spines."""
    axes.tick_params(axis, length=3, width=0.7, color=style.RULE, labelcolor=style.QUIET, pad=2)
    for side, spine in axes.spines.items():
        spine.set(visible=side in sides, color=style.RULE, linewidth=0.7)
