"""What the chaos scripts share: input files, starting the program, judging how it ended, tables."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

LAYER = """name = "tiny"
tokens_per_rank = 64
model_dim = 16
hidden_dim = 32
num_experts = 16
top_k = 2
capacity_factor = 1.0
dtype = "fp32"
activation = "relu"
"""

CLUSTER = """schema = "pipemoe.cluster/2"
name = "four-by-four"
source = "a test"
nodes = 4
gpus_per_node = 4
not_modelled = ["gate", "permutation", "activation"]

[gpu]
name = "a GPU"
memory_bytes = 11811160064
usable_memory_bytes = 11274289152
link_bytes_per_s = 15.75e9
efficiency = 0.8

[network]
topology = "star"
nic_bytes_per_s = 12.5e9
efficiency = 0.796

[fits.all_to_all.16]
alpha_s = 5.70e-4
beta_s_per_byte = 2.96e-10
source = "a test"

[fits.gemm.fp32]
alpha_s = 1.5e-4
beta_s_per_flop = 7.46e-14
source = "a test"
"""

# A profile with all that a profile can hold.
FULL_CLUSTER = CLUSTER.replace('not_modelled = ["gate", "permutation", "activation"]\n', "").replace(
    'topology = "star"', 'topology = "fat_tree"\nnodes_per_leaf = 2\noversubscription = 2.0'
).replace("beta_s_per_byte = 2.96e-10\n",
          "beta_s_per_byte = 2.96e-10\nr_squared = 0.99\nrange_bytes = [1, 1e9]\n"
          "queued_saving_s = 1e-5\n") + """
[fits.gate]
alpha_s = 1e-6
beta_s_per_byte = 1e-11
source = "a test"

[fits.permutation]
bytes = [1000, 100000, 10000000]
seconds = [1e-6, 2e-6, 1e-5]
source = "a test"

[fits.activation]
alpha_s = 1e-6
beta_s_per_byte = 1e-11
source = "a test"

[contention]
source = "a test"
forward = {products = 1.1, collectives = 1.2}
gradients = {products = 1.1, collectives = 1.2}

[conditions]
degree_tolerance = 0.02
equal_degrees = false
"""

STUDY = """name = "chaos"
clusters = ["cluster.toml"]
network = "NETWORK"
fits_memory = true
experts_per_rank = 1
subject = "pipemoe"
variant = "pipemoe-deferred"

[layer]
top_k = 2
capacity_factor = 1.0
dtype = "fp32"
activation = "relu"

[grid.layer]
batch_size = BATCHES
sequence_length = [512, 1024]
model_dim = [1024, 2048]
hidden_dim = [1024, 4096]

[schedules]
sequential = [1]
fastermoe = [1]
tutel = [1, 2, 4]
pipemoe = "1..DEGREE"
pipemoe-deferred = "1..DEGREE"
"""


def study_text(network="fitted", batches=(2, 4), degree=6):
    return (STUDY.replace("NETWORK", network).replace("BATCHES", str(list(batches)))
            .replace("DEGREE", str(degree)))


VALIDATION = """name = "chaos"
schedule = "pipemoe"
degrees = [1, 2, 4]
warm_up = 1
repeats = 3
calibration_repeats = 2

[[regime]]
name = "slow"
link = "alpha=0.2ms,beta=1e-8"
layer = [LAYERS]

[[regime]]
name = "fast"
link = "alpha=0.1ms,beta=1e-9"
layer = [LAYERS]
"""


def validation_text(layers=3, tokens=64):
    one = ('{{name = "v{0}", tokens_per_rank = {1}, model_dim = 16, hidden_dim = 32, num_experts = 2, '
           'top_k = 1, capacity_factor = 1.0, dtype = "fp32", activation = "relu"}}')
    return VALIDATION.replace(
        "LAYERS", ", ".join(one.format(i + 1, tokens * (i + 1)) for i in range(layers)))


class Outcome:
    """How a run of the program ended."""

    def __init__(self, code, out, err, timed_out, seconds):
        self.code, self.out, self.err = code, out, err
        self.timed_out, self.seconds = timed_out, seconds

    def how(self):
        if self.timed_out:
            return "time-out"
        if self.code < 0:
            return "signal " + signal.Signals(-self.code).name
        return "exit %d" % self.code

    def __str__(self):
        return "%s, stderr %r" % (self.how(), self.err[:300].decode("utf-8", "backslashreplace"))


def environment():
    """Of every run: two threads, no core files, mpirun as root, no launcher's variables."""
    kept = {k: v for k, v in os.environ.items()
            if not k.startswith(("OMPI_", "PMI", "PMIX_", "SLURM_"))}
    kept.update(OPENBLAS_NUM_THREADS="1", OMPI_ALLOW_RUN_AS_ROOT="1",
                OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", LC_ALL="C.UTF-8")
    return kept


def start(command, folder, out=subprocess.DEVNULL, err=subprocess.DEVNULL, **more):
    """Starts in a session of its own, so that `end_all` reaches all its processes."""
    return subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                            start_new_session=True, env=environment(), **more)


def run(command, folder, timeout=60, out=None, err=None, most=1 << 24, pipes=False, **more):
    """Runs to the end; after `timeout` seconds all processes of the run are killed. `out` and `err`
    may be open files; else up to `most` bytes of them are in the outcome. They are taken through
    files, which may be large, or through pipes, which no limit on the size of files cuts."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as own_out, tempfile.TemporaryFile() as own_err:
        if pipes:
            process = start(command, folder, subprocess.PIPE, subprocess.PIPE, **more)
        else:
            process = start(command, folder, own_out if out is None else out,
                            own_err if err is None else err, **more)
        texts, timed_out = (b"", b""), False
        wait = process.communicate if pipes else process.wait
        try:
            texts = wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
            end_all(process)
            texts = wait()
        if not pipes:
            own_out.seek(0)
            own_err.seek(0)
            texts = own_out.read(most), own_err.read(most)
        return Outcome(process.returncode, *texts, timed_out, time.monotonic() - began)


def processes():
    """(pid, parent, session, command) of every process that is not a zombie."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/%s/stat" % name) as file:
                text = file.read()
        except OSError:
            continue
        comm = text[text.index("(") + 1:text.rindex(")")]
        state, parent, _, session = text[text.rindex(")") + 2:].split()[:4]
        if state not in "ZX":
            found.append((int(name), int(parent), int(session), comm))
    return found


def session_of(process, name=None):
    """The processes of a session that `start` began, those of a command's name if it is given."""
    return [pid for pid, _, session, comm in processes()
            if session == process.pid and (name is None or comm == name)]


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def end_all(process):
    """SIGKILL to everything that `start` began, mpirun's ranks too: they are in its session."""
    for _ in range(50):
        pids = session_of(process)
        if not pids:
            return
        send(pids, signal.SIGKILL)
        time.sleep(0.02)


def exit_code(process, seconds):
    """The exit code; None if it has not come in time, and then all that `start` began is ended."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        end_all(process)
        process.wait()
        return None


def wait_until_gone(process, seconds=5):
    """Whether all processes of a run that has ended are gone soon."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not session_of(process):
            return True
        time.sleep(0.01)
    end_all(process)
    return False


CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def one_line(err):
    """What is wrong with a message that must be one printable line; None if nothing is."""
    try:
        text = err.decode("utf-8")
    except UnicodeDecodeError:
        return "stderr is not UTF-8"
    if not text:
        return "no message"
    if text.count("\n") != 1 or not text.endswith("\n"):
        return "%d lines on stderr" % (text.count("\n") + (not text.endswith("\n")))
    if CONTROLS.search(text):
        return "control characters on stderr"
    if len(text) > 4096:
        return "a message of over 4096 characters"
    return None


def shown(command):
    """A command line for bash, of any bytes."""
    words = []
    for word in command:
        data = os.fsencode(word)
        if len(data) > 400:
            repeated = data[:1]
            if data == repeated * len(data):
                words.append('"$(printf %%%ds | tr \' \' %s)"' % (
                    len(data), shlex.quote(os.fsdecode(repeated))))
                continue
        if all(32 <= byte < 127 for byte in data):
            words.append(shlex.quote(data.decode()))
        else:
            words.append("$'" + "".join(
                chr(b) if 32 <= b < 127 and b not in b"'\\" else "\\x%02x" % b for b in data) + "'")
    return " ".join(words)


def message_pattern(text):
    """Messages that differ in numbers, names and paths only are one pattern."""
    text = text.strip().split("\n")[0][:300]
    text = re.sub(r"/[\w./+-]+", "PATH", text)
    text = re.sub(r"\\x[0-9a-f]{2}", "", text)
    text = re.sub(r"(?<![a-z_])-?\d+(\.\d+)?(e[+-]?\d+)?", "N", text)
    text = CONTROLS.sub("?", text)
    return text[:110]


def table(rows):
    """Text columns as wide as their widest cell; the first row is the heading."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)


class Progress:
    """A line with the time left, on a terminal only."""

    def __init__(self, what, total):
        self.what, self.total, self.done, self.bad = what, total, 0, 0
        self.began, self.drawn = time.monotonic(), 0.0
        self.lock = threading.Lock()

    def step(self, bad=False):
        with self.lock:
            self.done += 1
            self.bad += bad
            now = time.monotonic()
            if not sys.stderr.isatty() or (now - self.drawn < 0.1 and self.done < self.total):
                return
            self.drawn = now
            left = (now - self.began) * (self.total - self.done) / self.done
            sys.stderr.write("\r\033[K%s %d/%d, %d findings, %d s left" % (
                self.what, self.done, self.total, self.bad, left))
            sys.stderr.flush()

    def end(self):
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")


class Report:
    """Counts by case, and what was found: printed at the end."""

    def __init__(self):
        self.good, self.found, self.skipped, self.order = {}, {}, {}, []

    def _case(self, case):
        if case not in self.good:
            self.order.append(case)
            self.good[case], self.found[case] = 0, []

    def add(self, case, problem=None, of=""):
        """`problem`: None if all was as expected; `of`: which of the case's kinds it was."""
        self._case(case)
        if problem is None:
            self.good[case] += 1
        else:
            self.found[case].append((problem, of))
        return problem is not None

    def skip(self, case, why):
        self._case(case)
        self.skipped[case] = why

    def print(self, title):
        for case in self.order:
            grouped = {}
            for problem, of in self.found[case]:
                grouped.setdefault(message_pattern(problem), []).append((problem, of))
            for same in grouped.values():
                print("\nFINDING (%d times) %s: %s" % (len(same), case, same[0][0].strip()))
                if any(of for _, of in same):
                    print("    of: " + ", ".join(dict.fromkeys(of for _, of in same)))
        rows = [[title, "as expected", "findings"]]
        for case in self.order:
            note = " (skipped: %s)" % self.skipped[case] if case in self.skipped else ""
            rows.append([case + note, self.good[case], len(self.found[case])])
        rows.append(["all", sum(self.good.values()), sum(map(len, self.found.values()))])
        print("\n" + table(rows))
        return 1 if any(self.found.values()) else 0


def write(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    return path


def read(*parts):
    with open(os.path.join(*parts), "rb") as file:
        return file.read()
