"""Tests plots/validation.py on good results. From the repository's root:

    /usr/bin/python3 -m unittest tests/plots/validation_test.py
"""

import os
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from timeline_test import texts
from validation_fixture import (PROGRAM, THREE, ValidationTest, best, described, results,
                                results_of_choices)
from validation_panels import columns_of, grid_of, shape_lines, time_limits
from validation_results import read_validation
from validation_scatter import log_ticks


class PictureTest(ValidationTest):
    def test_title_and_footer_say_where_it_comes_from(self):
        found, text = self.draw_texts()
        self.assertIn("some-validation on host here, 2 ranks, commit 0123abc", found)
        self.assertIn("error: median 1.2 %, p95 4.6 %", found)
        for part in ("9 makespans of 3 layers", "schedule pipemoe", "median of 20 repeats",
                     "fp32, relu", "pipemoe 0.1.0", "BLAS: some BLAS 1.2", "a note"):
            self.assertIn(part, text)
        self.assertNotIn("of the last regime", text)

    def test_footer_says_what_the_predictions_rest_on(self):
        self.assertNotIn("rests on", self.draw_texts()[1])
        self.summary["all"]["basis"] = {"measured": 0.9, "interpolated": 0.1, "estimated": 0,
                                        "not_modelled": 0}
        self.assertIn("rests on: 90 % measured, 10 % interpolated", self.draw_texts()[1])

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
        for text in ("slow-link-0", "best 2, as chosen", "best 2, chosen 4: +25.0 %",
                     "best 1, chosen 2: +6.7 %"):
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
        self.assertEqual([regime.layers[0].points[1, 1].measured for regime in regimes],
                         [0.0303, 0.01])
        found, text = self.draw_texts()
        self.assertIn("12 makespans of 2 layers in 2 regimes,", text)
        self.assertEqual((found.count("a"), found.count("b")), (2, 2))
        self.assertEqual(found.count("best 2, as chosen"), 2)
        self.assertEqual(found.count("best 2, chosen 4: +25.0 %"), 2)

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
            "chosen", "25.0 %", "25.0 %", "0 of 2",
            "closed form's choice", "12.5 %", "25.0 %", "1 of 2"])

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

    def test_a_layer_may_have_unequal_degrees(self):
        row = next(row for row in self.rows if (row["regime"], row["degree"]) == ("slow-link", 2))
        self.rows.append(row | {"degree": "4/2", "predicted_makespan_s": 0.019,
                                "measured_makespan_s": 0.0195, "measured_min_s": 0.019,
                                "relative_error": 0.019 / 0.0195 - 1})
        layer = next(one for one in self.summary["layers"] if one["regime"] == "slow-link")
        layer |= {"predicted_best_degree": "4/2", "measured_best_degree": "4/2"}
        for errors in (self.summary["all"], self.summary["regimes"]["slow-link"]):
            errors["points"] += 1
        found = self.draw_texts()[1]
        self.assertIn("best 4/2, as chosen", found)
        self.assertIn("4/2", found)  # on the axis
        self.assertIn("best 2, chosen 4: +25.0 %", found)  # of the other regime

    def test_what_is_chosen_need_not_be_the_fastest_predicted(self):
        self.rows = [row | {"chosen": int(row["degree"] == 1), "closed_form_chosen": 0}
                     for row in self.rows]
        for layer in self.summary["layers"]:
            layer["predicted_best_degree"] = 1
        best = {layer.name: layer.predicted_best for layer in self.read().layers()}
        self.assertEqual(set(best.values()), {(1, 1)})
        self.summary["layers"][0]["predicted_best_degree"] = 2
        self.check_bad_results("predicted_best_degree is 2, but it is 1 in points.csv")

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
        self.assertIn("a$b_c$ <&>-0", texts(self.draw()))


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
    def test_equal_input_gives_equal_bytes_and_png_is_ten_inches_wide(self):
        self.write()
        done = subprocess.run([sys.executable, PROGRAM, "results", "--output", "a.png",
                               "--output", "a.svg"], cwd=self.folder, capture_output=True,
                              env=os.environ | {"PYTHONHASHSEED": "1"}, check=False)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, b"", b""))
        for suffix in ("png", "svg"):  # this process hashes otherwise and has drawn others before
            self.assertEqual((self.folder / f"a.{suffix}").read_bytes(),
                             self.draw(f"b.{suffix}"))
        png = (self.folder / "a.png").read_bytes()
        self.assertEqual(png[:8], b"\x89PNG\r\n\x1a\n")
        self.assertEqual(int.from_bytes(png[16:20], "big"), 1500)


if __name__ == "__main__":
    unittest.main()
