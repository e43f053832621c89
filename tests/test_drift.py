"""Drift: intervals against textbook generalised least squares and by simulation, tolerances by planting them, the check."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from relscale.core import UserError
from relscale.laws.drift import (
    DriftTolerance,
    drift_correlation,
    drift_interval,
    drift_tolerance,
    slope_variance,
    widened_half,
)
from relscale.laws.relative import fit_relative

SCALES = np.array([1e18, 2e18, 6e18, 1e19, 4e19, 6e19, 1e20])
X = np.log(SCALES)


def fit_of(logs, scales=SCALES, **options):
    """The fit of groups with these log ratios to a baseline; repeated scales are runs of their own."""
    base = 30 * scales**-0.05
    frames = [pd.DataFrame({"group": "base", "train_flops": scales, "value": base})]
    frames += [
        pd.DataFrame({"group": name, "train_flops": scales, "value": base * np.exp(log)})
        for name, log in logs.items()
    ]
    rows = pd.concat(frames).assign(run=lambda f: f.index)
    return fit_relative(rows, baseline="base", run="run", **options)


def drawn(seed=0, slope=-0.02, scatter=0.01, scales=SCALES):
    rng = np.random.default_rng(seed)
    z = np.log(scales) - np.log(scales).mean()
    return {"g": slope * z + scatter * rng.normal(size=len(z))}


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_interval_is_textbook_generalised_least_squares(share):
    """Aitken's formulas written out with an inverse."""
    logs = drawn()
    order = np.arange(7)
    inverse = np.linalg.inv(share * 0.6 ** np.abs(order[:, None] - order) + (1 - share) * np.eye(7))
    basis = np.stack([np.ones(7), X], axis=1)
    covariance = np.linalg.inv(basis.T @ inverse @ basis)
    found = covariance @ basis.T @ inverse @ logs["g"]
    rest = logs["g"] - basis @ found
    stderr = np.sqrt(rest @ inverse @ rest / 5 * covariance[1, 1])
    row = drift_interval(fit_of(logs), 0.6, share=share, level=0.9).loc["g"]
    assert row["delta_beta"] == pytest.approx(found[1], rel=1e-6)
    assert row["stderr"] == pytest.approx(stderr, rel=1e-6)
    assert row["high"] - row["delta_beta"] == pytest.approx(stats.t.ppf(0.95, 5) * stderr, rel=1e-6)
    p = 2 * stats.t.sf(abs(found[1] / stderr), 5)
    assert row["p_value"] == pytest.approx(p, rel=1e-6)


def test_without_correlation_it_is_the_fit_itself():
    fit = fit_of(drawn())
    row, plain = drift_interval(fit, 0.0).loc["g"], fit.table.loc["g"]
    for name in ("delta_beta", "low", "high", "p_value"):
        assert row[name] == pytest.approx(plain[name], rel=1e-6)


def test_interval_holds_the_truth_where_luck_drifts():
    """4,000 groups whose luck is made step by step: 95 %, within 3 binomial errors (.0103); least squares under 75 %."""
    rng, groups = np.random.default_rng(1), 4000
    luck = [rng.normal(size=groups)]
    for _ in range(6):
        luck.append(0.8 * luck[-1] + 0.6 * rng.normal(size=groups))
    y = 0.005 * np.stack(luck, axis=1) - 0.01 * (X - X.mean())
    fit = fit_of(drawn())
    object.__setattr__(fit, "log_ratio", y)
    object.__setattr__(fit, "table", pd.DataFrame(index=range(groups)))
    for rho, low, high in ((0.8, 0.9397, 0.9603), (0.95, 0.95, 1.0), (0.0, 0.0, 0.75)):
        found = drift_interval(fit, rho)
        assert low < np.mean((found["low"] < -0.01) & (found["high"] > -0.01)) < high


def test_slope_variance_is_that_of_simulated_luck():
    """20,000 random walks, made step by step: 4 % is 4 errors of a variance."""
    steps = np.diff(X, prepend=X[0])
    walks = np.cumsum(np.sqrt(steps) * np.random.default_rng(2).normal(size=(20_000, 7)), axis=1)
    slopes = np.polyfit(X - X.mean(), walks.T, 1)[0]
    covariance = np.minimum.outer(X - X[0], X - X[0])
    assert slope_variance(X, covariance) == pytest.approx(slopes.var(), rel=0.04)


def test_tolerances_bring_the_interval_to_zero():
    """A planted straight drift of the tolerated size; and sizes at which slope and widened half are equal."""
    fit = fit_of(drawn(scatter=0.004))
    row = drift_tolerance(fit).table.loc["g"]
    moved = drawn(scatter=0.004)["g"] + np.log1p(row["linear"] / 100) * (X - X.mean()) / np.log(10)
    ends = fit_of({"g": moved}).table.loc["g", ["low", "high"]].to_numpy(float)
    assert np.abs(ends).min() < 1e-9
    stderr = fit.lines.sigma[0] / np.sqrt(fit.lines.sxx)
    walk = np.minimum.outer(X - X[0], X - X[0]) / np.log(10)
    for name, covariance in (("walk", walk), ("autoregressive", drift_correlation(X, 0.8))):
        extra = np.log1p(row[name] / 100) ** 2 * slope_variance(X, covariance)
        half = widened_half(stderr, 5, extra, 0.95)
        assert half == pytest.approx(abs(fit.lines.slope[0]), rel=1e-6)
        freedom = 5 * (1 + extra / stderr**2) ** 2
        assert half == pytest.approx(stats.t.ppf(0.975, freedom) * np.hypot(stderr, extra**0.5))


@pytest.mark.parametrize("size", [0.5, 2.0])
def test_a_verdict_at_the_tolerated_size_is_false_once_in_twenty(size):
    """3,000 lines without a slope, noise 1 and a walk of known size: 5 % at most, plus 3 binomial errors."""
    x, rng = X / np.log(10), np.random.default_rng(3)
    steps = np.sqrt(np.diff(x, prepend=x[0]))
    y = rng.normal(size=(3000, 7)) + size * np.cumsum(steps * rng.normal(size=(3000, 7)), axis=1)
    z = x - x.mean()
    slope = y @ z / (z @ z)
    rest = y - y.mean(axis=1, keepdims=True) - slope[:, None] * z
    stderr = np.sqrt((rest**2).sum(axis=1) / 5 / (z @ z))
    extra = size**2 * slope_variance(x, np.minimum.outer(x - x[0], x - x[0]))
    wrong = np.mean(
        [abs(b) > widened_half(se, 5, extra, 0.95) for b, se in zip(slope, stderr, strict=True)]
    )
    plain = np.mean(np.abs(slope) > stats.t.ppf(0.975, 5) * stderr)
    assert wrong < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 3000) < plain


def test_rho_held_is_where_the_interval_takes_zero_in():
    fit = fit_of(drawn(seed=3, slope=-0.012))
    held = drift_tolerance(fit).table.loc["g", "rho_held"]
    assert 0 < held < 0.95
    inside, outside = (drift_interval(fit, rho).loc["g"] for rho in (held, held + 0.05))
    assert inside["high"] < 0 < outside["high"]
    steep = drift_tolerance(fit_of(drawn(slope=-0.5))).table.loc["g", "rho_held"]
    assert steep == pytest.approx(0.99)


def test_check_is_durbin_and_watsons():
    """P and power against lines of another seed and another code; 3.5 errors of both simulations (4,000 each)."""
    fit = fit_of(drawn(seed=4) | {"h": drawn(seed=5)["g"]})
    table = drift_tolerance(fit, rho=0.7, seed=9).table

    def d_of(y):
        rest = y - np.stack([np.polyval(np.polyfit(X - 40, row, 1), X - 40) for row in y])
        return np.sum(np.diff(rest, axis=1) ** 2, axis=1) / np.sum(rest**2, axis=1)

    rng, order = np.random.default_rng(6), np.arange(7)
    null = d_of(rng.normal(size=(4000, 7)))
    root = np.linalg.cholesky(0.7 ** np.abs(order[:, None] - order))
    luck = d_of(rng.normal(size=(4000, 7)) @ root.T)
    own = d_of(fit.log_ratio)
    np.testing.assert_allclose(table["durbin_watson"], own, rtol=1e-6)
    for got, d in zip(table["p_drift"], own, strict=True):
        p = np.mean(null <= d)
        assert got == pytest.approx(p, abs=3.5 * np.sqrt(2 * max(p * (1 - p), 1e-3) / 4000))
    power = np.mean(luck <= np.quantile(null, 0.025))  # two groups
    assert table["power"].iloc[0] == pytest.approx(power, abs=0.035)


def test_seen_drift_is_a_doubt_and_blindness_is_said():
    scales = np.geomspace(1e18, 1e21, 12)
    z = np.log(scales) - np.log(scales).mean()
    wave = 0.02 * np.sin(1.3 * z) + 0.001 * np.random.default_rng(7).normal(size=12)
    seen = drift_tolerance(fit_of({"wave": wave}, scales))
    assert seen.table.loc["wave", "drift"] == "seen" and "Drift is seen" in seen.words[0]
    assert len(seen.doubts) == 1 and "wave" in seen.doubts[0]
    few = drift_tolerance(fit_of(drawn(scales=SCALES[:5]), SCALES[:5]))
    assert few.table.loc["g", "power"] < 0.2 and few.table.loc["g", "drift"] == "cannot be told"
    assert few.doubts == [] and "cannot be told" in few.words[0]
    many = drift_tolerance(
        fit_of(drawn(scales=np.geomspace(1e17, 1e21, 30)), np.geomspace(1e17, 1e21, 30))
    )
    assert many.table.loc["g", "drift"] == "not seen"


def test_the_check_is_rarely_wrong():
    """2,000 groups without drift, each alone: 5 %, within 3 binomial errors of both simulations (.02)."""
    fit = fit_of(drawn())
    object.__setattr__(fit, "log_ratio", np.random.default_rng(8).normal(size=(2000, 7)))
    object.__setattr__(fit, "table", pd.DataFrame(index=range(2000)))
    assert np.mean(drift_tolerance(fit).table["p_drift"] < 0.05) == pytest.approx(0.05, abs=0.02)


def test_repeated_points_count_as_their_budget():
    """Two runs of each of four budgets are averaged before drift is asked of them: four points, of budgets that may drift."""
    scales = np.repeat(SCALES[:4], 2)
    fit = fit_of(drawn(scales=scales), scales)
    assert len(fit.lines.x) == 4
    assert np.isfinite(drift_interval(fit, 0.5).to_numpy()).all()


def test_json_plot_and_unresolved_words():
    found = drift_tolerance(fit_of({"g": 0.01 * np.array([1, -1, 1, -1, 1, -1, 1.0])}))
    assert found.table.loc["g", "linear"] == 0 and "already without drift" in found.words[0]
    again = DriftTolerance.from_json(found.to_json())
    pd.testing.assert_frame_equal(again.summary(), found.summary())
    assert again.words == found.words
    assert "tenfold compute" in found.plot().get_xlabel()


def test_slips_are_said_in_one_line():
    fit = fit_of(drawn())
    slips = [
        (lambda: drift_interval(fit, 1.0), "correlation from 0 to below 1"),
        (lambda: drift_interval(fit, -0.1), "correlation from 0 to below 1"),
        (lambda: drift_interval(fit, 0.5, share=0.0), "share"),
        (lambda: drift_interval(fit, 0.5, level=2), "confidence level"),
        (lambda: drift_tolerance(fit, n_sims=10), "at least 1000"),
        (lambda: drift_tolerance(fit_of(drawn(), interval="block")), "interval='t'"),
        (lambda: drift_tolerance(fit_of(drawn(scales=SCALES[:2]), SCALES[:2])), "at least 3"),
    ]
    for slip, words in slips:
        with pytest.raises(UserError, match=words) as caught:
            slip()
        assert "\n" not in str(caught.value)
