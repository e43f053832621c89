"""Where the core time of a sweep of small runs goes, and its runs per hour against plain loops pinned to the cores.

    python benchmarks/sweep.py --csv data/sweep
    python benchmarks/sweep.py --csv data/sweep --every 4 --seeds 9 --rounds 1
    python benchmarks/sweep.py --csv data/sweep --every 1 --seeds 9 --rounds 1 --ways sweep

The runs are every second one of the default study's, or fewer shapes with several seeds; rows of another choice stay in
the table. One way is `relscale.sweep.suite.run_suite` on all cores. The other is
what one would write without it: a process a core, pinned, in the same environment, that calls `train` and then
`score_documents` on one run after another; runs are dealt longest first to the core with the least to do. Both find
the text prepared, neither has a compiled program from before, and wall time is from the start of the first process to
the end of the last. The two take turns; the losses that they measure must be the same numbers. The last command is a sweep of 252 runs alone.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

SWEEP = """
import json, sys
from pathlib import Path
from relscale.plan.recipes import load_plan
from relscale.sweep.suite import run_suite
from relscale.sweep.prepare import TextConfig
store = Path(sys.argv[1])
result = run_suite(load_plan((store / "plan.json").read_text()), store, TextConfig())
spent = {"wall_s": result.wall_s, "num_workers": result.num_workers, "parts": result.summary()["core_s"].to_dict()}
(store / "spent.json").write_text(json.dumps(spent))
"""


def loop(store: Path, out: Path, names: list[str]) -> None:
    """Train and evaluate these runs, one after another."""
    from relscale.eval.bits import bits_per_byte_with_stderr, score_documents
    from relscale.model.training import train
    from relscale.plan.recipes import load_plan
    from relscale.sweep.prepare import TextConfig
    from relscale.sweep.suite import fill_mixtures
    from relscale.text.batches import training_data
    from relscale.text.tokens import open_store

    domains, rows = TextConfig().domain_names, []
    runs = {run.run_id: run for run in load_plan((store / "plan.json").read_text()).runs}
    for run in fill_mixtures([runs[name] for name in names], domains):
        stores = {name: open_store(store / f"tokens/{name}-train") for name, _ in run.mixture}
        data = training_data(
            stores, dict(run.mixture), seq_len=run.seq_len, batch_size=run.batch_size, seed=run.seed
        )
        model, _ = train(run, data, out / run.run_id)
        for name in domains:
            heldout = open_store(store / f"tokens/{name}-heldout")
            documents = [heldout.document(i) for i in range(heldout.num_documents)]
            scored = score_documents(model, documents, window=run.seq_len, context=run.seq_len // 4)
            value, _, _ = bits_per_byte_with_stderr(scored.nats, scored.num_bytes)
            rows.append({"run_id": run.run_id, "group": name, "value": value})
    pd.DataFrame(rows).to_csv(out / f"{names[0]}.csv", index=False)


def deal(flops: dict[str, float], num_cores: int) -> list[list[str]]:
    """Runs to cores: longest first, each to the core with the least to do."""
    hands, loads = [[] for _ in range(num_cores)], [0.0] * num_cores
    for name in sorted(flops, key=flops.get, reverse=True):
        least = loads.index(min(loads))
        hands[least].append(name)
        loads[least] += flops[name]
    return hands


def by_loops(store: Path, out: Path, flops: dict[str, float], cores: list[int]) -> pd.DataFrame:
    """Plain loops, one a core; returns what they measured."""
    from relscale.sweep.workers import worker_environment

    out.mkdir()
    hands = deal(flops, len(cores))
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, "--loop", str(store), str(out), *hand],
            env=os.environ | worker_environment(),
            preexec_fn=lambda core=core: os.sched_setaffinity(0, {core}),
        )
        for core, hand in zip(cores, hands, strict=True)
    ]
    assert [worker.wait() for worker in workers] == [0] * len(cores)
    return pd.concat([pd.read_csv(out / f"{hand[0]}.csv") for hand in hands])


def by_sweep(store: Path) -> pd.DataFrame:
    subprocess.run([sys.executable, "-c", SWEEP, store], check=True, stdout=subprocess.DEVNULL)
    return pd.read_parquet(store / "scores.parquet")[["run_id", "group", "value"]]


def main() -> None:
    if sys.argv[1:2] == ["--loop"]:
        return loop(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--csv", type=Path, default=Path("data/sweep"), help="folder for the table")
    parser.add_argument("--work", type=Path, default=Path("/tmp/relscale-sweep"))
    parser.add_argument("--rounds", type=int, default=3, help="of both ways, in turn")
    parser.add_argument("--ways", nargs="+", choices=("sweep", "loops"), default=["sweep", "loops"])
    parser.add_argument("--every", type=int, default=2, help="each how-manieth run of the study")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each shape")
    options = parser.parse_args()

    from relscale.plan.recipes import run_flops, save_plan
    from relscale.study import StudyConfig, study_plan
    from relscale.sweep.prepare import TextConfig, prepare_text
    from relscale.sweep.store import connect

    plan, text = study_plan(StudyConfig()), options.work / "text"
    runs = [
        dataclasses.replace(run, seed=seed, run_id=f"{run.run_id.rpartition('-')[0]}-s{seed}")
        for run in plan.runs[:: options.every]
        for seed in range(options.seeds)
    ]
    plan = dataclasses.replace(plan, runs=tuple(runs))
    flops = {run.run_id: run_flops(run)["train_flops"] for run in plan.runs}
    options.work.mkdir(parents=True, exist_ok=True)
    prepare_text(connect(text), TextConfig(), plan.runs[0].model.vocab)
    (text / "plan.json").write_text(save_plan(plan))
    cores, rows = sorted(os.sched_getaffinity(0)), []
    for i in range(options.rounds):
        found = {}
        for way in options.ways if i % 2 == 0 else options.ways[::-1]:
            store, out = options.work / "store", options.work / "out"
            for folder in (store, out):
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(text, store)
            begun = time.perf_counter()
            if way == "sweep":
                found[way] = by_sweep(store)
            else:
                found[way] = by_loops(store, out, flops, cores)
            wall_s = time.perf_counter() - begun
            row = {
                "round": i, "way": way, "shapes": len(flops) // options.seeds, "seeds": options.seeds, "runs": len(flops), "train_flops": sum(flops.values()), "cores": len(cores),
                "wall_s": wall_s, "runs_per_hour": 3600 * len(flops) / wall_s, "load_average": os.getloadavg()[0],
            }  # fmt: skip
            if way == "sweep":
                spent = json.loads((store / "spent.json").read_text())
                row |= {f"{k.replace(' ', '_')}_core_s": v for k, v in spent["parts"].items()}
                row["outside_core_s"] = len(cores) * (wall_s - spent["wall_s"])
            rows.append(row)
            print(row, flush=True)
        both = pd.concat(found.values()).groupby(["run_id", "group"])["value"]
        assert len(both) == 4 * len(flops) and (both.nunique() == 1).all()
        options.csv.mkdir(parents=True, exist_ok=True)
        path, table = options.csv / "rounds.csv", pd.DataFrame(rows).round(3)
        if path.exists():
            others = pd.read_csv(path)
            same = (others["seeds"] == options.seeds) & (others["runs"] == len(flops))
            table = pd.concat([others[~same], table])
        table.to_csv(path, index=False)
    report(pd.DataFrame(rows))


def report(rows: pd.DataFrame) -> None:
    """Shares of the core time, and runs per hour of both ways: medians over rounds."""
    ours = rows[rows["way"] == "sweep"]
    parts = ours.filter(regex="_core_s$")
    print((parts.div(ours["cores"] * ours["wall_s"], axis=0)).median().map("{:.1%}".format))
    rate = rows.groupby("way")["runs_per_hour"].median()
    print(rate.round(1).to_dict(), rate.div(rate.get("loops", float("nan"))).round(3).to_dict())


if __name__ == "__main__":
    main()
