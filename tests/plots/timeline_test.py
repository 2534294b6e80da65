"""Tests plots/timeline.py. From the repository's root:

    /usr/bin/python3 -m unittest tests/plots/timeline_test.py
"""

import contextlib
import copy
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / "plots" / "timeline.py"
sys.path.insert(0, str(PROGRAM.parent))

import results
import style
import timeline


def queue(name, resource):
    return {"name": name, "resource": resource, "priority": 0}


def span(step, chunk, pass_name, queue_name, start, end, rank=0):
    """A span; times in milliseconds."""
    return {"task": f"block0.{pass_name}.{step}.{chunk}", "microbatch": 0, "block": 0,
            "pass": pass_name, "step": step, "chunk": chunk, "stage": 0, "queue": queue_name,
            "rank": rank, "start_s": start / 1e3, "end_s": end / 1e3}


QUEUES = [queue("compute", "compute"), queue("communication", "network"),
          queue("links", "node_links")]

# Each step and each queue once, one after the other: forward 70 ms of 100 ms.
SPANS = [
    span("gate", 0, "forward", "compute", 0, 10),
    span("permute", 1, "forward", "compute", 10, 20),
    span("dispatch", 2, "forward", "communication", 20, 35),
    span("expert", 3, "forward", "compute", 35, 45),
    span("combine", 4, "forward", "links", 45, 60),
    span("unpermute", 5, "forward", "compute", 60, 70),
    span("expert_input_gradient", 6, "backward", "compute", 70, 85),
    span("expert_weight_gradient", 7, "backward", "compute", 85, 100),
]

TIMELINE = {
    "schema": "pipemoe.timeline/2",
    "provenance": {
        "program": "pipemoe 0.1.0", "commit": "0123abc", "host": "here",
        "made_by": "a test, by hand", "versions": {"simgrid": "3.32"},
        "notes": ["costs nothing here: activation"],
        "configuration": {
            "layer": {"name": "some-layer", "tokens_per_rank": 4096, "model_dim": 512,
                      "hidden_dim": 2048, "num_experts": 8, "top_k": 2, "dtype": "fp32"},
            "cluster": {"name": "some-cluster", "nodes": 2, "gpus_per_node": 4,
                        "gpu": {"name": "some GPU"}},
            "schedule": "pipemoe", "network": "node", "forward_degree": 6, "backward_degree": 8},
    },
    "makespan_s": 0.1, "forward_s": 0.07, "backward_s": 0.03,
    "queues": QUEUES,
    "spans": SPANS,
}


def changed(spans=None, **provenance):
    """TIMELINE with other spans, or other members in its provenance."""
    other = copy.deepcopy(TIMELINE)
    other["provenance"].update(provenance)
    other["spans"] = SPANS if spans is None else spans
    return other


def changed_span(**members):
    return changed(spans=[SPANS[0] | members] + SPANS[1:])


def texts(svg):
    """Every text of an SVG."""
    return ["".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter()
            if element.tag == "{http://www.w3.org/2000/svg}text"]


class TimelineTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def main(self, *arguments):
        """Exit status and standard error of the program, in this process."""
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            status = timeline.main([str(argument) for argument in arguments])
        return status, errors.getvalue()

    def draw(self, content, output, *arguments):
        """Draws what must be drawable; the picture."""
        source = self.folder / "timeline.json"
        source.write_text(json.dumps(content))
        self.assertEqual(self.main(source, "--output", self.folder / output, *arguments), (0, ""))
        return (self.folder / output).read_bytes()

    def check_refused(self, message, *arguments):
        """Status 2, one line that holds `message`, and no file but those there were."""
        before = {path: path.is_file() and path.read_bytes() for path in self.folder.iterdir()}
        status, errors = self.main(*arguments)
        self.assertEqual(status, 2)
        self.assertRegex(errors, r"\Atimeline\.py: [^\n]*\n\Z")
        self.assertIn(message, errors)
        after = {path: path.is_file() and path.read_bytes() for path in self.folder.iterdir()}
        self.assertEqual(after, before)

    def check_no_timeline(self, message, content):
        source = self.folder / "bad.json"
        source.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        self.check_refused(message, source, "--output", self.folder / "out.png")


class PictureTest(TimelineTest):
    def test_every_queue_and_step_is_named(self):
        found = texts(self.draw(TIMELINE, "out.svg"))
        for label in [look.label for look in style.STEPS.values()]:
            self.assertIn(label, found)
        for lane in QUEUES:
            self.assertIn(lane["name"], found)

    def test_a_queue_without_tasks_has_a_lane_and_a_step_without_time_no_entry(self):
        spans = SPANS[:4] + [span("combine", 0, "forward", "communication", 45, 45)]
        found = texts(self.draw(changed(spans), "out.svg"))
        self.assertIn("links", found)
        for absent in ("combine", "unpermute"):
            self.assertNotIn(absent, found)

    def test_lanes_have_the_order_of_the_queues_whatever_their_names(self):
        names = ["$b_2$", "a", "copy engine 0 of a GPU", "last"]
        queues = [queue(name, "copy_engine") for name in names]
        spans = [span("gate", 0, "forward", "a", 0, 1)]
        found = texts(self.draw(changed(spans) | {"queues": queues}, "out.svg"))
        lanes = [text for text in found if text in names or text.startswith("copy eng")]
        self.assertEqual(lanes[:2] + lanes[3:], names[:2] + names[3:])
        self.assertRegex(lanes[2], r"\Acopy engine.*…\Z")

    def test_what_the_makespan_rests_on_is_told_as_far_as_it_is_known(self):
        basis = {"measured": 0, "interpolated": 0.926, "estimated": 0.07, "not_modelled": 0.005}
        found = "\n".join(texts(self.draw(TIMELINE | {"basis": basis}, "out.svg")))
        self.assertIn("rests on: 93 % interpolated, 7 % estimated, under 1 % not modelled", found)
        self.assertNotIn("rests on", "\n".join(texts(self.draw(TIMELINE, "out.svg"))))

    def test_passes_makespan_and_chunks_are_written(self):
        # 100 ms are 8.83 inches of 72 points long: the shortest bar, 10 ms, gets 64 points.
        found = texts(self.draw(TIMELINE, "out.svg"))
        for text in ("forward 70.00 ms", "backward 30.00 ms", "makespan 100.0 ms", "time (ms)"):
            self.assertIn(text, found)
        for chunk in range(8):
            self.assertIn(str(chunk), found)

    def test_chunk_numbers_need_room(self):
        # 1000 ms are as long: each bar of 1 ms gets 0.64 points.
        spans = [span("expert", chunk, "forward", "compute", chunk, chunk + 1)
                 for chunk in range(64)]
        spans.append(span("dispatch", 0, "forward", "communication", 0, 1000))
        self.assertNotIn("63", texts(self.draw(changed(spans), "out.svg")))

    def test_configuration_and_provenance_are_told(self):
        found = "\n".join(texts(self.draw(TIMELINE, "out.svg")))
        for text in ("some-layer on some-cluster", "4096 tokens a rank", "model dim 512",
                     "hidden dim 2048", "8 experts, top-2, dropless, fp32", "schedule pipemoe",
                     "degree 6 forward, 8 backward", "network level node",
                     "2 nodes × 4 GPUs, some GPU", "pipemoe 0.1.0", "commit 0123abc",
                     "a test, by hand", "costs nothing here: activation"):
            self.assertIn(text, found)

    def test_a_timeline_without_configuration_is_drawn(self):
        for configuration in (None, {"layer": None, "cluster": {"name": "c"}}, 7):
            self.draw(changed(configuration=configuration), "out.svg")

    def test_strange_names_neither_break_the_svg_nor_become_formulas(self):
        names = {"layer": {"name": "a$b_c$ <&>\n\x00\ud800 d"}, "cluster": {"name": "x" * 10_000}}
        found = texts(self.draw(changed(configuration=names), "out.svg"))
        self.assertTrue(any(re.fullmatch(r"a\$b_c\$ <&> d on x+…", text) for text in found), found)

    def test_time_unit_follows_the_makespan(self):
        for end, text in ((2e-1, "makespan 200.0 µs"), (2, "makespan 2.000 ms"),
                          (2e3, "makespan 2000 ms"), (2e4, "makespan 20.00 s")):
            only = [span("gate", 0, "forward", "compute", 0, end)]
            self.assertIn(text, texts(self.draw(changed(only), "out.svg")))

    def test_one_rank_is_drawn(self):
        spans = SPANS[:3] + [span("expert", 0, "forward", "compute", 0, 50, rank=1)]
        first = texts(self.draw(changed(spans), "out.svg"))
        second = texts(self.draw(changed(spans), "out.svg", "--rank", 1))
        self.assertEqual(("dispatch" in first, "expert" in first), (True, False))
        self.assertEqual(("dispatch" in second, "expert" in second), (False, True))

    def test_png_is_ten_inches_wide(self):
        png = self.draw(TIMELINE, "out.png")
        self.assertEqual(png[:8], b"\x89PNG\r\n\x1a\n")
        self.assertEqual(int.from_bytes(png[16:20], "big"), 1500)


class ProgramTest(TimelineTest):
    def program(self, hash_seed, *arguments):
        """Runs the program as its users do, timeline on standard input."""
        return subprocess.run([sys.executable, PROGRAM, "-", *arguments], cwd=self.folder,
                              input=json.dumps(TIMELINE).encode(), capture_output=True,
                              env=os.environ | {"PYTHONHASHSEED": hash_seed}, check=False)

    def test_equal_input_gives_equal_bytes(self):
        done = self.program("1", "--output", "a.png", "--output", "a.SVG")
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(sorted(os.listdir(self.folder)), ["a.SVG", "a.png"])
        for suffix in ("png", "SVG"):  # this process hashes otherwise and has drawn others before
            self.assertEqual((self.folder / f"a.{suffix}").read_bytes(),
                             self.draw(TIMELINE, f"b.{suffix}"))

    def test_bad_input_exits_with_2(self):
        done = self.program("0", "--output", "picture.pdf")
        self.assertEqual(done.returncode, 2)
        self.assertEqual(done.stderr,
                         b"timeline.py: picture.pdf: the suffix must be one of .png, .svg\n")


class BadInputTest(TimelineTest):
    def test_unreadable_files(self):
        output = self.folder / "out.png"
        self.check_refused("absent.json: cannot read: No such file", self.folder / "absent.json",
                           "--output", output)
        self.check_refused("cannot read: Is a directory", self.folder, "--output", output)

    def test_what_is_no_timeline(self):
        for message, content in (
                ("it is no JSON", b""), ("it is no JSON", b"{"), ("it is no JSON", b"\xff\xfe\xfa"),
                ("it is no JSON", b"[" * 100_000), ("schema", []), ("schema", {}),
                ("schema is pipemoe.timeline/1, must be pipemoe.timeline/2",
                 TIMELINE | {"schema": "pipemoe.timeline/1"}),
                ("program", TIMELINE | {"provenance": 3}), ("notes", changed(notes=[1])),
                ("spans", TIMELINE | {"spans": None}), ("step", changed(spans=[3])),
                ("queues is missing", TIMELINE | {"queues": None}),
                ("name is missing", TIMELINE | {"queues": [{"name": 1}]}),
                ("queues must be 1..16", TIMELINE | {"queues": []}),
                ("with different names", TIMELINE | {"queues": QUEUES + QUEUES[:1]}),
                ("measured is missing", TIMELINE | {"basis": None}),
                ("basis must hold shares",
                 TIMELINE | {"basis": dict.fromkeys(results.BASES, -0.1)})):
            with self.subTest(message=message):
                self.check_no_timeline(message, content)

    def test_malformed_spans(self):
        for message, members in (
                ("step is send, must be one of gate, ", {"step": "send"}),
                ("pass", {"pass": "sideways"}), ("queue", {"queue": ["compute"]}),
                ("queue is inter_node, must be one of compute, ", {"queue": "inter_node"}),
                ("chunk", {"chunk": True}), ("chunk", {"chunk": -1}), ("rank", {"rank": 1e3}),
                ("start_s", {"start_s": "0"}), ("start_s <= end_s", {"start_s": 1}),
                ("start_s <= end_s", {"start_s": -1}), ("start_s <= end_s", {"end_s": 10**400}),
                ("start_s <= end_s", {"end_s": float("nan")}),
                ("start_s <= end_s", {"end_s": float("inf")})):
            with self.subTest(message=message, members=str(members)[:40]):
                self.check_no_timeline(message, changed_span(**members))

    def test_nothing_to_draw(self):
        self.check_no_timeline("no task takes time", changed(spans=[]))
        self.check_no_timeline("no task takes time",
                               changed([span("gate", 0, "forward", "compute", 5, 5)]))

    def test_a_rank_that_is_not_there(self):
        (self.folder / "good.json").write_text(json.dumps(TIMELINE))
        self.check_refused("there is no rank 1", self.folder / "good.json", "--rank", 1,
                           "--output", self.folder / "out.png")

    def test_outputs_that_cannot_be_written_leave_the_others_as_they_were(self):
        (self.folder / "good.json").write_text(json.dumps(TIMELINE))
        (self.folder / "old.png").write_bytes(b"old")
        (self.folder / "folder.svg").mkdir()
        for message, bad in (("absent/out.svg: cannot write: No such file", "absent/out.svg"),
                             ("folder.svg: cannot write: Is a directory", "folder.svg"),
                             ("out.jpeg: the suffix must be", "out.jpeg"),
                             ("out: the suffix must be", "out")):
            with self.subTest(bad=bad):
                self.check_refused(message, self.folder / "good.json", "--output",
                                   self.folder / "old.png", "--output", self.folder / bad)


if __name__ == "__main__":
    unittest.main()
