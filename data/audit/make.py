"""Coverage of held-out cases in simulated tables, by what was held out and how far off: coverage.csv.

What the table holds already is not made again; `--fresh` begins anew.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from relscale.laws.held_out import hold_out
from relscale.laws.relative import fit_relative
from relscale.laws.simulate import Luck, World, budget_world, family_world
from relscale.tables import read_table, write_table

HERE = Path(__file__).resolve().parent
OWN = (Luck(0.004, ("run",)), Luck(0.003, ("group", "run")))
FLOORS = {"baseline": 0.3, "faster": 0.5, "slower": 0.3, "level": 0.4, "far level": 0.3}
WORLDS = {
    "power laws": (lambda: budget_world(8, lucks=OWN), "scale"),
    "floors": (lambda: budget_world(8, lucks=OWN, floors=FLOORS), "scale"),
    "families": (lambda: family_world([5] * 8), "family"),
}


def held_in(world: World, by: str, n_sims: int, seed: int = 0) -> pd.DataFrame:
    """Held-out cases of many tables of a world."""
    told = {"baseline": "baseline", "group": "group", "scale": "train_flops", "error": "value", "level": 0.95, "n_bootstrap": 100}  # fmt: skip
    if by == "family":
        told |= {"family": "family", "run": "run"}
    parts = []
    for i, log_error in enumerate(world.draw(n_sims, seed)[0]):
        rows = world.table(log_error)
        cases, _ = hold_out(rows, told, fit_relative(rows, **told), by)
        parts.append(pd.concat(cases, ignore_index=True).assign(table=i))
    return pd.concat(parts, ignore_index=True)


def coverage(held: pd.DataFrame) -> list[dict]:
    """Shares inside both intervals, by distance; standard errors over tables, whose cases err together."""
    edges, rows = (-1, 0.5, 1.0, np.inf), []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        part = held[(held["distance"] > low) & (held["distance"] <= high)]
        if part.empty:
            continue
        row = {"distance_to": part["distance"].max(), "tables": part["table"].nunique(), "cases": len(part)}  # fmt: skip
        for name in ("new", "far"):
            inside = (part[f"{name}_low"] <= part["measured"]) & (part["measured"] <= part[f"{name}_high"])  # fmt: skip
            each = inside.groupby(part["table"]).mean()
            row |= {f"inside_{name}": inside.mean(), f"stderr_{name}": each.std() / np.sqrt(len(each))}  # fmt: skip
        rows.append(row)
    return rows


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--n-sims", type=int, default=100)
    options.add_argument("--fresh", action="store_true")
    asked, path = options.parse_args(), HERE / "coverage.csv"
    rows = [] if asked.fresh or not path.exists() else read_table(path).to_dict("records")
    for name, (world, by) in WORLDS.items():
        if any(r["world"] == name for r in rows):
            continue
        found = coverage(held_in(world(), by, asked.n_sims))
        rows += [{"world": name, "by": by, "level": 0.95} | row for row in found]
        write_table(pd.DataFrame(rows), path)
        print(name)
