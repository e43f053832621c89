"""Coverage of the intervals of relative laws over simulated suites; writes the tables beside it.

python data/coverage/make.py [--sims 2000]   (some minutes on two cores)
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from relscale.laws.calibration import calibrate
from relscale.laws.simulate import Design, Noise, Surface
from relscale.tables import write_table

GROUPS = {
    "baseline": Surface(2.0, 0.20),
    "faster": Surface(2.6, 0.24),
    "slower": Surface(2.3, 0.17),
    "level": Surface(2.1, 0.20),
    "far level": Surface(3.5, 0.20),
    "tilted": Surface(2.2, 0.25, 0.18),
}
WORLDS = {
    "runs and test sets": Noise(run=0.01, group=0.003, evaluation=0.002),
    "runs, test sets and budgets": Noise(run=0.01, group=0.003, evaluation=0.002, budget=0.003),
}
HERE = Path(__file__).parent


def one(world: str, num_budgets: int, sims: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of one world and design."""
    design = Design(tuple(np.geomspace(1e18, 1e20, num_budgets)), num_sizes=7)
    found = calibrate(
        GROUPS,
        design,
        WORLDS[world],
        baseline="baseline",
        intervals=("t", "pairs", "wild", "nested"),
        n_sims=sims,
        n_bootstrap=999,
        seed=num_budgets,
    )
    keys = {"world": world, "num_budgets": num_budgets, "n_sims": sims}
    return found.summary().assign(**keys), found.false_verdicts().assign(**keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sims", type=int, default=2000)
    sims = parser.parse_args().sims
    cells = [(world, n) for world in WORLDS for n in (5, 7, 9, 15)]
    with ProcessPoolExecutor(2) as pool:
        parts = list(pool.map(one, *zip(*cells, strict=True), [sims] * len(cells)))
    for name, tables in zip(("coverage", "false_verdicts"), zip(*parts, strict=True), strict=True):
        table = pd.concat(tables, ignore_index=True)
        keys = ["world", "num_budgets", "interval"]
        table = table[[*keys, *(c for c in table.columns if c not in keys)]]
        numbers = table.select_dtypes(float).columns
        write_table(table.assign(**table[numbers].round(6)), HERE / f"{name}.csv")


if __name__ == "__main__":
    main()
