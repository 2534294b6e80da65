#!/usr/bin/env python3
"""Kills studies and validations at random moments, restarts them, and looks for what was lost."""

import argparse
import csv
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time

import chaos
from foreign_files import ODD, PROFILES, STUDY_JOURNALS, VALIDATION_JOURNALS

WHOLE = ["SIGKILL", "SIGTERM", "SIGINT"]
MOST_RESTARTS = 40
SHORTLY = 30  # seconds within which every run here must end
MPIRUN = ["mpirun", "--oversubscribe", "-np", "2"]

# ---- studies ----


class Studies:
    """One study at two levels, and the tables of an uninterrupted run of each."""

    def __init__(self, program, root, degree=40):
        self.program, self.root, self.count = program, root, 0
        self.files, self.tables, self.points, self.seconds = {}, {}, {}, {}
        for level in ("fitted", "node"):
            batches = {"fitted": 40, "node": 8}[level]  # about a second each on two cores
            self.files[level] = chaos.study_text(level, range(1, batches + 1), degree)
            folder = self.folder(level)
            done = chaos.run(self.command(), folder, SHORTLY)
            if done.code != 0:
                sys.exit("the uninterrupted study: %s" % done)
            self.seconds[level] = done.seconds
            self.tables[level] = tables(os.path.join(folder, "results"))
            self.points[level] = journal_points(os.path.join(folder, "results"))

    def folder(self, level):
        self.count += 1
        folder = os.path.join(self.root, "study-%d" % self.count)
        os.mkdir(folder)
        chaos.write(folder, "study.toml", self.files[level])
        chaos.write(folder, "cluster.toml", chaos.CLUSTER)
        return folder

    def command(self, jobs=2, shard=None):
        more = ["--shard", shard] if shard else []
        return [self.program, "study", "study.toml", "--output", "results", "--jobs", str(jobs), *more]

    def difference(self, level, folder):
        """What the results in a folder lack, or have that the uninterrupted run's have not."""
        results = os.path.join(folder, "results")
        try:
            points = journal_points(results)
        except ValueError as error:
            return "the journal has a broken line: %s" % error
        numbers = sorted(json.loads(line)["point"] for line in points)
        failed = [line for line in points if "error" in json.loads(line)]
        if failed:
            return "a point has failed for good: " + failed[0]
        if len(set(numbers)) < len(numbers):
            return "points are twice in the journal"
        if points != self.points[level]:
            return "the journal has other points: %d, not %d" % (len(points), len(self.points[level]))
        found, expected = tables(results), self.tables[level]
        if found == expected:
            return None
        names = sorted(n for n in set(found) | set(expected) if found.get(n) != expected.get(n))
        return "tables differ, are missing, or other files are left: " + ", ".join(names)


def tables(results):
    """All files but journals: name to content."""
    return {name: chaos.read(results, name) for name in os.listdir(results)
            if not re.fullmatch(r"points\..*jsonl", name)}


def journal_points(results):
    """The lines of all journals in a folder, without headers, in the order of their text."""
    lines = []
    for name in os.listdir(results):
        if re.fullmatch(r"points\..*jsonl", name):
            for line in chaos.read(results, name).decode().split("\n")[1:]:
                if line:
                    json.loads(line)
                    lines.append(line)
    return sorted(lines)


def workers(process):
    return [pid for pid in chaos.session_of(process) if pid != process.pid]


def kill_one_worker(process, rng):
    found = workers(process)
    if found:
        chaos.send([rng.choice(found)], signal.SIGKILL)
    return bool(found)


def killed_study(studies, rng, how, level):
    """One study that is killed `how` until it ends by itself. What was wrong, or None."""
    folder = studies.folder(level)
    jobs = rng.choice([1, 2, 2, 3, 8])
    kills = rng.randrange(1, 5)
    for attempt in range(MOST_RESTARTS):
        with tempfile.TemporaryFile() as err:
            process = chaos.start(studies.command(jobs), folder, err=err)
            if attempt < kills:
                moment = rng.random() * studies.seconds[level] * 1.1
                if how == "a worker":
                    time.sleep(moment)
                    kill_one_worker(process, rng)
                elif how == "many workers":
                    end = time.monotonic() + moment
                    while time.monotonic() < end and process.poll() is None:
                        kill_one_worker(process, rng)
                        time.sleep(0.05 * rng.random())
                else:
                    time.sleep(moment)
                    target = [process.pid] if how == "the parent" else chaos.session_of(process)
                    number = signal.SIGKILL if how == "the parent" else getattr(signal, how)
                    chaos.send(target, number)
            code = chaos.exit_code(process, SHORTLY)
            if code is None:
                return "it hangs after %s" % how
            err.seek(0)
            message = err.read(1000)
        if how != "the parent" and not chaos.wait_until_gone(process):  # else: restarted at once
            return "processes are left 5 s after %s" % how
        wrong = bad_end(code, message, how)
        if wrong:
            return wrong
        if code == 0 and attempt >= kills:
            break
    else:
        return "it does not end after %d restarts" % MOST_RESTARTS
    difference = studies.difference(level, folder)
    if difference is None:
        shutil.rmtree(folder)
    return difference and "%s (%s, kept in %s)" % (difference, level, folder)


def bad_end(code, message, how):
    """None if the run ended as it may: a point whose workers die again and again fails for now."""
    number = signal.SIGKILL if how == "the parent" else getattr(signal, how, None)
    allowed = {"a worker": [0], "many workers": [0, 1]}.get(how) or [0, -number, 128 + number]
    if code in allowed:
        return None
    text = message.decode("utf-8", "replace")
    return "after %s a run ended with %d: %s" % (how, code, text[:200])


def stopped_study(studies, rng, level):
    folder = studies.folder(level)
    process = chaos.start(studies.command(rng.choice([1, 2, 4])), folder)
    for _ in range(rng.randrange(1, 4)):
        time.sleep(rng.random() * studies.seconds[level] / 2)
        target = rng.choice([chaos.session_of(process), [process.pid], workers(process)])
        chaos.send(target, signal.SIGSTOP)
        time.sleep(0.2)
        chaos.send(target, signal.SIGCONT)
    code = chaos.exit_code(process, SHORTLY)
    if code is None:
        return "it hangs after SIGCONT"
    return "exit %d" % code if code else studies.difference(level, folder)


def two_shards(studies, rng, level, killed):
    folder = studies.folder(level)
    shards = ["0/2", "1/2"]
    started = [chaos.start(studies.command(1, s), folder) for s in shards]
    if killed:
        time.sleep(rng.random() * studies.seconds[level])
        victim = rng.randrange(2)
        chaos.send(chaos.session_of(started[victim]), signal.SIGKILL)
        started[victim].wait()
        chaos.wait_until_gone(started[victim])
        started[victim] = chaos.start(studies.command(1, shards[victim]), folder)
    for process in started:
        if process.wait(SHORTLY):
            return "a shard ended with %d" % process.returncode
    return studies.difference(level, folder)


def same_shard_twice(studies, rng, level):
    folder = studies.folder(level)
    first = chaos.start(studies.command(2), folder)
    time.sleep(rng.random() * studies.seconds[level] * 1.1)
    second = chaos.run(studies.command(2), folder, SHORTLY)
    code = first.wait(SHORTLY)
    if code not in (0, 2) or second.code not in (0, 2) or code + second.code > 2:
        return "the first ended with %d, the second with %s" % (code, second)
    if second.code == 2 and (chaos.one_line(second.err) or second.out):
        return "the second was refused, but not in one line: %r" % second.err[:300]
    return studies.difference(level, folder)


def one_shard_many_times(studies, rng, level):
    """Ten starts, most of them where the first one ends: each ends well or is refused."""
    folder = studies.folder(level)
    started = [chaos.start(studies.command(2), folder)]
    time.sleep(studies.seconds[level] * (0.6 + 0.3 * rng.random()))
    while len(started) < 10:
        started.append(chaos.start(studies.command(2), folder))
        time.sleep(0.06 * rng.random())
    codes = [process.wait(SHORTLY) for process in started]
    if 0 not in codes or set(codes) - {0, 2}:
        return "exit codes %s" % codes
    return studies.difference(level, folder)


# ---- validations ----

PREDICTED = ["predicted_forward_s", "predicted_makespan_s", "closed_form_makespan_s",
             "predicted_hidden", "measured_share", "interpolated_share", "estimated_share",
             "not_modelled_share", "limit_s", "chosen", "closed_form_chosen"]


def predictions(results):
    """Regime, layer and degree to what was predicted; raises ValueError where one is twice."""
    found = {}
    for row in csv.DictReader(io.StringIO(chaos.read(results, "points.csv").decode())):
        key = (row["regime"], row["layer"], row["degree"])
        if key in found:
            raise ValueError("%s is twice" % (key,))
        found[key] = [row[name] for name in PREDICTED]
    return found


class Validations:
    def __init__(self, program, root):
        self.program, self.root, self.count = program, root, 0
        self.seconds = {}
        for ranks in (1, 2):
            done = chaos.run(self.command(ranks), self.folder(), SHORTLY)
            if done.code != 0:
                sys.exit("the uninterrupted validation of %d ranks: %s" % (ranks, done))
            self.seconds[ranks] = done.seconds

    def folder(self):
        self.count += 1
        folder = os.path.join(self.root, "validation-%d" % self.count)
        os.mkdir(folder)
        chaos.write(folder, "validation.toml", chaos.validation_text(3))
        return folder

    def command(self, ranks):
        launcher = MPIRUN if ranks == 2 else []
        return [*launcher, self.program, "validate", "validation.toml", "--output", "results"]

    def difference(self, ranks, folder):
        """Compares with an uninterrupted run that is given the same profiles."""
        results, again = os.path.join(folder, "results"), self.folder()
        os.mkdir(os.path.join(again, "results"))
        for name in os.listdir(results):
            if name.startswith("profile-"):
                shutil.copy(os.path.join(results, name), os.path.join(again, "results", name))
        done = chaos.run(self.command(ranks), again, SHORTLY)
        if done.code != 0:
            return "an uninterrupted run with its profiles: %s" % done
        try:
            found, expected = predictions(results), predictions(os.path.join(again, "results"))
        except ValueError as error:
            return str(error)
        left = sorted(n for n in os.listdir(results) if "tmp" in n)
        if left:
            return "left: " + ", ".join(left)
        lines = [json.loads(line) for line in chaos.read(results, "points.jsonl").split(b"\n")[1:-1]]
        keys = sorted((line["regime"], line["layer"], line["degree"]) for line in lines)
        if keys != sorted(found):
            return "the journal has %d points, the table %d" % (len(keys), len(found))
        if sorted(found) != sorted(expected):
            return "other points: %s" % (set(found) ^ set(expected))
        if found != expected:
            return "other predictions of %s" % [k for k in found if found[k] != expected[k]][:3]
        return None


def profiles_of(results):
    if not os.path.isdir(results):
        return {}
    return {n: chaos.read(results, n) for n in os.listdir(results) if n.startswith("profile-")}


def killed_validation(validations, rng, how, ranks):
    folder = validations.folder()
    results = os.path.join(folder, "results")
    kept = {}
    kills = rng.randrange(1, 4)
    for attempt in range(kills + 1):
        with tempfile.TemporaryFile() as err:
            process = chaos.start(validations.command(ranks), folder, err=err)
            if attempt < kills:
                time.sleep(rng.random() * validations.seconds[ranks])
                if how == "rank":
                    found = chaos.session_of(process, "pipemoe") or [process.pid]
                    chaos.send([rng.choice(found)], signal.SIGKILL)
                elif how == "launcher":
                    chaos.send([process.pid], signal.SIGKILL)
                else:
                    chaos.send(chaos.session_of(process), getattr(signal, how))
            code = chaos.exit_code(process, SHORTLY)
            if code is None:
                return "it hangs after %s" % how
            err.seek(0)
            message = err.read(2000).decode("utf-8", "replace")
        if not chaos.wait_until_gone(process, 10):
            return "processes are left 10 s after %s" % how
        now = profiles_of(results)
        changed = [name for name in kept if now.get(name) != kept[name]]
        if changed:
            return "a profile changed in a restart: %s" % changed
        kept = now
        if attempt == kills and code != 0:
            return "the last restart ended with %d: %s" % (code, message[:300])
    difference = validations.difference(ranks, folder)
    if difference is None:
        shutil.rmtree(folder)
    return difference and "%s (%d ranks, kept in %s)" % (difference, ranks, folder)


# ---- journals of others ----

def joined(content):
    """Whole lines, or a pair: whole lines, and half of one."""
    lines, rest = content if isinstance(content, tuple) else (content, "")
    return ("".join(line + "\n" for line in lines) + rest).encode("utf-8", "surrogateescape")


def only_header(results, name):
    """The study's own journal, made to lock it: without points it does no harm."""
    return name == "points.jsonl" and chaos.read(results, name).count(b"\n") == 1


def foreign_study(studies, change, expected, name):
    """Starts the study on such a journal, as its own and as another shard's."""
    folder = studies.folder("fitted")
    results = os.path.join(folder, "results")
    os.mkdir(results)
    journal = joined(change(studies.journal))
    path = chaos.write(results, name, journal)
    done = chaos.run(studies.command(2), folder, SHORTLY)
    if done.timed_out:
        return "time-out"
    wrong = None
    if done.code == 2:
        if chaos.one_line(done.err) or done.out:
            wrong = "refused, but %s: %r" % (chaos.one_line(done.err) or "stdout", done.err[:200])
        elif chaos.read(path) != journal:
            wrong = "refused, but the journal was changed"
        elif [n for n in os.listdir(results) if n != name and not only_header(results, n)]:
            wrong = "refused, but files were left: %s" % os.listdir(results)
        elif expected == "handled":
            wrong = "refused: %r" % done.err[:200]
    elif done.code == 0:
        if expected == "refused":
            same = tables(results) == studies.tables["fitted"]
            wrong = "silently used; the tables are %s" % ("the same" if same else "WRONG")
        elif tables(results) != studies.tables["fitted"]:
            wrong = "exit 0, but the tables are WRONG"
    else:
        wrong = str(done)
    shutil.rmtree(folder)
    return wrong


def odd_journal(studies, make):
    """A journal that is no file: refused in one line, without a hang."""
    folder = studies.folder("fitted")
    os.mkdir(os.path.join(folder, "results"))
    make(os.path.join(folder, "results", "points.jsonl"))
    done = chaos.run(studies.command(2), folder, 10)
    if done.timed_out:
        return "time-out"
    if done.code == 0:
        found = tables(os.path.join(folder, "results"))
        return None if found == studies.tables["fitted"] else "exit 0, but tables differ"
    return None if done.code == 2 and not chaos.one_line(done.err) else str(done)


def foreign_validation(validations, original, change, expected):
    folder = validations.folder()
    results = os.path.join(folder, "results")
    shutil.copytree(os.path.join(original, "results"), results)
    for name in ("points.csv", "summary.json"):
        os.remove(os.path.join(results, name))
    lines = chaos.read(results, "points.jsonl").decode().split("\n")[:-1]
    journal = joined(change(lines))
    chaos.write(results, "points.jsonl", journal)
    done = chaos.run(validations.command(1), folder, SHORTLY)
    if done.code == 2:
        if chaos.one_line(done.err) or done.out:
            return "refused, but %s: %r" % (chaos.one_line(done.err) or "stdout", done.err[:200])
        if chaos.read(results, "points.jsonl") != journal:
            return "refused, but the journal was changed"
        return "refused: %r" % done.err[:200] if expected == "handled" else None
    if done.code != 0:
        return str(done)
    if expected == "refused":
        return "silently used"
    return validations.difference(1, folder)


def foreign_profile(validations, original, change):
    """A profile in the folder that is broken: refused in one line."""
    folder = validations.folder()
    results = os.path.join(folder, "results")
    shutil.copytree(os.path.join(original, "results"), results)
    os.remove(os.path.join(results, "points.jsonl"))
    broken = change(chaos.read(results, "profile-slow.toml"))
    chaos.write(results, "profile-slow.toml", broken)
    done = chaos.run(validations.command(1), folder, SHORTLY)
    if done.code == 2 and not chaos.one_line(done.err):
        return None
    if done.code == 0 and chaos.read(results, "profile-slow.toml") != broken:  # calibrated anew
        return validations.difference(1, folder)
    return "silently used" if done.code == 0 else str(done)


def profile_removed(validations, original):
    """Of finished points that rest on a profile which is gone, none may be mixed with new ones."""
    folder = validations.folder()
    results = os.path.join(folder, "results")
    shutil.copytree(os.path.join(original, "results"), results)
    os.remove(os.path.join(results, "profile-slow.toml"))
    lines = chaos.read(results, "points.jsonl").split(b"\n")
    chaos.write(results, "points.jsonl", b"\n".join(lines[:4]) + b"\n")
    done = chaos.run(validations.command(1), folder, SHORTLY)
    if done.code == 2 and not chaos.one_line(done.err):
        return None
    return validations.difference(1, folder) if done.code == 0 else str(done)


# ---- writers of one folder ----

def same_output(studies, rng):
    """Eight programs that write one file at once."""
    folder = studies.folder("fitted")
    chaos.write(folder, "layer.toml", chaos.LAYER)
    command = [studies.program, "simulate", "--layer", "layer.toml", "--cluster", "cluster.toml",
               "--output", "one.json", "--forward-degree"]
    started = [chaos.start(command + [d, "--backward-degree", d], folder) for d in "12481248"]
    codes = [process.wait(SHORTLY) for process in started]
    left = sorted(os.listdir(folder))
    if left != ["cluster.toml", "layer.toml", "one.json", "study.toml"]:
        return "left: %s" % left
    try:
        json.loads(chaos.read(folder, "one.json"))
    except ValueError as error:
        return "the file is broken: %s" % error
    return None if codes == [0] * 8 else "exit codes %s" % codes


def study_beside_validation(studies, validations):
    """Both keep a points.jsonl: the later one must be refused."""
    folder = studies.folder("fitted")
    chaos.write(folder, "validation.toml", chaos.validation_text(1))
    first = chaos.run(studies.command(2), folder, SHORTLY)
    before = {n: chaos.read(folder, "results", n) for n in os.listdir(folder + "/results")}
    second = chaos.run(validations.command(1), folder, SHORTLY)
    after = {n: chaos.read(folder, "results", n) for n in os.listdir(folder + "/results")}
    if first.code != 0 or second.code != 2 or chaos.one_line(second.err) or second.out:
        return "the study: %s, the validation: %s" % (first, second)
    return None if before == after else "files were changed: %s" % sorted(set(after) ^ set(before))


def validation_twice(validations, rng):
    folder = validations.folder()
    first = chaos.start(validations.command(1), folder)
    time.sleep(rng.random() * validations.seconds[1] * 0.8)
    second = chaos.run(validations.command(1), folder, SHORTLY)
    code = first.wait(SHORTLY)
    if code not in (0, 2) or second.code not in (0, 2) or code + second.code > 2:
        return "the first ended with %d, the second with %s" % (code, second)
    if second.code == 2 and (chaos.one_line(second.err) or second.out):
        return "the second was refused, but not in one line: %r" % second.err[:300]
    return validations.difference(1, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--validations", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    root = tempfile.mkdtemp(prefix="pipemoe-kill-")
    # Named so, whatever the program's name is: workers and ranks are found by it.
    program = os.path.join(root, "pipemoe")
    shutil.copy(os.path.abspath(options.program), program)
    studies, validations = Studies(program, root), Validations(program, root)
    studies.journal = journal_of(studies)
    with_ranks = shutil.which("mpirun") is not None
    print("uninterrupted: study %s, validation %s" % (
        {k: "%.2f s" % v for k, v in studies.seconds.items()},
        {k: "%.2f s" % v for k, v in validations.seconds.items()}))
    report = chaos.Report()
    cases = []  # name, what to call

    def plan(name, call, *arguments):
        cases.append((name, call, arguments))

    for i in range(options.studies):
        ways = WHOLE + ["a worker", "many workers", "the parent"]
        how, level = ways[i % 6], ("fitted", "node")[i // 6 % 2]
        plan("study killed: " + how, killed_study, studies, rng, how, level)
    for i in range(options.validations):
        ranks = 2 if with_ranks and i % 3 == 2 else 1
        ways = WHOLE + (["rank", "launcher"] if ranks == 2 else [])
        how = ways[i // 3 % len(ways)]
        plan("validation of %d ranks killed: %s" % (ranks, how), killed_validation, validations, rng,
             how, ranks)
    few = max(2, options.studies // 10)
    for i in range(few):
        level = ("fitted", "node")[i % 2]
        plan("study stopped and continued", stopped_study, studies, rng, level)
        plan("two shards at once", two_shards, studies, rng, level, False)
        plan("two shards at once, one killed", two_shards, studies, rng, level, True)
        plan("eight writers of one file", same_output, studies, rng)
        plan("one validation twice at once", validation_twice, validations, rng)
    for i in range(5 * few):
        plan("one shard twice at once", same_shard_twice, studies, rng, ("fitted", "node")[i % 2])
        if i % 2:
            plan("one shard ten times at once", one_shard_many_times, studies, rng,
                 ("fitted", "node")[i % 4 // 2])
    plan("study and validation in one folder", study_beside_validation, studies, validations)
    for name, change, expected in STUDY_JOURNALS:
        plan("journal: " + name, foreign_study, studies, change, expected, "points.jsonl")
        plan("journal of another shard: " + name, foreign_study, studies, change, expected,
             "points.9-10.jsonl")
    for name, make in ODD:
        plan("journal is " + name, odd_journal, studies, make)
    original = validations.folder()
    chaos.run(validations.command(1), original, SHORTLY)
    for name, change, expected in VALIDATION_JOURNALS:
        plan("validation's journal: " + name, foreign_validation, validations, original, change,
             expected)
    for name, change in PROFILES:
        plan("validation's profile: " + name, foreign_profile, validations, original, change)
    plan("validation's profile: removed", profile_removed, validations, original)
    progress = chaos.Progress("kill runs", len(cases))
    for name, call, arguments in cases:
        try:
            problem = call(*arguments)
        except Exception as error:  # whatever a broken folder leads to is a finding
            problem = "%s: %s" % (type(error).__name__, error)
        progress.step(report.add(*short(name, problem)))
    progress.end()
    code = report.print("kill_runs --seed %d" % options.seed)
    if code == 0:
        shutil.rmtree(root)
    return code


def short(name, problem):
    """The many journals are one line of the table."""
    case, _, of = name.partition(": ")
    return (case, problem, of) if case.startswith(("journal", "validation's")) else (name, problem, "")


def journal_of(studies):
    """The whole journal of an uninterrupted study."""
    folder = studies.folder("fitted")
    chaos.run(studies.command(2), folder, SHORTLY)
    return chaos.read(folder, "results", "points.jsonl").decode().split("\n")[:-1]


if __name__ == "__main__":
    sys.exit(main())
