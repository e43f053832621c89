"""Shared luck: against statsmodels' MixedLM, against a transcription in dense matrices, and by simulation."""

import warnings

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.laws.mixed import fit_budgets, fit_points, fit_units, new_unit_half
from relscale.laws.relative import fit_relative


def families(seed, units=8, sigma=0.02, tau=0.02):
    """Points of unlike families, three series."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 9, units)
    which = np.repeat(np.arange(units), sizes)
    x = 45 + rng.normal(0, 3, len(which)) + rng.normal(0, 2, units)[which]
    own = rng.normal(0, tau, (3, units)), rng.normal(0, 0.1, (3, units))
    y = 0.3 + own[1][:, which] + (own[0][:, which] - 0.02) * (x - 45)
    return x, y + sigma * rng.normal(size=(3, len(x))), which


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_estimates_equal_those_of_mixedlm(seed):
    """Fixed effects, covariance of luck and sigma within 1e-4 of the scale of each: another program's optimum of one likelihood."""
    statsmodels = pytest.importorskip("statsmodels.api")
    x, y, which = families(seed)
    fit = fit_units(x, y, which)
    design = statsmodels.add_constant(x - x.mean())
    for g in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = statsmodels.MixedLM(y[g], design, groups=which, exog_re=design)
            ref = model.fit(reml=True, method=["bfgs", "lbfgs", "powell"], gtol=1e-8)
        np.testing.assert_allclose(
            [fit.intercept[g], fit.slope[g]], ref.fe_params, atol=1e-4 * ref.bse_fe[1]
        )
        np.testing.assert_allclose(fit.sigma[g], np.sqrt(ref.scale), rtol=1e-4)
        size = np.sqrt(np.outer(np.diag(ref.cov_re), np.diag(ref.cov_re)))
        np.testing.assert_allclose(fit.scatter[g] / size, ref.cov_re / size, atol=1e-3)


def test_robust_errors_equal_the_definition_in_dense_matrices():
    """Each unit's share of the slope, corrected so that its square is unbiased under the fitted model, written out with n by n matrices."""
    x, y, which = families(4, units=5)
    fit, n = fit_units(x, y[:1], which), len(x)
    design = np.stack([np.ones(n), x - x.mean()], axis=1)
    same = which[:, None] == which
    v = same * (design @ fit.scatter[0] @ design.T) + fit.sigma[0] ** 2 * np.eye(n)
    inverse = np.linalg.inv(v)
    bread = np.linalg.inv(design.T @ inverse @ design)
    theta = bread @ design.T @ inverse @ y[0]
    np.testing.assert_allclose(theta, [fit.intercept[0], fit.slope[0]], rtol=1e-6)
    residual, shares, levers = y[0] - design @ theta, [], []
    for j in range(5):
        at = which == j
        m = design[at].T @ np.linalg.inv(v[np.ix_(at, at)]) @ design[at]
        values, axes = np.linalg.eigh(m)
        half = (axes * np.sqrt(values)) @ axes.T
        left, turn = np.linalg.eigh(np.eye(2) - half @ bread @ half)
        adjust = bread @ half @ (turn / np.sqrt(left)) @ turn.T @ np.linalg.inv(half)
        lever = np.zeros(n)
        lever[at] = (adjust @ design[at].T @ np.linalg.inv(v[np.ix_(at, at)]))[1]
        lever = lever - lever @ design @ bread @ design.T @ inverse  # residuals are a projection
        levers.append(lever)
        shares.append(lever @ y[0])
    assert fit.stderr[0] == pytest.approx(np.sqrt(np.sum(np.square(shares))), rel=1e-5)
    omega = np.array(levers) @ v @ np.array(levers).T
    freedom = np.trace(omega) ** 2 / np.sum(omega**2)
    assert fit.degrees_of_freedom[0] == pytest.approx(freedom, rel=1e-5)
    unbiased = bread[1, 1] - np.trace(omega)  # what the correction is for: no bias under the model
    assert abs(unbiased) < 1e-6 * bread[1, 1]
    assert np.isfinite(residual).all()


def test_seeds_are_never_counted_as_budgets():
    """1,000 suites without a slope, five budgets of four seeds whose luck is shared by half: five in a hundred are false, not a quarter."""
    rng, x = np.random.default_rng(0), np.repeat(np.linspace(0, 4.6, 5), 4)
    y = np.repeat(rng.normal(size=(1000, 5)), 4, axis=1) + rng.normal(size=(1000, 20))
    shares = {}
    for name, fit in {"budgets": fit_budgets(x, y), "points": fit_points(x, y)}.items():
        shares[name] = np.mean(np.abs(fit.slope) > fit.critical(0.95) * fit.stderr)
    assert abs(shares["budgets"] - 0.05) < 0.021 and shares["points"] > 0.2


def test_unequal_seeds_hold_too():
    """One to six seeds a budget, with and without luck of the budget: 93 to 97 % of 500 suites, three errors of 1 % about 95."""
    rng, counts = np.random.default_rng(1), np.array([1, 6, 2, 4, 3])
    x = np.repeat(np.linspace(0, 4.6, 5), counts)
    for luck in (0.0, 1.0):
        held = 0
        for _ in range(500):
            y = np.repeat(luck * rng.normal(size=(1, 5)), counts, axis=1) + rng.normal(size=(1, 16))
            fit = fit_budgets(x, y)
            held += abs(fit.slope[0]) < fit.critical(0.95)[0] * fit.stderr[0]
        assert 0.92 < held / 500 < 0.98


def test_known_errors_weigh_points():
    """One point of five is ten times as noisy: with stderr= its weight falls, and the interval holds and is narrower in the median."""
    rng, flops = np.random.default_rng(2), np.geomspace(1e18, 1e20, 5)
    stderr = np.array([0.1, 0.01, 0.01, 0.01, 0.01])
    widths, held = [], 0
    for _ in range(90):
        noise = stderr * rng.normal(size=5)
        rows = pd.DataFrame(
            {
                "group": "t",
                "train_flops": flops,
                "value": np.exp(noise),
                "stderr": stderr * np.exp(noise),
            }
        )
        base = rows.assign(group="b", value=1.0, stderr=1e-9)
        table = pd.concat([rows, base], ignore_index=True)
        one, two = (
            fit_relative(table, baseline="b", stderr=s).table.loc["t"] for s in ("stderr", None)
        )
        widths.append([one["high"] - one["low"], two["high"] - two["low"]])
        held += one["low"] < 0 < one["high"]
    known, unknown = np.median(widths, axis=0)
    assert known < 0.9 * unknown and held / 90 > 0.87


def test_a_new_family_is_held():
    """600 suites of six families that differ by .01: the interval holds the exponent of a seventh in 95 %, three errors of .9 %."""
    rng, which = np.random.default_rng(3), np.repeat(np.arange(6), 5)
    x = rng.normal(0, 1.5, 6)[which] + np.tile(np.linspace(-2, 2, 5), 6)
    own, new = rng.normal(0, 0.01, (600, 6)), rng.normal(0, 0.01, 600)
    y = (
        own[:, which] * x
        + rng.normal(0, 0.05, (600, 6))[:, which]
        + 0.02 * rng.normal(size=(600, 30))
    )
    held = []
    for i in range(0, 600, 100):
        fit = fit_units(x, y[i : i + 100], which)
        held.append(np.abs(fit.slope - new[i : i + 100]) < new_unit_half(fit))
    assert abs(np.mean(held) - 0.95) < 0.03


def test_what_cannot_be_said_is_said():
    flops = np.geomspace(1e18, 1e20, 5)
    one = pd.DataFrame([(g, f, 1.0 + 0.1 * (g == "t") + 1e-3 * i) for g in "tb" for i, f in enumerate(flops)],
                       columns=["group", "train_flops", "value"])  # fmt: skip
    shared = one.assign(item="x")
    with pytest.raises(UserError, match="member 'x' stands in groups"):
        fit_relative(shared, baseline="b", member="item")
    alone = fit_relative(one.assign(item=one["group"]), baseline="b", member="item")
    assert any("has one member" in doubt for doubt in alone.doubts)
    assert alone.table["member_low"].isna().all()
    with pytest.raises(UserError, match="has one value"):
        fit_relative(one.assign(family="opt"), baseline="b", family="family")
    constant = fit_relative(one.assign(seed=1), baseline="b", seed="seed")
    assert any("seed is the same in all rows" in doubt for doubt in constant.doubts)
    two = pd.concat(
        [
            one[one["train_flops"] < 5e18].assign(seed=s, value=lambda d, s=s: d["value"] + s)
            for s in (0, 1)
        ]
    )
    two = two[two["train_flops"].isin(sorted(two["train_flops"].unique())[:2])]
    fit = fit_relative(two, baseline="b", seed="seed")
    assert fit.table["low"].isna().all() and any("two budgets" in doubt for doubt in fit.doubts)
    with pytest.raises(UserError, match="seed=0 names the column of seeds"):
        fit_relative(one, baseline="b", seed=0)
