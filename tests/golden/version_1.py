"""Records rows of runs.csv and node_without_contention.csv anew from a program of version 1.

    python3 tests/golden/version_1.py --program build/release/pipemoe --clusters 'h?00-*'

For profiles whose measurements are now said in other words: the program is that of commit 53656e1,
which reads profiles without a schema. It gets profiles of version 1 that say what those in
`experiments/clusters` say, and its results replace those of the rows of these clusters.
"""

import argparse
import re
import sys
import tempfile
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import golden
from golden import Run

PASSES = {"forward": "forward", "gradients": "backward"}
KINDS = {"both_gradients": "backward"}  # other kinds of products have the same name as passes
SIZES = ("experts_per_rank", "model_dim", "hidden_dim")


def toml(value: object) -> str:
    """A value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def table(header: str, values: dict) -> str:
    """A table of plain values."""
    lines = [f"{key} = {toml(value)}" for key, value in values.items()]
    return "\n".join([header, *lines]) + "\n\n"


def factors(pair: dict) -> dict:
    """A pair of slowdowns, in version 1's words."""
    return {
        "compute_slowdown": float(pair["products"]),
        "communication_slowdown": float(pair["collectives"]),
    }


def contention_text(contention: dict, all_sizes: set[tuple[int, int, int]]) -> str:
    """[overlap], with an entry for each of the sizes: the general factors were of no kind.

    These then are of what is no expert, of which only the backward pass runs some beside exchanges.
    """
    own = {tuple(entry[key] for key in SIZES): entry for entry in contention.get("expert", [])}
    text = table("[overlap]", factors(contention["gradients"]) | {"source": contention["source"]})
    for sizes in sorted(all_sizes | own.keys()):
        for kind, name in PASSES.items():
            entry = dict(zip(SIZES, sizes, strict=True)) | {"pass": name}
            entry |= factors(own.get(sizes, contention)[kind])
            text += table("[[overlap.expert]]", entry)
    return text


def less(fit: dict, saving: float) -> dict:
    """The fit of collectives that save so much, or all of their start-up."""
    queued = dict(fit)
    if "alpha_s" in fit:
        queued["alpha_s"] = max(0.0, fit["alpha_s"] - saving)
    else:
        saving = min(saving, fit["seconds"][0])
        queued["seconds"] = [seconds - saving for seconds in fit["seconds"]]
    return queued


def profile_text(profile: dict, all_sizes: set[tuple[int, int, int]]) -> str:
    """A profile in version 1's words."""
    plain = {key: value for key, value in profile.items() if not isinstance(value, dict)}
    plain.pop("schema")
    text = table("", plain | profile.get("conditions", {}))
    text += table("[gpu]", profile["gpu"]) + table("[network]", profile["network"])
    if "contention" in profile:
        text += contention_text(profile["contention"], all_sizes)
    text += "[fits]\n"
    for name, fit in profile["fits"].items():
        if name == "expert":
            for expert in fit:
                kind = expert.pop("kind")
                text += table("[[fits.expert]]", {"pass": KINDS.get(kind, kind)} | expert)
        elif "source" in fit:
            text += table(f"[fits.{name}]", fit)
        else:
            for group, of_group in fit.items():
                saving = of_group.pop("queued_saving_s", 0.0)
                text += table(f"[fits.{name}.{group}]", of_group)
                if saving > 0:
                    text += table(f"[fits.{name}_queued.{group}]", less(of_group, saving))
    return text


def old_override(override: str) -> str:
    """A value of --set, in version 1's words; empty where it had none."""
    if override.startswith("cluster.contention."):
        if ".gradients." in override:
            return ""  # as forward
        override = override.replace("contention.forward.products", "overlap.compute_slowdown")
        override = override.replace(
            "contention.forward.collectives", "overlap.communication_slowdown"
        )
        return override.replace("contention.", "overlap.")
    return override.replace("cluster.conditions.", "cluster.")


def sizes_of(run: Run, ranks: int) -> tuple[int, int, int]:
    """The experts of a rank."""
    layer = tomllib.loads((golden.INPUTS / "layers" / run.layer).read_text())
    for override in run.overrides.split(";"):
        changed = re.fullmatch(r"layer\.(num_experts|model_dim|hidden_dim)=(\d+)", override)
        if changed:
            layer[changed[1]] = int(changed[2])
    return layer["num_experts"] // ranks, layer["model_dim"], layer["hidden_dim"]


def write_inputs(folder: Path, runs: list[Run]) -> None:
    """Layers as they are, and the clusters of the runs."""
    for kind in ("layers", "clusters"):
        (folder / kind).mkdir()
    for layer in {run.layer for run in runs}:
        (folder / "layers" / layer).write_bytes((golden.INPUTS / "layers" / layer).read_bytes())
    for cluster in {run.cluster for run in runs}:
        profile = tomllib.loads((golden.INPUTS / "clusters" / cluster).read_text())
        ranks = profile["nodes"] * profile["gpus_per_node"]
        sizes = {sizes_of(run, ranks) for run in runs if run.cluster == cluster}
        (folder / "clusters" / cluster).write_text(profile_text(profile, sizes))


def in_old_words(run: Run) -> Run:
    """The run as the program of version 1 takes it."""
    overrides = ";".join(filter(None, map(old_override, run.overrides.split(";"))))
    return Run(*(getattr(run, name) for name in golden.RUN_COLUMNS[:-1]), overrides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=golden.program_at, required=True, help="of 53656e1")
    parser.add_argument("--clusters", default="*", help="pattern of their names [*]")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time [2]")
    options = parser.parse_args()
    for path in (golden.RUNS, golden.NODE_WITHOUT_CONTENTION):
        rows = golden.read_table(path)
        runs = [run for run, _ in rows if fnmatchcase(run.cluster, options.clusters)]
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(Path(folder), runs)
            old = [in_old_words(run) for run in runs]
            results = golden.run_all(options.program, old, options.jobs, Path(folder))
        for run, result in zip(runs, results, strict=True):
            if isinstance(result, golden.Failure):
                sys.exit(f"{run}: {result}")
        anew = dict(zip(runs, results, strict=True))
        golden.write_table(path, [(run, anew.get(run, result)) for run, result in rows])
        print(f"{path.name}: {len(runs)} of {len(rows)} rows anew")


if __name__ == "__main__":
    main()
