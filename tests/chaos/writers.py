"""Every command that writes a file, with the option that names it and the inputs that it reads."""

import sys

import chaos

DEGREES = ["--forward-degree", "4", "--backward-degree", "4"]
INPUTS = ["--layer", "layer.toml", "--cluster", "cluster.toml"]
RUN = ["run", "--layer", "two.toml", "--repeats", "2", "--warm-up", "0", *DEGREES]
CALIBRATE = ["calibrate", "--layer", "two.toml", "--repeats", "1", "--warm-up", "0", "--degrees", "1",
             "2"]


class Writer:
    """A command and the option that names one file which it writes."""

    def __init__(self, command, option, measured=False, inputs=(), other=None):
        self.command, self.option, self.measured = command, option, measured
        self.inputs, self.other = inputs, other  # `other`: another output option of the command
        self.name = "%s %s" % (command[0], option)

    def line(self, program, path):
        more = []
        if self.command[0] == "calibrate" and self.option != "--output":
            more = ["--output", "profile.toml"]
        return [program, *self.command, *more, self.option, path]


WRITERS = [
    Writer(["simulate", *INPUTS, *DEGREES], "--output", inputs=["layer.toml", "cluster.toml"],
           other="--csv"),
    Writer(["simulate", *INPUTS, *DEGREES], "--csv", inputs=["layer.toml", "cluster.toml"],
           other="--trace"),
    Writer(["simulate", *INPUTS, *DEGREES], "--trace", inputs=["layer.toml", "cluster.toml"],
           other="--output"),
    Writer(["graph", *INPUTS, *DEGREES], "--output", inputs=["layer.toml", "cluster.toml"]),
    Writer(["compare", "predicted.json", "measured.json"], "--csv",
           inputs=["predicted.json", "measured.json"], other="--trace"),
    Writer(["compare", "predicted.json", "measured.json"], "--trace",
           inputs=["predicted.json", "measured.json"], other="--csv"),
    Writer(["import", "profile", "old.toml"], "--output", inputs=["old.toml"]),
    Writer(RUN, "--output", True, ["two.toml"], "--csv"),
    Writer(RUN, "--csv", True, ["two.toml"], "--trace"),
    Writer(RUN, "--trace", True, ["two.toml"], "--output"),
    Writer(CALIBRATE, "--output", True, ["two.toml"], "--measurements"),
    Writer(CALIBRATE, "--measurements", True, ["two.toml"], "--contention"),
    Writer(CALIBRATE, "--contention", True, ["two.toml"], "--measurements"),
]


def fill_inputs(program, folder):
    files = {
        "layer.toml": chaos.LAYER, "cluster.toml": chaos.CLUSTER,
        "two.toml": chaos.LAYER.replace("num_experts = 16", "num_experts = 2"),
        "old.toml": chaos.CLUSTER.replace('schema = "pipemoe.cluster/2"\n', ""),
        "study.toml": chaos.study_text("fitted", (1, 2, 3, 4), 16),
        "validation.toml": chaos.validation_text(2),
    }
    for name, text in files.items():
        chaos.write(folder, name, text)
    for name in ("predicted.json", "measured.json"):
        done = chaos.run([program, "simulate", *INPUTS, *DEGREES, "--output", name], folder)
        if done.code != 0:
            sys.exit("simulate: %s" % done)
