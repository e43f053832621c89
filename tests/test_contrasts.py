"""Crossings, covariates and ratios of fits against brute force, transcriptions and properties."""

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.laws.contrasts import (
    CovariateFit,
    fieller,
    find_crossings,
    fit_covariate,
)
from relscale.laws.intervals import t_critical
from relscale.laws.relative import fit_relative

FLOPS = np.geomspace(1e18, 1e20, 7)


def suite(laws, noise=0.005, seed=0, flops=FLOPS):
    rng, base = np.random.default_rng(seed), 40 * flops**-0.06
    parts = [pd.DataFrame({"group": "base", "train_flops": flops, "value": base})]
    for name, (start, slope) in laws.items():
        value = (
            base * start * (flops / flops[0]) ** slope * np.exp(noise * rng.normal(size=len(flops)))
        )
        parts.append(pd.DataFrame({"group": name, "train_flops": flops, "value": value}))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("height, slope", [(1.0, -0.5), (0.3, 0.02), (0.01, 0.001), (-2.0, 0.06)])
def test_fieller_is_where_the_band_holds_zero(height, slope):
    covariance, critical = np.array([[0.01, 0.002], [0.002, 0.001]]), 2.3
    z = np.linspace(-400, 400, 800_001)
    inside = (height + slope * z) ** 2 <= critical**2 * (
        covariance[0, 0] + 2 * z * covariance[0, 1] + z * z * covariance[1, 1]
    )
    low, high, shape = fieller(height, slope, covariance, critical)
    claimed = {
        "interval": (z >= low) & (z <= high),
        "outside": (z <= low) | (z >= high),
        "everywhere": np.ones(len(z), bool),
    }[shape]
    assert (claimed != inside).mean() < 1e-5  # a grid point at an end may fall on either side


def test_crossings_do_not_depend_on_who_is_the_baseline():
    rows = suite({"a": (1.05, -0.02), "b": (1.2, -0.03)})
    there = find_crossings(
        fit_relative(rows, baseline="base"), [("a", "base"), ("a", "b"), ("b", "a")]
    )
    back = find_crossings(fit_relative(rows, baseline="a"), [("base", "a"), ("a", "b"), ("b", "a")])
    numbers = ["crossing", "low", "high"]
    np.testing.assert_allclose(there[numbers], back[numbers], rtol=1e-9)
    assert there["shape"].tolist() == back["shape"].tolist()
    tokens = rows.assign(train_flops=rows["train_flops"] * 1e6)
    moved = find_crossings(fit_relative(tokens, baseline="base"))
    plain = find_crossings(fit_relative(rows, baseline="base"))
    np.testing.assert_allclose(moved[numbers] / 1e6, plain[numbers], rtol=1e-6)


def test_crossings_by_draws_agree_with_the_line_where_scatter_is_even():
    rows = suite({"a": (1.05, -0.02)}, flops=np.geomspace(1e18, 1e20, 60))
    line, pairs = (
        find_crossings(fit_relative(rows, baseline="base", interval=kind))
        for kind in ("t", "pairs")
    )
    # with 60 points both have the same width, but for the draws' own noise of a few percent
    width = [np.log(f["high"] / f["low"]).iloc[0] for f in (line, pairs)]
    assert 0.75 < width[1] / width[0] < 1.33


def test_crossings_name_unknown_groups():
    fit = fit_relative(suite({"a": (1.05, -0.02)}), baseline="base")
    with pytest.raises(UserError, match="no group 'c'"):
        find_crossings(fit, [("a", "c")])
    with pytest.raises(UserError, match="paired with itself"):
        find_crossings(fit, [("a", "a")])
    two = fit_relative(suite({"a": (1.05, -0.02)}, flops=FLOPS[:2]), baseline="base")
    assert find_crossings(two)["shape"].tolist() == ["unknown"]


def covariate_suite(tau, seed=3):
    rng, names = np.random.default_rng(seed), [f"g{i}" for i in range(9)]
    c = dict(zip(names, np.linspace(4, 8, 9), strict=True))
    laws = {n: (1.1, 0.02 - 0.004 * v + tau * rng.normal()) for n, v in c.items()}
    return fit_relative(suite(laws, noise=0.003, seed=seed), baseline="base"), c


@pytest.mark.parametrize("tau", [0.0, 0.004])
def test_covariate_fit_solves_its_equations(tau):
    fit, c = covariate_suite(tau)
    found = fit_covariate(fit, c, name="log10 users")
    x, y, s = (found.rows[k].to_numpy() for k in ("covariate", "delta_beta", "stderr"))
    weight = 1 / (s**2 + found.tau**2)
    # transcription: weighted least squares by numpy's polyfit, whose weights multiply residuals
    slope, at_zero = np.polyfit(x, y, 1, w=np.sqrt(weight))
    rss = np.sum(weight * (y - at_zero - slope * x) ** 2)
    row = found.summary().iloc[0]
    assert row["slope"] == pytest.approx(slope, rel=1e-8)
    if found.tau > 0:  # Paule and Mandel: weighted residuals equal their freedom
        assert rss == pytest.approx(len(x) - 2, rel=1e-6)
    centred = x - np.average(x, weights=weight)
    stderr = np.sqrt(rss / (len(x) - 2) / np.sum(weight * centred**2))
    assert row["high"] - row["slope"] == pytest.approx(t_critical(len(x) - 2) * stderr, rel=1e-7)
    assert row["low"] < -0.004 < row["high"]
    assert row["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    back = CovariateFit.from_json(found.to_json())
    pd.testing.assert_frame_equal(back.summary(), found.summary())
    pd.testing.assert_frame_equal(back.predict([5.0, 6.0]), found.predict([5.0, 6.0]))


def test_covariate_refuses_what_it_cannot_use():
    fit, c = covariate_suite(0.0)
    for bad, words in (
        ({"g0": 1.0, "g1": 2.0}, "at least 4"),
        (c | {"mars": 1.0}, "'mars', which is no group"),
        (dict.fromkeys(c, 1.0), "not all the same"),
        (c | {"g0": float("nan")}, "must be finite"),
    ):
        with pytest.raises(UserError, match=words):
            fit_covariate(fit, bad)


def test_crossings_by_draws_do_not_depend_on_who_is_the_baseline():
    """The draws of a pair are differences of the same resamples, so the baseline drops out but for rounding."""
    rows = suite({"a": (1.05, -0.02), "b": (1.2, -0.03)})
    found = [
        find_crossings(fit_relative(rows, baseline=name, interval="pairs"), [("a", "b")])
        for name in ("base", "a", "b")
    ]
    for other in found[1:]:
        np.testing.assert_allclose(
            other[["crossing", "low", "high"]], found[0][["crossing", "low", "high"]], rtol=1e-6
        )


def test_pearson_has_the_interval_of_fisher():
    """Against scipy, at two confidence levels."""
    from scipy.stats import pearsonr

    fit, c = covariate_suite(0.004)
    for level in (0.8, 0.95):
        found = fit_covariate(fit, c, level=level)
        reference = pearsonr(found.rows["covariate"], found.rows["delta_beta"])
        expected = [reference.statistic, *reference.confidence_interval(level)]
        np.testing.assert_allclose(found.pearson, expected, atol=1e-9)


def test_a_wider_confidence_is_a_wider_interval():
    """Fieller's set at 99 % holds that at 80 %, and Student's interval grows by the ratio of the quantiles."""
    fit = fit_relative(suite({"a": (1.05, -0.02)}), baseline="base")
    near, far = (find_crossings(fit, level=level).iloc[0] for level in (0.8, 0.99))
    assert far["low"] < near["low"] < near["crossing"] < near["high"] < far["high"]
    assert "80 %" in near["words"] and "99 %" in far["words"]
    fit, c = covariate_suite(0.0)
    one, two = (fit_covariate(fit, c, level=level).summary().iloc[0] for level in (0.8, 0.99))
    grown = (two["high"] - two["low"]) / (one["high"] - one["low"])
    assert grown == pytest.approx(t_critical(7, 0.99) / t_critical(7, 0.8))
