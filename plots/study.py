#!/usr/bin/python3
"""Draws the results of `pipemoe study`: what ours gains, how the degrees behave, how well they are
chosen.

Needs Debian's python3-matplotlib. Bad input: one line on standard error, exit status 2, no file.
"""

import argparse
import os
import sys

import style  # before matplotlib: it sets how that one behaves
from results import SUFFIXES, InputError, check_writable, exit_status, rendered, write_all
from study_choice import draw_choice, draw_optimum
from study_comparisons import draw_regret, draw_speedup
from study_degrees import draw_degrees
from study_results import read_study
from study_startup import draw_startup

FIGURES = {"speedup": draw_speedup, "degrees": draw_degrees, "choice": draw_choice,
           "regret": draw_regret, "optimum": draw_optimum}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="study.py", description="Draw a study's results.")
    parser.add_argument("results", metavar="RESULTS", help="the output folder of pipemoe study")
    parser.add_argument("--output", metavar="FOLDER", required=True,
                        help="where the pictures go")
    parser.add_argument("--format", choices=SUFFIXES, help="of the pictures [png]", default="png")
    parser.add_argument("--cluster", metavar="NAME", help="[the first in summary.json]")
    parser.add_argument("--without-startup", metavar="RESULTS2",
                        help="the same layers with all start-up times zero: draws startup, too")
    return parser.parse_args(arguments)


def figures(options: argparse.Namespace) -> dict:
    """By name; None for one that these results hold nothing for."""
    study = read_study(options.results, options.cluster)
    found = {}
    if options.without_startup is not None:
        without = read_study(options.without_startup, study.cluster["name"])
        found["startup"] = draw_startup(study, without)
    return found | {name: draw(study) for name, draw in FIGURES.items()}


def path_of(name: str, options: argparse.Namespace) -> str:
    return os.path.join(options.output, f"{name}.{options.format}")


def check_output(options: argparse.Namespace) -> None:
    """Throws InputError, before anything is drawn, where pictures cannot be written later."""
    if os.path.isdir(options.output):
        check_writable([path_of(name, options) for name in FIGURES])
    elif os.path.exists(options.output):
        raise InputError(f"{options.output}: cannot write: File exists")


def make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from None


def run(options: argparse.Namespace) -> None:
    style.configure()
    check_output(options)
    pictures = {}
    for name, figure in figures(options).items():
        if figure is None:
            print(f"study.py: no {name}: the study ran no other schedule", file=sys.stderr)
            continue
        pictures[path_of(name, options)] = rendered(figure, options.format)
    make_folder(options.output)
    write_all(pictures)


def main(arguments: list[str]) -> int:
    """The exit status: 0, or 2 after one line on standard error."""
    return exit_status("study.py", lambda: run(parse(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
