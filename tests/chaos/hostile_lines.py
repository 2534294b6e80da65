#!/usr/bin/env python3
"""Thousands of hostile command lines: each must give a finite answer, or be refused in one line."""

import argparse
import collections
import concurrent.futures
import json
import math
import os
import random
import re
import resource
import shutil
import stat
import sys
import tempfile
import tomllib

import chaos

TIME_LIMIT = 10
MEMORY_LIMIT = 1 << 30

# ---- values ----

TEXTS = ["", " ", "-", "--", "=", "a b", "%s%n", "../", "\x1b[31mred\x1b[0m", "a\nb", "a\tb\r",
         b"\xff\xfe", "\u0085", "\u202eabc", "\u00e9", "é" * 3000, "x" * 100000, "\"", "'", "\\",
         "true", "null", "None", "dropless", "fp64", "pipemoe", "sequential", "links", "node", "gpu",
         "1/2", "alpha=1ms,beta=1e-9", "alpha=nan,beta=nan", "alpha=-1s,beta=0",
         "alpha=1e300s,beta=1e300", "alpha=1e-320s,beta=inf", "beta=1e-9", "alpha=,beta="]
NUMBERS = ["0", "-0", "1", "2", "3", "-1", "0.5", "1.5", "1e1", "16", "64", "513", "4097",
           "1000001", "2147483647", "2147483648", "4294967296", "9007199254740993",
           "9223372036854775807", "-9223372036854775808", "9223372036854775808",
           "18446744073709551615", "18446744073709551616", "1e308", "-1e308", "4.9e-324", "1e-300",
           "1e400", "1e300s", "1ms", "nan", "-nan", "inf", "-inf", "0x10", "010", "1_000", "+1", "1,2",
           "1.", ".5", "1e", "1 2", "١"]
PATHS = ["missing.toml", "missing/x", "folder", "folder/", ".", "empty", "binary", "zero", "full",
         "null", "layer.toml", "cluster.toml", "predicted.json", "graph.json", "old.toml", "spans.csv",
         "loop", "dangling", "locked/x", "layer.toml/x", "long" + "g" * 300, "deep/" * 900,
         "/proc/nothing/x", "/proc/self/cmdline"]
TOML = ["[]", "[1, 2]", "[1e308, 1e308]", "[nan]", "{}", "{a = 1}", "\"text\"", "''", "\"\\u001b\"",
        "2020-01-01", "07:32:00", "[" * 20000, "{a=" * 2000, "true", "false", "0x7fffffffffffffff",
        "\"x", "1 # c", "1\nname = \"b\"", "0.1", "0.999", "1.0", "8", "100", "1024", "65536", "1048576",
        "67108864", "1e15", "1e-15", "1e3"]
OUTPUTS = {"--output", "--csv", "--trace", "--measurements", "--contention"}
FOLDERS = ["results", "folder", "layer.toml", "missing/a/b", "", "null", "full", "dangling", "zero",
           "x" * 300, "results/", "a\nb", b"\xff", "\x1b[2J"]

# ---- good command lines ----

INPUTS = ["--layer", "layer.toml", "--cluster", "cluster.toml"]
GOOD = {
    "plan": [["plan", *INPUTS], ["plan", *INPUTS, "--json"],
             ["plan", "--layer", "layer.toml", "--cluster", "full.toml"],
             ["plan", *INPUTS, "--network", "links", "--json"],
             ["plan", *INPUTS, "--network", "node", "--max-degree", "3"],
             ["plan", *INPUTS, "--or", "full.toml", "--json"]],
    "simulate": [["simulate", *INPUTS], ["simulate", *INPUTS, "--json"],
                 ["simulate", *INPUTS, "--network", "links", "--output", "out.json"],
                 ["simulate", *INPUTS, "--network", "node", "--csv", "out.csv", "--json"],
                 ["simulate", "--cluster", "cluster.toml", "--graph", "graph.json", "--json"],
                 ["simulate", "--layer", "layer.toml", "--cluster", "full.toml", "--json",
                  "--trace", "out.trace"]],
    "graph": [["graph", *INPUTS], ["graph", *INPUTS, "--format", "dot"],
              ["graph", *INPUTS, "--format", "graphml", "--output", "out.xml"],
              ["graph", *INPUTS, "--forward-degree", "2", "--backward-degree", "2",
               "--output", "out.json"]],
    "compare": [["compare", "predicted.json", "measured.json"],
                ["compare", "predicted.json", "measured.json", "--json"],
                ["compare", "predicted.json", "measured.json", "--csv", "out.csv", "--trace", "out"]],
    "run": [["run", "--layer", "two.toml", "--repeats", "1", "--warm-up", "0", "--forward-degree", "2",
             "--backward-degree", "2"],
            ["run", "--layer", "two.toml", "--cluster", "one.toml", "--repeats", "1", "--warm-up", "0",
             "--json"],
            ["run", "--layer", "two.toml", "--repeats", "2", "--warm-up", "0", "--forward-degree", "1",
             "--backward-degree", "1", "--verify", "--output", "out.json"]],
    "calibrate": [["calibrate", "--layer", "two.toml", "--repeats", "1", "--warm-up", "0", "--degrees",
                   "1", "2", "--output", "out.toml"],
                  ["calibrate", "--layer", "two.toml", "--repeats", "1", "--warm-up", "0", "--degrees",
                   "1", "2", "--output", "out.toml", "--measurements", "m.csv", "--contention",
                   "c.csv"]],
    "validate": [["validate", "validation.toml", "--output", "results"]],
    "study": [["study", "study.toml", "--output", "results", "--jobs", "2"],
              ["study", "study.toml", "--list"],
              ["study", "study.toml", "--output", "results", "--network", "links", "--shard", "0/2"]],
    "import": [["import", "profile", "old.toml", "--output", "new.toml"]],
}
WEIGHTS = {"plan": 18, "simulate": 20, "graph": 12, "compare": 13, "run": 8, "calibrate": 4,
           "validate": 5, "study": 12, "import": 8}
# The files that a command reads, and that may be mangled for it.
READS = {
    "plan": ["layer.toml", "cluster.toml", "full.toml"], "graph": ["layer.toml", "cluster.toml"],
    "simulate": ["layer.toml", "cluster.toml", "full.toml", "graph.json"],
    "compare": ["predicted.json", "measured.json"], "run": ["two.toml", "one.toml"],
    "calibrate": ["two.toml"], "validate": ["validation.toml"], "study": ["study.toml", "cluster.toml"],
    "import": ["old.toml"],
}


def small_study():
    return (chaos.study_text("fitted", (2,), 2).replace("[1024, 2048]", "[1024]")
            .replace("[1024, 4096]", "[1024]"))


def input_files(program):
    """Name to content; those that the program writes itself are made by it."""
    files = {
        "layer.toml": chaos.LAYER, "cluster.toml": chaos.CLUSTER, "full.toml": chaos.FULL_CLUSTER,
        "two.toml": chaos.LAYER.replace("num_experts = 16", "num_experts = 2"),
        "one.toml": chaos.CLUSTER.replace("nodes = 4", "nodes = 1").replace(
            "gpus_per_node = 4", "gpus_per_node = 1").replace("all_to_all.16", "all_to_all.1"),
        "old.toml": chaos.CLUSTER.replace('schema = "pipemoe.cluster/2"\n', "")
        + '\n[overlap]\ncompute_slowdown = 1.1\ncommunication_slowdown = 1.2\nsource = "a test"\n'
        + '\n[fits.all_to_all_queued.16]\nalpha_s = 4.70e-4\nbeta_s_per_byte = 2.96e-10\n'
        + 'source = "a test"\n',
        "study.toml": small_study(), "validation.toml": chaos.validation_text(1),
        "empty": "", "spans.csv": "a,b\n1,2\n", "binary": bytes(range(256)) * 64,
    }
    files = {k: v if isinstance(v, bytes) else v.encode() for k, v in files.items()}
    with tempfile.TemporaryDirectory(prefix="pipemoe-hostile-") as folder:
        for name, text in files.items():
            chaos.write(folder, name, text)
        degrees = ["--forward-degree", "2", "--backward-degree", "2"]
        for command in (["simulate", *INPUTS, *degrees, "--output", "predicted.json"],
                        ["simulate", *INPUTS, *degrees, "--network", "links", "--output",
                         "measured.json"],
                        ["graph", *INPUTS, *degrees, "--output", "graph.json"]):
            done = chaos.run([program, *command], folder)
            if done.code != 0:
                sys.exit("%s: %s" % (" ".join(command), done))
        for name in ("predicted.json", "measured.json", "graph.json"):
            files[name] = chaos.read(folder, name)
    return files


def fill(folder, files):
    for name, text in files.items():
        chaos.write(folder, name, text)
    os.mkdir(os.path.join(folder, "folder"))
    os.symlink("loop", os.path.join(folder, "loop"))
    os.symlink("nowhere/x", os.path.join(folder, "dangling"))
    for name, minor in (("null", 3), ("zero", 5), ("full", 7)):  # of our own: /dev is never risked
        try:
            os.mknod(os.path.join(folder, name), stat.S_IFCHR | 0o666, os.makedev(1, minor))
        except OSError:
            pass


# ---- options and keys ----

def options_of(program, subcommand):
    """(name, takes a value) of every option that --help shows."""
    words = [subcommand, "profile"] if subcommand == "import" else [subcommand]
    text = chaos.run([program, *words, "--help"], "/").out.decode()
    found = []
    for line in text.split("\n"):
        match = re.match(r"  (-[^ ]+)( +[A-Za-z][\w=/,]*)?", line)
        if match is None or "--help" in line:
            continue
        flag = "{false}" in match.group(1) or not re.match(
            r"  -[^ ]+ (TEXT|FILE|INT|UINT|FLOAT|KEY|FOLDER|I/N|alpha)", line)
        for name in match.group(1).replace("{false}", "").split(","):
            found.append((name, not flag))
    return found


def keys_of(table, prefix=""):
    for key, value in table.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from keys_of(value, prefix + key + ".")


def set_keys():
    layer = ["layer." + key for key in keys_of(tomllib.loads(chaos.LAYER))]
    layer += ["layer.batch_size", "layer.sequence_length", "layer.unknown", "layer.", "layer"]
    full = tomllib.loads(chaos.FULL_CLUSTER)
    cluster = ["cluster." + key for key in keys_of(full)]
    cluster += ["cluster.fits.expert", "cluster.fits.all_to_all.99.alpha_s", "cluster.fits.a.b.c.d.e",
                "cluster.not_modelled", "cluster.unknown", "cluster..", "cluster.conditions.new",
                "cluster.fits.all_to_all.node.alpha_s"]
    return layer, cluster


def option_cases(subcommand, options):
    for name, takes in options:
        for value in TEXTS + NUMBERS + PATHS:
            if not takes:
                continue
            if subcommand in ("study", "validate") and name == "--output" and value in ("../", ".", "-"):
                continue
            if name in OUTPUTS and value == "/proc/self/cmdline":
                continue
            yield ("option", name, value)
        yield ("flag", name, None)
        yield ("twice", name, None)


def set_cases(subcommand, keys):
    layer, cluster = keys
    if subcommand in ("run", "calibrate"):
        cluster = cluster[:8]
    if subcommand in ("plan", "simulate", "graph", "run"):
        for key in layer + cluster:
            for value in TEXTS + NUMBERS + TOML:
                yield ("set", key, value)


# ---- mangled files ----

JSON_VALUES = ["null", "true", "-1", "-0.0", "0", "1", "1.5", "1e308", "-1e308", "1e400", "4.9e-324",
               "9223372036854775807", "9223372036854775808", "18446744073709551615",
               "9007199254740993", "-9223372036854775808", "2147483648", "\"text\"", "\"\"", "[]", "{}",
               "[[]]", "\"\\u001b[31m\"", "\"\\ud800\"", "NaN", "Infinity", "\"" + "y" * 1000000 + "\"",
               "1000000", "{\"a\": 1}"]
MARK = "@@hostile@@"


def places(value, path=()):
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], path + (key,))
    elif isinstance(value, list):
        for i in range(min(len(value), 6)):
            yield from places(value[i], path + (i,))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def mangle_bytes(text, rng):
    how = rng.randrange(9)
    where = rng.randrange(len(text) + 1)
    if how == 0:
        return text[:where], "cut at byte %d" % where
    if how == 1:
        return text[:where] + b"\x00" + text[where:], "NUL at byte %d" % where
    if how == 2:
        return text[:where] + b"\xff\xfe\x80" + text[where:], "no UTF-8 at byte %d" % where
    if how == 3:
        return b"\xef\xbb\xbf" + text, "byte order mark"
    if how == 4:
        return text.replace(b"\n", b"\r\n"), "CRLF"
    if how == 5:
        return text + text, "twice"
    if how == 6:
        return text[:where] + b"\x1b[2J" + text[where:], "escape sequence at byte %d" % where
    if how == 7:
        return text[:where] + b"[" * 100000 + text[where:], "100000 brackets at byte %d" % where
    return b"z" * 1000000, "a million z"


def mangle_json(text, rng):
    document = json.loads(text)
    path = rng.choice(list(places(document)))
    parent, key = at(document, path[:-1]), path[-1]
    how = rng.randrange(8)
    name = "/".join(map(str, path))
    if how == 0:
        del parent[key]
        return json.dumps(document), "%s left out" % name
    if how == 1 and isinstance(parent, list):
        parent.insert(key, parent[key])
        return json.dumps(document), "%s twice" % name
    if how == 1:
        parent["unknown"] = 1
        return json.dumps(document), "unknown key beside %s" % name
    if how == 2 and isinstance(parent, list):
        parent.reverse()
        return json.dumps(document), "the list of %s reversed" % name
    value = rng.choice(JSON_VALUES)
    parent[key] = MARK
    return json.dumps(document).replace('"%s"' % MARK, value), "%s = %s" % (name, value[:40])


def mangle_toml(text, rng):
    lines = text.split("\n")
    with_value = [i for i, line in enumerate(lines) if "=" in line]
    i = rng.choice(with_value)
    key = lines[i].split("=")[0].strip()
    how = rng.randrange(10)
    if how == 0:
        del lines[i]
        return "\n".join(lines), "%s left out" % key
    if how == 1:
        lines.insert(i, lines[i])
        return "\n".join(lines), "%s twice" % key
    if how == 2:
        lines.insert(i, "unknown = 1")
        return "\n".join(lines), "unknown key before %s" % key
    if how == 3:
        return text.replace(key, key + "x", 1), "%s misspelt" % key
    value = rng.choice(NUMBERS + TOML + [str_value(t) for t in TEXTS if isinstance(t, str)]
                       + ['"%s"' % ("y" * 1000000)])
    numbers = list(re.finditer(r"(?<![\w.\"])-?\d[\w.+-]*", lines[i].split("=", 1)[1]))
    if numbers and "[" in lines[i] and rng.random() < 0.7:  # one number inside of a list or a table
        start = lines[i].index("=") + 1
        one = rng.choice(numbers)
        lines[i] = lines[i][:start + one.start()] + value + lines[i][start + one.end():]
    else:
        lines[i] = "%s = %s" % (key, value)
    return "\n".join(lines), "%s = %s" % (key, value[:40])


def str_value(text):
    return json.dumps(text, ensure_ascii=rng_free_ascii(text))


def rng_free_ascii(text):
    return any(ord(c) < 32 or ord(c) == 127 for c in text)


def mangle(name, text, rng):
    if rng.random() < 0.25:
        return mangle_bytes(text, rng)
    mangled, what = (mangle_json if name.endswith(".json") else mangle_toml)(text.decode(), rng)
    return mangled.encode("utf-8", "surrogatepass"), what


# ---- cases ----

class Case:
    def __init__(self, subcommand, arguments, files=None, what=""):
        self.subcommand, self.arguments = subcommand, arguments
        self.files, self.what = files or {}, what


def with_option(command, name, value):
    """Replaces the option's value where it is given, else adds the option."""
    command = list(command)
    if name in command:
        i = command.index(name)
        return command[:i + 1] + [value] + command[i + 2:]
    return command + [name, value]


def structure(subcommand, command, rng):
    how = rng.randrange(9)
    command = list(command)
    i = rng.randrange(1, len(command)) if len(command) > 1 else 0
    value = rng.choice(TEXTS + NUMBERS)
    if how == 0:
        return command[:i] + command[i + 1:], "an argument left out"
    if how == 1:
        return command + [value], "one argument more"
    if how == 2:
        return command + ["--unknown"], "an unknown option"
    if how == 3:
        return [value] + command[1:], "an unknown subcommand"
    if how == 4:
        return command + [rng.choice(["--set", "--layer", "--output", "--network", "--json="])], \
            "an option without its value"
    if how == 5:
        return command[:1] + [command[0]] + command[1:], "the subcommand twice"
    if how == 6:
        return command + ["--"] + command[1:], "arguments after --"
    if how == 7:
        return command[:i] + [value] + command[i:], "an argument inserted"
    return command + ["--set", value], "a hostile --set"


def make_cases(subcommand, count, options, keys, files, rng):
    """Half from the table of options and keys, in an order of chance; the others by chance."""
    systematic = list(option_cases(subcommand, options)) + list(set_cases(subcommand, keys))
    rng.shuffle(systematic)
    cases = []
    while len(cases) < count:
        command = rng.choice(GOOD[subcommand])
        draw = rng.random()
        if draw < 0.55 and systematic:
            kind, name, value = systematic.pop()
            if kind == "set":
                if "--graph" in command:
                    command = GOOD[subcommand][0]
                arguments = command + ["--set", join(name, value)]
            elif kind == "option":
                arguments = with_option(command, name, value)
            else:
                arguments = command + [name] * (1 if kind == "flag" else 2)
            cases.append(Case(subcommand, arguments, what=kind + " " + name))
        elif draw < 0.9:
            read = [name for name in READS[subcommand] if name in command or subcommand == "study"]
            name = rng.choice(read)
            text, what = mangle(name, files[name], rng)
            cases.append(Case(subcommand, command, {name: text}, "%s: %s" % (name, what)))
        elif draw < 0.93 and subcommand in ("study", "validate"):
            cases.append(Case(subcommand, with_option(command, "--output", rng.choice(FOLDERS)),
                              what="--output"))
        else:
            arguments, what = structure(subcommand, command, rng)
            cases.append(Case(subcommand, arguments, what=what))
    return cases


def join(key, value):
    return key.encode() + b"=" + value if isinstance(value, bytes) else key + "=" + value


# ---- judging ----

MAY_BE_NEGATIVE = re.compile("error|r_squared|difference|regret|seed|gain|saving")
NOT_FINITE = re.compile(r"(?<![\w.\"/-])[+-]?(nan|inf)(?![\w\"-])")
INPUT_ECHO = {"configuration", "conditions", "note", "notes", "name", "source"}


def bad_number(value, path=""):
    """Where a JSON value has a number that is not finite or negative."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key in INPUT_ECHO:
                continue
            found = bad_number(one, path + "/" + key)
            if found:
                return found
    elif isinstance(value, list):
        for one in value:
            found = bad_number(one, path)
            if found:
                return found
    elif value is None and path.endswith("_s"):
        return "%s is null" % path
    elif isinstance(value, float) and not math.isfinite(value):
        return "%s is %s" % (path, value)
    elif isinstance(value, (int, float)) and value < 0 and not MAY_BE_NEGATIVE.search(path):
        return "%s is negative" % path
    return None


def refuse_constant(name):
    raise ValueError("the constant " + name)


def wrong_text(text, is_json, case):
    """What is wrong with an answer, on stdout or in a file."""
    try:
        if chaos.CONTROLS.search(text.decode("utf-8")) and not is_json:  # JSON may hold U+0085
            return "it has control characters"
    except UnicodeDecodeError:
        return "it is not UTF-8"
    if is_json:
        try:
            return bad_number(json.loads(text, parse_constant=refuse_constant))
        except (ValueError, RecursionError) as error:
            return "the JSON does not parse: %s" % error
    shown = text.decode("utf-8", "replace")
    for option, value in zip(case.arguments, case.arguments[1:]):  # names that are shown as given
        if option in OUTPUTS or option == "--name":
            shown = shown.replace(os.fsdecode(value), "")
    for value in TEXTS:  # as the names of layers and clusters are
        if isinstance(value, str) and NOT_FINITE.search(value):
            shown = shown.replace(value, "")
    match = NOT_FINITE.search(shown)
    return "it has the number %s" % match.group() if match else None


def tree(folder, skip):
    found = {}
    for path, folders, names in os.walk(folder):
        for name in folders:
            found[os.path.relpath(os.path.join(path, name), folder)] = None
        for name in names:
            whole = os.path.join(path, name)
            if stat.S_ISREG(os.lstat(whole).st_mode):
                found[os.path.relpath(whole, folder)] = chaos.read(whole)
            else:
                found[os.path.relpath(whole, folder)] = stat.S_IFMT(os.lstat(whole).st_mode)
    return found


def is_flag(name, arguments):
    """Whether it is given, and not as the value of the option before it."""
    return any(word == name and before not in OUTPUTS | {"--set", "--layer", "--network"}
               for before, word in zip(arguments, arguments[1:]))


def is_out_of_memory(done):
    """The limit is ours: a layer may be too large for it, which only running it shows."""
    return done.code == 1 and re.fullmatch(rb"pipemoe: [^\n]*(out of memory|cannot allocate)[^\n]*\n",
                                           done.err)


def wrong_answer(case, done, before, after):
    if "--help" in case.arguments or "--version" in case.arguments:
        return None
    is_json = is_flag("--json", case.arguments) or (
        case.subcommand == "graph" and done.out.startswith(b"{"))
    if done.out:
        wrong = wrong_text(done.out, is_json and case.subcommand != "run", case)
        if wrong:
            return "stdout: " + wrong
    if NOT_FINITE.search(done.err.decode("utf-8", "replace")):
        return "stderr has nan or inf"
    for name, text in after.items():
        if not isinstance(text, bytes) or before.get(name) == text:
            continue
        if name in before:
            if name not in [w for w in case.arguments if isinstance(w, str)][1:]:
                return "the file %s, which is no output, was changed" % name
            if name in READS[case.subcommand]:
                return "an input was overwritten"
        if "tmp" in name:
            return "a temporary file was left"
        wrong = wrong_text(text, text.startswith(b"{") and name.endswith((".json", "out", ".trace")),
                           case)
        if wrong:
            return "%s: %s" % (name, wrong)
    for name in before:
        if name not in after or (type(before[name]) is int and after[name] != before[name]):
            return "%s was removed or replaced" % name
    return None


def judge(case, done, before, after):
    """The class, and what was wrong."""
    if done.timed_out:
        return "finding", "time-out (%d s)" % TIME_LIMIT
    if done.code not in (0, 2) and not is_out_of_memory(done):
        return "finding", done.how() + ": " + done.err[:300].decode("utf-8", "backslashreplace")
    if done.code == 0:
        wrong = wrong_answer(case, done, before, after)
        return ("finding", "exit 0, but " + wrong) if wrong else ("ok", "")
    wrong = chaos.one_line(done.err)
    if wrong:
        return "finding", "refused, but %s: %s" % (wrong, done.err[:300].decode("utf-8",
                                                                               "backslashreplace"))
    if done.out:
        return "finding", "refused, but stdout is not empty: %s" % done.err[:200].decode()
    if before != after and b"No space left on device" not in done.err:  # outputs before it are whole
        names = [n for n in set(before) | set(after) if before.get(n, 0) != after.get(n, 0)]
        return "finding", "refused, but files were written: %s: %s" % (
            sorted(n[:60] for n in names), done.err[:200].decode())
    return "refused", ""


class Bench:
    """Runs cases, each in a folder of its own; keeps the folders of the first of each finding."""

    def __init__(self, program, files, keep):
        self.program, self.files, self.keep = program, files, keep
        self.patterns = collections.OrderedDict()

    def try_case(self, number, case):
        folder = tempfile.mkdtemp(prefix="pipemoe-hostile-")
        try:
            fill(folder, {**self.files, **case.files})
            before = tree(folder, ())
            try:
                done = chaos.run([self.program, *case.arguments], folder, TIME_LIMIT, most=1 << 26)
            except (OSError, ValueError) as error:  # an argument that no program can be given
                return number, case, "refused", "", str(error)
            kind, problem = judge(case, done, before, tree(folder, ()))
            return number, case, kind, problem, ""
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def kept(self, number, case):
        folder = os.path.join(self.keep, "case-%d" % number)
        if not os.path.isdir(folder):
            os.makedirs(folder)
            fill(folder, {**self.files, **case.files})
        return "cd %s && (ulimit -v %d; timeout %d %s)" % (
            folder, MEMORY_LIMIT >> 10, TIME_LIMIT, chaos.shown([self.program, *case.arguments]))


def run_all(bench, cases, jobs, only):
    counts = collections.defaultdict(collections.Counter)
    groups = collections.OrderedDict()
    progress = chaos.Progress("hostile lines", len(cases) if only is None else 1)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(bench.try_case, i, case) for i, case in enumerate(cases)
                   if only is None or i == only]
        for future in concurrent.futures.as_completed(waiting):
            number, case, kind, problem, _ = future.result()
            counts[case.subcommand][kind] += 1
            if kind == "finding":
                how = problem.split(":")[0]  # how a message is printed has one cause in all of them
                key = how if how.startswith("refused, but") and "files" not in how else (
                    case.subcommand, chaos.message_pattern(problem))
                groups.setdefault(key, []).append((number, case, problem))
            progress.step(kind == "finding")
    progress.end()
    return counts, groups


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", type=int, help="the number of one case")
    parser.add_argument("--keep", help="where the inputs of findings are kept [a new folder]")
    options = parser.parse_args()
    program = os.path.abspath(options.program)
    rng = random.Random(options.seed)
    files = input_files(program)
    cases = []
    for subcommand, weight in WEIGHTS.items():
        count = -(-options.count * weight // sum(WEIGHTS.values()))
        cases += make_cases(subcommand, count, options_of(program, subcommand), set_keys(), files, rng)
    rng.shuffle(cases)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))  # every run inherits it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep = options.keep or tempfile.mkdtemp(prefix="pipemoe-findings-")
    bench = Bench(program, files, keep)
    counts, groups = run_all(bench, cases, options.jobs, options.only)
    for _, found in sorted(groups.items(), key=lambda group: -len(group[1])):
        number, case, problem = min(found, key=lambda one: one[0])
        print("\nFINDING (%d times) %s: %s\n    %s; case %d\n    %s" % (
            len(found), case.subcommand, problem.strip()[:400], case.what[:200], number,
            bench.kept(number, case)))
    rows = [["subcommand", "ok", "refused", "findings", "all"]]
    for subcommand in WEIGHTS:
        of = counts[subcommand]
        rows.append([subcommand, of["ok"], of["refused"], of["finding"], sum(of.values())])
    rows.append(["all"] + [sum(row[i] for row in rows[1:]) for i in range(1, 5)])
    print("\n" + chaos.table(rows))
    if not groups and not options.keep:
        shutil.rmtree(keep)
    return 1 if groups else 0


if __name__ == "__main__":
    sys.exit(main())
