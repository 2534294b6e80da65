"""Tests plots/compare.py. From the repository's root:

    /usr/bin/python3 -m unittest tests/plots/compare_test.py
"""

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plots"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import compare
from timeline_test import QUEUES, SPANS, changed, span, texts

PREDICTED = changed(made_by="a prediction")  # 70 of 100 ms forward, on all three queues
# Two ranks, 80 ms: 50 of them forward.
MEASURED = changed([span("gate", 0, "forward", "compute", 0, 20),
                    span("dispatch", 7, "forward", "communication", 20, 50),
                    span("expert", 0, "backward", "compute", 50, 60, rank=1),
                    span("combine", 0, "backward", "communication", 60, 80, rank=1)],
                   made_by="a measurement", notes=["measured note"])


class CompareTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, name, content):
        (self.folder / name).write_text(json.dumps(content))
        return self.folder / name

    def main(self, *arguments):
        """Exit status and standard error of the program, in this process."""
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            status = compare.main([str(argument) for argument in arguments])
        return status, errors.getvalue()

    def draw(self, predicted, measured, output="out.svg", *arguments):
        """Draws what must be drawable; the picture."""
        done = self.main(self.write("p.json", predicted), self.write("m.json", measured),
                         "--output", self.folder / output, *arguments)
        self.assertEqual(done, (0, ""))
        return (self.folder / output).read_bytes()

    def check_refused(self, message, *arguments):
        """Status 2, one line that holds `message`, and no picture."""
        status, errors = self.main(*arguments, "--output", self.folder / "out.png")
        self.assertEqual(status, 2)
        self.assertRegex(errors, r"\Acompare\.py: [^\n]*\n\Z")
        self.assertIn(message, errors)
        self.assertFalse((self.folder / "out.png").exists())

    def test_makespans_and_their_relative_error_are_in_the_title(self):
        # 100 / 80 - 1
        self.assertIn("predicted 100.0 ms, measured 80.00 ms: +25.0 %",
                      texts(self.draw(PREDICTED, MEASURED)))
        self.assertIn("predicted 80.00 ms, measured 100.0 ms: −20.0 %",
                      texts(self.draw(MEASURED, PREDICTED)))

    def test_both_are_named_with_their_passes_and_lanes(self):
        found = texts(self.draw(PREDICTED, MEASURED))
        for text in ("predicted", "measured", "a prediction", "a measurement, rank 0 of 2",
                     "forward 70.00 ms", "backward 30.00 ms", "forward 50.00 ms",
                     "backward 30.00 ms", "some-layer on some-cluster"):
            self.assertIn(text, found)
        for lane in ("compute", "communication", "links"):
            self.assertEqual(found.count(lane), 2)
        footers = [text for text in found if text.startswith("measured: ")]
        self.assertEqual(len(footers), 1)
        self.assertIn("measured note", footers[0])

    def test_each_has_its_own_lanes_and_says_what_it_rests_on(self):
        basis = {"measured": 0.25, "interpolated": 0.75, "estimated": 0, "not_modelled": 0}
        only = PREDICTED | {"queues": QUEUES[:1], "spans": SPANS[:1], "basis": basis}
        found = texts(self.draw(only, MEASURED))
        self.assertEqual((found.count("compute"), found.count("communication")), (2, 1))
        (footer,) = [text for text in found if "rests on" in text]
        self.assertRegex(footer, "^predicted: .*rests on: 25 % measured, 75 % interpolated")

    def test_the_axis_is_as_long_as_the_longer_one(self):
        ticks = {"0", "20", "40", "60", "80", "100"}
        for pair in ((PREDICTED, MEASURED), (MEASURED, PREDICTED)):
            found = texts(self.draw(*pair))
            self.assertLessEqual(ticks, set(found))
            self.assertEqual(found.count("100"), 1)

    def test_one_measured_rank_is_drawn(self):
        empty = changed(SPANS[:1])  # nothing but a gate
        first = texts(self.draw(empty, MEASURED))
        second = texts(self.draw(empty, MEASURED, "out.svg", "--rank", 1))
        self.assertEqual(("dispatch" in first, "combine" in first), (True, False))
        self.assertEqual(("dispatch" in second, "combine" in second), (False, True))

    def test_png_is_ten_inches_wide_and_equal_input_gives_equal_bytes(self):
        png = self.draw(PREDICTED, MEASURED, "out.png")
        self.assertEqual(int.from_bytes(png[16:20], "big"), 1500)
        self.assertEqual(png, self.draw(PREDICTED, MEASURED, "again.png"))

    def test_bad_input_is_refused(self):
        good, bad = self.write("good.json", PREDICTED), self.write("bad.json", {})
        self.check_refused("absent.json: cannot read", good, self.folder / "absent.json")
        self.check_refused("bad.json: not a timeline", bad, good)
        self.check_refused("good.json: there is no rank 3", good, good, "--rank", 3)
        self.check_refused("standard input can be one of the two only", "-", "-")


if __name__ == "__main__":
    unittest.main()
