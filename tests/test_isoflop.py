"""Compute-optimal points: published numbers, recovery, and what must not matter."""

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.isoflop import fit_isoflop, frontier
from relscale.runs import load_suite

# D* in 1e9 tokens at the seven budgets, and the exponent of D*, from an independent refit with numpy.polyfit.
TOKENS = {
    "commonpile": [1.745, 3.655, 5.581, 7.035, 12.61, 19.04, 26.16],
    "dclm": [1.652, 3.367, 5.003, 6.373, 11.36, 15.82, 22.99],
    "nemotron": [1.685, 3.527, 5.149, 6.440, 11.49, 17.04, 23.21],
}
EXPONENT = {
    "commonpile": (0.5724, -0.0490),
    "dclm": (0.5521, -0.0524),
    "nemotron": (0.5532, -0.0542),
}
LOSS_NEMOTRON = [3.7353, 3.5039, 3.3746, 3.2798, 3.0977, 2.9869, 2.9042]


@pytest.fixture(scope="module")
def suite():
    return load_suite("held2025")


@pytest.mark.parametrize("corpus", TOKENS)
def test_published_optima(suite, corpus):
    fit = fit_isoflop(suite[suite["corpus"] == corpus], loss="paloma_macro_loss")
    # the reference is printed with four digits
    np.testing.assert_allclose(fit.optima["num_tokens"] / 1e9, TOKENS[corpus], rtol=4e-4)
    exponent = fit.summary()["exponent"]
    assert exponent[["num_tokens", "loss"]].round(4).tolist() == pytest.approx(
        EXPONENT[corpus], abs=1e-9
    )
    if corpus == "nemotron":
        np.testing.assert_allclose(fit.optima["loss"], LOSS_NEMOTRON, atol=5e-5)


def planted(alpha=0.55, noise=0.0, seed=0):
    """Runs whose optimum is D* = 3 C**alpha by construction, C = 6 N D."""
    rng = np.random.default_rng(seed)
    parts = []
    for budget in np.geomspace(1e12, 1e14, 5):
        x = np.log10(3 * budget**alpha) + np.linspace(-0.7, 0.9, 8)
        loss = 4 * (budget / 1e13) ** -0.05 + 0.2 * (x - np.log10(3 * budget**alpha)) ** 2
        loss = loss + noise * rng.normal(size=8)
        parts.append(
            pd.DataFrame(
                {
                    "budget_flops": budget,
                    "num_tokens": 10**x,
                    "num_params": budget / 6 / 10**x,
                    "loss": loss,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def test_planted_law_is_recovered_exactly_without_noise():
    fit = fit_isoflop(planted())
    table = fit.summary()
    assert table.loc["num_tokens", "exponent"] == pytest.approx(0.55, abs=1e-9)
    assert table.loc["num_params", "exponent"] == pytest.approx(0.45, abs=1e-9)
    assert table.loc["num_tokens", "coefficient"] == pytest.approx(3, rel=1e-6)
    far = fit.predict(1e16).iloc[0]
    assert far["num_tokens"] == pytest.approx(3 * 1e16**0.55, rel=1e-6)


def test_vertex_error_is_of_the_right_size():
    """Over 200 draws the claimed standard error matches the true scatter within 20 % (5 degrees of freedom each)."""
    truth = np.log10(3 * np.geomspace(1e12, 1e14, 5) ** 0.55)
    optima = [fit_isoflop(planted(noise=0.005, seed=s)).optima for s in range(200)]
    errors = np.array([np.log10(o["num_tokens"]) - truth for o in optima])
    claimed = np.array([o["log10_tokens_stderr"] for o in optima])
    assert np.sqrt((claimed**2).mean()) == pytest.approx(errors.std(), rel=0.2)


@pytest.mark.parametrize("tokens, loss", [(1e-9, 1.0), (1e9, 1.0), (1.0, 1e-6), (7.0, 1e6)])
def test_units_scale(tokens, loss):
    rows = planted(noise=0.01)
    fit, other = (
        fit_isoflop(rows),
        fit_isoflop(rows.assign(num_tokens=rows.num_tokens * tokens, loss=rows.loss * loss)),
    )
    np.testing.assert_allclose(
        other.optima["num_tokens"], fit.optima["num_tokens"] * tokens, rtol=1e-9
    )
    np.testing.assert_allclose(other.optima["loss"], fit.optima["loss"] * loss, rtol=1e-9)
    np.testing.assert_allclose(other.summary()["exponent"], fit.summary()["exponent"], rtol=1e-7)
    assert list(other.optima["status"]) == list(fit.optima["status"])


def test_row_order_does_not_matter():
    rows = planted(noise=0.01)
    fit, other = fit_isoflop(rows), fit_isoflop(rows.sample(frac=1, random_state=3))
    pd.testing.assert_frame_equal(fit.optima, other.optima, check_exact=True)


def test_doubtful_budgets_fall_back_and_say_so():
    rows = planted()
    first, second, third = sorted(rows["budget_flops"].unique())[:3]
    one_sided = (rows["budget_flops"] != first) | (rows["num_tokens"] > rows.loc[3, "num_tokens"])
    flipped = rows["loss"].where(rows["budget_flops"] != second, 8 - rows["loss"])
    flat = flipped.where(rows["budget_flops"] != third, 4.0)
    rows = rows.assign(loss=flat)[one_sided]
    optima = fit_isoflop(rows).optima
    assert optima["status"].tolist() == ["edge", "not convex", "not convex", "interior", "interior"]
    assert optima["reason"].str.len().gt(0).tolist() == [True, True, True, False, False]
    best = rows.loc[rows[rows["budget_flops"] == first]["loss"].idxmin()]
    assert optima.loc[0, "num_tokens"] == pytest.approx(best["num_tokens"])
    assert optima.loc[0, "num_params"] == pytest.approx(best["num_params"])
    assert optima.loc[0, "loss"] == best["loss"]
    bowl = rows[rows["budget_flops"] == second]["loss"]
    assert optima.loc[1, "loss"] == bowl.min() < bowl.iloc[0]
    few = fit_isoflop(rows.groupby("budget_flops").head(2)).optima
    assert set(few["status"]) == {"too few"}


def test_refusals(suite):
    rows = planted()
    with pytest.raises(UserError, match="fit each alone"):
        fit_isoflop(suite, loss="paloma_macro_loss")
    with pytest.raises(UserError, match="rows lack bpb"):
        fit_isoflop(rows, loss="bpb")
    with pytest.raises(UserError, match="loss, rows 4"):
        fit_isoflop(rows.assign(loss=rows["loss"].where(rows.index != 4)))
    with pytest.raises(UserError, match="repeat a run_id"):
        fit_isoflop(rows.assign(run_id="a"))
    with pytest.raises(UserError, match="no rows"):
        fit_isoflop(rows[:0])
    with pytest.raises(UserError, match="two different"):
        fit_isoflop(rows[:8]).summary()
    with pytest.raises(UserError, match="positive and finite"):
        fit_isoflop(rows).predict(-1)


def test_frontier_smoothed_reads_the_optimum_and_nearest_a_run():
    rows = planted()
    fit = fit_isoflop(rows)
    slope = 0.1 * np.log10(rows["num_tokens"])
    long = pd.concat(
        [
            rows.assign(group="a", value=rows["loss"] + slope),
            rows.assign(group="b", value=2 * rows["loss"]),
        ]
    )
    smooth = frontier(fit, long)
    a = smooth[smooth["group"] == "a"]
    np.testing.assert_allclose(
        a["value"], fit.optima["loss"] + 0.1 * np.log10(fit.optima["num_tokens"]), rtol=1e-9
    )
    np.testing.assert_allclose(
        a["stderr"], 0, atol=1e-9
    )  # the group's values are a parabola exactly
    near = frontier(fit, long, how="nearest")
    assert set(near["num_tokens"]) <= set(rows["num_tokens"])
    assert set(near["value"]) <= set(long["value"])
    with pytest.raises(UserError, match="group 'b' has no run"):
        frontier(fit, long.iloc[:-8])
    with pytest.raises(UserError, match="smoothed"):
        frontier(fit, long, how="spline")


def test_plot_draws_every_budget():
    import matplotlib

    matplotlib.use("Agg")
    ax = fit_isoflop(planted()).plot()
    assert "tokens" in ax.get_xlabel() and len(ax.texts) == 5
