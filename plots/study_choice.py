"""Which degrees are the best, over the grid; and which ones are chosen."""

from collections import Counter

import style
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from page import ROW_WIDTH, tidy
from results import counted, percent
from study_results import Pass, Study
from study_sheet import sheet

# Inches.
MAP_GAP, MAP_HEAD, MAP_AXIS = 0.75, 0.28, 0.42
TABLE_GAP, TABLE_ROW_GAP, TABLE_HEAD = 0.13, 0.16, 0.22
TABLE_CELL, TABLE_AXIS = 0.30, 0.40
LEGEND_ROW = 0.2

CAUSES = {
    "": style.Look("best, or as fast", "#E4E4E4"),
    "uneven chunks": style.Look("missed: uneven chunks", style.ORANGE),
    "link physics": style.Look("missed: link physics", style.SKY_BLUE, hatch="/////"),
    "uneven chunks and link physics": style.Look("missed: both", style.PURPLE, hatch="....."),
}

# Light to dark, so that it reads in greyscale.
SHADES = LinearSegmentedColormap.from_list(
    "degrees", ["#F4F9FC", style.SKY_BLUE, style.BLUE, "#00243A"])
DARKEST = 32  # degrees from here on look alike


def room(texts: list[str], width: float) -> float:
    """The size in which all texts fit in `width` points; the smallest we print if none."""
    for size in style.NUMBERS:
        if all(style.text_width(text, size) <= width for text in texts):
            return size
    return style.NUMBERS[-1]


def handle(look: style.Look) -> Patch:
    return Patch(facecolor=look.colour, edgecolor=style.INK, linewidth=0.6, hatch=look.hatch,
                 label=look.label)


# Chosen against best.


def draw_hits(axes, passes: list[Pass], degrees: list[int], side: float) -> None:
    """A cell for each pair of chosen and best, cut by cause, with counts; `side` of a cell in
    points."""
    groups = Counter((pass_.chosen, pass_.best, pass_.miss) for pass_ in passes)
    cells: dict[tuple, list] = {}
    for cause in CAUSES:  # the causes' order within a cell
        for (chosen, best, miss), number in sorted(groups.items()):
            if miss == cause:
                cells.setdefault((chosen, best), []).append((cause, number))
    for (chosen, best), parts in cells.items():
        width = 1 / len(parts)
        for place, (cause, number) in enumerate(parts):
            look = CAUSES[cause]
            left = degrees.index(chosen) - 0.5 + place * width
            bottom = degrees.index(best) - 0.5
            axes.add_patch(Rectangle((left, bottom), width, 1, facecolor=look.colour, zorder=2,
                                     edgecolor=style.INK, linewidth=0.6, hatch=look.hatch))
            ground = {"facecolor": look.colour, "edgecolor": "none", "pad": 0.8}
            axes.text(left + width / 2, bottom + 0.5, str(number), ha="center", zorder=3,
                      va="center_baseline", fontsize=room([str(number)], width * side - 3),
                      color=look.ink, bbox=ground if look.hatch else None)


def draw_map(axes, name: str, passes: list[Pass], degrees: list[int], side: float) -> None:
    hits = sum(not pass_.miss for pass_ in passes)
    axes.plot([-0.5, len(degrees) - 0.5], [-0.5, len(degrees) - 0.5], color=style.RULE,
              linewidth=0.7, zorder=1)
    draw_hits(axes, passes, degrees, side)
    axes.set(xlim=(-0.5, len(degrees) - 0.5), ylim=(-0.5, len(degrees) - 0.5))
    size = room([str(degree) for degree in degrees], side - 2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(len(degrees)), [str(degree) for degree in degrees], fontsize=size)
        axis.set_ticks([place + 0.5 for place in range(len(degrees) - 1)], minor=True)
    axes.grid(which="minor", color=style.RULE, linewidth=0.4)
    tidy(axes, "bottom", "left", "top", "right")
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("chosen degree", color=style.QUIET, labelpad=4)
    axes.set_ylabel("best degree", color=style.QUIET, labelpad=4)
    axes.annotate(f"{name}: best on {hits} of {len(passes)}", (0, 1), (0, 5), color=style.INK,
                  xycoords="axes fraction", textcoords="offset points")


def draw_choice(study: Study) -> Figure:
    """Chosen against best degree, counted, misses by cause; both passes."""
    passes = {name: [layer.passes[name] for layer in study.layers] for name in style.PASSES}
    everything = [pass_ for some in passes.values() for pass_ in some]
    degrees = sorted({degree for pass_ in everything for degree in (pass_.chosen, pass_.best)})
    missed = [pass_.regret() for pass_ in everything if pass_.miss]
    text = ("Counts of layers. On the diagonal the degree that the cost model chooses is the best "
            "of all degrees simulated; equal times count as best, of equals the smallest degree. ")
    if missed:
        text += (f"{len(missed)} of {len(everything)} choices miss it; they lose at most "
                 f"{percent(max(missed), 2)} of their pass. ")
    width = (ROW_WIDTH - MAP_GAP) / 2
    page = sheet(study, f"{study.name}: chosen against best degree, {len(study.layers)} layers on "
                        f"{study.cluster['name']}",
                 text + "Only degrees that occur have a row and a column.",
                 MAP_HEAD + width + MAP_AXIS + LEGEND_ROW)
    page.take(MAP_HEAD)
    bottom = page.take(width)
    side = width * 72 / len(degrees)
    for place, name in enumerate(style.PASSES):
        axes = page.panel(place * (width + MAP_GAP), width, width, bottom)
        draw_map(axes, name, passes[name], degrees, side)
    page.take(MAP_AXIS)
    present = {pass_.miss for pass_ in everything}
    page.legend(LEGEND_ROW, [handle(look) for cause, look in CAUSES.items() if cause in present])
    return page.figure


# The best degree over the grid.


def shade(degree: int) -> tuple:
    """A degree's colour, and that of text upon it."""
    share = min(1.0, (degree.bit_length() - 1 + degree / 2**(degree.bit_length() - 1) - 1)
                / (DARKEST.bit_length() - 1))
    red, green, blue, _ = SHADES(share)
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.47
    return (red, green, blue), style.WHITE if dark else style.INK


def axis_values(study: Study, key: str, used: set[int]) -> list[int]:
    """The grid's values of a key, also those of which every layer was left out."""
    return sorted(used | {value for value in study.grid(key) if isinstance(value, int)})


def cells_of(study: Study, pass_name: str) -> dict[tuple, list[int]]:
    """Best degrees by (tokens, model_dim, hidden_dim), ascending."""
    cells: dict[tuple, list[int]] = {}
    for layer in study.layers:
        key = (layer.tokens, layer.model_dim, layer.hidden_dim)
        cells.setdefault(key, []).append(layer.passes[pass_name].best)
    return {key: sorted(degrees) for key, degrees in cells.items()}


def cell_text(degrees: list[int]) -> str:
    """The best degree of a cell's layers, or from which to which."""
    return f"{degrees[0]}–{degrees[-1]}" if degrees[-1] > degrees[0] else str(degrees[0])


def draw_heat(axes, cells: dict, tokens: int, rows: list[int], columns: list[int],
              size: float) -> None:
    """One panel: model_dim upwards, hidden_dim to the right."""
    for y, model_dim in enumerate(rows):
        for x, hidden_dim in enumerate(columns):
            degrees = cells.get((tokens, model_dim, hidden_dim))
            colour, ink = shade(degrees[0]) if degrees else (style.WHITE, style.QUIET)
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, linewidth=0.8,
                                     edgecolor=style.RULE if not degrees else style.WHITE,
                                     hatch="" if degrees else "//////"))
            if degrees:
                axes.text(x, y, cell_text(degrees), ha="center", va="center_baseline", color=ink,
                          fontsize=size)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5))
    tidy(axes)
    axes.tick_params(length=0)


def optimum_words(study: Study, cells: list[list[int]]) -> str:
    """What a cell shows, and of how many layers."""
    most = max(map(len, cells))
    text = ("Best degree of all simulated, by tokens a GPU, model dim M and hidden dim H; darker "
            "is higher; of equal times the smallest degree. ")
    if most > 1:
        other = [f"{key} {', '.join(map(str, study.grid(key)))}" for key in study.layers[0].values
                 if key not in ("model_dim", "hidden_dim")]
        text += f"A cell stands for up to {counted(most, 'layer')} ({'; '.join(other)}): "
        text += ("where they differ it shows the least and the greatest best degree, never an "
                 "average, coloured by the least. " if any(one[-1] > one[0] for one in cells) else
                 "in every cell they have the same best degree. ")
    return text + "Hatched: no layer, left out of the study or failed."


def draw_optimum(study: Study) -> Figure:
    """How the best degree moves over the grid: passes as rows, tokens as columns of heat maps."""
    cells = {name: cells_of(study, name) for name in style.PASSES}
    keys = set(cells[style.PASSES[0]])
    tokens = sorted({key[0] for key in keys})
    rows = axis_values(study, "model_dim", {key[1] for key in keys})
    columns = axis_values(study, "hidden_dim", {key[2] for key in keys})
    shown = [degrees for some in cells.values() for degrees in some.values()]
    width = (ROW_WIDTH - TABLE_GAP * (len(tokens) - 1)) / len(tokens)
    height = TABLE_CELL * len(rows)
    page = sheet(study, f"{study.name}: the best degree over the grid, {len(study.layers)} layers "
                        f"on {study.cluster['name']}",
                 optimum_words(study, shown),
                 TABLE_HEAD + 2 * height + TABLE_ROW_GAP + TABLE_AXIS)
    cell = width * 72 / len(columns)
    size = room([cell_text(degrees) for degrees in shown], cell - 2)
    page.take(TABLE_HEAD)
    for name in style.PASSES:
        bottom = page.take(height)
        for place, number in enumerate(tokens):
            axes = page.panel(place * (width + TABLE_GAP), width, height, bottom)
            draw_heat(axes, cells[name], number, rows, columns, size)
            label_heat(axes, name, number, rows, columns, cell, place == 0)
        page.take(TABLE_ROW_GAP)
    return page.figure


def label_heat(axes, name: str, tokens: int, rows: list[int], columns: list[int], cell: float,
               is_first: bool) -> None:
    """Words around a panel: tokens above the first row, H below the last, M left of the first."""
    axes.set_xticks([])
    axes.set_yticks([])
    if name == style.PASSES[0]:
        axes.set_title(f"{tokens} tokens a GPU", fontsize=style.TEXT, pad=4)
    else:
        labels = [str(value) for value in columns]
        axes.set_xticks(range(len(columns)), labels, fontsize=room(labels, cell - 2))
        axes.set_xlabel("H", color=style.QUIET, labelpad=2)
    if is_first:
        axes.set_yticks(range(len(rows)), [str(value) for value in rows], fontsize=style.SMALL)
        axes.set_ylabel(f"{name}\nM", color=style.INK, labelpad=4)
