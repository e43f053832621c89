"""What it costs that every read is checked: as a share of a sweep, and in opening a model of a gigabyte.

    python benchmarks/checks.py --csv data/faults/checks.csv

The sweep is four runs of the mini-suite's smallest budget (7e10 training FLOPs, four domains of text), in this process: every
function that hashes or sums is timed where it is called, and what TensorStore's CRC-32C adds to a read is measured on an array
with and without it, and multiplied by the bytes that the runs read. The model is a run's folder of 250 million float32
parameters, opened with its checks and without, in turns.
"""

import argparse
import contextlib
import dataclasses
import importlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import flips
import numpy as np
import pandas as pd

HASHES = ("core", "sweep.folders", "sweep.parts", "sweep.driver", "text.tokens", "model.open", "model.hub")  # fmt: skip
BUDGET = 7e10


class Spent:
    """Processor seconds within some functions, by name."""

    def __init__(self):
        self.seconds, self.calls = {}, {}

    def timed(self, name: str, function):
        """The function, its time added up; what it dispatches is waited for."""
        import jax

        def run(*args, **kwargs):
            begin = time.process_time()
            try:
                return jax.block_until_ready(function(*args, **kwargs))
            finally:
                spent = time.process_time() - begin
                self.seconds[name] = self.seconds.get(name, 0.0) + spent
                self.calls[name] = self.calls.get(name, 0) + 1

        return run


@contextlib.contextmanager
def counted(spent: Spent):
    """All that checks, timed."""
    from relscale.model import checkpoints

    with contextlib.ExitStack() as stack:
        for name in HASHES:
            module = importlib.import_module(f"relscale.{name}")
            if hasattr(module, "hash_file"):
                patched = spent.timed("SHA-256 of files", module.hash_file)
                stack.enter_context(mock.patch.object(module, "hash_file", patched))
        sums = spent.timed("checksums of weights and checkpoints", checkpoints.checksums)
        stack.enter_context(mock.patch.object(checkpoints, "checksums", sums))
        yield


def crc_seconds_per_byte() -> float:
    """Processor seconds that CRC-32C adds to reading a byte of tokens."""
    import tensorstore as ts

    values, seconds = np.random.default_rng(0).integers(0, 1024, 50_000_000).astype(np.uint16), {}
    with tempfile.TemporaryDirectory() as folder:
        for codecs in (["bytes"], ["bytes", "crc32c"]):
            inner = {"chunk_shape": [2**16], "codecs": [{"name": c} for c in codecs]}
            spec = {
                "driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/{len(codecs)}"},
                "metadata": {"shape": [len(values)], "data_type": "uint16",
                             "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2**24]}},
                             "codecs": [{"name": "sharding_indexed", "configuration": inner}]},
            }  # fmt: skip
            array = ts.open(spec, create=True).result()
            array.write(values).result()
            seconds[len(codecs)] = []
            for _ in range(5):
                begin = time.process_time()
                array.read().result()
                seconds[len(codecs)].append(time.process_time() - begin)
    with_crc, without = statistics.median(seconds[2]), statistics.median(seconds[1])
    return max(with_crc - without, 0.0) / values.nbytes


def of_sweep() -> list[dict]:
    """The checks of a sweep of four runs, and its processor time."""
    from relscale.plan.recipes import SMALL, plan_isoflop
    from relscale.sweep.prepare import TextConfig
    from relscale.sweep.suite import run_suite

    recipe = dataclasses.replace(SMALL, seq_len=256)
    plan = plan_isoflop((BUDGET,), recipe, corpora=("uniform",), seeds=(0,), min_sizes=4)
    spent, crc = Spent(), crc_seconds_per_byte()
    with tempfile.TemporaryDirectory() as folder, flips.in_process(), counted(spent):
        begin, wall = time.process_time(), time.perf_counter()
        run_suite(plan, Path(folder) / "store", TextConfig(), num_workers=1)
        total, wall = time.process_time() - begin, time.perf_counter() - wall
        read = sum(p.stat().st_size for p in (Path(folder) / "store" / "tokens").rglob("*") if p.is_file())  # fmt: skip
    seconds = spent.seconds | {"CRC-32C of tokens": len(plan.runs) * read * crc}
    what = f"sweep of {len(plan.runs)} runs of {BUDGET:.0e} FLOPs"
    rows = [{"what": what, "check": k, "processor_s": v, "wall_s": np.nan, "share": v / total} for k, v in seconds.items()]  # fmt: skip
    checks = sum(seconds.values())
    rows.append({"what": what, "check": "all", "processor_s": checks, "wall_s": np.nan, "share": checks / total})  # fmt: skip
    return [*rows, {"what": what, "check": "the sweep", "processor_s": total, "wall_s": wall, "share": 1.0}]  # fmt: skip


def of_model(repeats: int) -> list[dict]:
    """A run of a gigabyte, opened with its checks and without."""
    import equinox as eqx
    import jax

    from relscale.core import hash_file, sealed, write_atomic
    from relscale.model import checkpoints
    from relscale.model import open as opening
    from relscale.model.decoder import init_model
    from relscale.model.training import load_model
    from relscale.plan.spec import ModelSpec

    spec = ModelSpec(vocab=1024, hidden=1024, num_layers=18, num_heads=8, num_kv_heads=8, head_dim=128, mlp=3072)  # fmt: skip
    like = eqx.filter_eval_shape(init_model, spec, key=jax.random.key(0))
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(like))
    what, found = f"open a run of {size / 1e9:.2f} GB", {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoints.save_tree(folder / "model", init_model(spec, key=jax.random.key(0)))
        files = {p.relative_to(folder).as_posix(): [p.stat().st_size, hash_file(p)] for p in (folder / "model").rglob("*") if p.is_file()}  # fmt: skip
        write_atomic(folder / "files.json", json.dumps(sealed({"files": files})))

        def whole():
            with opening._weights_checked(folder):
                model = load_model(folder, like)
            jax.block_until_ready(model)

        def bare():
            with mock.patch.object(checkpoints, "_changed_leaf", lambda *_: None):
                jax.block_until_ready(load_model(folder, like))

        def hashed():
            opening._check_weights(folder)

        for _ in range(repeats + 1):
            for check, run in (("with checks", whole), ("without", bare), ("SHA-256 of files", hashed)):  # fmt: skip
                wall, begin = time.perf_counter(), time.process_time()
                run()
                found.setdefault(check, []).append((time.process_time() - begin, time.perf_counter() - wall))  # fmt: skip
    rows = []
    for check, times in found.items():
        processor, wall = (statistics.median(values) for values in zip(*times[1:], strict=True))
        rows.append({"what": what, "check": check, "processor_s": processor, "wall_s": wall, "share": np.nan})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv", type=Path)
    choice = parser.parse_args()
    table = pd.DataFrame([*of_sweep(), *of_model(choice.repeats)])
    print(table.to_string(index=False))
    if choice.csv:
        table.to_csv(choice.csv, index=False, float_format="%.3g")


if __name__ == "__main__":
    main()
