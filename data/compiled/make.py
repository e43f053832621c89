"""What the accelerators' own compilers say, on a machine that has none: data/compiled/*.csv.

    python data/compiled/make.py memory --minutes 10          # goes on where it was; --on v5e,v5p,h100
    python data/compiled/make.py weak                         # one model on 4 to 64 H100s; --weak-on v5e
    python data/compiled/make.py shapes --on h100,v5p         # `relscale preflight`'s tables of the released plan

TPUs need libtpu (the extra `tpu`), GPUs CUDA's compiler (the extra `cuda`); where it is not installed, a line says so.
"""

import argparse
import csv
import dataclasses
import time
from importlib.metadata import version
from pathlib import Path

from relscale.core import UserError
from relscale.model.compiled import Compiler, find_target, shape_of
from relscale.model.preflight import TIGHT, ask_once, preflight_plan, weak_scaling
from relscale.plan.flops import param_counts
from relscale.plan.recipes import HELD2025_BUDGETS, plan_isoflop
from relscale.plan.spec import ComputeSpec, ModelSpec, OptimSpec, RunSpec

HERE = Path(__file__).parent
EIGHT = {"v5e": "v5e:2x4", "v5p": "v5p:2x2x2", "h100": "h100x8"}
KEYS = ("chip", "devices", "hidden", "num_layers", "batch_size", "dtype", "remat")
FACTS = (
    "memory_bytes",
    "state_bytes",
    "kernel",
    "error",
    "compile_s",
    "jax",
    "compiler",
    "sent_bytes",
)


def released_shapes() -> list[RunSpec]:
    """One run of each distinct shape of the released plan, the smallest first."""
    seen = {}
    for run in plan_isoflop(HELD2025_BUDGETS).runs:
        seen.setdefault((run.model, run.batch_size), run)
    return sorted(
        seen.values(),
        key=lambda r: param_counts(r.model)["total"] + r.batch_size * r.seq_len * r.model.hidden,
    )


def memory_tasks(chips: list[str]) -> list[tuple[dict, RunSpec]]:
    """Every row of the table: shapes, then devices, types and recomputations, on each chip."""
    tasks = []
    for run in released_shapes():
        for devices in (1, 8):
            for remat in ("block", "none", "dots"):
                for dtype in ("bfloat16", "float32"):
                    for chip in chips:
                        values = (chip, devices, run.model.hidden, run.model.num_layers, run.batch_size, dtype, remat)  # fmt: skip
                        tasks.append((dict(zip(KEYS, map(str, values), strict=True)), run))
    return tasks


def compiler_version(maker: str) -> str:
    return f"libtpu {version('libtpu')}" if maker == "tpu" else f"jax-cuda12-plugin {version('jax-cuda12-plugin')}"  # fmt: skip


def read_rows(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open())) if path.exists() else []


def write_row(path: Path, row: dict) -> None:
    """One more row, in the order in which they are compiled, the smallest shapes first."""
    rows = [
        {name: found.get(name) for name in (*KEYS, *FACTS)} for found in [*read_rows(path), row]
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, (*KEYS, *FACTS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def make_memory(options: argparse.Namespace) -> None:
    """Compile what is not in memory.csv yet, until the minutes are over."""
    path, compilers = HERE / "memory.csv", {}
    kept = {tuple(row[key] for key in KEYS) for row in read_rows(path)}
    tasks = memory_tasks(options.on.split(","))
    waiting = [
        (row, run)
        for row, run in tasks
        if tuple(row.values()) not in kept
        and row["devices"] in options.devices
        and row["remat"] in options.remat
        and row["dtype"] in options.dtype
        and (not options.hidden or row["hidden"] in options.hidden)
    ]
    print(f"{len(tasks)} rows, of those asked for {len(waiting)} to compile", flush=True)
    end = time.monotonic() + 60 * options.minutes
    for row, run in waiting:
        if time.monotonic() > end:
            break
        target = find_target(EIGHT[row["chip"]])
        if target.maker not in compilers:
            compilers[target.maker] = Compiler(target.maker)
        ask = ask_once(compilers[target.maker], target, options.scratch)
        compute = ComputeSpec(row["dtype"], row["remat"])
        begin = time.monotonic()
        facts = ask(
            shape_of(dataclasses.replace(run, compute=compute)),
            {"fsdp": int(row["devices"]), "tensor": 1},
        )
        found = {name: facts.get(name) for name in FACTS}
        found |= {"compile_s": round(time.monotonic() - begin, 1), "jax": version("jax"),
                  "compiler": compiler_version(target.maker)}  # fmt: skip
        write_row(path, row | found)
        print(row | found, flush=True)
    for compiler in compilers.values():
        compiler.close()


SMALL_STEP = ModelSpec(512, 4, 4, 4, 128, 2048, 4096)


CHIPS_OF = {  # 4 to 64 of them
    "v5e": ("v5e:2x2", "v5e:2x4", "v5e:4x4", "v5e:4x8", "v5e:8x8"),
    "h100": ("h100x4", "h100x8", "h100x16", "h100x32", "h100x64"),
}


def make_weak(options: argparse.Namespace) -> None:
    """One sequence of 512 tokens a chip, on 4 to 64 chips; dividing the state first, then copying it."""
    run = RunSpec("small-step", "all", (("all", 1.0),), 1e18, SMALL_STEP, OptimSpec(1e-3), 512, 1, 100)  # fmt: skip
    for shardings in (("fsdp",), ("fsdp", "data")):
        slices = CHIPS_OF[options.weak_on]
        found = weak_scaling(run, slices, shardings=shardings, folder=options.scratch)
        found.rows.to_csv(HERE / "weak_scaling.csv", index=False, lineterminator="\n")
        print(found.sentence(), flush=True)


WHOLE = {"h100": "h100x8", "v5p": "v5p:4x4x2"}


def make_shapes(options: argparse.Namespace) -> None:
    """`relscale preflight` of the whole released plan, goes on where it was."""
    plan = plan_isoflop(HELD2025_BUDGETS)
    for chip in options.on.split(","):
        if chip in WHOLE:
            found = preflight_plan(plan, WHOLE[chip], compute=TIGHT, folder=options.scratch)
            for kind in ("rows", "collectives"):
                path = HERE / f"{chip}_{'shapes' if kind == 'rows' else kind}.csv"
                getattr(found, kind).to_csv(path, index=False, lineterminator="\n")
            print(found.sentence(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("memory", "weak", "shapes"))
    parser.add_argument(
        "--on", default="v5e,v5p,h100", help="chips of the tables of memory and shapes"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="start no row after these")
    for name, values in (("devices", "1 8"), ("remat", "block none dots"), ("dtype", "bfloat16 float32")):  # fmt: skip
        parser.add_argument(f"--{name}", nargs="*", default=values.split(), help=f"of the table of memory: {values}")  # fmt: skip
    parser.add_argument(
        "--hidden", nargs="*", help="of the table of memory: widths, all where left out"
    )
    parser.add_argument("--weak-on", default="h100", choices=CHIPS_OF, help="chip of weak scaling")
    parser.add_argument("--scratch", type=Path, default=Path("compiled"), help="what was compiled")
    options = parser.parse_args()
    try:
        {"memory": make_memory, "weak": make_weak, "shapes": make_shapes}[options.what](options)
    except UserError as problem:
        raise SystemExit(f"make.py: {problem}") from None


if __name__ == "__main__":
    main()
