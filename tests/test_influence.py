"""What carries a verdict: one planted budget, family and member each, and tables with nothing planted."""

import numpy as np
import pandas as pd

from relscale.laws.relative import fit_relative

FLOPS = np.geomspace(1e18, 1e20, 8)
Z = np.log(FLOPS) - np.log(FLOPS).mean()


def table(values, **columns):
    """Rows of one treatment and a baseline of ones."""
    one = pd.DataFrame({"group": "t", "value": np.exp(values), **columns})
    return pd.concat([one, one.assign(group="b", value=1.0)], ignore_index=True)


def left_out(rows, **options):
    return fit_relative(rows, baseline="b", **options).influence().summary()


def test_a_budget_that_makes_the_slope_is_named():
    """Level points with .1 % of scatter, and a last one 1 % up: it stands out, and carries what verdict there is."""
    noise = 1e-3 * np.random.default_rng(0).normal(size=8)
    found = left_out(table(noise + 0.01 * (np.arange(8) == 7), train_flops=FLOPS))
    last = found[found["name"] == found["name"].max()].iloc[0]
    assert last["outlying"] and found["outlying"].sum() == 1
    assert found["shift"].abs().idxmax() == last.name


def test_a_clear_slope_is_carried_by_no_budget():
    """A slope 40 standard errors from zero stands whichever of the eight points is left out; no P is below .05 among them."""
    noise = 1e-3 * np.random.default_rng(1).normal(size=8)
    found = left_out(table(noise - 0.01 * Z, train_flops=FLOPS))
    assert not found["carries"].any() and not found["outlying"].any()
    assert set(found["verdict_rate"]) == {"improves faster"}
    whole = fit_relative(table(noise - 0.01 * Z, train_flops=FLOPS), baseline="b").table.loc["t"]
    for _, row in found.iterrows():  # each exponent is that of a fit to the other seven
        keep = ~np.isclose(FLOPS, row["name"])  # scales are matched through their logs
        slope = np.polyfit(Z[keep], (noise - 0.01 * Z)[keep], 1)[0]
        np.testing.assert_allclose(row["delta_beta"], slope, rtol=1e-9)
        np.testing.assert_allclose(
            row["shift"], (slope - whole["delta_beta"]) / whole["stderr"], rtol=1e-6
        )


def test_a_family_with_a_slope_of_its_own_is_named():
    rng, which = np.random.default_rng(2), np.repeat(np.arange(8), 4)
    scales = np.concatenate([1e19 * 1.7**j * np.array([1, 3, 10, 30]) for j in range(8)])
    own = -0.01 + 0.002 * rng.normal(size=8) + 0.06 * (np.arange(8) == 5)
    values = own[which] * np.log(scales / 1e20) + 0.1 * which + 1e-3 * rng.normal(size=32)
    found = left_out(table(values, train_flops=scales, family=which), family="family")
    assert found[found["outlying"]]["name"].tolist() == [5]


def test_nothing_planted_raises_no_alarm():
    """100 tables of 8 budgets and a clear slope: a budget stands out in 5 % at most, with three errors of 2.2 % above that."""
    alarms = 0
    for seed in range(100):
        noise = 1e-3 * np.random.default_rng(seed).normal(size=8)
        alarms += left_out(table(noise - 0.01 * Z, train_flops=FLOPS))["outlying"].any()
    assert alarms <= 11
