#!/usr/bin/env python3
"""Every command that writes, on full disks, read-only folders, closed outputs, odd files, low limits."""

import argparse
import json
import os
import random
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import threading

import chaos
from writers import CALIBRATE, INPUTS, RUN, WRITERS, fill_inputs

NO_SPACE = "No space left on device"
NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}


class Disk:
    """A small file system of its own in memory."""

    def __init__(self, path, size="256k", more=""):
        self.path = path
        os.makedirs(path, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%s,mode=777%s" % (size, more), "tmpfs",
                        path], check=True, stderr=subprocess.PIPE)

    def fill(self, leave=0):
        """Leaves `leave` bytes free, in whole pages."""
        free = os.statvfs(self.path)
        chaos.write(self.path, "filler", b"x" * max(0, free.f_bavail * free.f_frsize - leave))

    def empty(self):
        os.remove(os.path.join(self.path, "filler"))

    def remount(self, how):
        subprocess.run(["mount", "-o", "remount," + how, self.path], check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.path], check=True)
        os.rmdir(self.path)


def can_mount(root):
    try:
        with Disk(os.path.join(root, "try")):
            return True
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False


def listing(folder):
    """Names to content; of what is no regular file its kind."""
    found = {}
    for name in os.listdir(folder):
        status = os.lstat(os.path.join(folder, name))
        found[name] = (chaos.read(folder, name) if stat.S_ISREG(status.st_mode)
                       else stat.S_IFMT(status.st_mode))
    return found


def not_refused(done, name, reason):
    """What is wrong with a refusal that must name the file and the reason in one line."""
    if done.timed_out or done.code <= 0 or done.code > 2:
        return "%s" % done
    wrong = chaos.one_line(done.err)
    if wrong:
        return "%s: %r" % (wrong, done.err[:300])
    text = done.err.decode()
    if name not in text:
        return "the file is not named: %r" % text
    if not re.search(reason, text):
        return "the reason is not said: %r" % text
    return None


class Bench:
    def __init__(self, program, root):
        self.program, self.root = program, root
        self.work = os.path.join(root, "inputs")
        os.mkdir(self.work)
        os.chmod(root, 0o755)
        fill_inputs(program, self.work)
        self.inputs = listing(self.work)
        self.expected = {}
        for writer in WRITERS:
            done = self.run(writer, "expected")
            if done.code != 0:
                sys.exit("%s: %s" % (writer.name, done))
            self.expected[writer] = chaos.read(self.work, "expected")
            os.remove(os.path.join(self.work, "expected"))
        self.clean()

    def clean(self):
        for name in listing(self.work):
            if name not in self.inputs:
                path = os.path.join(self.work, name)
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) \
                    else os.remove(path)

    def run(self, writer, path, timeout=20, **more):
        return chaos.run(writer.line(self.program, path), self.work, timeout, **more)

    def changed_inputs(self):
        now = listing(self.work)
        return [name for name in self.inputs if now.get(name) != self.inputs[name]]

    def is_right(self, writer, content):
        """What is wrong with a written file; of a measurement only whether it is whole."""
        if not writer.measured:
            return None if content == self.expected[writer] else "the file has other content"
        if not content:
            return "the file is empty"
        if self.expected[writer].startswith(b"{"):
            try:
                json.loads(content)
            except ValueError:
                return "the file is not whole"
        return None if content.endswith(b"\n") == self.expected[writer].endswith(b"\n") else \
            "the file is not whole"

    # ---- places that cannot be written ----

    def on_disk(self, writer, existing, leave, more=""):
        with Disk(os.path.join(self.root, "disk"), "256k", more) as disk:
            target = os.path.join(disk.path, "target")
            if existing:
                chaos.write(disk.path, "target", "before")
            if more:
                for i in range(100):  # no inode is left
                    try:
                        chaos.write(disk.path, "i%d" % i, "")
                    except OSError:
                        break
            else:
                disk.fill(leave)
            before = listing(disk.path)
            done = self.run(writer, target)
            if leave and done.code == 0:  # it fitted
                return self.is_right(writer, chaos.read(target))
            wrong = not_refused(done, target, NO_SPACE)
            if wrong is None and listing(disk.path) != before:
                wrong = "files on the disk have changed: %s" % sorted(
                    set(listing(disk.path)) ^ set(before)) or "target"
            return wrong

    def read_only_disk(self, writer):
        with Disk(os.path.join(self.root, "disk")) as disk:
            chaos.write(disk.path, "old", "before")
            disk.remount("ro")
            for name in ("old", "new"):
                target = os.path.join(disk.path, name)
                wrong = not_refused(self.run(writer, target), target, "Read-only file system")
                if wrong:
                    return "%s: %s" % (name, wrong)
            return None if listing(disk.path) == {"old": b"before"} else "files have changed"

    def read_only_folder(self, writer):
        """As a user who may not write it; a file in it that he may write may be written in place."""
        folder = os.path.join(self.root, "folder")
        os.mkdir(folder)
        for name in ("old", "locked"):
            chaos.write(folder, name, "before")
        os.chmod(os.path.join(folder, "old"), 0o666)
        os.chmod(folder, 0o555)
        os.chmod(self.work, 0o777)
        try:
            for name in ("new", "locked"):
                target = os.path.join(folder, name)
                wrong = not_refused(self.run(writer, target, **NOBODY), target, "Permission denied")
                if wrong:
                    return "%s: %s" % (name, wrong)
            done = self.run(writer, os.path.join(folder, "old"), **NOBODY)
            found = listing(folder)
            if sorted(found) != ["locked", "old"] or found["locked"] != b"before":
                return "files have changed: %s" % sorted(found)
            if done.code == 0:
                return self.is_right(writer, found["old"])
            return not_refused(done, "old", "Permission denied") or (
                None if found["old"] == b"before" else "a refused target has changed")
        finally:
            shutil.rmtree(folder)

    def file_size_limit(self, writer, existing):
        if existing:
            chaos.write(self.work, "target", "before")
        most = max(16, len(self.expected[writer]) // 3)
        done = self.run(writer, "target", pipes=True,
                        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
        # Some other file may be the first that is too large: calibrate writes three.
        wrong = not_refused(done, "", "File too large")
        left = {n for n in listing(self.work) if n not in self.inputs} - {"target", "profile.toml"}
        if wrong is None and left:
            wrong = "left: %s" % left
        if wrong is None and existing and chaos.read(self.work, "target") != b"before":
            wrong = "the existing target has changed"
        if wrong is None and not existing and os.path.exists(os.path.join(self.work, "target")):
            wrong = "a part of the target is left"
        return wrong

    def missing_places(self, writer):
        os.mkdir(os.path.join(self.work, "a_folder"))
        for target in ("missing/target", "a_folder", "layer.toml/target", "n" * 300, "", "."):
            done = self.run(writer, target)
            wrong = not_refused(done, target[:200], "")
            if wrong is None and done.code != 2:
                wrong = str(done)
            left = [n for n in listing(self.work) if n not in self.inputs and n != "a_folder"]
            if wrong is None and (left or os.listdir(os.path.join(self.work, "a_folder"))):
                wrong = "files were written: %s" % left
            if wrong:
                return "%s %s: %s" % (writer.option, target[:20], wrong)
        return None

    # ---- odd files ----

    def device(self, writer, minor, refused):
        path = os.path.join(self.work, "device")
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        os.chmod(path, 0o666)
        done = self.run(writer, "device")
        if not stat.S_ISCHR(os.lstat(path).st_mode):
            return "the device was replaced by a file"
        if refused:
            return not_refused(done, "device", NO_SPACE)
        return None if done.code == 0 else str(done)

    def fifo(self, writer):
        path = os.path.join(self.work, "fifo")
        os.mkfifo(path)
        received = []

        def take():
            with open(path, "rb") as file:
                received.append(file.read())

        reader = threading.Thread(target=take, daemon=True)
        reader.start()
        done = self.run(writer, "fifo")
        if not stat.S_ISFIFO(os.lstat(path).st_mode):
            return "the FIFO was replaced by a file"
        if done.code != 0:
            return str(done)
        reader.join(5)
        return self.is_right(writer, received[0]) if received else "nothing came through the FIFO"

    def symbolic_link(self, writer, existing):
        os.mkdir(os.path.join(self.work, "there"))
        if existing:
            chaos.write(self.work, "there/target", "before")
        os.symlink("there/second", os.path.join(self.work, "first"))
        os.symlink("target", os.path.join(self.work, "there/second"))
        done = self.run(writer, "first")
        if done.code != 0:
            return str(done)
        for name in ("first", "there/second"):
            if not os.path.islink(os.path.join(self.work, name)):
                return "the link was replaced by a file"
        if sorted(os.listdir(self.work + "/there")) != ["second", "target"]:
            return "files are left beside the target"
        return self.is_right(writer, chaos.read(self.work, "there/target"))

    def link_to_itself(self, writer):
        os.symlink("loop", os.path.join(self.work, "loop"))
        done = self.run(writer, "loop")
        if not os.path.islink(os.path.join(self.work, "loop")):
            return "the link was replaced by a file"
        return not_refused(done, "loop", "Too many levels|link")

    def hard_link(self, writer):
        chaos.write(self.work, "target", "before")
        os.link(os.path.join(self.work, "target"), os.path.join(self.work, "second"))
        done = self.run(writer, "target")
        if done.code != 0:
            return str(done)
        one, two = (chaos.read(self.work, n) for n in ("target", "second"))
        return "the hard link is broken" if one != two else self.is_right(writer, one)

    def mode(self, writer, mode):
        path = chaos.write(self.work, "target", "before")
        os.chmod(path, mode)
        os.chown(path, 65534, 65534)
        done = self.run(writer, "target")
        status = os.stat(path)
        if done.code != 0:
            return str(done)
        if stat.S_IMODE(status.st_mode) != mode:
            return "the mode was %o and is %o" % (mode, stat.S_IMODE(status.st_mode))
        if status.st_uid != 65534:
            return "the owner has changed"
        return self.is_right(writer, chaos.read(path))

    def umask(self, writer):
        done = self.run(writer, "target", umask=0o027)
        if done.code != 0:
            return str(done)
        mode = stat.S_IMODE(os.stat(os.path.join(self.work, "target")).st_mode)
        return None if mode == 0o640 else "with umask 027 the mode is %o, not 640" % mode

    # ---- names ----

    def refused_name(self, writer, command, name):
        done = chaos.run(command, self.work, 20)
        if self.changed_inputs():
            return "%s: an input was overwritten" % name
        left = [n for n in listing(self.work) if n not in self.inputs and n not in self.made]
        if done.code != 2 or chaos.one_line(done.err) or done.out:
            return "%s: %s" % (name, done)
        return "%s: files were written: %s" % (name, left) if left else None

    def output_is_input(self, writer):
        for source in writer.inputs:
            self.made = ["soft", "hard"]
            os.symlink(source, os.path.join(self.work, "soft"))
            os.link(os.path.join(self.work, source), os.path.join(self.work, "hard"))
            for name in (source, "./" + source, "../inputs/" + source,
                         os.path.join(self.work, source), "soft", "hard"):
                wrong = self.refused_name(writer, writer.line(self.program, name), name)
                if wrong:
                    fill_inputs(self.program, self.work)
                    return wrong
            os.remove(os.path.join(self.work, "soft"))
            os.remove(os.path.join(self.work, "hard"))
        return None

    def two_outputs_are_one(self, writer):
        if writer.other is None:
            return None
        self.made = ["soft"]
        os.symlink("target", os.path.join(self.work, "soft"))
        for one, two in (("target", "target"), ("target", "./target"), ("soft", "target"),
                         ("target", "../inputs/target")):
            command = writer.line(self.program, one) + [writer.other, two]
            if writer.command[0] == "calibrate" and "--output" not in command:
                command += ["--output", "profile.toml"]
            wrong = self.refused_name(writer, command, "%s and %s" % (one, two))
            if wrong:
                return wrong
        return None

    # ---- closed outputs ----

    def closed(self, writer, redirections):
        """What was to be printed must not get into the file; no signal, no hang."""
        line = writer.line(self.program, "target")
        done = chaos.run(["sh", "-c", 'exec "$0" "$@" ' + redirections, *line], self.work, 20)
        if done.timed_out or done.code < 0 or done.code > 2:
            return str(done)
        path = os.path.join(self.work, "target")
        if "<&-" not in redirections and "2>&-" not in redirections and done.code != 0:
            wrong = chaos.one_line(done.err)
            if wrong:
                return "%s: %r" % (wrong, done.err[:200])
        if not os.path.exists(path):
            return None if done.code != 0 else "exit 0 without a file"
        return self.is_right(writer, chaos.read(path))


PRINTERS = [["plan", *INPUTS], ["plan", *INPUTS, "--json"], ["simulate", *INPUTS],
            ["simulate", *INPUTS, "--network", "node", "--json"], ["graph", *INPUTS],
            ["compare", "predicted.json", "measured.json"], ["--help"], ["--version"],
            ["study", "--help"], ["study", "study.toml", "--list"],
            ["study", "study.toml", "--output", "results"],
            ["validate", "validation.toml", "--output", "results"], RUN, ["nothing"],
            ["plan", "--layer", "missing"]]


def print_without(bench, command, redirections, needs_failure):
    """A command that prints, with outputs that are closed or full."""
    line = [bench.program, *command]
    done = chaos.run(["sh", "-c", 'exec "$0" "$@" ' + redirections, *line], bench.work, 20)
    if done.timed_out or done.code < 0 or done.code > 2:
        return "%s %s: %s" % (" ".join(command), redirections, done)
    if needs_failure and done.code == 0:
        return "%s %s: exit 0, although nothing could be printed" % (" ".join(command), redirections)
    if done.code and done.err and chaos.one_line(done.err):
        return "%s %s: %s: %r" % (" ".join(command), redirections, chaos.one_line(done.err),
                                  done.err[:300])
    return None


def broken_pipe(bench, command):
    """The reader goes at once: any end but a hang is right, if nothing but a line is said."""
    with open(os.devnull, "rb"):
        read_end, write_end = os.pipe()
        os.close(read_end)
        with os.fdopen(write_end, "wb") as out:
            done = chaos.run([bench.program, *command], bench.work, 20, out=out)
    if done.timed_out or (done.code < 0 and done.how() != "signal SIGPIPE"):
        return "%s | (no reader): %s" % (" ".join(command), done)
    return None


# ---- studies and validations ----

def folder_command(bench, kind, target):
    return [bench.program, kind, "study.toml" if kind == "study" else "validation.toml",
            "--output", target]


def tables(folder):
    return {n: t for n, t in listing(folder).items() if not n.endswith(".jsonl")}


def results_on_full_disk(bench, kind, leave, reference):
    """Fails in one line wherever the disk becomes full, and goes on once there is room."""
    with Disk(os.path.join(bench.root, "disk"), "4m") as disk:
        target = os.path.join(disk.path, "results")
        disk.fill(leave)
        done = chaos.run(folder_command(bench, kind, target), bench.work, 30)
        if done.code != 0:
            wrong = not_refused(done, disk.path, NO_SPACE)
            if wrong:
                return "%d bytes free: %s" % (leave, wrong)
        left = [n for n in (os.listdir(target) if os.path.isdir(target) else []) if "tmp" in n]
        if left:
            return "%d bytes free: left: %s" % (leave, left)
        disk.empty()
        done = chaos.run(folder_command(bench, kind, target), bench.work, 30)
        if done.code != 0:
            return "%d bytes free, then room: %s" % (leave, done)
        if kind == "study" and tables(target) != reference:
            return "%d bytes free, then room: other tables" % leave
        return None


def results_with_size_limit(bench, kind, most):
    """RLIMIT_FSIZE: like a full disk, in one line."""
    target = os.path.join(bench.work, "results")
    done = chaos.run(folder_command(bench, kind, "results"), bench.work, 30, pipes=True,
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    if done.code == 0:
        return None
    wrong = not_refused(done, "results", "File too large|" + NO_SPACE)
    if wrong:
        return "limit %d: %s" % (most, wrong)
    done = chaos.run(folder_command(bench, kind, "results"), bench.work, 30)
    left = [n for n in os.listdir(target) if "tmp" in n]
    return ("limit %d, then none: %s" % (most, done)) if done.code else (
        "left: %s" % left if left else None)


def results_in_odd_place(bench, kind, place):
    """A read-only disk, a file, a device, a folder that one may not write."""
    more = {}
    if place == "a file":
        target, reason = "layer.toml", ""
    elif place == "a device":
        os.mknod(os.path.join(bench.work, "device"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
        target, reason = "device", ""
    elif place == "a link to itself":
        os.symlink("loop", os.path.join(bench.work, "loop"))
        target, reason = "loop", ""
    else:
        target, reason, more = os.path.join(bench.root, "folder", "results"), "Permission", NOBODY
        os.mkdir(os.path.join(bench.root, "folder"), 0o555)
    try:
        done = chaos.run(folder_command(bench, kind, target), bench.work, 30, **more)
        wrong = not_refused(done, os.path.basename(target), reason)
        return wrong or ("an input was changed" if bench.changed_inputs() else None)
    finally:
        shutil.rmtree(os.path.join(bench.root, "folder"), ignore_errors=True)


# ---- memory ----

MEMORY_COMMANDS = [["plan", *INPUTS], ["simulate", *INPUTS, "--network", "node"], ["graph", *INPUTS],
                   ["compare", "predicted.json", "measured.json"],
                   ["study", "study.toml", "--output", "results"], RUN,
                   [*CALIBRATE, "--output", "profile.toml"],
                   ["validate", "validation.toml", "--output", "results"]]


def low_memory(bench, command, mebibytes):
    limit = mebibytes << 20
    done = chaos.run([bench.program, *command], bench.work, 10,
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    how = "ulimit -v %d; %s" % (limit >> 10, " ".join(command))
    if done.code == 127:  # the loader found no room for the libraries
        return None
    if done.timed_out or done.code < 0 or done.code > 2:
        return "%s: %s" % (how, done)
    if done.code and chaos.one_line(done.err):
        return "%s: %s: %r" % (how, chaos.one_line(done.err), done.err[:300])
    left = [n for n in listing(bench.work) if "tmp" in n]
    return "%s: left: %s" % (how, left) if left else None


# ---- all of it ----

def make_cases(bench, rng, mounts):
    """Pairs of a name in the table and what to call."""
    for writer in WRITERS:
        if mounts:
            for existing in (False, True):
                yield "full disk", writer.name, lambda w=writer, e=existing: bench.on_disk(w, e, 0)
                yield "nearly full disk", writer.name, \
                    lambda w=writer, e=existing: bench.on_disk(w, e, 4096)
            yield "no inode left", writer.name, \
                lambda w=writer: bench.on_disk(w, False, 0, ",nr_inodes=20")
            yield "read-only disk", writer.name, lambda w=writer: bench.read_only_disk(w)
        yield "read-only folder", writer.name, lambda w=writer: bench.read_only_folder(w)
        for existing in (False, True):
            yield "ulimit -f", writer.name, lambda w=writer, e=existing: bench.file_size_limit(w, e)
            yield "symbolic links", writer.name, \
                lambda w=writer, e=existing: bench.symbolic_link(w, e)
        yield "no place for a file", writer.name, lambda w=writer: bench.missing_places(w)
        yield "own /dev/full", writer.name, lambda w=writer: bench.device(w, 7, True)
        yield "own /dev/null", writer.name, lambda w=writer: bench.device(w, 3, False)
        yield "FIFO", writer.name, lambda w=writer: bench.fifo(w)
        yield "link to itself", writer.name, lambda w=writer: bench.link_to_itself(w)
        yield "hard link", writer.name, lambda w=writer: bench.hard_link(w)
        for mode in (0o600, 0o640, 0o777):
            yield "mode and owner kept", writer.name, lambda w=writer, m=mode: bench.mode(w, m)
        yield "umask", writer.name, lambda w=writer: bench.umask(w)
        yield "output is an input", writer.name, lambda w=writer: bench.output_is_input(w)
        yield "two outputs are one", writer.name, lambda w=writer: bench.two_outputs_are_one(w)
        for redirections in (">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"):
            yield "closed stdin, stdout, stderr", writer.name + " " + redirections, \
                lambda w=writer, r=redirections: bench.closed(w, r)
    for command in PRINTERS:
        for redirections, fails in ((">&-", False), ("2>&-", False), (">&- 2>&-", False),
                                    ("<&- >&- 2>&-", False), (">/dev/full", True),
                                    ("2>/dev/full", False), (">/dev/full 2>/dev/full", True)):
            yield "printing, closed or full", "", \
                lambda c=command, r=redirections, f=fails: print_without(bench, c, r, f)
        yield "printing to nobody", "", lambda c=command: broken_pipe(bench, c)
    for kind in ("study", "validate"):
        if mounts:
            for pages in list(range(0, 12)) + [16, 20, 24, 32, 40, 48, 64]:
                yield kind + " on a full disk", "", \
                    lambda k=kind, p=pages: results_on_full_disk(bench, k, p * 4096, bench.reference)
        for most in (0, 100, 1000, 3000, 6000, 9000, 20000, 50000):
            yield kind + " with ulimit -f", "", \
                lambda k=kind, m=most: results_with_size_limit(bench, k, m)
        for place in ("a file", "a device", "a link to itself", "a read-only folder"):
            yield kind + " in an odd place", place, \
                lambda k=kind, p=place: results_in_odd_place(bench, k, p)
    for command in MEMORY_COMMANDS:
        for mebibytes in sorted(rng.sample(range(16, 600), 16)):
            yield "ulimit -v", "", lambda c=command, m=mebibytes: low_memory(bench, c, m)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only cases whose names have this text")
    options = parser.parse_args()
    if os.getuid() != 0:
        sys.exit("full_disk.py: must be root, to make devices and to become another user")
    root = tempfile.mkdtemp(prefix="pipemoe-disk-")
    try:
        program = shutil.copy(os.path.abspath(options.program), os.path.join(root, "pipemoe"))
        return run_all(program, root, options)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def run_all(program, root, options):
    bench = Bench(program, root)
    chaos.run(folder_command(bench, "study", "results"), bench.work)
    bench.reference = tables(os.path.join(bench.work, "results"))
    bench.clean()
    mounts = can_mount(root)
    cases = [case for case in make_cases(bench, random.Random(options.seed), mounts)
             if options.only in case[0] + " " + case[1]]
    report = chaos.Report()
    if not mounts:
        for case in ("full disk", "nearly full disk", "no inode left", "read-only disk",
                     "study on a full disk", "validate on a full disk"):
            report.skip(case, "mount is not allowed; see ulimit -f")
    progress = chaos.Progress("full disk", len(cases))
    for name, of, call in cases:
        try:
            problem = call()
        except Exception as error:  # whatever a broken folder leads to is a finding
            problem = "%s: %s" % (type(error).__name__, error)
        progress.step(report.add(name, problem, of))
        if bench.changed_inputs():
            fill_inputs(program, bench.work)
        bench.clean()
    progress.end()
    return report.print("full_disk --seed %d" % options.seed)


if __name__ == "__main__":
    sys.exit(main())
