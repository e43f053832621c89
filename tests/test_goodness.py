"""Lack of fit: against textbook tests of scipy and numpy, its error rate and power by simulation, invariances and edges."""

import numpy as np
import pytest
from scipy import stats

from relscale.core import UserError
from relscale.laws.goodness import GoodnessOfFit, bend_departure, lack_of_fit, power_of_f

X = np.log([1e18, 2e18, 6e18, 1e19, 4e19, 6e19, 1e20])  # uneven on purpose


def line(x):
    return np.stack([np.ones_like(x), x - x.mean()], axis=1)


def residual_of(basis, y):
    return y - basis @ np.linalg.lstsq(basis, y, rcond=None)[0]


def test_one_scale_is_the_t_test_of_a_parabola():
    y = 0.2 - 0.02 * X + 0.01 * np.random.default_rng(0).normal(size=7)
    found = lack_of_fit(X, residual_of(line(X), y), line(X))
    basis = np.vander(X - X.mean(), 3)
    c = np.linalg.lstsq(basis, y, rcond=None)[0]
    s2 = np.sum((y - basis @ c) ** 2) / 4
    t = c[0] / np.sqrt(s2 * np.linalg.inv(basis.T @ basis)[0, 0])
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), 4), rel=1e-6)
    assert found.sigma == pytest.approx(np.sqrt(s2), rel=1e-6)
    assert found.degrees_of_freedom == 4 and np.isnan(found.p_replicates)


def test_two_scales_are_the_f_test_of_nested_regressions():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 2)) * [1.0, 3.0] + [40, 50]
    small = np.column_stack([np.ones(30), x])
    z = x - x.mean(axis=0)
    large = np.column_stack([small, z**2, z[:, 0] * z[:, 1]])
    y = x @ [0.1, 0.2] + rng.normal(size=30)
    rss = [np.sum(residual_of(basis, y) ** 2) for basis in (small, large)]
    f = (rss[0] - rss[1]) / 3 / (rss[1] / 24)
    found = lack_of_fit(x, residual_of(small, y), small)
    assert found.p_value == pytest.approx(stats.f.sf(f, 3, 24), rel=1e-6)
    assert found.num_columns == 3 and found.degrees_of_freedom == 24


def test_repeats_are_the_classical_test_against_pure_error():
    x, rng = np.repeat(X, [1, 3, 2, 1, 2, 4, 2]), np.random.default_rng(2)
    y = rng.normal(size=len(x))
    means = {v: y[x == v].mean() for v in X}
    pure = sum(np.sum((y[x == v] - means[v]) ** 2) for v in X)
    rest = residual_of(line(x), y)
    f = (rest @ rest - pure) / 5 / (pure / (len(x) - 7))
    found = lack_of_fit(x, rest, line(x))
    assert found.p_replicates == pytest.approx(stats.f.sf(f, 5, len(x) - 7), rel=1e-6)
    assert found.p_value == pytest.approx(min(1, 2 * min(found.p_column, found.p_replicates)))


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("freedom", [1, 4, 30])
def test_power_is_the_noncentral_f(columns, freedom):
    """500 quantiles of the estimated variance are good to 2e-3; scipy's values that fail are left out."""
    delta = np.linspace(0, 8, 9)
    bar = stats.f.isf(0.05, columns, freedom)
    exact = np.array([stats.ncf.sf(bar, columns, freedom, d**2) if d else 0.05 for d in delta])
    known = np.isfinite(exact)
    assert known.sum() > 4
    np.testing.assert_allclose(
        power_of_f(delta, columns, freedom, 0.05)[known], exact[known], atol=2e-3
    )


def saturating(x, theta):
    """Log error of floor + alpha F^-beta, and its Jacobian by central differences, independent of the package."""

    def log_error(t):
        return np.log(np.exp(t[0]) + np.exp(t[1] - t[2] * (x - x.mean())))

    steps = 1e-6 * np.eye(3)
    jacobian = [(log_error(theta + s) - log_error(theta - s)) / 2e-6 for s in steps]
    return log_error(theta), np.stack(jacobian, axis=1)


@pytest.mark.parametrize("kind", ["line", "line with repeats", "floor"])
def test_error_rate_and_power(kind):
    """600 suites: 5 % are contradicted of a right curve, 80 % with the height promised; 3 binomial errors.

    With repeats Bonferroni bounds the first and the promise counts one of two tests.
    """
    x = np.repeat(X, 2) if kind != "line" else X
    basis = line(x) if kind != "floor" else saturating(x, np.array([0.0, 0.3, 0.2]))[1]
    rng = np.random.default_rng(3)
    template = lack_of_fit(x, residual_of(basis, np.cos(3 * x)), basis)
    square = residual_of(basis, (x - x.mean()) ** 2)
    square *= template.departure / template.sigma / np.abs(square).max()
    noise = rng.normal(size=(600, len(x)))
    shares = [
        np.mean([lack_of_fit(x, y + shift, basis).verdict == "contradicted" for y in noise])
        for shift in (0 * square, square)
    ]
    error, least = 3 * np.sqrt(0.05 * 0.95 / 600), 0.8 - 3 * np.sqrt(0.16 / 600)
    assert shares[0] < 0.05 + error and shares[1] > least
    if kind == "line":
        assert shares[0] > 0.05 - error and shares[1] < 0.8 + 3 * np.sqrt(0.16 / 600)


def test_the_verdict_follows_from_p_and_power():
    flat = residual_of(line(X), 0.01 * np.cos(9 * X))
    found = [lack_of_fit(X, flat, line(X), matter=m) for m in (1e-4, 1.0)]
    assert [f.verdict for f in found] == ["cannot be told", "not contradicted"]
    bent = lack_of_fit(X, residual_of(line(X), X**2) + 1e-3 * flat, line(X), matter=1e-9)
    assert bent.verdict == "contradicted" and "bend" in bent.words
    assert found[1].doubts == [] and found[0].doubts == [found[0].words]
    assert found[0].power < 0.5 < found[1].power
    seen = lack_of_fit(X, flat, line(X), matter=found[0].departure)
    assert seen.power == pytest.approx(0.8, abs=1e-3)
    assert not any("yes" in f.words for f in (*found, bent))
    strict = lack_of_fit(X, flat, line(X), level=0.999)
    assert strict.power < lack_of_fit(X, flat, line(X), level=0.9).power


def test_units_do_not_count():
    """Scales, parameters and residuals in other units; a fit that stopped short of its optimum."""
    y = 0.01 * np.random.default_rng(4).normal(size=7)
    one = lack_of_fit(X, residual_of(line(X), y), line(X))
    other = lack_of_fit(X / np.log(10) - 7, 50 * (y + 3 * X), line(X) * [1e12, 1e-9])
    assert other.p_value == pytest.approx(one.p_value, rel=1e-6)
    assert other.power == pytest.approx(one.power, rel=1e-6)
    assert other.departure == pytest.approx(50 * one.departure, rel=1e-6)


def test_bend_departure_is_what_a_line_leaves_of_a_bend():
    curve = 0.03 / 2 / np.ptp(X) * (X - 40) ** 2  # its slope changes by .03 over the data
    expected = np.abs(curve - np.polyval(np.polyfit(X - 40, curve, 1), X - 40)).max()
    assert bend_departure(X, line(X), 0.03) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("count", [2, 3])
def test_nothing_left_to_test_by_is_said(count):
    x = X[:count]
    found = lack_of_fit(x, np.zeros(count), line(x))
    assert found.verdict == "cannot be told" and "no points are left" in found.words
    again = GoodnessOfFit.from_json(found.to_json())
    assert again.words == found.words
    assert len(found.summary()) == 1
    with pytest.raises(UserError, match="add scales"):
        found.plot()


def test_a_curve_that_bends_by_itself_has_no_added_column():
    basis = np.vander(X - X.mean(), 3)
    assert lack_of_fit(X, residual_of(basis, np.cos(X)), basis).verdict == "cannot be told"


def test_exact_residuals_contradict_nothing():
    found = lack_of_fit(X, 1e-15 * np.cos(X), line(X), matter=0.01)
    assert found.p_value == 1 and found.verdict == "not contradicted"


def test_json_and_plot():
    found = lack_of_fit(X, np.cos(X), line(X))
    assert GoodnessOfFit.from_json(found.to_json()) == found or np.isnan(found.p_replicates)
    assert GoodnessOfFit.from_json(found.to_json()).words == found.words
    assert found.plot().get_ylabel() == "chance to see it"


def test_slips_are_said_in_one_line():
    slips = [
        (lambda: lack_of_fit(X, X[1:], line(X)), "give"),
        (lambda: lack_of_fit(X, X * np.nan, line(X)), "finite"),
        (lambda: lack_of_fit(X, X, line(X), matter=0.0), "positive height"),
        (lambda: lack_of_fit(X, X, line(X), level=95), "confidence level"),
    ]
    for slip, words in slips:
        with pytest.raises(UserError, match=words) as caught:
            slip()
        assert "\n" not in str(caught.value)
