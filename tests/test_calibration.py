"""Calibration counts what it says it counts: against a loop over suites with scipy's regression."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress
from scipy.stats import t as student

from relscale.core import UserError
from relscale.laws.calibration import calibrate
from relscale.laws.frontiers import read_frontier
from relscale.laws.simulate import Design, Noise, Surface, simulate_values

GROUPS = {
    "faster": Surface(2.6, 0.205),
    "base": Surface(2.0, 0.20),
    "level": Surface(2.1, 0.20),
    "far level": Surface(3.5, 0.20),
}
DESIGN = Design(tuple(np.geomspace(1e18, 1e20, 5)), num_sizes=5)
NOISE = Noise(run=0.01, group=0.004)


def holm(p):
    """Holm's adjusted P values, one after another."""
    adjusted, worst = np.empty(len(p)), 0.0
    for rank, i in enumerate(np.argsort(p)):
        worst = adjusted[i] = max(worst, min(1.0, (len(p) - rank) * p[i]))
    return adjusted


def test_counts_equal_a_loop_over_suites():
    """300 suites, so that every count is of some suites and not of all."""
    found = calibrate(GROUPS, DESIGN, NOISE, baseline="base", intervals=["t"], n_sims=300, seed=4)
    names, runs = ["faster", "level", "far level"], DESIGN.runs()
    surfaces = [GROUPS[n] for n in ("base", *names)]
    budgets, which = np.unique(runs["budget_flops"], return_inverse=True)
    tokens, x = np.log10(runs["num_tokens"].to_numpy(float)), np.log(budgets)

    def slopes(values):
        _, read, _ = read_frontier(tokens, which, values.mean(axis=0), values)
        return [linregress(x, read[i] - read[0]) for i in (1, 2, 3)]

    truth = [f.slope for f in slopes(simulate_values(surfaces, runs, Noise(0, 0), n_sims=1)[0])]
    values = simulate_values(surfaces, runs, NOISE, n_sims=300, seed=4)
    fits = [slopes(suite) for suite in values]
    slope, stderr, p = (
        np.array([[getattr(f, k) for f in row] for row in fits])
        for k in ("slope", "stderr", "pvalue")
    )
    half = student.ppf(0.975, 3) * stderr
    table = found.summary().set_index("group").loc[names]
    np.testing.assert_allclose(table["truth"], [truth[0], 0, 0], atol=1e-9)
    np.testing.assert_allclose(table["coverage"], (np.abs(slope - truth) <= half).mean(axis=0))
    np.testing.assert_allclose(table["rejected"], (p < 0.05).mean(axis=0))
    np.testing.assert_allclose(table["width"], np.median(2 * half, axis=0), rtol=1e-6)
    share = table["coverage"].to_numpy()
    np.testing.assert_allclose(table["stderr"], np.sqrt(share * (1 - share) / 300))
    row = found.false_verdicts().iloc[0]
    adjusted = np.array([holm(each) for each in p])
    assert (row["num_groups"], row["num_null"]) == (3, 2)
    assert row["alone"] == pytest.approx((p[:, 1:] < 0.05).any(axis=1).mean())
    assert row["holm"] == pytest.approx((adjusted[:, 1:] < 0.05).any(axis=1).mean())
    assert row["holm"] < row["alone"] and 0.1 < table.loc["faster", "rejected"] < 0.9


def test_nested_intervals_are_narrower_and_know_nothing_of_budgets():
    """80 suites with noise of budgets alone beside tiny noise of runs: nested covers few, Student's 95 %, within 3.5 errors."""
    noise = Noise(run=0.0, group=0.0005, budget=0.004)
    found = calibrate(
        GROUPS,
        DESIGN,
        noise,
        baseline="base",
        intervals=["t", "nested"],
        n_sims=80,
        n_bootstrap=200,
    ).summary()
    mean = found.groupby("interval")[["coverage", "width"]].mean()
    assert mean.loc["t", "coverage"] > 0.95 - 3.5 * np.sqrt(0.05 * 0.95 / 80)
    assert mean.loc["nested", "coverage"] < 0.6
    assert mean.loc["nested", "width"] < mean.loc["t", "width"]


def test_slips_are_said_in_one_line():
    small = Design(tuple(np.geomspace(1e18, 1e20, 5)), num_sizes=3)
    for change, words in (
        ({"baseline": "nobody"}, "baseline 'nobody': name one"),
        ({"intervals": ["block"]}, "interval 'block': choose of t"),
        ({"design": small}, "three budgets and four sizes"),
    ):
        call = {"groups": GROUPS, "design": DESIGN, "noise": NOISE, "baseline": "base", "n_sims": 2}
        with pytest.raises(UserError, match=words) as caught:
            calibrate(**(call | change))
        assert "\n" not in str(caught.value)
    assert isinstance(calibrate(**call).summary(), pd.DataFrame)
