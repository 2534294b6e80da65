"""Tests plots/validation.py. From the repository's root:

    /usr/bin/python3 -m unittest tests/plots/validation_test.py
"""

import contextlib
import copy
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "plots" / "validation.py"
sys.path.insert(0, str(PROGRAM.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import validation
from timeline_test import texts
from validation_panels import columns_of, grid_of, shape_lines, time_limits
from validation_results import read_validation
from validation_scatter import log_ticks

DEGREES = (1, 2, 4)
# Milliseconds by degree: predicted and measured. In the second and third regime, the best degrees
# differ: 4 and 2, 2 and 1.
PREDICTED = {"slow-link": (30.0, 20.0, 25.0), "fast-link": (10.0, 9.0, 8.0),
             "real-link": (2.0, 1.5, 1.6)}
MEASURED = {"slow-link": (30.3, 21.0, 25.0), "fast-link": (10.0, 8.0, 10.0),
            "real-link": (1.5, 1.6, 2.0)}
LIMITS = {"slow-link": 18.0, "fast-link": 7.0, "real-link": 1.2}
LINKS = {"slow-link": "alpha=1ms,beta=1e-8", "fast-link": "alpha=0.5ms,beta=1e-9"}


def points_of(regime, layers):
    """Rows of points.csv; the layers of a regime are alike."""
    return [{"regime": regime, "layer": f"{regime}-{layer}", "degree": degree,
             "predicted_forward_s": predicted / 3e3, "predicted_makespan_s": predicted / 1e3,
             "closed_form_makespan_s": 0.98 * predicted / 1e3, "predicted_hidden": 0.5,
             "limit_s": LIMITS[regime] / 1e3,
             "measured_forward_s": measured / 3e3, "measured_makespan_s": measured / 1e3,
             "measured_min_s": 0.95 * measured / 1e3, "measured_max_s": 1.2 * measured / 1e3,
             "measured_hidden": 0.4, "relative_error": predicted / measured - 1}
            for layer in range(layers)
            for degree, predicted, measured in zip(DEGREES, PREDICTED[regime], MEASURED[regime])]


def errors_of(rows):
    """The median and p95 are marks to find: nothing recomputes them."""
    return {"points": len(rows), "median_error": 0.0123, "p95_error": 0.0456,
            "largest_error": max(abs(row["relative_error"]) for row in rows)}


def best(times):
    return DEGREES[times.index(min(times))]


def layer_of(regime, layer):
    measured = MEASURED[regime]
    regret = measured[DEGREES.index(best(PREDICTED[regime]))] / min(measured) - 1
    return {"regime": regime, "layer": f"{regime}-{layer}",
            "predicted_best_degree": best(PREDICTED[regime]),
            "measured_best_degree": best(measured), "regret": regret,
            "regret_closed_form": regret, "gain_over_degree_1": measured[0] / min(measured) - 1,
            "overlap_efficiency": 1.0}


def described(regime, layers):
    table = {"name": regime, "layer": [
        {"name": f"{regime}-{layer}", "tokens_per_rank": 1024, "model_dim": 256,
         "hidden_dim": 512, "num_experts": 4, "top_k": 2, "capacity_factor": 1.0,
         "dtype": "fp32", "activation": "relu"} for layer in range(layers)]}
    return table | ({"link": LINKS[regime]} if regime in LINKS else {})


def results(layers):
    """points.csv and summary.json of so many layers by regime."""
    rows = {regime: points_of(regime, number) for regime, number in layers.items()}
    everything = [row for group in rows.values() for row in group]
    return everything, {
        "all": errors_of(everything),
        "regimes": {regime: errors_of(group) for regime, group in rows.items()},
        "layers": [layer_of(regime, layer) for regime, number in layers.items()
                   for layer in range(number)],
        "mean_regret": 0.1, "mean_regret_closed_form": 0.1, "largest_regret": 0.25,
        "within_one_percent": 0.5,
        "provenance": {
            "program": "pipemoe 0.1.0", "commit": "0123abc", "host": "here",
            "made_by": "pipemoe validate, 2 ranks",
            "versions": {"BLAS": "some BLAS 1.2", "emulated link": "of the last regime"},
            "notes": ["a note"],
            "configuration": {"name": "some-validation", "schedule": "pipemoe",
                              "degrees": list(DEGREES), "warm_up": 1, "repeats": 20,
                              "regime": [described(*one) for one in layers.items()]}}}


def renamed(value, old, new):
    """Rows or a summary with another layer's name."""
    if isinstance(value, dict):
        return {key: renamed(part, old, new) for key, part in value.items()}
    if isinstance(value, list):
        return [renamed(part, old, new) for part in value]
    return new if value == old else value


def results_of_choices():
    """Layers a and b in a slow and a fast regime. Predicted is the fast one at 4 and 10 ms, best is
    the same at 2 and 8 ms; the closed form prefers that, too, for layer b, and 4 for layer a."""
    rows, summary = results({"slow-link": 2, "fast-link": 2})
    for layer, name in enumerate("ab"):
        for regime in ("slow-link", "fast-link"):
            rows = renamed(rows, f"{regime}-{layer}", name)
            summary = renamed(summary, f"{regime}-{layer}", name)
    next(row for row in rows if (row["regime"], row["layer"], row["degree"]) ==
         ("fast-link", "b", 2))["closed_form_makespan_s"] = 0.007
    summary["choices"] = [
        {"layer": name, "predicted_regime": "fast-link", "predicted_degree": 4,
         "closed_form_regime": "fast-link", "closed_form_degree": closed_form,
         "measured_regime": "fast-link", "measured_degree": 2, "regret": 0.25,
         "regret_closed_form": regret} for name, closed_form, regret in (("a", 4, 0.25),
                                                                         ("b", 2, 0.0))]
    return rows, summary


THREE = {"slow-link": 1, "fast-link": 1, "real-link": 1}


class ValidationTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.rows, self.summary = results(THREE)

    def write(self):
        """The rows and the summary as a result folder."""
        path = self.folder / "results"
        path.mkdir(exist_ok=True)
        with open(path / "points.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)
        (path / "summary.json").write_text(json.dumps(self.summary))
        return path

    def main(self, *arguments):
        """Exit status and standard error of the program, in this process."""
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            status = validation.main([str(argument) for argument in arguments])
        return status, errors.getvalue()

    def draw(self, output="out.svg"):
        """Draws what must be drawable; the picture."""
        done = self.main(self.write(), "--output", self.folder / output)
        self.assertEqual(done, (0, ""))
        return (self.folder / output).read_bytes()

    def draw_texts(self):
        found = texts(self.draw())
        return found, " ".join(found)

    def read(self):
        return read_validation(str(self.write()))

    def configuration(self):
        return self.summary["provenance"]["configuration"]

    def without_limits(self):
        self.rows = [{key: row[key] for key in row if key != "limit_s"} for row in self.rows]

    def drawn_levels(self):
        """The heights, in milliseconds, of the horizontal lines from edge to edge of panels."""
        lines = [line for axes in validation.draw(self.read()).axes for line in axes.lines]
        return [round(line.get_ydata()[0], 9) for line in lines
                if list(line.get_xdata()) == [0, 1] and line.get_ydata()[0] == line.get_ydata()[1]]

    def check_refused(self, message, *arguments):
        """Status 2, one line that holds `message`, and no picture."""
        status, errors = self.main(*arguments)
        self.assertEqual(status, 2)
        self.assertRegex(errors, r"\Avalidation\.py: [^\n]*\n\Z")
        self.assertIn(message, errors)
        self.assertEqual([path.name for path in self.folder.iterdir() if path.is_file()], [])

    def check_bad_results(self, message):
        self.check_refused(message, self.write(), "--output", self.folder / "out.png")

    def check_bad_rows(self, message, **cells):
        """With these cells in the second row."""
        self.rows, self.summary = results(THREE)
        self.rows[1] |= cells
        self.check_bad_results(message)


class PictureTest(ValidationTest):
    def test_title_and_footer_say_where_it_comes_from(self):
        found, text = self.draw_texts()
        self.assertIn("some-validation on host here, 2 ranks, commit 0123abc", found)
        self.assertIn("error: median 1.2 %, p95 4.6 %", found)
        for part in ("9 makespans of 3 layers", "schedule pipemoe", "median of 20 repeats",
                     "fp32, relu", "pipemoe 0.1.0", "BLAS: some BLAS 1.2", "a note"):
            self.assertIn(part, text)
        self.assertNotIn("of the last regime", text)

    def test_a_device_is_named(self):
        self.summary["provenance"]["versions"]["GPU"] = "some GPU"
        self.assertIn("some-validation on some GPU, host here, 2 ranks, commit 0123abc",
                      self.draw_texts()[0])

    def test_emulated_links_are_said(self):
        found, text = self.draw_texts()
        self.assertIn("Some links are emulated", text)
        self.assertIn("emulated link: alpha 1ms, beta 1e-8 s/byte", found)
        self.assertIn("emulated link: alpha 0.5ms, beta 1e-9 s/byte", found)
        self.assertEqual(text.count("emulated link:"), 2)
        self.rows, self.summary = results({"real-link": 3})
        self.assertNotIn("emulated", self.draw_texts()[1])
        self.rows, self.summary = results({"slow-link": 3})
        self.assertIn("All links are emulated", self.draw_texts()[1])

    def test_regimes_have_their_errors(self):
        found, _ = self.draw_texts()
        for regime in THREE:
            self.assertEqual(found.count(regime), 2)  # in the table, above its panels
        self.assertEqual(found.count("1.2 %"), 4)
        # Largest: 20 of 21, 8 of 10, 2 of 1.5 ms.
        for error in ("4.8 %", "20.0 %", "33.3 %"):
            self.assertIn(error, found)

    def test_regimes_name_their_communicators(self):
        self.assertNotIn("communicator", self.draw_texts()[1])
        self.configuration()["communicator"] = "shared one"
        self.configuration()["regime"][1]["communicator"] = "its own"
        found, _ = self.draw_texts()
        self.assertIn("communicator: shared one; emulated link: alpha 1ms, beta 1e-8 s/byte", found)
        self.assertIn("communicator: its own; emulated link: alpha 0.5ms, beta 1e-9 s/byte", found)
        self.assertIn("communicator: shared one", found)  # over the real link

    def test_costs_of_degrees_are_told(self):
        found, _ = self.draw_texts()
        # Layers lose 0, 25 and 6.67 % with the predicted best, 44.3, 25 and 0 % with 1.
        for text in ("10.6 %", "25.0 %", "33 %", "23.1 %", "44.3 %"):
            self.assertIn(text, found)

    def test_layers_have_panels_with_shape_and_best_degrees(self):
        found, _ = self.draw_texts()
        self.assertEqual(found.count("pipeline degree"), 3)
        self.assertEqual(found.count("T 1024, M 256, H 512, E 4, top-2"), 3)
        for text in ("slow-link-0", "best 2, as predicted", "best 2, predicted 4: +25.0 %",
                     "best 1, predicted 2: +6.7 %"):
            self.assertIn(text, found)

    def test_regimes_share_a_list_of_layers(self):
        """But not the regime that has a list of its own."""
        described = self.configuration()["regime"]
        self.configuration()["layer"] = described[0].pop("layer") + described[1].pop("layer")
        self.configuration()["layer"].append({"name": "real-link-0", "top_k": 9})
        self.assertEqual(self.draw_texts()[0].count("T 1024, M 256, H 512, E 4, top-2"), 3)
        described[2]["layer"] = []
        found, _ = self.draw_texts()
        self.assertEqual(found.count("T 1024, M 256, H 512, E 4, top-2"), 2)
        self.assertIn("top-9", found)

    def test_a_layer_may_stand_in_two_regimes(self):
        self.rows, self.summary = results_of_choices()
        regimes = self.read().regimes
        self.assertEqual([[layer.name for layer in regime.layers] for regime in regimes],
                         [["a", "b"], ["a", "b"]])
        self.assertEqual([regime.layers[0].points[1].measured for regime in regimes],
                         [0.0303, 0.01])
        found, text = self.draw_texts()
        self.assertIn("12 makespans of 2 layers in 2 regimes,", text)
        self.assertEqual((found.count("a"), found.count("b")), (2, 2))
        self.assertEqual(found.count("best 2, as predicted"), 2)
        self.assertEqual(found.count("best 2, predicted 4: +25.0 %"), 2)

    def test_limits_are_lines_in_panels(self):
        self.assertEqual(self.drawn_levels(), [18.0, 7.0, 1.2])
        self.assertIn("limit: the longer of compute and communication", self.draw_texts()[0])

    def test_results_without_limits_are_drawn(self):
        self.without_limits()
        self.assertEqual(self.drawn_levels(), [])
        self.assertNotIn("limit:", self.draw_texts()[1])

    def test_costs_of_choices_are_told(self):
        self.rows, self.summary = results_of_choices()
        found, _ = self.draw_texts()
        start = found.index("what regime and degree cost over the best")
        self.assertEqual(found[start:start + 12], [
            "what regime and degree cost over the best", "mean", "largest", "within 1 %",
            "predicted best", "25.0 %", "25.0 %", "0 of 2",
            "closed form's best", "12.5 %", "25.0 %", "1 of 2"])

    def test_results_without_choices_are_drawn(self):
        self.assertNotIn("regime and degree", self.draw_texts()[1])
        self.summary["choices"] = []
        self.assertNotIn("regime and degree", self.draw_texts()[1])
        self.rows, self.summary = results_of_choices()
        del self.summary["choices"]
        self.assertNotIn("regime and degree", self.draw_texts()[1])

    def test_many_layers_and_degrees(self):
        self.rows, self.summary = results({"slow-link": 8, "fast-link": 7, "real-link": 5})
        found, _ = self.draw_texts()
        self.assertEqual(found.count("pipeline degree"), 20)

    def test_layers_may_lack_degrees(self):
        self.rows, self.summary = results({"slow-link": 3})
        del self.rows[2]
        for record in (self.summary["all"], self.summary["regimes"]["slow-link"]):
            record["points"] = 8
        self.draw()

    def test_results_without_descriptions_are_drawn(self):
        self.summary["provenance"] |= {"made_by": "by hand", "versions": None,
                                       "configuration": {"name": "bare", "regime": [3, {}]}}
        found, text = self.draw_texts()
        self.assertIn("bare on host here, commit 0123abc", found)
        self.assertNotIn("emulated", text)

    def test_strange_names_neither_break_the_svg_nor_become_formulas(self):
        for row in self.rows:
            row["layer"] = row["layer"].replace("slow-link", "a$b_c$ <&>")
        self.summary["layers"][0]["layer"] = "a$b_c$ <&>-0"
        self.summary["provenance"]["host"] = "x" * 1000 + "\x00"
        self.assertIn("a$b_c$ <&>-0", self.draw_texts()[0])

    def test_png_is_ten_inches_wide(self):
        png = self.draw("out.png")
        self.assertEqual(png[:8], b"\x89PNG\r\n\x1a\n")
        self.assertEqual(int.from_bytes(png[16:20], "big"), 1500)


class LayoutTest(ValidationTest):
    def columns(self, layers):
        self.rows, self.summary = results(layers)
        return columns_of(read_validation(str(self.write())))

    def test_panels_take_few_rows(self):
        self.assertEqual(self.columns(THREE), 3)
        self.assertEqual(self.columns({"slow-link": 4, "fast-link": 4, "real-link": 4}), 4)
        self.assertEqual(self.columns({"slow-link": 5}), 5)
        self.assertEqual(self.columns({"slow-link": 7}), 4)

    def test_shapes_in_narrow_panels_take_two_lines(self):
        self.rows, self.summary = results({"slow-link": 3})
        one, line = grid_of(self.read()), "T 1024, M 256, H 512, E 4, top-2"
        self.assertEqual(one.shape_lines, 1)
        self.rows, self.summary = results({"slow-link": 9, "fast-link": 9})
        for regime in self.configuration()["regime"]:
            regime["layer"][0] |= {"tokens_per_rank": 16384, "model_dim": 2048}
        two = grid_of(self.read())
        self.assertEqual((two.columns, two.shape_lines), (5, 2))
        self.assertGreater(two.words_row(), one.words_row())
        layers = self.read().regimes[1].layers
        self.assertEqual(shape_lines(layers[0], 72 * two.width()),
                         ["T 16384, M 2048, H 512", "E 4, top-2"])
        self.assertEqual(shape_lines(layers[1], 72 * one.width()), [line])
        found, _ = self.draw_texts()
        self.assertFalse([text for text in found if text.startswith("T ") and "…" in text])

    def test_axes_include_the_limit(self):
        def ends():
            low, high, top = time_limits(self.read().regimes[0].layers[0])
            self.assertAlmostEqual(top, 1.2 * 30.3)  # where bars end; whatever the limit
            return low, high
        for limit in (1.0, 18.0, 90.0):
            for row in self.rows[:3]:
                row["limit_s"] = limit / 1e3
            low, high = ends()
            self.assertLess(low, limit)
            self.assertGreater(high, limit)
        self.without_limits()
        # From 20 ms of the closed form's 0.98 up: 19.6 - 0.16 * (36.36 - 19.6).
        self.assertAlmostEqual(ends()[0], 16.9184)

    def test_one_slow_repeat_does_not_flatten_a_panel(self):
        layer = read_validation(str(self.write())).regimes[0].layers[0]
        self.assertAlmostEqual(time_limits(layer)[2], 1.2 * 30.3)
        self.rows[0]["measured_max_s"] = 100
        layer = read_validation(str(self.write())).regimes[0].layers[0]
        self.assertAlmostEqual(time_limits(layer)[2], 1.5 * 30.3)

    def test_ticks_are_round_and_few(self):
        for expected, found in zip((20, 30, 50, 70, 100, 200), log_ticks(19, 210)):
            self.assertAlmostEqual(found, expected)
        for least, greatest in ((1, 4), (1e-6, 1e18), (0.3, 300)):
            self.assertIn(len(log_ticks(least, greatest)), range(3, 10))


class ProgramTest(ValidationTest):
    def test_equal_input_gives_equal_bytes(self):
        self.write()
        for name, seed in (("a", "1"), ("b", "2")):
            done = subprocess.run([sys.executable, PROGRAM, "results", "--output", f"{name}.png",
                                   "--output", f"{name}.svg"], cwd=self.folder,
                                  env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True,
                                  check=False)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))
        for suffix in ("png", "svg"):
            self.assertEqual((self.folder / f"a.{suffix}").read_bytes(),
                             (self.folder / f"b.{suffix}").read_bytes())


class BadInputTest(ValidationTest):
    def test_unreadable_files(self):
        output = self.folder / "out.png"
        self.check_refused("absent/points.csv: cannot read: No such file", self.folder / "absent",
                           "--output", output)
        (self.write() / "summary.json").unlink()
        self.check_refused("results/summary.json: cannot read", self.folder / "results",
                           "--output", output)

    def test_outputs_that_cannot_be_written(self):
        for message, name in (("out.pdf: the suffix must be one of .png, .svg", "out.pdf"),
                              ("absent/out.png: cannot write", "absent/out.png")):
            self.check_refused(message, self.write(), "--output", self.folder / "out.svg",
                               "--output", self.folder / name)

    def test_malformed_points(self):
        for message, cells in (
                ("points.csv: row 3: degree is 0, must be", {"degree": 0}),
                ("degree is 1.5, must be an integer", {"degree": 1.5}),
                ("layer slow-link-0, degree 1 stands twice", {"degree": 1}),
                ("regime slow-link: layer fast-link-0 of points.csv is not among",
                 {"layer": "fast-link-0"}),
                ("limit_s is 0,", {"limit_s": 0}), ("limit_s is empty", {"limit_s": ""}),
                ("layer slow-link-0: limit_s must be the same for all", {"limit_s": 0.0181}),
                ("layer is empty", {"layer": ""}), ("regime is empty", {"regime": " "}),
                ("predicted_makespan_s is nan", {"predicted_makespan_s": "nan"}),
                ("measured_makespan_s is 0,", {"measured_makespan_s": 0}),
                ("closed_form_makespan_s is inf", {"closed_form_makespan_s": "inf"}),
                ("measured_min_s must be at most measured_max_s", {"measured_min_s": 1})):
            with self.subTest(message=message):
                self.check_bad_rows(message, **cells)

    def test_points_without_a_column_or_a_row(self):
        self.rows = [{key: row[key] for key in row if key != "measured_max_s"}
                     for row in self.rows]
        self.check_bad_results("there is no column measured_max_s")
        path = self.write()
        (path / "points.csv").write_text("regime,layer,degree\n")
        self.check_refused("there are no points", path, "--output", self.folder / "out.png")

    def test_more_layers_than_a_page_holds(self):
        self.rows, self.summary = results({"slow-link": 101})
        self.check_bad_results("101 layers, a page holds 100")
        self.rows, self.summary = results({"slow-link": 51, "fast-link": 50})
        self.rows = [row | {"layer": row["layer"][-2:]} for row in self.rows]
        self.check_bad_results("101 layers, a page holds 100")

    def test_malformed_summaries(self):
        for message, path, value in (
                ("provenance is missing", ("provenance",), 3),
                ("host is missing", ("provenance", "host"), None),
                ("notes must hold texts", ("provenance", "notes"), [1]),
                ("name is missing", ("provenance", "configuration", "name"), 7),
                ("layers is missing", ("layers",), {}),
                ("regime is missing", ("layers", 0), 3),
                ("layer is missing", ("layers", 0, "layer"), 3),
                ("regime slow-link: layer slow-link-0 of points.csv is not among",
                 ("layers", 0, "regime"), "other"),
                ("slow-link-0 of points.csv is not among", ("layers", 0, "layer"), "other"),
                ("layer slow-link-0: regret must be", ("layers", 0, "regret"), float("nan")),
                ("regret is missing", ("layers", 0, "regret"), "0"),
                ("regimes is missing", ("regimes",), []),
                ("regime fast-link: points is missing", ("regimes", "fast-link"), None),
                ("all: p95_error must be a number of at least 0", ("all", "p95_error"), -1)):
            with self.subTest(message=message):
                _, self.summary = results(THREE)
                record = self.summary
                for key in path[:-1]:
                    record = record[key]
                record[path[-1]] = value
                self.check_bad_results(message)

    def test_a_layer_that_the_summary_has_twice(self):
        self.summary["layers"].append(dict(self.summary["layers"][0]))
        self.check_bad_results("layers: layer slow-link-0 of regime slow-link stands twice")

    def test_malformed_choices(self):
        def first(**values):
            return lambda choices: choices[0].update(values)
        for message, change in (
                ("choices: they must be of every layer in several regimes",
                 lambda choices: choices.pop()),
                ("they must be of every layer", lambda choices: choices.append(choices[0])),
                ("they must be of every layer", first(layer="c")),
                ("choices: layer is missing", first(layer=7)),
                ("layer a: predicted_regime is missing", first(predicted_regime=None)),
                ("layer a: closed_form_degree is missing", first(closed_form_degree="4")),
                ("layer a: predicted is fast-link at 2, but fast-link at 4 is the fastest",
                 first(predicted_degree=2)),
                ("closed_form is slow-link at 4, but fast-link at 4 is",
                 first(closed_form_regime="slow-link")),
                ("measured is fast-link at 8, but fast-link at 2 is", first(measured_degree=8)),
                ("regret is 0.2, but 0.25 of points.csv", first(regret=0.2)),
                ("regret_closed_form is 0, but 0.25 of", first(regret_closed_form=0)),
                ("regret must be a number of at least 0", first(regret=-0.25))):
            with self.subTest(message=message):
                self.rows, self.summary = results_of_choices()
                change(self.summary["choices"])
                self.check_bad_results(message)

    def test_choices_that_are_no_list_or_of_layers_in_one_regime(self):
        self.summary["choices"] = {}
        self.check_bad_results("choices is missing or malformed")
        self.summary["choices"] = [{"layer": "slow-link-0"}]
        self.check_bad_results("choices: they must be of every layer in several regimes")

    def test_a_summary_that_is_no_json(self):
        path = self.write()
        (path / "summary.json").write_text("{")
        self.check_refused("summary.json: it is no JSON", path, "--output",
                           self.folder / "out.png")

    def test_a_summary_of_other_points(self):
        good = copy.deepcopy(self.summary)
        for message, change in (
                ("regime slow-link: it is of other points",
                 lambda: self.summary["regimes"]["slow-link"].update(points=4)),
                ("all: it is of other points",
                 lambda: self.summary["all"].update(largest_error=0.3)),
                ("predicted_best_degree is 1, but degree 2 is the fastest",
                 lambda: self.summary["layers"][0].update(predicted_best_degree=1)),
                ("measured_best_degree is 8, but degree 2 is the fastest",
                 lambda: self.summary["layers"][0].update(measured_best_degree=8))):
            with self.subTest(message=message):
                self.summary = copy.deepcopy(good)
                change()
                self.check_bad_results(message)


if __name__ == "__main__":
    unittest.main()
