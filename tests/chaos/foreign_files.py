"""Journals and profiles that a folder may hold: of others, broken, or edited."""

import json
import os
import stat


def replaced(lines, number, change):
    """Line `number` as JSON, changed by a function."""
    lines = list(lines)
    value = json.loads(lines[number])
    change(value)
    lines[number] = json.dumps(value, separators=(",", ":"))
    return lines


def with_key(key, value):
    return lambda line: line.__setitem__(key, value)


def without_key(key):
    return lambda line: line.pop(key, None)


def header_key(key, value):
    return lambda lines: replaced(lines, 0, with_key(key, value))


def point_key(key, value):
    return lambda lines: replaced(lines, 3, with_key(key, value))


def run_times(value):
    def change(line):
        line["runs"][0][2] = value
    return lambda lines: replaced(lines, 3, change)


# What is in the journal, and what may become of it: it is refused, or handled, that is the results
# are those of an uninterrupted run; "either" where both are right.
STUDY_JOURNALS = [
    ("another study's name", header_key("study", "other"), "refused"),
    ("another network level", header_key("network", "gpu"), "refused"),
    ("another program version", header_key("program", "9.9.9"), "refused"),
    ("another schema", header_key("schema", "pipemoe.study_points/9"), "refused"),
    ("another configuration", header_key("configuration", {}), "refused"),
    ("an unknown key in the header", header_key("unknown", 1), "refused"),
    ("no commit in the header", lambda l: replaced(l, 0, without_key("commit")), "refused"),
    ("another commit", header_key("commit", "0123456789ab"), "refused"),
    ("garbage only", lambda l: ["\x00\x01garbage"], "refused"),
    ("a header of garbage", lambda l: ["{}"] + l[1:], "refused"),
    ("no header", lambda l: l[1:], "refused"),
    ("an empty first line", lambda l: [""] + l, "refused"),
    ("the header twice", lambda l: l[:1] + l, "refused"),
    ("garbage in the middle", lambda l: l[:3] + ["garbage"] + l[3:], "either"),
    ("an empty line in the middle", lambda l: l[:3] + [""] + l[3:], "either"),
    ("bytes that are not UTF-8", lambda l: l[:3] + ["\udcff\udcfe"] + l[3:], "either"),
    ("a cut line in the middle", lambda l: l[:3] + [l[3][:40]] + l[4:], "either"),
    ("a cut last line", lambda l: (l[:-1], l[-1][:50]), "handled"),
    ("a last line without its end", lambda l: (l[:-1], l[-1]), "handled"),
    ("a last line of garbage without its end", lambda l: (l, "garb\x00age"), "handled"),
    ("the header only", lambda l: l[:1], "handled"),
    ("a cut header", lambda l: ([], l[0][:30]), "handled"),
    ("an empty file", lambda l: ([], ""), "handled"),
    ("CRLF", lambda l: [line + "\r" for line in l], "refused"),
    ("a byte order mark", lambda l: ["\ufeff" + l[0]] + l[1:], "refused"),
    ("a fractional point", point_key("point", 1.5), "refused"),
    ("a fractional point of a whole value", point_key("point", 2.0), "either"),
    ("a negative point", point_key("point", -1), "refused"),
    ("a point out of range", point_key("point", 1000), "refused"),
    ("a point of 2^64", point_key("point", 2 ** 64), "refused"),
    ("a point of 1e300", point_key("point", 1e300), "refused"),
    ("a point as text", point_key("point", "2"), "refused"),
    ("a point of null", point_key("point", None), "refused"),
    ("a point of true", point_key("point", True), "refused"),
    ("a point without a number", lambda l: replaced(l, 3, without_key("point")), "refused"),
    ("a point twice, the same", lambda l: l + [l[3]], "either"),
    ("a point twice, with other times",
     lambda l: l + [run_times(9.0)(l)[3]], "refused"),
    ("a point twice, failed first",
     lambda l: l[:1] + ['{"point":%d,"error":"x"}' % json.loads(l[3])["point"]] + l[1:], "either"),
    ("a point of another line's number",
     lambda l: replaced(l, 3, with_key("point", json.loads(l[4])["point"])), "refused"),
    ("an unknown key", point_key("unknown", 1), "refused"),
    ("a time of null", run_times(None), "refused"),
    ("a negative time", run_times(-1.0), "refused"),
    ("a time of 1e999", lambda l: [x.replace('"runs":[["pipemoe",1,', '"runs":[["pipemoe",1,1e999,')
                                   if i == 3 else x for i, x in enumerate(l)], "refused"),
    ("a time as text", run_times("1"), "refused"),
    ("no runs", point_key("runs", []), "refused"),
    ("runs that are no list", point_key("runs", {}), "refused"),
    ("no chosen degrees", lambda l: replaced(l, 3, without_key("chosen")), "refused"),
    ("chosen degrees of 0", point_key("chosen", [0, 0, 0, 0, 0]), "refused"),
    ("negative chosen degrees", point_key("chosen", [-1, 1, 1, 1, 1]), "refused"),
    ("too few chosen degrees", point_key("chosen", [1, 1, 1, 1]), "refused"),
    ("too many chosen degrees", point_key("chosen", [1, 1, 1, 1, 1, 1]), "refused"),
    ("fractional chosen degrees", point_key("chosen", [1.5, 1, 1, 1, 1]), "refused"),
    ("chosen degrees that were not run", point_key("chosen", [999, 1, 1, 1, 1]), "refused"),
    ("an unknown schedule", lambda l: replaced(
        l, 3, lambda p: p["runs"][0].__setitem__(0, "nobody")), "refused"),
    ("a run twice", lambda l: replaced(l, 3, lambda p: p["runs"].append(p["runs"][0])), "refused"),
    ("a run missing", lambda l: replaced(l, 3, lambda p: p["runs"].pop()), "refused"),
    ("a run of five values", lambda l: replaced(l, 3, lambda p: p["runs"][0].append(1)), "refused"),
    ("a share above 1", point_key("basis", [2, 0, 0, 0]), "refused"),
    ("an empty error", point_key("error", ""), "either"),
    ("a list", lambda l: l[:3] + ["[]"] + l[4:], "refused"),
    ("a number", lambda l: l[:3] + ["7"] + l[4:], "refused"),
    ("deep brackets", lambda l: l[:3] + ["[" * 100000] + l[4:], "refused"),
    ("a line of 5 MB", lambda l: l[:3] + ["x" * 5000000] + l[4:], "refused"),
    ("an escape sequence", lambda l: l[:3] + ["\x1b[2J"] + l[4:], "refused"),
]

VALIDATION_JOURNALS = [
    ("another configuration", header_key("validation", {}), "refused"),
    ("other ranks", header_key("ranks", 4), "refused"),
    ("another program", header_key("program", "pipemoe 9"), "refused"),
    ("no commit in the header", lambda l: replaced(l, 0, without_key("commit")), "refused"),
    ("another commit", header_key("commit", "0123456789ab"), "refused"),
    ("garbage", lambda l: ["garbage"], "refused"),
    ("garbage in the middle", lambda l: l[:3] + ["garbage"] + l[3:], "either"),
    ("a cut last line", lambda l: (l[:-1], l[-1][:50]), "handled"),
    ("a last line without its end", lambda l: (l[:-1], l[-1]), "handled"),
    ("the header only", lambda l: l[:1], "handled"),
    ("a point twice, the same", lambda l: l + [l[3]], "either"),
    ("a point twice, another time", lambda l: l + [point_key("measured_makespan_s", 9.0)(l)[3]],
     "refused"),
    ("an unknown layer", point_key("layer", "nobody"), "refused"),
    ("an unknown regime", point_key("regime", "nobody"), "refused"),
    ("an unknown degree", point_key("degree", "77"), "refused"),
    ("a degree of 0", point_key("degree", "0"), "refused"),
    ("a degree as a number", point_key("degree", 1), "refused"),
    ("a negative time", point_key("measured_makespan_s", -1.0), "refused"),
    ("a time of zero", point_key("measured_makespan_s", 0), "refused"),
    ("a time of null", point_key("measured_makespan_s", None), "refused"),
    ("another prediction", point_key("predicted_makespan_s", 1e3), "refused"),
    ("a share above 1", point_key("predicted_hidden", 7), "refused"),
    ("chosen is 0.5", point_key("chosen", 0.5), "refused"),
    ("an unknown key", point_key("unknown", 1), "refused"),
    ("a key missing", lambda l: replaced(l, 3, without_key("limit_s")), "refused"),
]

# What is named like a journal and is no file.
ODD = [
    ("a folder", os.mkdir),
    ("a FIFO that nobody writes", os.mkfifo),
    ("a link to itself", lambda path: os.symlink("points.jsonl", path)),
    ("a link to nothing", lambda path: os.symlink("nowhere/x", path)),
    ("a device like /dev/null", lambda path: os.mknod(path, stat.S_IFCHR | 0o666,
                                                      os.makedev(1, 3))),
    ("a device like /dev/zero", lambda path: os.mknod(path, stat.S_IFCHR | 0o666,
                                                      os.makedev(1, 5))),
    ("a device like /dev/full", lambda path: os.mknod(path, stat.S_IFCHR | 0o666,
                                                      os.makedev(1, 7))),
]

PROFILES = [
    ("empty", lambda text: b""),
    ("cut in half", lambda text: text[:len(text) // 2]),
    ("garbage", lambda text: b"\x00garbage"),
    ("another name", lambda text: text.replace(b'"slow"', b'"other"', 1)),
    ("of more ranks", lambda text: text.replace(b"gpus_per_node = 1", b"gpus_per_node = 2", 1)),
    ("an unknown key", lambda text: b"unknown = 1\n" + text),
]
