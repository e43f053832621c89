"""Laws with floors, and ratios of them, against scipy's optimisers, numpy's polynomials and properties."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares
from scipy.stats import t as student

from relscale.core import UserError
from relscale.laws.floored_ratios import FlooredRatioFit, fit_floored_ratio
from relscale.laws.floors import (
    allowed_pairs,
    bend_p,
    far_ratio,
    fit_pairs,
    floor_p,
    log_ratio_of_pairs,
    profile_set,
    slope_of_pairs,
)

X = np.linspace(0, np.log(100), 9)
U = X - X.mean()


def curve(share, slope, end=1.0, x=X):
    return np.log(end * (share + (1 - share) * np.exp(-slope * (x - X[-1]))))


def suite(share_t=0.5, share_b=0.2, seed=0, noise=0.003, luck=0.01):
    rng = np.random.default_rng(seed)
    shared = luck * rng.normal(size=len(X))
    pair = curve(share_t, 0.2, 1.1), curve(share_b, 0.1)
    return tuple(law + shared + noise * rng.normal(size=len(X)) for law in pair)


def frame(t, b, unit=1.0):
    flops = 1e18 * np.exp(X)
    return pd.concat([
        pd.DataFrame({"group": name, "train_flops": flops, "value": unit * np.exp(y)})
        for name, y in (("a", t), ("base", b))
    ])  # fmt: skip


def misfit(theta, floors, t, b, variance):
    """Transcription of the generalised sum of squares, theta (a, b) of the treatment and of the baseline."""
    rt = t - np.log(floors[0] + np.exp(theta[0] + theta[1] * U))
    rb = b - np.log(floors[1] + np.exp(theta[2] + theta[3] * U))
    return np.concatenate([(rt - rb) / np.sqrt(variance[0]), (rt + rb) / 2 / np.sqrt(variance[1])])


def test_a_pair_of_floors_is_fitted_as_scipy_does():
    t, b = suite()
    floors = np.array([[0.0, 0.3, 0.5]]), np.array([0.0, 0.2, 0.4])
    pairs = fit_pairs(X, t[None], b, floors)
    for k in range(3):
        for j in range(3):
            pair = floors[0][0, k], floors[1][j]
            found = least_squares(
                misfit, pairs.theta[0, k, j], args=(pair, t, b, pairs.variance[:, 0]), xtol=1e-12
            )
            # one Gauss-Newton step from the two separate fits: second order in a scatter of 1 %
            assert pairs.misfit[0, k, j] == pytest.approx(2 * found.cost, rel=0.02)
            stderr = np.sqrt(np.diag(pairs.covariance[0, k, j]))
            assert (np.abs(pairs.theta[0, k, j] - found.x) < 0.05 * stderr).all()
            jacobian = np.linalg.inv(found.jac.T @ found.jac)
            np.testing.assert_allclose(stderr, np.sqrt(np.diag(jacobian)), rtol=0.03)


def test_the_profile_set_is_that_of_a_constrained_search():
    t, b = suite()
    pairs = allowed_pairs(X, t[None], b, 0.95)
    low, high = profile_set(*slope_of_pairs(pairs, U[-1]), pairs.slack(0.95))
    variance, critical = pairs.variance[:, 0], student.ppf(0.975, pairs.freedom[0])
    k, j = np.unravel_index(pairs.misfit[0].argmin(), pairs.misfit[0].shape)
    start = np.array([*pairs.theta[0, k, j], pairs.floors[0][0, k], pairs.floors[1][j]])
    top = pairs.misfit.min() + critical**2

    def slope(p):
        et, eb = np.exp(p[0] + p[1] * U[-1]), np.exp(p[2] + p[3] * U[-1])
        return p[1] * et / (et + p[4]) - p[3] * eb / (eb + p[5])

    bounds = np.array([(-np.inf, np.inf)] * 4 + [(0, 0.98 * np.exp(y.min())) for y in (t, b)]).T
    for end in (low[0], high[0]):

        def held(p, end=end):  # misfit of the laws whose slope is the claimed end
            return np.append(misfit(p[:4], p[4:], t, b, variance), 1e5 * (slope(p) - end))

        found = [
            least_squares(
                held, np.append(start[:4], start[4:] * share), bounds=bounds, x_scale="jac"
            )
            for share in (0.3, 0.8, 1.0, 1.1)
        ]
        # laws are linear within a pair of floors, and the grid has steps: 5 % of the width, 10 % of its square
        assert 2 * min(f.cost for f in found) == pytest.approx(top, abs=0.1 * critical**2)


def test_without_floors_the_slope_is_the_straight_law_whatever_the_luck():
    fit = fit_floored_ratio(frame(*suite()), baseline="base", floors={"a": 0.0, "base": 0.0})
    row = fit.summary().loc["a"]
    # both laws have the same design, so generalised least squares is least squares
    assert row["slope_end"] == pytest.approx(row["delta_beta"], abs=1e-6)
    assert row["slope_start"] == pytest.approx(row["delta_beta"], abs=1e-6)
    assert row["limit"] == 0.0


def test_exact_laws_give_their_floors_back():
    fit = fit_floored_ratio(frame(*suite(noise=0.0, luck=0.0)), baseline="base")
    row = fit.summary().loc["a"]
    assert row["floor"] == pytest.approx(0.55, rel=1e-3)
    assert row["floor_baseline"] == pytest.approx(0.2, rel=2e-3)
    assert row["limit"] == pytest.approx(2.75, rel=3e-3)
    assert row["slope_end"] == pytest.approx(-0.2 * 0.5 + 0.1 * 0.8, abs=1e-5)
    assert row["form"] == "bent"


def test_units_drop_out_and_the_table_goes_to_json_and_back():
    t, b = suite()
    ours, bits = (fit_floored_ratio(frame(t, b, unit), baseline="base") for unit in (1.0, 7.0))
    one, two = ours.summary().loc["a"], bits.summary().loc["a"]
    for name in ("slope_end", "slope_end_low", "slope_end_high", "limit_low"):
        assert one[name] == pytest.approx(two[name], abs=1e-5)
    for name in ("floor", "floor_low", "floor_high", "floor_baseline_high"):
        assert 7 * one[name] == pytest.approx(two[name], rel=1e-3, abs=1e-4)
    back = FlooredRatioFit.from_json(ours.to_json())
    pd.testing.assert_frame_equal(back.predict([1e19, 1e21]), ours.predict([1e19, 1e21]))
    assert back.doubts == ours.doubts
    assert (ours.predict(1e21)["new_low"] < ours.predict(1e21)["low"]).all()


def test_a_forecast_is_the_line_within_the_data_and_wider_beyond():
    t, b = suite(0.0, 0.0)
    at = np.array([X[0], X[4], X[-1], X[-1] + np.log(10)])
    low, high = far_ratio(X, t, b, at, level=0.9)
    slope, height = np.polyfit(U, t - b, 1)
    sigma = np.sqrt(np.sum((t - b - height - slope * U) ** 2) / 7)
    z = at - X.mean()
    half = student.ppf(0.95, 7) * sigma * np.sqrt(1 + 1 / 9 + z**2 / (U @ U))
    np.testing.assert_allclose(low[0, :3], (height + slope * z - half)[:3], rtol=1e-9)
    np.testing.assert_allclose(high[0, :3], (height + slope * z + half)[:3], rtol=1e-9)
    assert high[0, 3] - low[0, 3] > 2 * half[3]
    back = far_ratio(X, b, t, at, level=0.9)
    # the two grids of floors change places
    np.testing.assert_allclose(back[0], -high, atol=1e-9)
    assert np.isnan(far_ratio(X[:2], t[:2], b[:2], at)).all()


def test_a_forecast_holds_where_the_straight_law_fails():
    """Floors of 60 % and none, one decade beyond: 95 % asked, 100 suites, so three standard errors below are 0.885."""
    far, hit = np.log(1000), 0
    x = np.append(X, far)
    rng = np.random.default_rng(0)
    laws = curve(0.6, 0.2, 1.1, x), curve(0.0, 0.08, 1.0, x)
    for _ in range(100):
        luck = 0.01 * rng.normal(size=10)
        t, b = (law + luck + 0.003 * rng.normal(size=10) for law in laws)
        low, high = far_ratio(X, t[:9], b[:9], far)
        hit += low[0, 0] < t[9] - b[9] < high[0, 0]
    assert hit >= 89


def test_p_values_of_shape():
    t, b = suite()
    coefficients, covariance = np.polyfit(U, t - b, 2, cov=True)
    statistic = coefficients[0] / np.sqrt(covariance[0, 0])
    assert bend_p(X, (t - b)[None])[0] == pytest.approx(2 * student.sf(abs(statistic), 6))
    concave = curve(0.0, 0.1) - 0.01 * U**2  # falls faster and faster: no floor does that
    assert floor_p(X, concave) > 0.5
    assert floor_p(X, curve(0.7, 0.3) + 0.001 * np.random.default_rng(0).normal(size=9)) < 1e-3


def test_a_verdict_that_floors_turn_is_a_doubt():
    noise = 0.003 * np.random.default_rng(0).normal(size=(2, len(X)))
    turning = np.log(0.6 + 0.6 * np.exp(-0.3 * X)) + noise[0], -0.08 * X + noise[1]
    fit = fit_floored_ratio(frame(*turning), baseline="base")
    assert fit.table.at["a", "floors_in_words"].startswith("turns")
    assert len(fit.doubts) == 1 and fit.doubts[0].startswith("a: ")
    table = fit.map("a")
    assert table["compatible"].any() and not table["compatible"].all()
    straight = fit_floored_ratio(frame(*suite(0.0, 0.0)), baseline="base", level=0.8)
    assert straight.table.at["a", "floors_in_words"].startswith("holds") and not straight.doubts


def test_slips_are_named():
    rows = frame(*suite())
    for change, words in (
        ({"rows": rows[1:]}, "no row at train_flops"),
        ({"rows": pd.concat([rows, rows[:1]])}, "two rows at"),
        ({"rows": rows[rows["train_flops"] < 4e18]}, "at least 4"),
        ({"baseline": "c"}, "no baseline 'c'"),
        ({"floors": {"a": 0.1}}, "floors lack 'base'"),
        ({"floors": {"a": 0.1, "base": 9.0}}, "below its smallest error"),
        ({"level": 95}, "confidence level"),
    ):
        with pytest.raises(UserError, match=words):
            fit_floored_ratio(**({"rows": rows, "baseline": "base"} | change))
    with pytest.raises(UserError, match="no group 'z'"):
        fit_floored_ratio(rows, baseline="base").map("z")


def test_variances_within_a_pair_are_those_of_the_delta_method():
    """Against central differences of the transcribed log G and of its slope."""
    t, b = suite()
    pairs = fit_pairs(X, t[None], b, (np.array([[0.6]]), np.array([0.5])))
    theta, at = pairs.theta[0, 0, 0], U[-1]

    def log_ratio(p, u):
        return np.log(0.6 + np.exp(p[0] + p[1] * u)) - np.log(0.5 + np.exp(p[2] + p[3] * u))

    def slope(p, u):
        return (log_ratio(p, u + 1e-5) - log_ratio(p, u - 1e-5)) / 2e-5

    for ours, function in ((log_ratio_of_pairs, log_ratio), (slope_of_pairs, slope)):
        steps = 1e-4 * np.eye(4)
        grad = [(function(theta + s, at) - function(theta - s, at)) / 2e-4 for s in steps]
        value, variance = ours(pairs, at)
        assert value.item() == pytest.approx(function(theta, at), rel=1e-5)
        assert variance.item() == pytest.approx(grad @ pairs.covariance[0, 0, 0] @ grad, rel=1e-4)
