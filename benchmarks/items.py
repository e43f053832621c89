"""How long does a bootstrap over items take, against a loop over its draws?

Prints, for MMLU's 14,042 items under 770 checkpoints (the size of Gemstones) and 2,000 draws, of items and of 57 subjects: seconds of
`resample_items`, seconds of a loop over some draws, extrapolated, and the largest difference between the two; and seconds of a
whole `fit_items`. Values are drawn at random unless a file of items is given.

python benchmarks/items.py [--items items.parquet] [--runs 770] [--draws 2000] [--csv data/speed/items.csv]
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd

from relscale.core import data_path
from relscale.laws import item_tables
from relscale.laws.item_gaps import fit_items
from relscale.laws.item_tables import read_items, resample_items


def drawn_items(num_runs: int, seed: int = 0) -> pd.DataFrame:
    """The shipped items with losses of as many runs drawn at random: an item's difficulty, its slope, and noise."""
    keys = pd.read_parquet(
        data_path("gemstones/items.parquet"), columns=["group", "member", "item"]
    )
    rng, z = np.random.default_rng(seed), np.linspace(-1, 1, num_runs, dtype=np.float32)
    level = rng.lognormal(0, 0.5, (len(keys), 1)).astype(np.float32)
    slope = rng.normal(-0.1, 0.05, (len(keys), 1)).astype(np.float32)
    noise = 0.1 * rng.standard_normal((len(keys), num_runs), np.float32)
    values = level * np.exp(slope * z + noise)
    return pd.concat(
        [keys, pd.DataFrame(values, columns=[f"run{p}" for p in range(num_runs)])], axis=1
    )


def seconds_of(run, repeats: int) -> dict:
    """Median, least and most seconds of the wall clock, and median seconds of the processor, all threads added."""
    wall, spent = [], []
    for _ in range(repeats):
        start, begun = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - start)
        spent.append(time.process_time() - begun)
    ends = {"wall_s": statistics.median(wall), "wall_low_s": min(wall), "wall_high_s": max(wall)}
    return ends | {"processor_s": statistics.median(spent)}


def loop(table, part: int, seed: int) -> np.ndarray:
    """Means of every group and run, a draw at a time, from values of items and how often each stands in the draw."""
    found = []
    for times in next(item_tables._counts(table, 100, seed))[:part]:
        weight = times[table.clusters] * table.weights
        row = []
        for group in table.groups:
            own = (table.items["group"] == group).to_numpy()
            row.append(weight[own] @ table.values[own].astype(float) / weight[own].sum())
        found.append(row)
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--items",
        type=Path,
        help="a wide table of items, such as data/gemstones/make.py --all writes",
    )
    parser.add_argument("--runs", type=int, default=770)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--part", type=int, default=5, help="draws of the loop")
    parser.add_argument("--csv", type=Path, help="write the rows there")
    choice = parser.parse_args()
    frame = pd.read_parquet(choice.items) if choice.items else drawn_items(choice.runs)
    rows = []
    for kind in (None, "member"):
        start = time.perf_counter()
        table = read_items(frame, cluster=kind)
        _ = table.sums  # computed once, when first needed
        read = time.perf_counter() - start
        found = seconds_of(lambda t=table: resample_items(t, choice.draws), choice.repeats)
        start = time.perf_counter()
        slow = loop(table, choice.part, 0)
        looped = (time.perf_counter() - start) * choice.draws / choice.part
        off = np.abs(resample_items(table, 100, 0)[: choice.part] / slow - 1).max()
        rows.append(
            {"drawn": "subjects" if kind else "items", "clusters": len(table.names), "items": len(table.items), "runs": len(table.run_ids),
             "draws": choice.draws, "repeats": choice.repeats, **found, "reading_s": read, "loop_s": looped, "max_relative_difference": off,
             "load_average": os.getloadavg()[0]}
        )  # fmt: skip
        print(pd.Series(rows[-1]).to_string(), "\n", flush=True)
    if choice.csv:
        pd.DataFrame(rows).to_csv(choice.csv, index=False, float_format="%.3g")
    flops = np.geomspace(1e18, 1e22, len(table.run_ids))
    runs = pd.DataFrame({"run_id": table.run_ids, "train_flops": flops})
    told = {"baseline": "stem", "interval": "bootstrap", "n_bootstrap": choice.draws}
    print("fit_items", seconds_of(lambda: fit_items(frame, runs, **told), 1))


if __name__ == "__main__":
    main()
