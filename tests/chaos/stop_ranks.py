#!/usr/bin/env python3
"""Stops and kills single ranks at random moments, and looks at how the others end."""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib

import chaos

MPIRUN = ["mpirun", "--oversubscribe", "-np"]
TIMEOUT = 3  # --rank-timeout
ROLL_CALL = 3  # in which ranks learn who still answers
MORE = 10  # what starting and ending MPI may take longer
GRACE = 20  # for mpirun to end the others, on a machine that is busy
LIMIT = {"SIGSTOP": TIMEOUT + ROLL_CALL + MORE + GRACE, "SIGKILL": GRACE}
UNDISTURBED = 180  # seconds
ATTEMPTS = 8  # to send the signal before the run has ended
MISSED = "ended before the signal"
PHASES = ["start-up", "warm-up", "measuring", "the end"]
DEGREES = ["--forward-degree", "2", "--backward-degree", "2"]
WAIT = ["--rank-timeout", str(TIMEOUT)]


class Command:
    """One of the program's commands that run on ranks: what it is started with, what it writes."""

    def __init__(self, program, name):
        self.program, self.name = program, name

    def folder(self, root):
        folder = tempfile.mkdtemp(prefix=self.name + "-", dir=root)
        os.mkdir(os.path.join(folder, "out"))
        shutil.copy(os.path.join(chaos.SOURCE, "experiments", "layers", "cpu-example.toml"), folder)
        chaos.write(folder, "tiny.toml", chaos.LAYER)
        layers = chaos.validation_text(3, 1024).replace("num_experts = 2", "num_experts = 4")
        chaos.write(folder, "validation.toml", layers)  # a multiple of the ranks
        return folder

    def line(self, ranks, iterations):
        """As many warm-up iterations as measured ones; no iterations: the shortest run."""
        arguments = {
            "run": ["run", "--layer", "cpu-example.toml", *DEGREES, "--warm-up", str(iterations),
                    "--repeats", str(max(1, iterations)), "--output", "out/timeline.json"],
            "calibrate": ["calibrate", "--layer", "tiny.toml", "--degrees", "1,2", "--warm-up", "1",
                          "--repeats", "5", "--output", "out/profile.toml"],
            "validate": ["validate", "validation.toml", "--output", "out"]}[self.name]
        return [*MPIRUN, str(ranks), self.program, *arguments, *WAIT]

    def left(self, folder):
        """What is wrong with what a run has left in its folder of results; and whether it is all."""
        out = os.path.join(folder, "out")
        names = sorted(os.listdir(out))
        temporary = [name for name in names if "tmp" in name or name.startswith(".")]
        if temporary:
            return "temporary files are left: " + ", ".join(temporary), False
        for name in names:
            content = chaos.read(out, name).decode()
            try:
                if name.endswith(".json"):
                    json.loads(content)
                elif name.endswith(".toml"):
                    tomllib.loads(content)
            except ValueError as error:
                return "%s is not whole: %s" % (name, error), False
        if self.name == "run" and names not in ([], ["timeline.json"]):
            return "other files are left: " + ", ".join(names), False
        return None, {"run": "timeline.json", "calibrate": "profile.toml",
                      "validate": "points.csv"}[self.name] in names


def environment_of(pid):
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def rank_process(process, rank):
    """The process of a rank; None while there is none. The launcher's child before it becomes the
    program has another name."""
    wanted = b"OMPI_COMM_WORLD_RANK=%d" % rank
    for pid in chaos.session_of(process, "pipemoe"):
        if wanted in environment_of(pid):
            return pid
    return None


def wait_for_rank(process, rank):
    while process.poll() is None:
        pid = rank_process(process, rank)
        if pid is not None:
            return pid
        time.sleep(0.005)
    return None


def ends(process, seconds):
    try:
        process.wait(seconds)
    except chaos.subprocess.TimeoutExpired:
        return False
    return True


class Round:
    """One run of which one rank is stopped or killed."""

    def __init__(self, command, how, ranks, victim, phase):
        self.command, self.how, self.ranks = command, how, ranks
        self.victim, self.phase = victim, phase

    def __str__(self):
        return "rank %d of %d" % (self.victim, self.ranks)

    def moment(self, rng, short, whole):
        """Seconds after the rank's start. `short`: what starting and ending alone take; the first
        three quarters of it are the start."""
        start = 0.75 * short
        middle = max(whole - short, 0.1)
        begin, length = {"start-up": (0, start), "warm-up": (start, middle / 2),
                         "measuring": (start + middle / 2, middle / 2),
                         "the end": (start + middle * 0.97, 0.03 * middle + 0.35 * short),
                         "": (0, whole)}[self.phase]
        return begin + rng.random() * length

    def play(self, rng, root, iterations, short, whole):
        """(what was wrong or None, how it ended, seconds from the signal to the end of all). A run
        that was too fast for the signal has tested nothing: it is played again, and what it took
        is the better guess of what the next one takes."""
        for _ in range(ATTEMPTS):
            began = time.monotonic()
            problem, how, seconds = self.attempt(rng, root, iterations, short, whole)
            if problem or how != MISSED:
                return problem, how, seconds
            whole = min(whole, time.monotonic() - began)
            short = min(short, whole)
        return "no signal was sent in %d attempts (%s)" % (ATTEMPTS, self), how, seconds

    def attempt(self, rng, root, iterations, short, whole):
        folder = self.command.folder(root)
        with tempfile.TemporaryFile() as err:
            line = self.command.line(self.ranks, iterations)
            process = chaos.start(line, folder, err=err)
            try:
                problem, how, seconds = self.disturb(process, err, rng, folder, short, whole)
            finally:
                chaos.end_all(process)
                process.wait()
        if problem is None:
            shutil.rmtree(folder)
            return None, how, seconds
        return "%s (%s, in %s: %s)" % (problem, self, folder, chaos.shown(line)), how, seconds

    def disturb(self, process, err, rng, folder, short, whole):
        pid = wait_for_rank(process, self.victim)
        sent = (not ends(process, self.moment(rng, short, whole))
                and pid in chaos.session_of(process, "pipemoe"))
        if sent:
            began = time.monotonic()
            chaos.send([pid], getattr(signal, self.how))
            ended = ends(process, LIMIT[self.how])
            seconds = time.monotonic() - began
            if not ended:
                return self.hung(process, pid, err, folder, seconds)
        elif ends(process, GRACE):
            seconds = 0.0
        else:
            return "mpirun still runs %d s after its rank's end" % GRACE, "hangs", 0.0
        if not chaos.wait_until_gone(process, 10):
            return "processes are left 10 s after mpirun's end", "left", seconds
        wrong, whole_output = self.command.left(folder)
        if wrong:
            return wrong, "left", seconds
        text = text_of(err)
        if process.returncode == 0:
            if not whole_output:
                return "exit code 0 without a result", "ended", seconds
            return (self.how + " was sent, yet the exit code is 0", "ended", seconds) if sent else (
                None, MISSED, seconds)
        if not sent:
            return "exit code %d before the signal: %r" % (process.returncode, text[-1500:]), "ended", 0
        judge = self.judge_stop if self.how == "SIGSTOP" else self.judge_kill
        problem, how = judge(text)
        if problem:
            problem = "%s: exit code %d, %r" % (problem, process.returncode, text[-1500:])
        return problem, how, seconds

    def hung(self, process, pid, err, folder, seconds):
        """Nobody can wait in vain for a rank that stops when all have done all their work, except
        mpirun: the others have left MPI, and their results are there."""
        others = [one for one in chaos.session_of(process, "pipemoe") if one != pid]
        if self.how == "SIGSTOP" and not others:
            wrong, whole_output = self.command.left(folder)
            chaos.send([pid], signal.SIGCONT)
            if whole_output and ends(process, GRACE) and process.returncode == 0:
                return wrong, "stopped after the work: mpirun alone waits", 0.0
        return ("%d of %d ranks and mpirun still run %.0f s after the signal; stderr %r" % (
            len(others), self.ranks, seconds, text_of(err)[:500]), "hangs", seconds)

    def judge_stop(self, text):
        own = [line for line in text.split("\n") if line.startswith("pipemoe: ")]
        if len(own) != 1:
            return "%d messages of pipemoe" % len(own), "%d messages" % len(own)
        named = re.search(r": (ranks? [\d, ]+) did not come to (.*) within %d s" % TIMEOUT, own[0])
        if named:
            if named[1] != "rank %d" % self.victim:
                return "another rank is named", "another rank is named"
            return None, "named: did not come to " + named[2]
        call = re.search(r": (.*) did not end within %d s .*another rank has stopped" % (
            TIMEOUT + MORE), own[0][len("pipemoe: rank 0"):])
        if call and self.phase not in ("warm-up", "measuring"):
            return None, "not named: %s did not end" % call[1]
        return "another message", "another message"

    def judge_kill(self, text):
        own = [line for line in text.split("\n") if line.startswith("pipemoe: ")]
        if len(own) > 1:
            return "%d messages of pipemoe" % len(own), "%d messages" % len(own)
        # mpirun breaks its message into lines.
        said = re.search(r"process rank (\d+) with PID \d+ on node \S+ exited on signal 9",
                         " ".join(text.split()))
        if said is None or int(said[1]) != self.victim:
            return "mpirun does not say whom signal 9 has ended", "mpirun is silent"
        return None, "mpirun names rank and signal" + (", and one line of ours" if own else "")


def text_of(file):
    file.seek(0)
    return file.read(100000).decode("utf-8", "replace")


def undisturbed(command, root, ranks, iterations):
    folder = command.folder(root)
    done = chaos.run(command.line(ranks, iterations), folder, UNDISTURBED)
    wrong, whole = command.left(folder)
    if done.code != 0 or wrong or not whole:
        sys.exit("undisturbed %s on %d ranks: %s %s" % (command.name, ranks, done, wrong or ""))
    shutil.rmtree(folder)
    return done.seconds


def iterations_for(command, root, ranks, short):
    """So many that warm-up and measuring take about four seconds on this machine."""
    some = 10
    each = max(undisturbed(command, root, ranks, some) - short, 0.01) / (2 * some)
    return max(5, round(2 / each))


class Endings:
    """How rounds ended: how often, and after how many seconds at most."""

    def __init__(self):
        self.count, self.longest = {}, {}

    def add(self, key, seconds):
        self.count[key] = self.count.get(key, 0) + 1
        self.longest[key] = max(self.longest.get(key, 0.0), seconds)

    def print(self):
        rows = [["how it ended", "rounds", "longest (s)"]]
        rows += [["%s: %s" % key, self.count[key], "%.1f" % self.longest[key]]
                 for key in sorted(self.count)]
        print("\n" + chaos.table(rows))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--rounds", type=int, default=20,
                        help="of each signal on each number of ranks [20]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="rounds whose name contains this text")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    root = tempfile.mkdtemp(prefix="pipemoe-stop-")
    # Named so, whatever the program's name is: ranks are found by it.
    program = os.path.join(root, "pipemoe")
    shutil.copy(os.path.abspath(options.program), program)
    commands = {name: Command(program, name) for name in ("run", "calibrate", "validate")}
    plans = []
    for i in range(options.rounds):
        for ranks in (2, 4):
            for how in ("SIGSTOP", "SIGKILL"):
                # Four of five rounds play `run`, one in each phase.
                if i % 5 == 4:
                    name, phase = ("calibrate", "validate")[i // 5 % 2], ""
                else:
                    name, phase = "run", PHASES[i % 5]
                case = "%s, %s%s%s" % (how, name, " in " if phase else "", phase)
                victim = rng.randrange(ranks)
                if options.only in case:
                    plans.append((case, Round(commands[name], how, ranks, victim, phase)))
    times = {}
    for name, ranks in dict.fromkeys((one.command.name, one.ranks) for _, one in plans):
        command, iterations = commands[name], 0
        short = undisturbed(command, root, ranks, 0)
        if name == "run":
            iterations = iterations_for(command, root, ranks, short)
        times[name, ranks] = iterations, short, undisturbed(command, root, ranks, iterations)
        print("undisturbed %s on %d ranks: %.1f s" % (name, ranks, times[name, ranks][2]))
    print("limits: %d s after SIGSTOP (timeout %d, roll call %d, start or end of MPI %d, grace %d), "
          "%d s after SIGKILL" % (LIMIT["SIGSTOP"], TIMEOUT, ROLL_CALL, MORE, GRACE,
                                  LIMIT["SIGKILL"]), flush=True)
    report, endings = chaos.Report(), Endings()
    progress = chaos.Progress("stop ranks", len(plans))
    for case, one in plans:
        problem, how, seconds = one.play(rng, root, *times[one.command.name, one.ranks])
        endings.add((one.how, how), seconds)
        progress.step(report.add(case, problem))
    progress.end()
    endings.print()
    code = report.print("stop_ranks --seed %d" % options.seed)
    if code == 0:
        shutil.rmtree(root)
    return code


if __name__ == "__main__":
    sys.exit(main())
