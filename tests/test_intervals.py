"""Confidence intervals: each against its definition, one draw at a time."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from relscale.laws.curves import fit_power_law
from relscale.laws.intervals import (
    function_interval,
    infer_slopes,
    p_of_draws,
    resample_counts,
    t_critical,
)
from relscale.laws.isoflop import fit_isoflop
from relscale.laws.lines import deleted_residuals, fit_huber_parabola, fit_parabola
from relscale.laws.multiplier import compute_multiplier
from relscale.laws.simulate import Design, Noise, Surface, simulate_values
from relscale.laws.surface import _covariance

X = np.log(np.geomspace(3e18, 3e20, 7))


def scattered(seed=0, groups=3):
    return np.random.default_rng(seed).normal(size=(groups, 7)) + 0.3 * X


def test_block_bootstrap_takes_whole_blocks():
    """Each slope is the fit to the points of the blocks that were drawn; two blocks of one x each have no slope."""
    x, y = np.repeat(X[:4], 2), np.random.default_rng(2).normal(size=(2, 8))
    blocks = np.repeat(np.arange(4), 2)
    low, high, p, band = infer_slopes(x, y, "block", 400, 3, blocks=blocks)
    picked = np.random.default_rng(3).integers(4, size=(400, 4))
    slopes = []
    for draw in picked:
        i = np.concatenate([np.flatnonzero(blocks == b) for b in draw])
        if len(set(draw)) > 1:
            slopes.append([np.polyfit(x[i] - x.mean(), row[i], 1)[0] for row in y])
    slopes = np.array(slopes)
    np.testing.assert_allclose([low, high], np.quantile(slopes, [0.025, 0.975], axis=0), rtol=1e-6)
    assert len(band.slopes) == len(slopes) < 400
    np.testing.assert_allclose(p, p_of_draws(slopes))


def test_p_of_draws_counts_so_that_it_is_never_zero():
    draws = np.arange(1.0, 100.0)[:, None] - np.array(
        [0.0, 2.5, 50.0]
    )  # 0, 2 and 50 of 99 at or below zero
    assert p_of_draws(draws).tolist() == pytest.approx([0.02, 0.06, 1.0])


def test_function_interval_of_a_linear_function_is_exact():
    """For f = g . theta the delta method has no error: g' Sigma g; of a logarithm the ends are exponentials."""

    class Fit:
        theta, degrees_of_freedom = np.array([0.4, -0.2]), 7
        covariance = np.array([[0.04, 0.01], [0.01, 0.09]])
        draws = np.random.default_rng(0).normal(size=(400, 2))

    g = np.array([2.0, 3.0])
    found = function_interval(Fit, lambda theta: theta @ g[:, None], log=False)
    stderr = np.sqrt(g @ Fit.covariance @ g)
    ends = [0.2 - t_critical(7) * stderr, 0.2 + t_critical(7) * stderr]
    assert found["stderr"][0] == pytest.approx(stderr) and found["value"][0] == pytest.approx(0.2)
    assert [found["low"][0], found["high"][0]] == pytest.approx(ends)
    boot = np.quantile(Fit.draws @ g, [0.025, 0.975])
    assert [found["boot_low"][0], found["boot_high"][0]] == pytest.approx(list(boot))
    logs = function_interval(Fit, lambda theta: theta @ g[:, None])
    assert [logs["low"][0], logs["high"][0]] == pytest.approx(list(np.exp(ends)))
    assert logs["stderr"][0] == pytest.approx(stderr * np.exp(0.2))


def test_resamples_hold_enough_different_values():
    x = np.array([1.0, 1.0, 1.0, 1.0, 2.0, 3.0])
    counts = resample_counts(x, 500, np.random.default_rng(0), least=3)
    assert (counts.sum(axis=1) == 6).all() and (counts[:, 4:] > 0).all()
    free = resample_counts(x, 500, np.random.default_rng(0), least=1)
    assert (free[:, 5] == 0).mean() == pytest.approx((5 / 6) ** 6, abs=0.1)  # 5 standard errors


# ---- what chapters make of them
def test_deleted_residuals_against_a_fit_without_the_point():
    rng = np.random.default_rng(6)
    x, y = rng.uniform(9, 11, 8), rng.normal(size=8)
    off, studentised, p = deleted_residuals(x, y)
    for i in range(8):
        others = fit_parabola(np.delete(x, i), np.delete(y, i))
        value, stderr = others.at(x[i])
        rest = np.sum((np.delete(y, i) - others.at(np.delete(x, i))[0]) ** 2) / 4
        t = (y[i] - value) / np.sqrt(rest + stderr**2)
        assert [off[i], studentised[i]] == pytest.approx([y[i] - value, t], rel=1e-8)
        assert p[i] == pytest.approx(2 * stats.t.sf(abs(t), 4), rel=1e-8)  # 7 points less 3


def test_huber_covariance_is_that_of_m_estimators():
    """sum psi^2 / (n - 3) / m^2 (X'X)^-1, with the share m within the threshold; 3 of 12 points lie outside here."""
    rng = np.random.default_rng(1)
    x = np.linspace(9, 10, 12)
    y = (
        0.4 * (x - 9.5) ** 2
        + 0.003 * rng.normal(size=12)
        + np.where(np.arange(12) % 5 == 1, 0.1, 0)
    )
    fit = fit_huber_parabola(x, y, 0.01)
    residual = y - fit.at(x)[0]
    inside = np.abs(residual) <= 0.01
    assert inside.sum() == 9
    design = np.vander(x - x.mean(), 3)
    psi = np.clip(residual, -0.01, 0.01)
    expected = np.sum(psi**2) / 9 / inside.mean() ** 2 * np.linalg.inv(design.T @ design)
    np.testing.assert_allclose(fit.covariance, expected, rtol=1e-6, atol=1e-12)


def suite(seed=0):
    design = Design(num_sizes=7)
    runs = design.runs()
    loss = simulate_values([Surface(2.0, 0.2)], runs, Noise(run=0.003), n_sims=1, seed=seed)[0, 0]
    return runs.assign(loss=loss)


def test_laws_of_the_frontier_have_their_ends_in_order_and_of_the_textbook():
    fit = fit_isoflop(suite())
    x = np.log10(fit.optima["budget_flops"])
    table = fit.summary()
    for quantity in ("num_tokens", "num_params", "loss"):
        row, line = table.loc[quantity], stats.linregress(x, np.log10(fit.optima[quantity]))
        half = stats.t.ppf(0.975, 3) * np.array([line.stderr, line.intercept_stderr])
        ends = [line.slope - half[0], line.slope + half[0]]
        assert row[["low", "high"]].tolist() == pytest.approx(ends, rel=1e-8)
        ends = np.log(10) * np.array([line.intercept - half[1], line.intercept + half[1]])
        found = np.log(row[["coefficient_low", "coefficient_high"]].to_numpy(float))
        np.testing.assert_allclose(found, ends, rtol=1e-8)


def curve(num, noise, seed, k):
    x = np.geomspace(1e18, 1e21, num)
    y = k * x**-0.05 * np.exp(noise * np.random.default_rng(seed).normal(size=num))
    return fit_power_law(pd.DataFrame({"x": x, "y": y}), scale="x", error="y")


def test_a_new_run_scatters_about_a_law_that_is_itself_uncertain():
    """Textbook prediction interval of a line in logarithms: t of n - 2, and sigma^2 (1 + 1 / n + z^2 / Sxx)."""
    fit, at = curve(6, 0.02, 4, 30), 1e23
    x, y = np.log(fit.rows["x"]), np.log(fit.rows["y"])
    line, z = stats.linregress(x, y), np.log(at) - x.mean()
    sigma2 = np.sum((y - line.intercept - line.slope * x) ** 2) / 4
    law = sigma2 * (1 / 6 + z**2 / np.sum((x - x.mean()) ** 2))
    half = stats.t.ppf(0.975, 4) * np.sqrt([law, law + sigma2])
    value, *ends = np.log(fit.predict(at)[["value", "low", "high", "new_low", "new_high"]].iloc[0])
    expected = value + np.array([-half[0], half[0], -half[1], half[1]])
    np.testing.assert_allclose(ends, expected, rtol=1e-8)


def test_multiplier_interval_is_welch_and_satterthwaite():
    """Two power laws of unlike size and scatter: log m = (log a(C) - log b(C)) / fall of a, by hand."""
    a, b, at = curve(5, 0.01, 1, 30), curve(12, 0.003, 2, 28), 3e20
    row = compute_multiplier(a, b, at).iloc[0]
    log_m = np.log(row["multiplier"])
    (u, slope), (v, _) = (np.log(at / a.x0), a.theta[1]), (np.log(at / b.x0), 0)
    by_a = np.array(
        [1 / slope, -log_m / slope - u / slope]
    )  # gradient by log a at x0, and by its fall
    by_b = np.array([-1.0, v]) / slope
    parts = np.array([by_a @ a.covariance @ by_a, by_b @ b.covariance @ by_b])
    degrees = parts.sum() ** 2 / np.sum(parts**2 / [3, 10])
    half = stats.t.ppf(0.975, degrees) * np.sqrt(parts.sum())
    assert np.log([row["low"], row["high"]]).tolist() == pytest.approx([log_m - half, log_m + half])
    refits = [fit.bootstrap(200, seed=5 + i).draws for i, fit in enumerate((a, b))]
    level = refits[1][:, 0] - refits[1][:, 1] * v
    drawn = np.log(a.x0) + (refits[0][:, 0] - level) / refits[0][:, 1] - np.log(at)
    row = compute_multiplier(a, b, at, interval="bootstrap", n_bootstrap=200, seed=5).iloc[0]
    assert np.log(row["boot_low"]) == pytest.approx(np.quantile(drawn, 0.025, method="lower"))
    assert np.log(row["boot_high"]) == pytest.approx(np.quantile(drawn, 0.975, method="higher"))


def test_error_of_a_vertex_is_the_delta_method():
    """Gradient of the vertex by the coefficients, by differences of 1e-6 of each, on a grid that is not symmetric."""
    x = np.array([9.0, 9.1, 9.3, 9.8, 10.4, 10.9])
    fit = fit_parabola(x, 0.4 * (x - 9.5) ** 2 + 0.01 * np.random.default_rng(0).normal(size=6))
    steps = 1e-6 * np.diag(fit.coefficients)
    places = [
        [-c[1] / (2 * c[0]) for c in (fit.coefficients + s, fit.coefficients - s)] for s in steps
    ]
    gradient = (np.array(places) @ [1, -1]) / (2e-6 * fit.coefficients)
    assert fit.vertex()[1] == pytest.approx(np.sqrt(gradient @ fit.covariance @ gradient), rel=1e-6)


def test_simulated_noise_is_shared_as_it_says():
    """4000 suites: standard deviations are known to 1.1 %, correlations to 1.6 %; bounds at four of those."""
    runs = Design(num_sizes=2, budgets=(1e12, 1e14)).runs()
    surfaces = [Surface(1.0, 0.2), Surface(2.0, 0.3)]

    def logs(**noise):
        noise = Noise(**{"run": 0.0, "group": 0.0} | noise)
        values = simulate_values(surfaces, runs, noise, n_sims=4000, seed=1)
        return np.log(values).reshape(4000, 8)  # groups, then runs

    both = logs(group=0.03, evaluation=0.04)
    assert both.std(axis=0) == pytest.approx(0.05, rel=0.045)
    assert np.corrcoef(both.T) == pytest.approx(np.eye(8), abs=0.065)
    run = np.corrcoef(logs(run=0.05).T)
    assert run == pytest.approx(np.tile(np.eye(4), (2, 2)), abs=0.065)  # the groups of a run
    budget = np.corrcoef(logs(budget=0.05).T)
    assert budget == pytest.approx(
        np.kron(np.eye(4), np.ones((2, 2))), abs=0.065
    )  # the runs of a budget, by group


def test_covariance_of_least_squares_on_the_surface_is_hc3():
    """(J'J)^-1 J' diag(r / (1 - h))^2 J (J'J)^-1, with the Jacobian of the raw loss by differences."""
    rng = np.random.default_rng(2)
    u = rng.normal(size=(30, 2))
    theta = np.array([1.6, 0.2, 0.3, -0.1, 0.4])

    def loss(t):
        return t[0] + np.exp(t[1] - t[2] * u[:, 0]) + np.exp(t[3] - t[4] * u[:, 1])

    y = loss(theta) * np.exp(0.05 * rng.normal(size=30))
    jacobian = np.stack(
        [(loss(theta + s) - loss(theta - s)) / 2e-6 for s in 1e-6 * np.eye(5)], axis=1
    )
    inverse = np.linalg.inv(jacobian.T @ jacobian)
    leverage = np.einsum("np,pq,nq->n", jacobian, inverse, jacobian)
    left = (y - loss(theta)) / (1 - leverage)
    expected = inverse @ (jacobian.T * left**2) @ jacobian @ inverse
    np.testing.assert_allclose(
        _covariance(theta, u, np.log(y), "varpro", 1e-3)[0], expected, rtol=1e-4
    )
