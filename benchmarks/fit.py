"""What does the array form of the analysis buy over a loop of fits on the same rows?

Prints, for each kind of fit, the seconds of a loop of scipy or lmfit fits (extrapolated from a part of
the draws), the seconds of relscale, the ratio, and the largest difference between the two answers.
Alternates the two ways and takes medians: python benchmarks/fit.py
"""

import argparse
import statistics
import time
import warnings

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
            rows, baseline="subject 00", interval="pairs", n_bootstrap=draws, seed=0
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


def frontier_bootstrap(draws: int, part: int, repeats: int) -> dict:
    """Nested bootstrap of the 255-run suite against a loop of np.polyfit."""
    from relscale.laws.frontiers import bootstrap_frontier, read_frontier
    from relscale.laws.isoflop import fit_isoflop
    from relscale.suites import load_suite

    suite = load_suite("held2025")
    loss = suite.pivot(
        index=["budget_flops", "num_params", "num_tokens"],
        columns="corpus",
        values="paloma_macro_loss",
    ).reset_index()  # the three corpora share their shapes, so they can stand as three groups
    corpora = sorted(suite["corpus"].unique())
    loss["loss"] = loss[corpora].mean(axis=1)
    loss["run_id"] = np.arange(len(loss)).astype(str)
    keys = ["run_id", "budget_flops", "num_params", "num_tokens", "loss"]
    rows = loss.melt(keys, corpora, var_name="group", value_name="value")
    fit = fit_isoflop(loss)
    log_tokens = np.log10(loss["num_tokens"].to_numpy(float))
    _, budget = np.unique(loss["budget_flops"], return_inverse=True)
    rng = np.random.default_rng(0)
    weights = np.zeros((part, len(loss)))
    for i in range(part):
        for b in range(budget.max() + 1):
            own = np.flatnonzero(budget == b)
            np.add.at(weights[i], rng.choice(own, len(own)), 1)
    values = loss[corpora].to_numpy().T
    found = np.zeros((part, 3, budget.max() + 1))

    def theirs():
        for i, weight in enumerate(weights):
            for b in range(budget.max() + 1):
                own = np.repeat(np.flatnonzero(budget == b), weight[budget == b].astype(int))
                x = log_tokens[own]
                a, slope, _ = np.polyfit(x, loss["loss"].to_numpy()[own], 2)
                inside = a > 0 and x.min() <= -slope / (2 * a) <= x.max()
                best = x[np.argmin(loss["loss"].to_numpy()[own])]
                at = -slope / (2 * a) if inside else best
                for g in range(3):
                    found[i, g, b] = np.log(np.polyval(np.polyfit(x, values[g, own], 2), at))

    def ours():
        bootstrap_frontier(fit, rows, scheme="runs", n_bootstrap=draws, seed=0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.RankWarning)
        mine, loop = medians(ours, theirs, repeats)
    _, again, inside = read_frontier(log_tokens, budget, loss["loss"].to_numpy(), values, weights)
    both = np.broadcast_to(inside[:, None], again.shape)
    difference = np.abs(again - found)[both].max()
    what = f"nested bootstrap, 255 runs x {draws:,} draws, against numpy.polyfit"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    rows = [
        relative(10_000, 10, repeats),
        frontier_bootstrap(1_000, 50, repeats),
        surface(4_000, 10, repeats),
    ]
    table = pd.DataFrame(rows)
    table["ratio"] = table["loop_s"] / table["relscale_s"]
    print(table.to_string(index=False, float_format="{:.4g}".format, max_colwidth=90))


if __name__ == "__main__":
    main()
