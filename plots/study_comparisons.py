"""How ours compares over all layers: with other schedules, with fixed degrees."""

import math
import re
from dataclasses import dataclass

import style
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from page import ROW_WIDTH, Page, tidy
from results import percent
from study_results import FIXED_DEGREES, Layer, Study
from study_sheet import sheet

PUBLISHED = (1.05, 1.77)  # the paper: 5 % to 77 %
RATIO_TICKS = (1, 2, 1.5, 3, 5, 10, 20, 50, 0.5, 0.2, 1.2, 1.1, 1.3, 1.05, 1.4, 1.75, 1.6, 1.15,
               1.25, 2.5, 4, 7, 0.9, 0.8)  # the first first, as far as there is room
TICK_ROOM = 24  # points

# Inches.
LANE, AXIS_ROW, HEAD_ROW = 0.50, 0.42, 0.24
LABELS, TABLE = 0.85, 1.65  # left and right of the lanes
CURVES, CURVES_WIDTH = 2.7, 4.95

DOT = 2.4  # points


# Speedup.


@dataclass(frozen=True)
class Comparison:
    """A schedule's time over ours, layer by layer, ascending."""

    label: str
    detail: str
    ratios: list[float]
    is_baseline: bool = True

    def mean(self) -> float:
        return sum(self.ratios) / len(self.ratios)


def words_of(name: str) -> tuple[str, str]:
    """A schedule's label, and a detail of it."""
    known = {"sequential": ("sequential", "FastMoE, DeepSpeed-MoE"),
             "fastermoe": ("FasterMoE", "split by node"),
             "tutel-adaptive": ("Tutel, adaptive", "its fastest degree")}
    tutel = re.fullmatch(r"tutel-(\d+)", name)
    return ("Tutel", f"degree {tutel[1]}") if tutel else known.get(name, (name, ""))


def by_rank(name: str) -> tuple:
    """Sorts schedules: sequential, FasterMoE, Tutel by degree, others."""
    tutel = re.fullmatch(r"tutel-(\d+)", name)
    order = ["sequential", "fastermoe", "tutel", "tutel-adaptive"]
    kind = "tutel" if tutel else name
    return (order.index(kind) if kind in order else len(order), int(tutel[1]) if tutel else 0, name)


def comparisons(study: Study) -> list[Comparison]:
    """Of all schedules that the study ran beside ours; deferred weight gradients last."""
    names = {name for layer in study.layers for name in layer.others_s}
    found = []
    for name in sorted(names, key=by_rank):
        label, detail = words_of(name)
        ratios = [layer.others_s[name] / layer.iteration_s for layer in study.layers
                  if name in layer.others_s]
        found.append(Comparison(label, detail, sorted(ratios)))
    deferred = [layer.iteration_s / layer.deferred_s for layer in study.layers if layer.deferred_s]
    if deferred:
        found.append(Comparison("ours", "over ours with deferral", sorted(deferred), False))
    return found


def quantile(ascending: list[float], share: float) -> float:
    """By nearest rank, as the study's own."""
    return ascending[max(0, -int(-share * len(ascending) // 1) - 1)]


def swarm(bins: list[int], tallest: int) -> list[float]:
    """A height for each value, so that those of one bin stack up: 0, 1, 2, .. lowered where a
    stack is higher than `tallest`. Requires ascending bins."""
    highest = max(bins.count(number) for number in set(bins))
    scale = min(1.0, tallest / highest)
    return [scale * (place - bins.index(number)) for place, number in enumerate(bins)]


def draw_lane(axes, lane: int, one: Comparison, dots_wide: float) -> None:
    """Dots, one a layer, over a bar from quartile to quartile with median and mean; the axes are
    `dots_wide` dots wide."""
    colour = style.BLUE if one.is_baseline else style.VERMILLION
    least, greatest = axes.get_xlim()
    bins = [int(math.log(ratio / least) / math.log(greatest / least) * dots_wide)
            for ratio in one.ratios]
    centres = [least * (greatest / least)**((number + 0.5) / dots_wide) for number in bins]
    heights = swarm(bins, tallest=int(0.52 * LANE * 72 / DOT))
    axes.scatter(centres, [lane + 0.10 - height * DOT / (LANE * 72) for height in heights],
                 s=(0.92 * DOT)**2, color=colour, linewidth=0, zorder=3)
    axes.plot([one.ratios[0], one.ratios[-1]], [lane + 0.27] * 2, color=style.INK, linewidth=0.7,
              solid_capstyle="butt", zorder=2)
    low, middle, high = (quantile(one.ratios, share) for share in (0.25, 0.5, 0.75))
    axes.barh(lane + 0.27, high - low, 0.13, low, color=style.RULE, edgecolor=style.INK,
              linewidth=0.6, zorder=3)
    axes.plot([middle] * 2, [lane + 0.205, lane + 0.335], color=style.INK, linewidth=1.4,
              solid_capstyle="butt", zorder=4)
    axes.plot(one.mean(), lane + 0.27, marker="D", markersize=4, color=style.WHITE,
              markeredgecolor=style.INK, markeredgewidth=0.8, zorder=5)


def draw_band(axes, baselines: int) -> None:
    """The published range, behind the baselines."""
    low, high = PUBLISHED
    axes.add_patch(Rectangle((low, -0.5), high - low, baselines, facecolor=style.YELLOW,
                             alpha=0.30, linewidth=0, zorder=0))
    for edge in PUBLISHED:
        axes.plot([edge] * 2, [-0.5, baselines - 0.5], color=style.QUIET, linewidth=0.7,
                  linestyle=(0, (4, 2)), zorder=1)
    axes.annotate("published: 5 % to 77 %", ((low + high) / 2, -0.5), (0, 4), ha="center",
                  textcoords="offset points", color=style.INK)


def draw_row_words(axes, lane: int, one: Comparison, layers: int) -> None:
    """What is left and right of a lane: the schedule; least, mean and greatest ratio."""
    detail = one.detail
    if len(one.ratios) < layers:
        detail += f" ({len(one.ratios)} of {layers})"
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
    axes.annotate(one.label, (0, lane), (-9, 5 if detail else 0), ha="right", **place)
    axes.annotate(detail, (0, lane), (-9, -5), ha="right", color=style.QUIET,
                  fontsize=style.SMALL, **place)
    weights = ("normal", "bold", "normal")
    for column, value in enumerate((one.ratios[0], one.mean(), one.ratios[-1])):
        axes.annotate(f"{value:.3f}", (1, lane), (44 + 38 * column, 0), ha="right",
                      weight=weights[column], **place)


def ratio_ticks(least: float, greatest: float, points: float) -> list[float]:
    """As many as have room on a logarithmic axis that is so many points long."""
    points_per_e = points / math.log(greatest / least)
    ticks: list[float] = []
    for tick in RATIO_TICKS:
        away = [abs(math.log(tick / other)) * points_per_e for other in ticks]
        if least <= tick <= greatest and all(far >= TICK_ROOM for far in away):
            ticks.append(tick)
    return ticks


def set_ratio_axis(axes, ratios: list[float], points: float) -> None:
    """Logarithmic, from below 1 to beyond the greatest ratio and the published ones; the axis is
    so many points long."""
    least, greatest = min(*ratios, 1.0), max(*ratios, PUBLISHED[1])
    margin = (greatest / least)**0.03
    axes.set_xscale("log")
    axes.set_xlim(least / margin, greatest * margin)
    ticks = ratio_ticks(least / margin, greatest * margin, points)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks([])
    axes.axvline(1, color=style.INK, linewidth=0.9, zorder=1)
    tidy(axes, "bottom")
    axes.set_xlabel("iteration time over ours (logarithmic)", color=style.QUIET, labelpad=4)


def draw_speedup(study: Study) -> Figure | None:
    """Time over ours for every other schedule; None when the study ran no other."""
    shown = comparisons(study)
    if not shown:
        return None
    page = sheet(study, f"{study.name}: time over ours, {len(study.layers)} layers on "
                        f"{study.cluster['name']}",
                 "A dot is a layer: its iteration with that schedule over PipeMoE's at the degrees "
                 "it chooses; right of 1, ours is faster. Under the dots: least to greatest, "
                 "quartiles, median (line) and mean (diamond).",
                 HEAD_ROW + LANE * len(shown) + AXIS_ROW)
    page.take(HEAD_ROW)
    height, width = LANE * len(shown), ROW_WIDTH - LABELS - TABLE
    axes = page.panel(LABELS, width, height, page.take(height))
    set_ratio_axis(axes, [ratio for one in shown for ratio in one.ratios], width * 72)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    for lane, one in enumerate(shown):
        axes.axhline(lane + 0.5, color=style.RULE, linewidth=0.5, zorder=0)
        draw_lane(axes, lane, one, width * 72 / DOT)
        draw_row_words(axes, lane, one, len(study.layers))
    draw_band(axes, sum(one.is_baseline for one in shown))
    for column, name in enumerate(("min", "mean", "max")):
        axes.annotate(name, (1, 1), (44 + 38 * column, 4), xycoords="axes fraction", ha="right",
                      textcoords="offset points", color=style.QUIET)
    return page.figure


# Regret.


@dataclass(frozen=True)
class Rule:
    """A rule of choosing degrees; `dashes` as matplotlib takes them; regrets in percent,
    ascending."""

    label: str
    colour: str
    dashes: tuple
    regrets: list[float]


def rules(study: Study) -> list[Rule]:
    """Ours and the fixed degrees, as far as the study tried them."""
    looks = {"ours: chosen from the model": (style.BLACK, (None, None), Layer.regret),
             "best of 1, 2, 4, 8": (style.BLUE, (6, 1.5),
                                    lambda layer: layer.fixed_regret(*FIXED_DEGREES)),
             "always 2": (style.VERMILLION, (4, 1.5, 1, 1.5), lambda layer: layer.fixed_regret(2)),
             "always 4": (style.GREEN, (2, 1), lambda layer: layer.fixed_regret(4)),
             "always 1": (style.ORANGE, (1, 1), lambda layer: layer.fixed_regret(1))}
    found = []
    for label, (colour, dashes, regret_of) in looks.items():
        regrets = sorted(100 * regret for regret in map(regret_of, study.layers)
                         if regret is not None)
        if regrets:
            found.append(Rule(label, colour, dashes, regrets))
    return found


def draw_table(page: Page, rules_shown: list[Rule], bottom: float) -> None:
    """Right of the curves: their legend, and each rule's mean, 95th percentile and maximum."""
    width = ROW_WIDTH - CURVES_WIDTH - 0.3
    axes = page.panel(ROW_WIDTH - width, width, CURVES, bottom)
    axes.set(xlim=(0, width), ylim=(CURVES, 0))  # inches
    axes.axis("off")
    columns = [width - 0.05 - 0.46 * place for place in (2, 1, 0)]
    options = {"ha": "right", "va": "baseline"}
    for x, name in zip(columns, ("mean", "p95", "max")):
        axes.text(x, 0.12, f"{name} %", color=style.QUIET, **options)
    for place, rule in enumerate(rules_shown):
        y = 0.34 + 0.23 * place
        axes.plot([0, 0.32], [y, y], color=rule.colour, linewidth=1.6, dashes=rule.dashes)
        axes.text(0.40, y + 0.04, rule.label, va="baseline")
        mean = sum(rule.regrets) / len(rule.regrets)
        for x, value in zip(columns, (mean, quantile(rule.regrets, 0.95), rule.regrets[-1])):
            axes.text(x, y + 0.04, f"{value:.2f}", **options)


def draw_curves(axes, rules_shown: list[Rule]) -> None:
    greatest = max(100.0, *(rule.regrets[-1] for rule in rules_shown))
    for rule in reversed(rules_shown):
        shares = [100 * place / len(rule.regrets) for place in range(len(rule.regrets) + 1)]
        axes.step([-1, *rule.regrets, 2 * greatest], [*shares, 100], where="post",
                  color=rule.colour, linewidth=1.6, dashes=rule.dashes)
    axes.set_xscale("symlog", linthresh=0.01, linscale=0.5)
    axes.set(xlim=(-0.0006, greatest), ylim=(0, 102))
    ticks = [0, 0.01, 0.1, 1, 10, 100]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.grid(color=style.RULE, linewidth=0.4)
    axes.set_axisbelow(True)
    tidy(axes, "bottom", "left")
    axes.set_xlabel("regret of an iteration (%)", color=style.QUIET, labelpad=4)
    axes.set_ylabel("share of layers (%)", color=style.QUIET)


def draw_regret(study: Study) -> Figure:
    """The cumulative distribution of the iteration's regret for each rule."""
    shown = rules(study)
    best = sum(regret == 0 for regret in shown[0].regrets) / len(shown[0].regrets)
    page = sheet(study, f"{study.name}: what a rule for the degrees loses, {len(study.layers)} "
                        f"layers on {study.cluster['name']}",
                 "Regret: an iteration's time over that with the best degrees of both passes, "
                 "minus 1. A curve tells the share of layers with at most that regret; the chosen "
                 f"degrees lose nothing on {percent(best)} of the layers and at most "
                 f"{percent(shown[0].regrets[-1] / 100, 2)} on any. The axis is linear below "
                 "0.01 %.",
                 CURVES + AXIS_ROW)
    bottom = page.take(CURVES)
    draw_curves(page.panel(0, CURVES_WIDTH, CURVES, bottom), shown)
    draw_table(page, shown, bottom)
    return page.figure
