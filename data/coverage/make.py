"""Coverage of every interval in every world, and false verdicts; writes the tables beside it.

python data/coverage/make.py [--sims 600] [--fresh] [WORLD ...]

Worlds that are in the tables already are left out unless they are named or --fresh is given, so a run
that was stopped goes on where it stood. Two processes, about a quarter of an hour.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from relscale.laws.calibration import (
    Calibration,
    Target,
    Trials,
    calibrate,
    suite_trials,
    world_trials,
)
from relscale.laws.curves import fit_power_law, fit_saturating_law
from relscale.laws.frontiers import frontier, frontier_doubts
from relscale.laws.isoflop import fit_isoflop
from relscale.laws.relative import fit_relative
from relscale.laws.simulate import (
    NO_RATES,
    OWN,
    RATES,
    Design,
    Luck,
    Noise,
    Surface,
    budget_world,
    family_world,
    member_world,
    trunk_world,
)  # fmt: skip
from relscale.tables import read_table, write_table

HERE = Path(__file__).parent
KEYS = ["world", "null", "about", "fit"]


# -- fits: functions of a table and of what it says of its structure ----------------------------


def relative(rows, **options):
    return fit_relative(rows, baseline="baseline", **options)


def without(rows, **options):
    """The same rows by someone who does not tell the structure."""
    return fit_relative(rows, baseline="baseline")


def averaged(rows, **options):
    """By someone who averages what stands at one scale first, in logs."""
    logs = rows.assign(value=np.log(rows["value"]))
    means = logs.groupby(["group", "train_flops"], as_index=False)["value"].mean()
    return fit_relative(means.assign(value=np.exp(means["value"])), baseline="baseline")


def runs_only(rows, **options):
    """By someone who names runs, and neither seeds nor families."""
    return fit_relative(rows, baseline="baseline", run="run")


def suite(rows, scale="budget_flops", **options):
    """Runs to optima to relative laws, with the doubts of both."""
    keys = ["run_id", scale, "num_params", "num_tokens"]
    runs = rows.groupby(keys, as_index=False)["value"].mean().rename(columns={"value": "loss"})
    fit = fit_isoflop(runs, scale=scale)
    points = frontier(fit, rows)
    answer = fit_relative(points, baseline="baseline", scale=fit.scale)
    if points.groupby("group")["interior"].sum().min() < 3:  # as the analysis does
        answer = answer.withhold("fewer than three budgets have a measured optimum")
    return answer, [*fit.doubts, *frontier_doubts(points), *answer.doubts]


def optimum(rows, **options):
    return fit_isoflop(rows)


def power(rows, **options):
    return fit_power_law(rows, scale="train_flops", error="value")


def floored(rows, **options):
    return fit_saturating_law(rows, scale="train_flops", error="value")


T = {"t": relative}
LINES = {"t": relative, "pairs": partial(relative, interval="pairs", n_bootstrap=999)}
RUNS = {"t": relative, "block": partial(relative, interval="block", n_bootstrap=999)}
SEEDS = T | {"t, run only": runs_only, "t, no option": without, "t, seeds averaged": averaged}


# -- worlds ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Entry:
    """A world by name: what makes its trials, given rates, suites and seed, and what is tried on it."""

    about: str
    make: Callable[[dict, int, int], Trials]
    fits: dict
    share: float = 1.0  # of the suites asked for; slow worlds take fewer


def of(build, *args, **options):
    """Trials of a world of `simulate`."""
    return lambda rates, n, seed: world_trials(build(*args, rates=rates, **options), n, seed)


def alone(rates: dict) -> dict:
    """Two of the groups, for worlds that are slow."""
    return {name: rates[name] for name in ("faster", "level")}


def members(counts: dict, **options):
    return lambda rates, n, seed: world_trials(
        member_world(counts, rates=alone(rates), **options), n, seed
    )


def carried(factor: float):
    """The last budget of every treatment is off by so many standard deviations of its luck."""

    def make(rates, n, seed):
        world = budget_world(7, rates=rates)
        last = (world.rows["budget"] == 6) & (world.rows["group"] != "baseline")
        rows = world.rows.assign(shift=np.where(last, factor * 0.005 * 2**0.5, 0.0))
        return world_trials(dataclasses.replace(world, rows=rows), n, seed)

    return make


def near_chance(rates, n, seed):
    """1 - accuracy of four options of which 2 to 20 % of items are known, on 2,000 items."""
    world = budget_world(7, rates=rates)
    z, rate = world.z, world.rows["group"].map({"baseline": 0.0, **rates}).to_numpy()
    known = 0.06 * np.exp((0.3 - 5 * rate) * z)
    error = 0.75 * (1 - np.minimum(known, 0.98))
    noise = np.sqrt(error * (1 - error) / 2000) / error * world.fitted
    rows = world.rows.assign(truth=np.log(error), relative_stderr=noise)
    lucks = (Luck(0.003, ("run",)), Luck(0.002, ("group", "run")))
    rows = rows[rows["held"] != "far"].reset_index(drop=True)
    return world_trials(dataclasses.replace(world, rows=rows, lucks=lucks, options={"stderr": "stderr"}), n, seed)  # fmt: skip


def curve(floor: float, num_points: int = 7):
    """One error curve, of which a share is floor."""

    def make(rates, n, seed):
        world = budget_world(
            num_points, rates={}, floors={"baseline": floor}, lucks=(Luck(0.01, ("run",)),)
        )
        return world_trials(dataclasses.replace(world, baseline=None), n, seed)

    return make


def surfaces(rates: dict, a: float = 0.2, b: float = 0.2) -> dict:
    """Groups whose frontier slopes differ by the rates, and whose optimal sizes grow as C ** (b / (a + b))."""
    rate = a * b / (a + b)
    times = {name: 1 - delta / rate for name, delta in {"baseline": 0.0, **rates}.items()}
    return {n: Surface(2.0 + 0.2 * i, a * t, b * t) for i, (n, t) in enumerate(times.items())}


NOISE = Noise(run=0.01, group=0.003, evaluation=0.002)
GRID = Design(tuple(np.geomspace(1e18, 1e20, 7)), num_sizes=7)
WIDE = Design(tuple(np.geomspace(1e18, 1e20, 7)), num_sizes=12)


def isoflop(design=GRID, a: float = 0.2, b: float = 0.2, **options):
    return lambda rates, n, seed: suite_trials(
        surfaces(rates, a, b), design, NOISE, n_sims=n, seed=seed, **options
    )


def optima(floor: float):
    """One group whose optimum is asked for: tokens and loss of the law, of a new run, and a decade beyond."""

    def make(rates, n, seed):
        design, surface = GRID, Surface(2.0, 0.2, floor=floor)
        trials = suite_trials({"baseline": surface}, design, NOISE, n_sims=n, seed=seed)
        tables, rng = list(trials.tables), np.random.default_rng(seed + 2)
        own, targets = np.hypot(NOISE.run, np.hypot(NOISE.group, NOISE.evaluation)), []
        for scale, questions in ((1e20, ("law", "new run")), (1e21, ("far run",))):
            size = np.sqrt(scale / 6)
            loss = np.full((n, 1), np.log(surface.at(size, size)))
            for question in questions:
                luck = 0.0 if question == "law" else own * rng.standard_normal((n, 1))
                targets.append(Target(question, loss + luck, scale=scale, prefix="loss_"))
            if "law" in questions:
                tokens = np.full((n, 1), np.log(size))
                targets.append(Target("law", tokens, scale=scale, prefix="num_tokens_"))
        tables = [t.rename(columns={"value": "loss"}) for t in tables]
        return Trials(tables, targets, ["baseline"], {}, n)

    return make


BUDGET_LUCK = (*OWN, Luck(0.005, ("group", "budget")))
CORRELATED = (Luck(0.01, ("run",)), Luck(0.003, ("group", "run")))
MMLU = {"baseline": 19, "faster": 18, "level": 12}
UNEQUAL = {"baseline": 8, "faster": 20, "level": 9}
FLOORS = {"baseline": 0.3, "faster": 0.6, "slower": 0.0, "level": 0.3, "far level": 0.1}
STDERR = [0.03, 0.002, 0.02, 0.004, 0.05, 0.002, 0.01]


def correlated(sd: float):
    """Luck of a run that its treatments share and its baseline does not: their ratios go together."""

    def make(rates, n, seed):
        world = budget_world(7, rates=rates)
        rows = world.rows.assign(side=world.rows["group"] == "baseline")
        lucks = (*OWN, Luck(sd, ("run", "side")))
        return world_trials(dataclasses.replace(world, rows=rows, lucks=lucks), n, seed)

    return make


def with_floors(num_budgets: int):
    """Floors of 0 to 60 %; in the world without slopes all have the same."""

    def make(rates, n, seed):
        floors = FLOORS if any(rates.values()) else dict.fromkeys(FLOORS, 0.3)
        return world_trials(budget_world(num_budgets, rates=rates, floors=floors), n, seed)

    return make


WORLDS = {
    "5 budgets": Entry("independent luck of runs", of(budget_world, 5), LINES),
    "7 budgets": Entry("independent luck of runs", of(budget_world, 7), LINES),
    "15 budgets": Entry("independent luck of runs", of(budget_world, 15), LINES),
    "correlated groups, .76": Entry("treatments share luck of a run: correlation .76", correlated(0.0052), T),
    "4 seeds": Entry("5 budgets of 4 seeds, a budget's luck as large as a seed's", of(budget_world, 5, seeds=4, lucks=BUDGET_LUCK), SEEDS),
    "1 to 6 seeds": Entry("5 budgets of 1, 6, 2, 4 and 3 seeds", of(budget_world, 5, seeds=(1, 6, 2, 4, 3), lucks=BUDGET_LUCK), SEEDS),
    "members, 49": Entry("19, 18 and 12 members, slopes of sd .03", members(MMLU), T | {"t, members averaged": averaged}, 0.5),
    "members, 8 to 20": Entry("8, 20 and 9 members, slopes of sd .03", members(UNEQUAL), T | {"t, members averaged": averaged}, 0.5),
    "one member carries": Entry("a member of 18 whose slope is 5 sd off", members(MMLU, planted=-5.0), T, 0.5),
    "4 families": Entry("3 to 8 models each, tau .015", of(family_world, (3, 8, 5, 4)), T | {"t, run only": runs_only}),
    "8 families": Entry("3 to 8 models each, tau .015", of(family_world, (3, 8, 5, 4, 6, 3, 7, 5)), T | {"t, run only": runs_only}),
    "12 families": Entry("3 to 8 models each, tau .015", of(family_world, (3, 8, 5, 4, 6, 3, 7, 5, 4, 8, 3, 6)), T | {"t, run only": runs_only}),
    "one family carries": Entry("8 families, one 5 tau off", of(family_world, (3, 8, 5, 4, 6, 3, 7, 5), planted=5.0), T),
    "checkpoints": Entry("22 runs of 10 checkpoints, luck of a run in level and slope", of(trunk_world, 22, 10), RUNS, 0.5),
    "checkpoints, 8 runs": Entry("8 runs of 10 checkpoints, luck of a run in level and slope", of(trunk_world, 8, 10), RUNS, 0.5),
    "one budget carries": Entry("the last of 7 budgets 4 sd off", carried(4.0), LINES),
    "drift, AR .8": Entry("luck of 7 successive budgets with memory .8", of(budget_world, 7, lucks=(Luck(0.01, ("run",)), Luck(0.005, ("group", "train_flops"), memory=0.8))), T),
    "drift, AR .8, 15 budgets": Entry("luck of 15 successive budgets with memory .8", of(budget_world, 15, lucks=(Luck(0.01, ("run",)), Luck(0.005, ("group", "train_flops"), memory=0.8))), T),
    "random walk": Entry("luck of 7 budgets that walks by .3 % a step, beside .2 % of their own", of(budget_world, 7, lucks=(Luck(0.01, ("run",)), Luck(0.002, ("group", "run")), Luck(0.003, ("group", "train_flops"), memory=1.0))), T),
    "heavy tails": Entry("luck with Student's t of 3 degrees of freedom", of(budget_world, 7, lucks=(Luck(0.01, ("run",), tails=3.0), Luck(0.005, ("group", "run"), tails=3.0))), LINES),
    "unequal variances": Entry("luck that falls from 1.6 to .16 % over two decades", of(budget_world, 7, lucks=(Luck(0.01, ("run",)), Luck(0.005, ("group", "run"), growth=-0.5))), LINES),
    "known stderr": Entry("evaluation noise of .2 to 5 % by budget, in a column", of(budget_world, 7, relative_stderr=STDERR, options={"stderr": "stderr"}), T | {"t, no option": without}),
    "near chance": Entry("accuracy of four options where few items are known", near_chance, T | {"t, no option": without}),
    "floors": Entry("floors of 0 to 60 % of the error, 7 budgets", with_floors(7), T),
    "floors, 15 budgets": Entry("floors of 0 to 60 % of the error, 15 budgets", with_floors(15), T),
    "curve without floor": Entry("one error curve, a power law, 7 points", curve(0.0), {"power law": power, "floored law": floored}),
    "curve with 30 % floor": Entry("one error curve, 7 points", curve(0.3), {"power law": power, "floored law": floored}),
    "curve with 60 % floor": Entry("one error curve, 15 points", curve(0.6, 15), {"power law": power, "floored law": floored}),
    "IsoFLOP": Entry("7 budgets of 7 sizes, optimum inside", isoflop(), {"suite": suite}, 0.5),
    "IsoFLOP, edge": Entry("the optimum is the smallest size of every budget", isoflop(off_center=4.0), {"suite": suite}, 0.5),
    "IsoFLOP, outside": Entry("the optimum is outside the grid at every budget, and drifts away from it", isoflop(a=0.3, b=0.15, off_center=4.0), {"suite": suite}, 0.5),
    "IsoFLOP, 3 of 12 diverged": Entry("in the middle budget", isoflop(WIDE, diverged=3), {"suite": suite}, 0.5),
    "IsoFLOP, spent 2e-5": Entry("budgets as spent, equal to 2e-5", isoflop(spread=1e-5), {"suite": partial(suite, scale="train_flops")}, 0.5),
    "IsoFLOP, spent 30 %": Entry("budgets as spent, with a spread of 30 %", isoflop(spread=0.1), {"suite": partial(suite, scale="train_flops")}, 0.5),
    "optimum without floor": Entry("tokens and loss of the optimum, a power law", optima(0.0), {"isoflop": optimum}),
    "optimum with floor": Entry("loss of the optimum, .3 of floor", optima(0.3), {"isoflop": optimum}),
}  # fmt: skip
MAIN = ("t", "suite", "power law", "floored law", "isoflop")
NO_NULL = {"curve without floor", "curve with 30 % floor", "curve with 60 % floor", "optimum without floor", "optimum with floor"}  # fmt: skip


def one(name: str, null: bool, sims: int) -> tuple[Calibration, float]:
    """A world, or the same without any difference of slopes; what is not the default gets a third of the suites."""
    entry, start, parts = WORLDS[name], time.perf_counter(), []
    main = {k: fit for k, fit in entry.fits.items() if k in MAIN}
    for fits, share in ((main, entry.share), ({k: f for k, f in entry.fits.items() if k not in main}, entry.share / 3)):  # fmt: skip
        if fits:
            n = max(20, int(sims * share))
            trials = entry.make(NO_RATES if null else RATES, n, 1 + null)
            told = {kind: partial(fit, **trials.options) for kind, fit in fits.items()}
            parts.append(calibrate(trials, told))
    tables = (pd.concat([getattr(p, k) for p in parts], ignore_index=True) for k in ("table", "verdicts"))  # fmt: skip
    return Calibration(*tables, 0.95), time.perf_counter() - start


def merge(path: Path, table: pd.DataFrame, name: str, null: bool) -> None:
    """The table on disk with the rows of one world replaced, in the order of WORLDS."""
    table = table.assign(world=name, null=null, about=WORLDS[name].about)
    if path.exists():
        old = read_table(path)
        table = pd.concat([old[(old["world"] != name) | (old["null"] != null)], table])
    table = table[[*KEYS, *(c for c in table.columns if c not in KEYS)]]
    rank = table["world"].map({name: i for i, name in enumerate(WORLDS)})
    table = (
        table.assign(rank=rank).dropna(subset="rank").sort_values(["rank", "null"], kind="stable")
    )
    table = table.drop(columns="rank")
    numbers = table.select_dtypes(float).columns
    write_table(table.assign(**table[numbers].round(5)), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worlds", nargs="*", help="default: those that the tables lack")
    parser.add_argument("--sims", type=int, default=600)
    parser.add_argument("--fresh", action="store_true", help="all worlds again")
    options = parser.parse_args()
    if unknown := set(options.worlds) - set(WORLDS):
        parser.error(f"no world {', '.join(sorted(unknown))}: there is {'; '.join(WORLDS)}")
    path, start = HERE / "coverage.csv", time.perf_counter()
    if options.fresh:
        for name in ("coverage", "false_verdicts"):
            (HERE / f"{name}.csv").unlink(missing_ok=True)
    done = set()
    if path.exists() and not options.worlds:
        done = set(read_table(path)[["world", "null"]].itertuples(index=False, name=None))
    cells = [
        (name, null) for name in options.worlds or WORLDS for null in (False, True)
        if (name, null) not in done and not (null and name in NO_NULL)
    ]  # fmt: skip
    with ProcessPoolExecutor(2) as pool:
        jobs = {pool.submit(one, name, null, options.sims): (name, null) for name, null in cells}
        for job in as_completed(jobs):
            (found, seconds), (name, null) = job.result(), jobs[job]
            merge(path, found.summary(), name, null)
            if len(found.verdicts):
                merge(HERE / "false_verdicts.csv", found.verdicts, name, null)
            print(f"{name}{' (no slopes)' if null else ''}: {seconds:.0f} s", flush=True)
            print(found, flush=True)
    print(f"{len(cells)} worlds in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
