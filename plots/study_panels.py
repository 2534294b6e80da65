"""Time against degree for a few telling layers: which ones, and the panels they are drawn in."""

from dataclasses import dataclass

import style
from page import ROW_WIDTH, Page, Unit, tidy
from results import percent
from study_results import Layer, Pass, Study
from study_sheet import layer_words

# Inches.
PANEL, HEAD, GAP_X, GAP_Y, AXIS = 1.62, 0.72, 0.52, 0.46, 0.40
COLUMNS = 4


@dataclass(frozen=True)
class Telling:
    """A layer, and what makes it telling."""

    why: str
    layer: Layer


def gain(layer: Layer) -> float:
    """What an iteration loses at degree 1; 0 where that was not tried."""
    return layer.fixed_regret(1) or 0.0


def with_best(study: Study, low: int, high: int) -> list[Layer]:
    """The layers whose best degrees lie here in both passes; if none, those where the backward one
    does."""
    def fits(layer: Layer, *passes: str) -> bool:
        return all(low <= layer.passes[name].best <= high for name in passes)

    both = [layer for layer in study.layers if fits(layer, *style.PASSES)]
    return both or [layer for layer in study.layers if fits(layer, "backward")]


def telling(study: Study) -> list[Telling]:
    """At most four layers, by rule: degree 1 nearest to the best; best degree 2, then 4 to 8, in
    both passes where there is such a layer, else backward; highest best backward degree. Among
    equals the one that loses most at degree 1, then the first."""
    highest = max(layer.passes["backward"].best for layer in study.layers)
    ranges = {"best degree 2": (2, 2), "best degree 4 to 8": (4, 8),
              "highest best degree": (highest, highest)}
    chosen = [Telling("degree 1 nearest to best", min(study.layers, key=gain))]
    for why, (low, high) in ranges.items():
        layer = max(with_best(study, low, high), key=gain, default=None)
        if layer is not None and all(layer is not other.layer for other in chosen):
            in_both = low <= layer.passes["forward"].best <= high
            chosen.append(Telling(why if in_both else f"{why}, backward", layer))
    return chosen


def tall(rows: int) -> float:
    """Inches that so many rows of panels take."""
    return HEAD + rows * PANEL + (rows - 1) * GAP_Y + AXIS


def panels(page: Page, chosen: list[Telling]) -> dict[tuple[int, str], object]:
    """Empty axes by place in `chosen` and pass, a column a layer, with words above."""
    width = (ROW_WIDTH - GAP_X * (COLUMNS - 1)) / COLUMNS
    page.take(HEAD)
    found = {}
    for pass_name in style.PASSES:
        bottom = page.take(PANEL)
        for place, one in enumerate(chosen):
            axes = page.panel(place * (width + GAP_X), width, PANEL, bottom)
            found[place, pass_name] = axes
            if pass_name == style.PASSES[0]:
                head_words(axes, one)
        page.take(GAP_Y if pass_name != style.PASSES[-1] else AXIS)
    return found


def head_words(axes, one: Telling) -> None:
    tokens, sizes = layer_words(one.layer)
    for text, above, look in ((one.why, 39, {"weight": "bold"}), (tokens, 28, {}), (sizes, 17, {})):
        axes.annotate(text, (0, 1), (0, above), xycoords="axes fraction",
                      textcoords="offset points", **look)


def finish(axes, place: int, pass_name: str, words: str, unit: Unit) -> None:
    """Ticks, labels and the line above a panel; the axes hold degrees and times in `unit`."""
    axes.annotate(words, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points",
                  color=style.QUIET, fontsize=7)
    tidy(axes, "bottom")
    axes.tick_params(axis="y", length=0)
    axes.yaxis.get_major_locator().set_params(nbins=4)
    axes.set_ylabel(f"{pass_name}, {unit.name}" if place == 0 else unit.name, color=style.QUIET,
                    labelpad=2)
    if pass_name == style.PASSES[-1]:
        axes.set_xlabel("pipeline degree", color=style.QUIET, labelpad=2)


def outcome_words(pass_: Pass) -> str:
    if pass_.chosen == pass_.best:
        return f"best {pass_.best}, chosen"
    cost = f"+{percent(pass_.regret(), 2)}" if pass_.miss else "as fast"
    return f"best {pass_.best}, chosen {pass_.chosen} ({cost})"
