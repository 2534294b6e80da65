"""Results of `pipemoe validate` that tests change and draw."""

import contextlib
import csv
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "plots" / "validation.py"
sys.path.insert(0, str(PROGRAM.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import style  # before matplotlib: it sets how that one behaves
import validation
from matplotlib.text import Text
from validation_results import read_validation

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
             "chosen": 0, "closed_form_chosen": 0,
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
DRAWN = {}  # the texts of what was drawn, by rows and summary: tests look at the same results


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
        """The texts of a drawing of the rows and the summary, as a list and as one line."""
        key = json.dumps([self.rows, self.summary])
        if key not in DRAWN:
            style.configure()
            DRAWN[key] = [text.get_text() for text in validation.draw(self.read()).findobj(Text)
                          if text.get_text() and text.get_visible()]
        return DRAWN[key], " ".join(DRAWN[key])

    def read(self):
        return read_validation(str(self.write()))

    def configuration(self):
        return self.summary["provenance"]["configuration"]

    def without_limits(self):
        self.rows = [row | {"limit_s": ""} for row in self.rows]

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
