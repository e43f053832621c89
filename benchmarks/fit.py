"""What does the array form of the analysis buy over a loop of fits on the same rows?

Prints the median seconds of hierarchical fits; then, for two kinds of fit, the seconds of a loop of scipy
or lmfit fits (extrapolated from a part of the draws), the seconds of relscale, the ratio, and the largest
difference between the two answers.
Alternates the two ways and takes medians: python benchmarks/fit.py [--csv data/speed/fits.csv]
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd


def table_of_subjects(num_groups: int, num_budgets: int) -> pd.DataFrame:
    """Errors of groups at budgets, with one percent of scatter."""
    rng, flops = np.random.default_rng(0), np.geomspace(3e18, 3e20, num_budgets)
    names = np.repeat([f"subject {i:02d}" for i in range(num_groups)], num_budgets)
    slope = np.repeat(rng.normal(0, 0.02, num_groups), num_budgets)
    scale = np.tile(flops, num_groups)
    value = (scale / 3e18) ** (slope - 0.06) * rng.lognormal(0, 0.01, len(names))
    return pd.DataFrame({"group": names, "train_flops": scale, "value": value})


def medians(ours, theirs, repeats: int) -> tuple[float, float]:
    """Median seconds of both, alternating."""
    times = {ours: [], theirs: []}
    for _ in range(repeats):
        for run in (theirs, ours):
            start = time.perf_counter()
            run()
            times[run].append(time.perf_counter() - start)
    return statistics.median(times[ours]), statistics.median(times[theirs])


def relative(draws: int, part: int, repeats: int) -> dict:
    """Pairs bootstrap of 57 groups at 7 budgets against a loop of lmfit lines."""
    import lmfit

    from relscale.laws.intervals import pairs_draws
    from relscale.laws.relative import fit_relative

    rows = table_of_subjects(57, 7)
    wide = np.log(rows.pivot(index="train_flops", columns="group", values="value"))
    x = np.log(wide.index.to_numpy())
    y = (wide.drop(columns="subject 00").sub(wide["subject 00"], axis=0)).to_numpy().T
    picked = np.random.default_rng(0).integers(7, size=(draws, 7))
    model, found = lmfit.models.LinearModel(), np.zeros((part, len(y)))

    def theirs():
        for i, row in enumerate(picked[:part]):
            for g, values in enumerate(y):
                result = model.fit(values[row], x=x[row] - x.mean(), slope=0.0, intercept=0.0)
                found[i, g] = result.best_values["slope"]

    def ours():
        fit_relative(
            rows, baseline="subject 00", interval="pairs", n_bootstrap=draws, random_seed=0
        ).summary()

    mine, loop = medians(ours, theirs, repeats)
    difference = np.abs(pairs_draws(x, y, draws, 0)[1][:part] - found).max()
    what = f"relative law, 57 groups x 7 budgets x {draws:,} draws, against lmfit"
    return {
        "fit": what,
        "loop_s": loop * draws / part,
        "relscale_s": mine,
        "difference": difference,
    }


def surface(draws: int, part: int, repeats: int) -> dict:
    """Bootstrap of L(N, D) against a loop of scipy's L-BFGS-B, each started at the fit."""
    from scipy.optimize import minimize
    from scipy.special import huber, logsumexp

    from relscale.laws.surface import fit_chinchilla
    from relscale.suites import load_suite

    suite = load_suite("held2025")
    rows = suite[suite["corpus"] == "dclm"].rename(columns={"paloma_macro_loss": "loss"})
    log_n, log_d, log_l = (
        np.log(rows[c].to_numpy(float)) for c in ("num_params", "num_tokens", "loss")
    )
    fit = fit_chinchilla(rows)
    v = fit.values
    start = np.array([np.log(v["E"]), np.log(v["A"]), np.log(v["B"]), v["alpha"], v["beta"]])
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=part)

    def objective(theta, weight):
        terms = np.stack(
            [
                np.full_like(log_n, theta[0]),
                theta[1] - theta[3] * log_n,
                theta[2] - theta[4] * log_d,
            ]
        )
        return 1e6 * np.sum(weight * huber(1e-3, logsumexp(terms, axis=0) - log_l))

    def theirs():
        for weight in weights:
            minimize(
                objective,
                start,
                args=(weight,),
                method="L-BFGS-B",
                options={"maxiter": 2000, "maxfun": 20000},
            )

    def ours():
        fit.bootstrap(draws, seed=0)

    mine, loop = medians(ours, theirs, repeats)
    found = minimize(objective, start * 1.001, args=(np.ones(len(rows)),), method="L-BFGS-B").x
    difference = abs(found[3] - v["alpha"])
    what = f"L(N, D), 85 runs x {draws:,} refits, against scipy L-BFGS-B (numerical gradient)"
    return {
        "fit": what,
        "loop_s": loop * draws / part,
        "relscale_s": mine,
        "difference": difference,
    }


def hierarchical(repeats: int) -> pd.DataFrame:
    """Seconds a suite of fits alone: 57 subjects by 22 models by 10 checkpoints, and simulated suites."""
    from relscale.laws.mixed import fit_units
    from relscale.laws.relative import fit_relative
    from relscale.laws.simulate import RATES, family_world, trunk_world

    trunks = trunk_world(22, 10, rates={"humanities": -0.01, "other": 0.01, "social": 0.0})
    counts = {"baseline": 19, "humanities": 13, "other": 13, "social": 12}
    which = np.repeat(np.arange(len(trunks.rows)), trunks.rows["group"].map(counts))
    log_error = trunks.draw(1, seed=1)[0][0][which]
    rows, rng = trunks.rows.iloc[which].reset_index(drop=True), np.random.default_rng(0)
    number = rows.groupby(["group", "checkpoint"]).cumcount()
    rows["subject"] = [f"{g} {i:02d}" for g, i in zip(rows["group"], number, strict=True)]
    own = pd.factorize(rows["subject"])[0]
    log_error += 0.2 * rng.normal(size=57)[own] + 0.03 * rng.normal(size=57)[own] * trunks.z[which]
    rows["value"] = np.exp(log_error + 0.02 * rng.normal(size=len(rows)))

    families = family_world((3, 8, 5, 4, 6, 3, 7, 5))
    drawn, fitted = families.draw(1000, seed=2)[0], families.fitted
    tables = [families.table(log) for log in drawn[:50]]
    group = families.rows["group"].to_numpy()[fitted]
    base = drawn[:, fitted][:, group == "baseline"]
    ratios = np.concatenate([drawn[:, fitted][:, group == name] - base for name in RATES])
    first = families.rows[fitted & (families.rows["group"] == "baseline")]
    x, unit = np.log(first["train_flops"].to_numpy()), pd.factorize(first["family"])[0]

    def by_verb():
        for table in tables:
            fit_relative(table, baseline="baseline", run="run", family="family")

    small = [table_of_subjects(3, 5).assign(value=lambda t: t["value"] * rng.lognormal(0, 0.01, len(t))) for _ in range(100)]  # fmt: skip

    def five_budgets():
        for table in small:
            fit_relative(table, baseline="subject 00")

    ways = {
        f"57 subjects x 22 models x 10 checkpoints ({len(rows):,} rows), one fit_relative": (
            lambda: fit_relative(rows, baseline="baseline", run="run", member="subject"), 1),
        "5 budgets, suites of 3 groups through fit_relative": (five_budgets, len(small)),
        "8 families, suites of 5 groups through fit_relative": (by_verb, len(tables)),
        "8 families, suites of 5 groups as arrays through fit_units": (lambda: fit_units(x, ratios, unit), 1000),
    }  # fmt: skip
    found = []
    for what, (run, suites) in ways.items():
        wall, processor = [], []
        for _ in range(repeats):
            start = time.perf_counter(), time.process_time()
            run()
            wall.append((time.perf_counter() - start[0]) / suites)
            processor.append((time.process_time() - start[1]) / suites)
        found.append({
            "fit": what, "suites": suites, "repeats": repeats, "wall_s": statistics.median(wall),
            "wall_low_s": min(wall), "wall_high_s": max(wall), "processor_s": statistics.median(processor),
            "suites_per_minute": 60 / statistics.median(wall), "load_average": os.getloadavg()[0],
        })  # fmt: skip
    return pd.DataFrame(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="write the hierarchical fits there")
    choice = parser.parse_args()
    repeats, fits = choice.repeats, hierarchical(choice.repeats)
    print(fits.to_string(index=False, float_format="{:.4g}".format))
    if choice.csv:
        fits.to_csv(choice.csv, index=False, float_format="%.3g")
    rows = [
        relative(10_000, 10, repeats),
        surface(4_000, 10, repeats),
    ]
    table = pd.DataFrame(rows)
    table["ratio"] = table["loop_s"] / table["relscale_s"]
    print(table.to_string(index=False, float_format="{:.4g}".format, max_colwidth=90))


if __name__ == "__main__":
    main()
