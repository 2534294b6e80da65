"""How every plot looks: colours, hatches, labels and type sizes.

Colours are those of Okabe and Ito, which colour-blind readers tell apart. Steps that share a queue
also differ in greyscale, by lightness or by hatch. Text is never read as mathematics, and
equal input gives equal bytes.
"""

import bisect
import functools
import logging
from typing import NamedTuple

# Before its import: a first run's "building the font cache" is not this program's message.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

import matplotlib
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

BLACK = "#000000"
ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"

WHITE = "#FFFFFF"
INK = "#1A1A1A"  # text and bar edges
QUIET = "#595959"  # second lines, ticks and small print; 7:1 on white
RULE = "#BDBDBD"  # thin lines
GROUND = "#F2F2F2"  # a lane in which nothing runs

FONT = "DejaVu Sans"  # matplotlib brings it
TITLE, TEXT, SMALL = 11.0, 8.0, 6.5  # points
NUMBERS = (8.0, 7.0, 6.0, 5.0)  # upon bars: the first with which they fit
DOTS_PER_INCH = 150


class Look(NamedTuple):
    """How one step is drawn; `ink` is the colour of text upon it."""

    label: str
    colour: str
    ink: str = INK
    hatch: str = ""


# In the order of an iteration, which is the order of a legend.
STEPS = {
    "gate": Look("gate", PURPLE, hatch="....."),
    "permute": Look("permute", GREEN, hatch="/////"),
    "dispatch": Look("dispatch", SKY_BLUE),
    "expert": Look("expert", ORANGE),
    "expert_input_gradient": Look("expert input gradient", VERMILLION, ink=WHITE),
    "expert_weight_gradient": Look("expert weight gradient", YELLOW),
    "combine": Look("combine", BLUE, ink=WHITE),
    "unpermute": Look("unpermute", GREEN, hatch="\\\\\\\\\\"),
}

PASSES = ("forward", "backward")


def configure() -> None:
    """Makes matplotlib draw in this style, whatever the user's matplotlibrc says."""
    matplotlib.use("Agg")
    matplotlib.rcdefaults()
    matplotlib.rcParams.update({
        "font.family": "sans-serif",
        "font.sans-serif": [FONT, "Verdana"],  # the second where an SVG's reader lacks the first
        "font.size": TEXT,
        "text.color": INK,
        "text.parse_math": False,
        "hatch.linewidth": 0.5,
        "svg.fonttype": "none",
        "svg.hashsalt": "pipemoe",
    })


@functools.lru_cache(maxsize=4096)
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Points that one line of text takes."""
    font = FontProperties(family=FONT, size=size, weight=weight)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0]


def shortened(text: str, size: float, width: float, weight: str = "normal") -> str:
    """The text, or as much of it and an ellipsis as fits in `width` points."""
    if text_width(text, size, weight) <= width:
        return text
    text = text[:int(4 * width / size)]  # no letter is narrower than a quarter of its size
    letters = bisect.bisect_right(range(1, len(text) + 1), width,
                                  key=lambda end: text_width(text[:end] + "…", size, weight))
    return text[:letters].rstrip() + "…"


def wrapped(text: str, size: float, width: float, most_lines: int) -> list[str]:
    """The text in lines of at most `width` points; what `most_lines` cannot hold is cut, with an
    ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or len(lines) == most_lines or text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [shortened(line, size, width) for line in lines]


def save_options(suffix: str) -> dict:
    """What Figure.savefig takes for "png" or "svg", so that no date or version enters the file."""
    if suffix == "svg":
        return {"format": "svg", "metadata": {"Date": None, "Creator": None}}
    # A PNG is compressed again, with a palette (results.py).
    return {"format": "png", "dpi": DOTS_PER_INCH, "metadata": {"Software": None},
            "pil_kwargs": {"compress_level": 1}}
