"""Absolute laws: closed forms, magnitudes, bounds, and coverage of the intervals."""

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.laws import fit_power_law, fit_saturating_law


def table(x, y, **more):
    return pd.DataFrame({"x": x, "y": y, **more})


def test_power_law_equals_the_closed_form_with_and_without_weights():
    rng = np.random.default_rng(0)
    x, weight = np.geomspace(1e3, 1e6, 9), rng.uniform(0.2, 3, 9)
    y = 5 * x**-0.3 * np.exp(0.05 * rng.normal(size=9))
    design = np.stack([np.ones(9), np.log(x)], axis=1)
    for w, name in ((np.ones(9), None), (weight, "w")):
        inverse = np.linalg.inv(design.T @ (w[:, None] * design))
        beta = inverse @ design.T @ (w * np.log(y))
        variance = np.sum(w * (np.log(y) - design @ beta) ** 2) / 7
        fit = fit_power_law(table(x, y, w=weight), x="x", y="y", weights=name)
        summary = fit.summary()
        # lmfit differentiates numerically, hence 1e-5 and not rounding
        np.testing.assert_allclose(
            [np.log(fit.values["coefficient"]), fit.values["exponent"]], beta, rtol=1e-5
        )
        assert summary.loc["exponent", "stderr"] == pytest.approx(
            np.sqrt(variance * inverse[1, 1]), rel=1e-4
        )
        at = np.array([1.0, np.log(2e7)])
        half = 2.364624 * np.sqrt(at @ inverse @ at * variance)  # Student t, 7 degrees of freedom
        far = fit.predict(2e7).iloc[0]
        assert np.log(far["high"] / far["value"]) == pytest.approx(half, rel=1e-4)
        assert far["new_high"] > far["high"] and far["new_low"] < far["low"]


@pytest.mark.parametrize(
    "low, high", [(1e6, 1e8), (1e12, 1e14), (1e24, 1e26), (1e28, 1e30), (1e6, 1e30)]
)
def test_magnitudes(low, high):
    x = np.geomspace(low, high, 9)
    power = fit_power_law(table(x, 40 * x**-0.06), x="x", y="y")
    assert power.values["exponent"] == pytest.approx(-0.06, abs=1e-8)
    assert power.values["coefficient"] == pytest.approx(40, rel=1e-5)
    y = 1.5 + 2 * (x / np.sqrt(low * high)) ** -0.2
    bent = fit_saturating_law(table(x, y), x="x", y="y")
    assert bent.values == pytest.approx({"floor": 1.5, "gain": 2.0, "slope": 0.2}, rel=1e-3)


def test_units_and_order_do_not_matter():
    rng = np.random.default_rng(1)
    x = np.geomspace(1e18, 1e22, 9)
    rows = table(x, (1.7 + 2 * (x / 1e20) ** -0.15) * np.exp(0.002 * rng.normal(size=9)))
    for fitter, name in ((fit_power_law, "exponent"), (fit_saturating_law, "slope")):
        fit = fitter(rows, x="x", y="y")
        for other in (
            rows.sample(frac=1, random_state=0),
            rows.assign(x=x * 1e-15),
            rows.assign(y=rows["y"] * 100),
        ):
            again = fitter(other, x="x", y="y")
            assert again.values[name] == pytest.approx(fit.values[name], rel=2e-3)
            assert again.status == fit.status


def test_intervals_hold_the_truth_as_often_as_they_say():
    """95 % intervals of 300 draws: binomial standard error 1.3 %, so 91 to 99 % at three errors."""
    x, hits = np.geomspace(1e18, 1e20, 7), {"law": 0, "new": 0}
    rng = np.random.default_rng(2)
    for _ in range(300):
        y = 40 * x**-0.05 * np.exp(0.01 * rng.normal(size=7))
        fit = fit_power_law(table(x, y), x="x", y="y")
        row = fit.summary().loc["exponent"]
        hits["law"] += row["low"] <= -0.05 <= row["high"]
        new = 40 * 1e21**-0.05 * np.exp(0.01 * rng.normal())
        far = fit.predict(1e21).iloc[0]
        hits["new"] += far["new_low"] <= new <= far["new_high"]
    assert all(0.91 * 300 <= h <= 0.99 * 300 for h in hits.values()), hits


def test_doubtful_fits_say_so():
    x = np.geomspace(1e18, 1e20, 7)
    assert fit_saturating_law(table(x, x**-0.05), x="x", y="y").status.startswith("floor at zero")
    rising = fit_saturating_law(table(x, x**0.05), x="x", y="y")
    assert "do not fall" in rising.status and rising.summary()["stderr"].isna().all()
    constant = fit_saturating_law(table(x, np.full(7, 2.0)), x="x", y="y")
    assert constant.status != "ok"
    four = table(x[:4], [3.0, 2.6, 2.4, 2.3])
    assert np.isfinite(fit_saturating_law(four, x="x", y="y").predict(1e21)["value"]).all()
    two = fit_power_law(table(x[:2], [3.0, 2.0]), x="x", y="y")
    assert two.status.startswith("no freedom") and two.predict(1e21)[["low", "high"]].isna().all(
        axis=None
    )


def test_refusals():
    rows = table([1e18, 1e19, 1e20, 1e21], [3.0, 2.8, 2.7, 2.65], w=[1.0, 1.0, 0.0, 1.0])
    with pytest.raises(UserError, match="w, rows 2"):
        fit_power_law(rows, x="x", y="y", weights="w")
    with pytest.raises(UserError, match="at least 4"):
        fit_saturating_law(rows[:3], x="x", y="y")
    with pytest.raises(UserError, match="below the smallest"):
        fit_saturating_law(rows, x="x", y="y", floor=2.65)
    with pytest.raises(UserError, match="positive and finite"):
        fit_power_law(rows, x="x", y="y").predict(0)
