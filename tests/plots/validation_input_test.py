"""Tests what plots/validation.py refuses. From the repository's root:

    /usr/bin/python3 -m unittest tests/plots/validation_input_test.py
"""

import copy
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from validation_fixture import THREE, ValidationTest, results, results_of_choices


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
                ('points.csv: row 3: degree is "0", must be a degree, or', {"degree": 0}),
                ('degree is "1.5", must be a degree', {"degree": 1.5}),
                ('degree is "2/", must be a degree', {"degree": "2/"}),
                ("layer slow-link-0, degree 1 stands twice", {"degree": 1}),
                ("regime slow-link: layer fast-link-0 of points.csv is not among",
                 {"layer": "fast-link-0"}),
                ("limit_s is 0,", {"limit_s": 0}),
                ("layer slow-link-0: limit_s must be the same for all", {"limit_s": ""}),
                ("layer slow-link-0: limit_s must be the same for all", {"limit_s": 0.0181}),
                ("layer is empty", {"layer": ""}), ("regime is empty", {"regime": " "}),
                ("predicted_makespan_s is nan", {"predicted_makespan_s": "nan"}),
                ("measured_makespan_s is 0,", {"measured_makespan_s": 0}),
                ("closed_form_makespan_s is inf", {"closed_form_makespan_s": "inf"}),
                ("measured_min_s must be at most measured_max_s", {"measured_min_s": 1}),
                ("chosen is yes, must be 0 or 1", {"chosen": "yes"})):
            with self.subTest(message=message):
                self.check_bad_rows(message, **cells)

    def test_points_without_a_column_or_a_row(self):
        for column in ("measured_max_s", "limit_s", "chosen"):
            rows, _ = results(THREE)
            self.rows = [{key: row[key] for key in row if key != column} for row in rows]
            self.check_bad_results(f"there is no column {column}")
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
                ("layer a: closed_form_degree is missing", first(closed_form_degree=4.5)),
                ("layer a: predicted is fast-link at 2, but it is fast-link at 4",
                 first(predicted_degree=2)),
                ("closed_form is slow-link at 4, but it is fast-link at 4",
                 first(closed_form_regime="slow-link")),
                ("measured is fast-link at 8, but it is fast-link at 2", first(measured_degree=8)),
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
                ("predicted_best_degree is 1, but it is 2 in",
                 lambda: self.summary["layers"][0].update(predicted_best_degree=1)),
                ("measured_best_degree is 8, but it is 2 in",
                 lambda: self.summary["layers"][0].update(measured_best_degree=8))):
            with self.subTest(message=message):
                self.summary = copy.deepcopy(good)
                change()
                self.check_bad_results(message)


if __name__ == "__main__":
    unittest.main()
