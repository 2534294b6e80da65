"""Tests plots/study.py. From the repository's root:

    /usr/bin/python3 -m unittest tests/plots/study_test.py
"""

import contextlib
import copy
import csv
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import xml.etree.ElementTree as ElementTree
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "plots" / "study.py"
sys.path.insert(0, str(PROGRAM.parent))

import study
from study_costs import Costs, split
from study_comparisons import quantile, ratio_ticks
from study_panels import telling
from study_results import overridden, read_study

FIGURES = ("speedup", "degrees", "choice", "regret", "optimum")
GRID = {"batch_size": [2, 4], "hidden_dim": [512, 4096], "model_dim": [1024, 8192],
        "sequence_length": [512]}
OTHERS = {"fastermoe": 1.3, "sequential": 1.5, "tutel-4": 1.1, "tutel-adaptive": 1.05}
PROFILE = {"name": "some-64", "nodes": 16, "gpus_per_node": 4, "gpu": {"name": "some GPU"},
           "fits": {"all_to_all": {"64": {"alpha_s": 0.000783, "beta_s_per_byte": 3.84e-10}},
                    "gemm": {"fp32": {"alpha_s": 0.00015, "beta_s_per_flop": 7.46e-14}}}}
SUMMARY = {
    "schema": "pipemoe.study/1", "study": "some-study", "note": "a reconstruction: of a test",
    "network": "node",
    "provenance": {
        "program": "pipemoe 0.1.0", "commit": "0123abc", "host": "here",
        "configuration": {
            "study": {"name": "some-study", "grid": {"layer": GRID},
                      "layer": {"activation": "relu", "capacity_factor": 1.0, "dtype": "fp32",
                                "top_k": 2}},
            "../clusters/some-64.toml": PROFILE}},
    "clusters": [{"cluster": "some-64", "points": 7, "failed": 1,
                  "basis": {"measured": 0.8, "interpolated": 0.2, "estimated": 0,
                            "not_modelled": 0}},
                 {"cluster": "other-64", "points": 7, "failed": 1}],
}


def model_time(values, pass_name, degree, startup):
    """PipeMoE's closed form; `startup` 0 or 1."""
    rows = 2 * values["batch_size"] * values["sequence_length"]
    gemms = 2 if pass_name == "forward" else 4
    exchange = startup * 0.000783 + 3.84e-10 * rows * values["model_dim"] * 4 / degree
    flops = 2 * rows * values["model_dim"] * values["hidden_dim"]
    expert = gemms * (startup * 0.00015 + 7.46e-14 * flops / degree)
    filled = 2 * exchange + degree * expert
    return filled if degree == 1 else max(filled, 2 * degree * exchange)


def pass_cells(name, times, miss):
    """The columns of one pass; with a miss, a chosen degree beside the best one."""
    best = min(times, key=times.get)
    chosen = best + 1 if miss else best
    return {f"{name}_chosen_degree": chosen, f"{name}_best_degree": best,
            f"{name}_chosen_s": times[chosen], f"{name}_best_s": times[best],
            f"{name}_regret": times[chosen] / times[best] - 1, f"{name}_miss": miss}


def point_rows(cluster, startup, others):
    """The rows of one cluster in points.csv and its degrees.csv; the last point has failed."""
    points, degrees = [], []
    misses = {1: "uneven chunks", 2: "link physics", 3: "uneven chunks and link physics"}
    for point, combination in enumerate(itertools.product(*GRID.values())):
        values = dict(zip(GRID, combination))
        times = {name: {degree: model_time(values, name, degree, startup)
                        for degree in range(1, 17)} for name in ("forward", "backward")}
        row = {"point": point, "cluster": cluster, "ranks": 64} | values
        row["tokens_per_rank"] = values["batch_size"] * values["sequence_length"]
        for name in times:
            row |= pass_cells(name, times[name], misses.get(point, "") if startup else "")
        row["iteration_s"] = row["forward_chosen_s"] + row["backward_chosen_s"]
        row["deferred_iteration_s"] = 0.99 * row["iteration_s"] if others else 0
        row |= {f"{name}_s": factor * row["iteration_s"] for name, factor in others.items()}
        points.append(row | {"error": ""})
        degrees += [{"point": point, "degree": degree, "forward_s": times["forward"][degree],
                     "backward_s": times["backward"][degree]} for degree in range(1, 17)]
    names = ("point", "cluster", "ranks", "tokens_per_rank", *GRID)
    points[-1] = {key: points[-1][key] if key in names else "" for key in points[-1]}
    points[-1]["error"] = 'died, "so to speak"'
    return points, degrees


def write_csv(path, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_results(folder, startup=1, others=OTHERS):
    """A result folder as pipemoe study writes it, of two clusters."""
    folder.mkdir()
    everything = []
    for cluster in ("some-64", "other-64"):
        points, degrees = point_rows(cluster, startup, others)
        everything += points
        write_csv(folder / f"{cluster}-degrees.csv", degrees)
    write_csv(folder / "points.csv", everything)
    summary = copy.deepcopy(SUMMARY)
    if not startup:
        summary["study"] = "some-study-no-startup"
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def content(folder):
    """Every file below a folder, by path."""
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def texts(path):
    """The texts of an SVG, one a line; lines that were wrapped are not joined."""
    return ["".join(element.itertext()).strip()
            for element in ElementTree.parse(path).getroot().iter()
            if element.tag == "{http://www.w3.org/2000/svg}text"]


class StudyTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.results = write_results(self.folder / "results")
        self.output = self.folder / "pictures"

    def main(self, *arguments):
        """Exit status and standard error of the program, in this process."""
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            status = study.main([str(argument) for argument in arguments])
        return status, errors.getvalue()

    def draw(self, only, *arguments):
        """Draws this one figure as an SVG; its texts."""
        with unittest.mock.patch.dict(study.FIGURES, {only: study.FIGURES[only]}, clear=True):
            done = self.main(self.results, "--output", self.output, "--format", "svg", *arguments)
        self.assertEqual(done, (0, ""))
        return texts(self.output / f"{only}.svg")

    def check_refused(self, message, *arguments):
        """Status 2, one line that holds `message`, and no file but those there were."""
        before = content(self.folder)
        status, errors = self.main(*arguments)
        self.assertEqual(status, 2)
        self.assertRegex(errors, r"\Astudy\.py: [^\n]*\n\Z")
        self.assertIn(message, errors)
        self.assertEqual(content(self.folder), before)

    def check_bad_results(self, message):
        self.check_refused(message, self.results, "--output", self.output)

    def change(self, name, old, new):
        """Replaces the first `old` of a result file."""
        path = self.results / name
        text = path.read_text()
        self.assertIn(old, text)
        path.write_text(text.replace(old, new, 1))


class PictureTest(unittest.TestCase):
    """Looks at one drawing of every figure."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.output = cls.folder / "pictures"
        cls.arguments = [str(write_results(cls.folder / "results")), "--format", "svg",
                         "--without-startup",
                         str(write_results(cls.folder / "without", startup=0, others={}))]
        if study.main([*cls.arguments, "--output", str(cls.output)]) != 0:
            raise AssertionError("good results are not drawn")

    def texts(self, name):
        return texts(self.output / f"{name}.svg")

    def test_every_figure_is_drawn_and_says_where_it_comes_from(self):
        self.assertEqual(sorted(path.name for path in self.output.iterdir()),
                         sorted(f"{name}.svg" for name in (*FIGURES, "startup")))
        for name in (*FIGURES, "startup"):
            found = " ".join(self.texts(name))
            for text in ("some-study", "a reconstruction: of a test", "network level node",
                         "some-64, 16 nodes × 4 GPUs, some GPU", "pipemoe 0.1.0", "commit 0123abc",
                         "1 layer failed and not shown",
                         "rests on: 80 % measured, 20 % interpolated"):
                self.assertIn(text, found, name)

    def test_every_figure_is_ten_inches_wide(self):
        for name in (*FIGURES, "startup"):
            root = ElementTree.parse(self.output / f"{name}.svg").getroot()
            self.assertEqual(root.get("width"), "720pt", name)

    def test_speedup_names_every_schedule_and_its_ratios(self):
        found = self.texts("speedup")
        for text in ("sequential", "FastMoE, DeepSpeed-MoE", "FasterMoE", "Tutel", "degree 4",
                     "Tutel, adaptive", "published: 5 % to 77 %", "1.500", "1.300", "1.010"):
            self.assertIn(text, found)

    def test_degrees_names_layers_and_parts_of_the_time(self):
        found = self.texts("degrees")
        for text in ("degree 1 nearest to best", "best degree 4 to 8, backward",
                     "batch 2 × 512 tokens", "compute", "start-ups", "exposed communication",
                     "simulated", "chosen", "best"):
            self.assertIn(text, found)
        self.assertIn("hidden communication", " ".join(found))

    def test_choice_counts_hits_and_names_causes(self):
        found = self.texts("choice")
        for text in ("forward: best on 4 of 7", "missed: uneven chunks", "missed: link physics",
                     "missed: both", "chosen degree", "best degree"):
            self.assertIn(text, found)

    def test_regret_compares_with_fixed_degrees(self):
        found = self.texts("regret")
        for text in ("ours: chosen from the model", "always 1", "always 2", "always 4",
                     "best of 1, 2, 4, 8", "share of layers (%)", "max %"):
            self.assertIn(text, found)

    def test_optimum_shows_the_grid(self):
        found = self.texts("optimum")
        for text in ("1024 tokens a GPU", "2048 tokens a GPU", "8192", "4096", "H"):
            self.assertIn(text, found)

    def test_startup_tells_when_the_largest_degree_is_best(self):
        found = " ".join(self.texts("startup"))
        self.assertIn("best, or as fast as the best, on 0 % of all layers", found)
        self.assertIn("on 100 % and 100 %", found)
        self.assertIn("all start-ups zero", found)

    def test_another_process_draws_equal_bytes(self):
        other = self.folder / "other"
        done = subprocess.run([sys.executable, PROGRAM, *self.arguments, "--output", other],
                              capture_output=True, check=False,
                              env=os.environ | {"PYTHONHASHSEED": "1"})
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        first, second = ({path.name: path.read_bytes() for path in folder.iterdir()}
                         for folder in (self.output, other))
        self.assertEqual(first, second)


class OptionTest(StudyTest):
    def test_png_is_ten_inches_wide(self):
        with unittest.mock.patch.dict(study.FIGURES, {"regret": study.FIGURES["regret"]},
                                      clear=True):
            self.assertEqual(self.main(self.results, "--output", self.output), (0, ""))
        png = (self.output / "regret.png").read_bytes()
        self.assertEqual(png[:8], b"\x89PNG\r\n\x1a\n")
        self.assertEqual(int.from_bytes(png[16:20], "big"), 1500)

    def test_degrees_without_lines_have_no_split(self):
        self.change("summary.json", '"beta_s_per_byte": 3.84e-10', '"bytes": [1]')
        found = self.draw("degrees")
        self.assertNotIn("start-ups", found)
        self.assertIn("Without a split", " ".join(found))

    def test_another_cluster(self):
        self.assertIn("other-64", " ".join(self.draw("regret", "--cluster", "other-64")))

    def test_without_other_schedules_there_is_no_speedup(self):
        alone = write_results(self.folder / "alone", others={})
        few = {name: study.FIGURES[name] for name in ("speedup", "optimum")}
        with unittest.mock.patch.dict(study.FIGURES, few, clear=True):
            status, errors = self.main(alone, "--output", self.output)
        self.assertEqual((status, errors.count("\n")), (0, 1))
        self.assertIn("no speedup", errors)
        self.assertEqual([path.name for path in self.output.iterdir()], ["optimum.png"])


class BadInputTest(StudyTest):
    def test_missing_files(self):
        self.check_refused("absent/summary.json: cannot read: No such file",
                           self.folder / "absent", "--output", self.output)
        (self.results / "some-64-degrees.csv").unlink()
        self.check_bad_results("some-64-degrees.csv: cannot read: No such file")

    def test_missing_columns(self):
        for name, column in (("points.csv", "forward_miss"), ("points.csv", "model_dim"),
                             ("points.csv", "deferred_iteration_s"), ("points.csv", "error"),
                             ("some-64-degrees.csv", "backward_s")):
            with self.subTest(column=column):
                self.change(name, column, "x")
                self.check_bad_results(f"{name}: row 2: there is no column {column}")
                self.change(name, "x", column)

    def test_malformed_cells(self):
        for old, new, message in (
                ("64,2,512", "64,2,512,7", "row 2: it has not as many cells"),
                ("0,some-64,64", "0,some-64,many", "row 2: ranks is many, must be a number"),
                ("0,some-64,64", "0.5,some-64,64", "row 2: point is 0.5, must be an integer"),
                ("0,some-64,64", "99,some-64,64", "degree 1 is not among the degrees"),
                ("uneven chunks", "bad luck", "forward_miss is bad luck, must be empty or one of")):
            with self.subTest(new=new):
                self.change("points.csv", old, new)
                self.check_bad_results(message)
                self.change("points.csv", new, old)

    def test_degrees_that_contradict_the_points(self):
        path = self.results / "some-64-degrees.csv"
        path.write_text(re.sub(r"\n0,3,[^,]*", "\n0,3,1e-9", path.read_text()))
        self.check_bad_results("forward_best_degree is 1, but degree 3 is faster")

    def test_no_time(self):
        for time in ("nan", "inf", "-1", "0", ""):
            with self.subTest(time=time):
                path = self.results / "some-64-degrees.csv"
                path.write_text(f"point,degree,forward_s,backward_s\n0,1,{time},1\n")
                self.check_bad_results("row 2: forward_s is ")

    def test_what_is_no_summary(self):
        for message, text in (
                ("it is no JSON", "{"), ("schema is missing", "[]"),
                ("schema is pipemoe.plan/1, must be pipemoe.study/1",
                 '{"schema": "pipemoe.plan/1"}'),
                ("note is missing", json.dumps(SUMMARY | {"note": 3})),
                ("clusters is empty", json.dumps(SUMMARY | {"clusters": []})),
                ("configuration is missing", json.dumps(SUMMARY | {"provenance": {
                    "program": "p", "commit": "c"}}))):
            with self.subTest(message=message):
                (self.results / "summary.json").write_text(text)
                self.check_bad_results(f"summary.json: {message}")

    def test_what_is_no_csv(self):
        (self.results / "points.csv").write_bytes(b"\xff\xfe")
        self.check_bad_results("points.csv: it is no CSV")
        (self.results / "points.csv").write_bytes(b"point,cluster\n")
        self.check_bad_results("cluster some-64 has no layer with a result")

    def test_unknown_cluster(self):
        self.check_refused("there is no cluster third, only some-64, other-64", self.results,
                           "--output", self.output, "--cluster", "third")

    def test_results_without_startup_must_hold_the_same_layers(self):
        without = write_results(self.folder / "without", startup=0, others={})
        text = (without / "points.csv").read_text()
        (without / "points.csv").write_text(text.replace(",512,1024,512,", ",512,1000,512,"))
        self.check_refused("study some-study-no-startup has no layer with batch_size 2",
                           self.results, "--output", self.output, "--without-startup", without)

    def test_outputs_that_cannot_be_written_leave_the_others_as_they_were(self):
        self.output.write_bytes(b"a file")
        self.check_bad_results("pictures: cannot write: File exists")
        self.output.unlink()
        (self.output / "regret.png").mkdir(parents=True)
        (self.output / "choice.png").write_bytes(b"old")
        self.check_bad_results("regret.png: cannot write: Is a directory")


class ModelTest(StudyTest):
    def test_split_adds_up_to_the_model(self):
        for exchange, compute, startup in itertools.product((0.001, 0.1), (0.001, 0.1), (0, 0.002)):
            costs = Costs(startup, exchange, 2 * startup, compute)
            for degree in range(1, 33):
                d, e = startup + exchange / degree, 2 * startup + compute / degree
                time = 2 * d + degree * e
                time = time if degree == 1 else max(time, 2 * degree * d)
                part = split(costs, degree)
                self.assertAlmostEqual(part.total(), time)
                self.assertLessEqual(part.hidden, degree * e + 1e-12)
                self.assertGreaterEqual(min(part.startup, part.exposed, part.hidden), -1e-12)
        self.assertEqual(split(costs, 1).hidden, 0)

    def test_telling_layers_are_chosen_by_rule(self):
        chosen = telling(read_study(str(self.results), None))
        self.assertEqual(len({one.layer.point for one in chosen}), len(chosen))
        self.assertEqual(chosen[0].why, "degree 1 nearest to best")
        self.assertEqual(chosen[0].layer.passes["forward"].best, 1)

    def test_of_equal_times_the_smallest_degree_is_best(self):
        path = write_results(self.folder / "without", startup=0, others={})
        forward = read_study(str(path), None).layers[0].passes["forward"]
        self.assertEqual((forward.best, forward.equals_of_best()), (2, list(range(2, 17))))
        self.assertEqual(forward.regret(), 0)

    def test_profiles_are_changed_as_the_study_says(self):
        profile = overridden(PROFILE, {"fits.gemm.fp32.alpha_s": 0.0, "a.b": 1})
        self.assertEqual(profile["fits"]["gemm"]["fp32"]["alpha_s"], 0.0)
        self.assertEqual(profile["a"], {"b": 1})
        self.assertEqual(PROFILE["fits"]["gemm"]["fp32"]["alpha_s"], 0.00015)

    def test_quantiles_and_ticks(self):
        self.assertEqual([quantile([1, 2, 3, 4], share) for share in (0.25, 0.5, 0.95)], [1, 2, 4])
        self.assertEqual(ratio_ticks(0.99, 2.1, 60), [1, 2, 1.4])


if __name__ == "__main__":
    unittest.main()
