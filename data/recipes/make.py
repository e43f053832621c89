"""Coverage of compute multipliers between two recipes, and errors and power of joint verdicts, by simulation.

Each world is a row or two of two tables beside this file; what they hold already is not made again.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import stdtr

from relscale.laws.intervals import adjust_p, max_t
from relscale.laws.recipe_pairs import chance_of_count, residual_correlation
from relscale.laws.speedups import infer_lines, read_multipliers
from relscale.tables import read_table, write_table

HERE = Path(__file__).resolve().parent
GAIN, EXPONENT = 88.32, 0.0941  # the law of marin's May recipe: 1.6 + 88.32 * C ** -0.0941


@dataclass(frozen=True)
class World:
    """A ladder of two recipes. Luck is of log errors, a standard deviation each."""

    about: str
    run: float = 0.003  # of one run
    seed: float = 0.0  # of a seed at a budget, shared by both recipes
    budget: float = 0.0  # of a recipe at a budget, shared by its seeds
    floors: tuple[float, float] = (1.6, 1.6)
    multiplier: float = 1.2
    budgets: int = 4
    seeds: int = 3


WORLDS = {
    "runs": World("luck of runs alone"),
    "shared seeds": World(
        "two thirds of a run's luck is its seed's, in both recipes", 0.002, 0.003
    ),
    "budgets": World("beside luck of runs as much again of a budget", 0.003, 0.0, 0.002),
    "no floor": World("both errors are power laws", floors=(0.0, 0.0)),
    "two floors": World("the new recipe has a lower floor", floors=(1.6, 1.55)),
    "no gain": World("both recipes are one", multiplier=1.0),
    "7 budgets": World("luck of runs alone, seven budgets", budgets=7),
}


def errors_of(world: World) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Log scales, true log errors of both recipes, and the true log multiplier at the largest budget."""
    x = np.log(np.geomspace(3.8e17, 3.5e19, world.budgets))
    floor_old, floor_new = world.floors
    old = np.log(floor_old + GAIN * np.exp(-EXPONENT * x))
    new = np.log(floor_new + GAIN * np.exp(-EXPONENT * (x + np.log(world.multiplier))))
    needed = (np.log(GAIN) - np.log(np.exp(new[-1]) - floor_old)) / EXPONENT
    return x, old, new, needed - x[-1]


def cover(name: str, sims: int) -> list[dict]:
    """Coverage of 90 % intervals at the largest budget: a row a unit and method."""
    world, rng, found = WORLDS[name], np.random.default_rng(list(name.encode())), {}
    x, old, new, truth = errors_of(world)
    shape = (world.budgets, world.seeds)
    for _ in range(sims):
        shared = world.seed * rng.standard_normal(shape)
        sides = []
        for log_error in (old, new):
            own = world.run * rng.standard_normal(shape) + world.budget * rng.standard_normal(
                (world.budgets, 1)
            )
            sides.append(log_error[:, None] + own + shared)
        means = (x, *(s.mean(axis=1) for s in sides))
        runs = (np.repeat(x, world.seeds), *(s.ravel() for s in sides))
        for unit, points in (("budget", means), ("run", runs)):
            told = {"floor": world.floors[0], "exponent": EXPONENT, "level": 0.9}
            for row in read_multipliers(*points, [x[-1]], **told):
                found.setdefault((unit, row["method"]), []).append(
                    [row[k] for k in ("multiplier", "low", "high")]
                )
    rows = []
    for (unit, method), ends in found.items():
        value, low, high = np.log(np.array(ends)).T
        inside = (low <= truth) & (truth <= high)
        rows.append({
            "world": name, "unit": unit, "method": method, "num_budgets": world.budgets, "num_seeds": world.seeds,
            "multiplier": np.exp(truth), "n_sims": sims, "coverage": inside.mean(),
            "stderr": np.sqrt(inside.mean() * (1 - inside.mean()) / sims),
            "median": np.exp(np.median(value)), "width": np.median(high - low), "unbounded": np.isinf(high - low).mean(),
            "about": world.about,
        })  # fmt: skip
    return rows


def judge(num_budgets: int, correlation: float, sims: int, num_groups: int = 16) -> list[dict]:
    """False and true verdicts at the largest budget: nobody changes, or half of the groups do."""
    rng = np.random.default_rng([num_budgets, round(100 * correlation)])
    x, rows = np.linspace(0, 4.5, num_budgets), []
    effect = {4: 9.0, 6: 4.5, 8: 3.8}[num_budgets]
    for truth in ("none", "half"):
        changed = np.arange(num_groups) < (num_groups // 2 if truth == "half" else 0)
        told = {"max-t": [], "Holm": [], "each alone": []}
        chances, counts = [], []
        for _ in range(sims):
            common = rng.standard_normal(num_budgets)
            own = rng.standard_normal((num_groups, num_budgets))
            y = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
            value, stderr, freedom, coordinates = infer_lines(
                x, y + effect * changed[:, None], x[-1]
            )
            alone = 2 * stdtr(freedom, -np.abs(value / stderr))
            told["max-t"].append(max_t(coordinates, n_draws=2000) < 0.05)
            told["Holm"].append(adjust_p(alone) < 0.05)
            told["each alone"].append(alone < 0.05)
            up = int((coordinates[0] < 0).sum())
            counts.append(max(up, num_groups - up))
            chances.append(
                chance_of_count(counts[-1], num_groups, residual_correlation(coordinates))
            )
        for rule, each in told.items():
            called = np.array(each)
            false = called[:, ~changed].any(axis=1).mean()
            rows.append({
                "truth": truth, "num_budgets": num_budgets, "num_groups": num_groups, "correlation": correlation, "rule": rule,
                "n_sims": sims, "family_wise_error": false, "stderr": np.sqrt(false * (1 - false) / sims),
                "power": called[:, changed].mean() if changed.any() else np.nan,
                "count_below_0.05": np.mean(np.array(chances) < 0.05) if rule == "max-t" else np.nan,
            })  # fmt: skip
    return rows


def resume(
    path: Path, key: list[str], jobs: dict[tuple, Callable[[], list[dict]]], fresh: bool
) -> None:
    """Make what the table on disk lacks, and write it after each job."""
    done = read_table(path) if path.exists() and not fresh else pd.DataFrame(columns=key)
    there = set(done[key].itertuples(index=False, name=None))
    for name, job in jobs.items():
        if name in there:
            continue
        start = time.perf_counter()
        made = pd.DataFrame(job())
        numbers = made.select_dtypes(float).columns
        made = made.assign(**made[numbers].round(4))
        done = made if done.empty else pd.concat([done, made], ignore_index=True)
        write_table(done, path)
        print(f"{path.name} {name}: {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sims", type=int, default=2000)
    parser.add_argument("--fresh", action="store_true", help="all of it again")
    options = parser.parse_args()
    worlds = {(name,): lambda name=name: cover(name, options.sims) for name in WORLDS}
    resume(HERE / "multipliers.csv", ["world"], worlds, options.fresh)
    cells = {
        (n, r): lambda n=n, r=r: judge(n, r, options.sims)
        for n in (4, 6, 8)
        for r in (0.0, 0.5, 0.8)
    }
    resume(HERE / "verdicts.csv", ["num_budgets", "correlation"], cells, options.fresh)


if __name__ == "__main__":
    main()
