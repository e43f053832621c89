"""Compute-optimal points: published numbers, recovery, and what must not matter."""

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.laws.frontiers import FrontierDraws, bootstrap_frontier, frontier, read_frontier
from relscale.laws.isoflop import IsoFlopFit, fit_isoflop
from relscale.suites import load_suite

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
    fit = fit_isoflop(suite[suite["corpus"] == corpus], error="paloma_macro_loss")
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
        fit_isoflop(suite, error="paloma_macro_loss")
    with pytest.raises(UserError, match="rows lack bpb"):
        fit_isoflop(rows, error="bpb")
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


# ---- rules: N* and D* exponents of the published suite by other means (0.0006: the references have three digits)
LOSS = "paloma_macro_loss"
CORPORA = ("commonpile", "dclm", "nemotron")
RULES = {
    "akima": (0.604, 0.484, 0.488),
    "best": (0.600, 0.482, 0.482),
    "near": (0.602, 0.581, 0.573),
    "params": (0.4049, 0.4236, 0.4224),
}


@pytest.mark.parametrize("rule", RULES)
def test_published_fragility(suite, rule):
    for corpus, expected in zip(CORPORA, RULES[rule], strict=True):
        rows = suite[suite["corpus"] == corpus]
        if rule == "near":
            low = rows.groupby("budget_flops")[LOSS].transform("min")
            rows = rows[rows[LOSS] <= low + 0.25]
        method = rule if rule in ("akima", "best") else "parabola"
        by = "params" if rule == "params" else "tokens"
        table = fit_isoflop(rows, error=LOSS, method=method, by=by).summary()
        found = table.loc[f"num_{by}", "exponent"]
        assert found == pytest.approx(expected, abs=5e-5 if rule == "params" else 6e-4)


def published(suite, corpus="nemotron"):
    return suite[suite["corpus"] == corpus]


@pytest.mark.parametrize("by", ["tokens", "params"])
@pytest.mark.parametrize("delta", [1.0, 0.02, 0.002])
def test_huber_against_a_general_minimiser(suite, by, delta):
    """No lower summed Huber loss is found by Nelder-Mead from two starts; delta 1 is least squares to 1e-9."""
    from scipy.optimize import minimize

    rows = published(suite, "dclm")
    fit = fit_isoflop(rows, error=LOSS, method="huber", delta=delta, by=by)
    for (budget, part), optimum in zip(
        rows.groupby("budget_flops"), fit.optima.to_dict("records"), strict=True
    ):
        x, y = np.log10(part[f"num_{by}"].to_numpy(float)), part[LOSS].to_numpy()
        z = x - x.mean()

        def cost(c, z=z, y=y):
            r = np.abs(y - np.polyval(c, z))
            return np.sum(np.where(r <= delta, r * r / 2, delta * (r - delta / 2)))

        options = {"xatol": 1e-11, "fatol": 1e-18, "maxiter": 9000, "maxfev": 9000}
        best = min(
            (minimize(cost, np.polyfit(z, y, 2) + s, method="Nelder-Mead", options=options) for s in (0, 0.01)),
            key=lambda r: r.fun,
        ).x  # fmt: skip
        place = x.mean() - best[1] / (2 * best[0])
        if optimum["status"] == "interior":
            assert np.log10(optimum[f"num_{by}"]) == pytest.approx(place, abs=2e-5), budget
        else:
            assert optimum["status"] == "edge" and not x.min() < place < x.max()
    if delta == 1.0:
        plain = fit_isoflop(rows, error=LOSS, by=by).optima
        pd.testing.assert_frame_equal(fit.optima, plain, rtol=1e-9)


def test_akima_and_best_against_a_fine_grid(suite):
    from scipy.interpolate import Akima1DInterpolator

    rows = published(suite)
    akima = fit_isoflop(rows, error=LOSS, method="akima").optima
    best = fit_isoflop(rows, error=LOSS, method="best").optima
    for i, (_, part) in enumerate(rows.sort_values("num_tokens").groupby("budget_flops")):
        x, y = np.log10(part["num_tokens"].to_numpy(float)), part[LOSS].to_numpy()
        grid = np.linspace(x[0], x[-1], 40001)
        curve = Akima1DInterpolator(x, y)(grid)
        step = grid[1] - grid[0]  # the grid's own resolution
        assert np.log10(akima.loc[i, "num_tokens"]) == pytest.approx(grid[curve.argmin()], abs=step)
        assert akima.loc[i, "loss"] <= curve.min() + 1e-12
        assert best.loc[i, "num_tokens"] == pytest.approx(part["num_tokens"].iloc[y.argmin()])
        assert best.loc[i, "loss"] == y.min()
    assert set(akima["status"]) == {"interior"}


@pytest.mark.parametrize("method", ["parabola", "huber", "akima", "best"])
@pytest.mark.parametrize("by", ["tokens", "params"])
def test_methods_do_not_care_for_units_or_order(method, by):
    rows = planted(noise=0.01)
    fit = fit_isoflop(rows, method=method, by=by, delta=0.005)
    moved = rows.assign(
        num_tokens=rows["num_tokens"] * 1e6,
        num_params=rows["num_params"] * 1e5,
        budget_flops=rows["budget_flops"] * 1e11,
        loss=rows["loss"] * 7,
    )  # budgets up to 1e25
    other = fit_isoflop(moved.sample(frac=1, random_state=1), method=method, by=by, delta=0.035)
    np.testing.assert_allclose(
        other.optima["num_tokens"], fit.optima["num_tokens"] * 1e6, rtol=1e-7
    )
    np.testing.assert_allclose(
        other.optima["num_params"], fit.optima["num_params"] * 1e5, rtol=1e-7
    )
    np.testing.assert_allclose(other.summary()["exponent"], fit.summary()["exponent"], rtol=1e-6)
    low, high = (fit.summary("bootstrap", n_bootstrap=100)[c] for c in ("low", "high"))
    low2, high2 = (other.summary("bootstrap", n_bootstrap=100)[c] for c in ("low", "high"))
    assert (low < high).all()
    # a draw of few different runs can leave Huber's rule more than one solution
    np.testing.assert_allclose([low, high], [low2, high2], rtol=2e-3 if method == "huber" else 1e-5)


def test_unknown_options_are_refused():
    rows = planted()
    for options, said in [
        ({"method": "spline"}, "akima"), ({"by": "loss"}, "tokens"), ({"delta": 0}, "positive"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=said):
            fit_isoflop(rows, **options)
    fit = fit_isoflop(rows)
    with pytest.raises(UserError, match="bootstrap"):
        fit.summary("wild")
    with pytest.raises(UserError, match="at least 100"):
        fit.summary("bootstrap", n_bootstrap=10)


# ---- influence
@pytest.mark.parametrize("method", ["parabola", "akima"])
def test_influence_is_what_leaving_out_does(method):
    rows = planted(noise=0.01).assign(run_id=lambda r: "run-" + r.index.astype(str))
    fit = fit_isoflop(rows, method=method)
    table = fit.influence()
    assert len(table) == len(rows)
    for k in (0, 11, 17, 39):
        out = fit_isoflop(fit.rows.drop(index=k), method=method)
        b = list(fit.optima["budget_flops"]).index(fit.rows.loc[k, "budget_flops"])
        moved = np.log10(out.optima.loc[b, "num_tokens"] / fit.optima.loc[b, "num_tokens"])
        row = table.loc[k]
        assert row["log10_tokens_shift"] == pytest.approx(moved, abs=1e-10)
        assert row["loss_shift"] == pytest.approx(
            out.optima.loc[b, "loss"] - fit.optima.loc[b, "loss"], abs=1e-10
        )
        exponent = out.summary().exponent["num_tokens"] - fit.summary().exponent["num_tokens"]
        assert row["exponent_shift"] == pytest.approx(exponent, abs=1e-10)
        assert row["status_without"] == out.optima.loc[b, "status"]
        # the deleted residual from a fit that never saw the run
        part = fit.rows[fit.rows["budget_flops"] == row["budget_flops"]]
        x, y = np.log10(part["num_tokens"].to_numpy(float)), part["loss"].to_numpy()
        keep, here = part.index != k, np.log10(fit.rows.loc[k, "num_tokens"])
        basis, at = np.vander(x[keep], 3), np.vander([here], 3)[0]
        coef, rss = np.linalg.lstsq(basis, y[keep], rcond=None)[:2]
        off = fit.rows.loc[k, "loss"] - at @ coef
        scale = np.sqrt(rss[0] / (len(y) - 4) * (1 + at @ np.linalg.solve(basis.T @ basis, at)))
        assert row["off"] == pytest.approx(off, rel=1e-6)
        assert row["studentised"] == pytest.approx(off / scale, rel=1e-5)


def test_bonferroni_keeps_its_promise_and_a_bad_run_is_named():
    """Of 80 clean fits 5 % may name a run: some, and at most 15 % (four standard errors above)."""
    clean = [planted(noise=0.005, seed=s) for s in range(80)]
    named = np.mean([fit_isoflop(r).influence()["suspect"].any() for r in clean])
    assert 0 < named < 0.15
    rows = clean[0].assign(run_id=lambda r: "run-" + r.index.astype(str))
    rows.loc[20, "loss"] += 0.2
    fit = fit_isoflop(rows)
    table = fit.influence()
    assert table.loc[table["suspect"], "run"].tolist() == ["run-20"]
    assert "above" in table.loc[20, "reason"]
    assert "suspect run-20: 0.19" in repr(fit) and "suspect run-20" in fit._repr_html_()
    import matplotlib

    matplotlib.use("Agg")
    assert [t.get_text() for t in fit.plot().get_legend().get_texts()] == ["suspect run"]


def test_exact_data_and_small_budgets_accuse_nobody():
    assert not fit_isoflop(planted()).influence()["suspect"].any()
    few = fit_isoflop(planted(noise=0.01).groupby("budget_flops").head(4)).influence()
    assert few["p_value"].isna().all() and not few["suspect"].any()
    lone = fit_isoflop(planted().groupby("budget_flops").head(1)).influence()
    assert set(lone["status_without"]) == {"no run"}


# ---- the array core
def suites(seed, n_suites=6, n_groups=3):
    """Random suites: budgets of 2 to 12 runs with repeats and minima inside, outside and absent."""
    rng = np.random.default_rng(seed)
    sizes = [2, 3, 4, 6, 12]
    which = np.repeat(np.arange(len(sizes)), sizes)
    x = np.concatenate([np.round(rng.uniform(9, 11, n), 1) for n in sizes])
    bend = rng.choice([-0.3, 0.3, 0.5], size=(n_suites, len(sizes)))[:, which]
    middle = rng.uniform(8.5, 11.5, size=(n_suites, len(sizes)))[:, which]
    tilt = 0.1 * np.arange(n_groups)[:, None] * (x - 10)
    values = 3 + (bend * (x - middle) ** 2)[:, None] + tilt
    values = values + 0.02 * rng.normal(size=values.shape)
    return x, which, values.mean(axis=1), values


@pytest.mark.parametrize("how", ["smoothed", "nearest"])
@pytest.mark.parametrize("seed", range(4))
def test_read_frontier_is_fit_isoflop_and_frontier(seed, how):
    """To 1e-9, through different algebra, for every status, rows in any order; ties go to the first run_id."""
    x, which, loss, values = suites(seed)
    optimum, log_values, interior = read_frontier(x, which, loss, values, how=how)
    seen = set()
    for s in range(len(loss)):
        runs = pd.DataFrame(
            {"run_id": [f"{i:03d}" for i in range(len(x))], "budget_flops": 1e18 * 3.0**which,
             "num_tokens": 10**x, "num_params": 1e9, "loss": loss[s]}
        )  # fmt: skip
        long = pd.concat([runs.assign(group=g, value=v) for g, v in enumerate(values[s])])
        fit = fit_isoflop(runs.sample(frac=1, random_state=s))
        points = frontier(fit, long.sample(frac=1, random_state=s).sort_values("group"), how=how)
        np.testing.assert_allclose(
            optimum[s], np.log10(fit.optima["num_tokens"]), rtol=0, atol=1e-9
        )
        assert interior[s].tolist() == (fit.optima["status"] == "interior").tolist()
        read = points["value"].to_numpy(float).reshape(3, -1)
        np.testing.assert_allclose(np.exp(log_values[s]), read, rtol=1e-9)
        seen |= set(fit.optima["status"])
    assert seen == {"interior", "edge", "not convex", "too few"}


def test_weights_are_repeated_runs_and_leading_axes_broadcast():
    x, which, loss, values = suites(9)
    weights = np.random.default_rng(0).integers(0, 4, size=(5, 1, len(x))).astype(float)
    weights[..., [0, 2, 5, 9, 15]] += 1  # at least one run a budget
    optimum, log_values, interior = read_frontier(x, which, loss, values, weights)
    assert optimum.shape == (5, 6, 5) and log_values.shape == (5, 6, 3, 5) == (
        *interior.shape[:2],
        3,
        5,
    )
    for draw in range(5):
        i = np.repeat(np.arange(len(x)), weights[draw, 0].astype(int))
        again = read_frontier(x[i], which[i], loss[:, i], values[..., i])
        np.testing.assert_allclose(optimum[draw], again[0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(log_values[draw], again[1], rtol=0, atol=1e-9)
        assert (interior[draw] == again[2]).all()
    scaled = read_frontier(x, which, loss, values, weights * 1e6)
    np.testing.assert_allclose(scaled[1], log_values, rtol=0, atol=1e-10)


# ---- the bootstrap of the frontier
def measured(seed=0, noise=0.002, shared=0.004, n_groups=3, evaluation=0.0):
    """Runs with their macro loss, and a long frame of groups whose errors share each run's luck."""
    runs = planted().assign(run_id=lambda r: "run-" + r.index.astype(str))
    runs["train_flops"] = runs["budget_flops"] * 3
    rng = np.random.default_rng(seed)
    luck = shared * rng.normal(size=len(runs))
    parts = []
    for g in range(n_groups):
        tilt = 1 + 0.02 * g * np.log10(runs["num_tokens"] / 1e8)
        values = runs["loss"] * tilt * np.exp(luck + noise * rng.normal(size=len(runs)))
        parts.append(runs.assign(group=f"g{g}", value=values, stderr=evaluation * values))
    long = pd.concat(parts, ignore_index=True)
    means = long.groupby("run_id")["value"].mean()
    return runs.assign(loss=runs["run_id"].map(means)), long


def brute(fit, long, scheme, n, seed=5):
    """The same two bootstraps, one draw at a time, by polyfit on frames."""
    rng = np.random.default_rng(seed)
    wide = (
        long.pivot(index="run_id", columns="group", values="value")
        .loc[fit.rows["run_id"]]
        .to_numpy()
        .T
    )
    budgets = fit.rows["budget_flops"].to_numpy()
    x = np.log10(fit.rows["num_tokens"].to_numpy())
    out = []
    for _ in range(n):
        draw = []
        for budget in np.unique(budgets):
            at = np.flatnonzero(budgets == budget)
            z, y = x[at] - x[at].mean(), wide[:, at]
            if scheme == "runs":
                while len(set(z[i := rng.integers(len(at), size=len(at))])) < 3:
                    pass
                z, y = z[i], y[:, i]
            else:
                design = np.vander(z, 3)
                hat = design @ np.linalg.inv(design.T @ design) @ design.T
                curve = y @ hat
                sign = rng.choice([-1, 1], size=len(at)) * np.sqrt(
                    rng.choice([0.5, 1, 1.5], size=len(at))
                )
                y = curve * np.exp(sign * np.log(y / curve) / np.sqrt(1 - np.diag(hat)))
            macro = y.mean(axis=0)
            a, b, _ = np.polyfit(z, macro, 2)
            place = -b / (2 * a)
            if a <= 0 or not z.min() <= place <= z.max():
                place = z[macro.argmin()]
            draw.append(
                [place + x[at].mean(), *(np.log(np.polyval(np.polyfit(z, v, 2), place)) for v in y)]
            )
        out.append(draw)
    return np.moveaxis(np.array(out), 2, 1)  # (draws, 1 + groups, budgets)


@pytest.mark.parametrize("scheme", ["residuals", "runs"])
def test_bootstrap_is_the_brute_force_one(scheme):
    """Means within 5 standard errors; spreads, of ratios too, within 20 %, or 40 % for runs: there a few draws of few
    runs carry the spread (of 20000 against 8000 draws it agreed within 9 %)."""
    runs, long = measured()
    fit = fit_isoflop(runs)
    draws = bootstrap_frontier(fit, long, scheme=scheme, n_bootstrap=4000)
    slow = brute(fit, long, scheme, 800)
    ratio = draws.log_values[:, 1:] - draws.log_values[:, :1]
    for mine, theirs in [
        (draws.log10_tokens, slow[:, 0]), (draws.log_values, slow[:, 1:]),
        (ratio, slow[:, 2:] - slow[:, 1:2]),
    ]:  # fmt: skip
        sd = theirs.std(axis=0)
        assert (np.abs(mine.mean(axis=0) - theirs.mean(axis=0)) < 5 * sd / np.sqrt(700)).all()
        np.testing.assert_allclose(mine.std(axis=0), sd, rtol=0.2 if scheme == "residuals" else 0.4)
    assert draws.macro and draws.scale == "train_flops" and draws.groups == ("g0", "g1", "g2")
    np.testing.assert_allclose(np.exp(draws.log_scale), 3 * draws.budgets)


def test_residual_draws_know_the_true_scatter_and_share_the_luck():
    """Over 40 suites the claimed variances of a value and of a ratio match the true ones within 35 % (40 suites x 5
    budgets know them to 10 %, draws of budgets with 5 free residuals add their own scatter)."""
    runs, long = measured(0, 0.0, 0.0)
    truth = frontier(fit_isoflop(runs), long)["value"].to_numpy(float)
    errors, claims = [], []
    for seed in range(40):
        runs, long = measured(seed)
        draws = bootstrap_frontier(fit_isoflop(runs), long, n_bootstrap=200)
        off = np.log(draws.points["value"].to_numpy(float) / truth).reshape(3, 5)
        errors.append([off[1], off[1] - off[0]])
        logs = draws.log_values
        claims.append([logs[:, 1].var(axis=0), (logs[:, 1] - logs[:, 0]).var(axis=0)])
    true, claimed = np.square(errors).mean(axis=(0, 2)), np.mean(claims, axis=(0, 2))
    assert claimed == pytest.approx(true, rel=0.35)
    assert claimed[1] < claimed[0]  # signs of each group's own would make it twice as large


def test_bootstrap_modes():
    runs, long = measured(evaluation=0.03)
    fit = fit_isoflop(runs)
    smooth = bootstrap_frontier(fit, long, n_bootstrap=200)
    noisy = bootstrap_frontier(fit, long, n_bootstrap=200, evaluation_noise=True)
    near = bootstrap_frontier(fit, long, how="nearest", scheme="runs", n_bootstrap=500)
    bare = bootstrap_frontier(
        fit, long, how="nearest", scheme="runs", n_bootstrap=500, evaluation_noise=False
    )
    assert (smooth.evaluation_noise, noisy.evaluation_noise, near.evaluation_noise) == (
        False,
        True,
        True,
    )
    spread = [d.log_values.std(axis=0).mean() for d in (smooth, noisy, bare, near)]
    assert spread[1] > 1.2 * spread[0] and spread[3] > 1.2 * spread[2]
    again = bootstrap_frontier(
        fit, long.sample(frac=1, random_state=0).sort_values("group"), n_bootstrap=200
    )
    np.testing.assert_allclose(again.log_values, smooth.log_values, rtol=0, atol=1e-12)
    other = bootstrap_frontier(fit, long, n_bootstrap=200, seed=1)
    assert np.abs(other.log_values - smooth.log_values).max() > 1e-4
    # a loss that is not the mean over groups has residuals of its own and the same signs: nearly the same draws
    held = bootstrap_frontier(fit, long, n_bootstrap=200, macro=False)
    assert not bootstrap_frontier(
        fit_isoflop(runs.assign(loss=runs["loss"] * 2)), long, n_bootstrap=100
    ).macro
    np.testing.assert_allclose(held.log_values, smooth.log_values, rtol=0, atol=2e-3)
    table = smooth.summary()
    assert (table["low"] < table["value"]).mean() > 0.9 < (table["high"] > table["value"]).mean()


def test_budgets_without_residuals_borrow_them():
    runs, long = measured()
    first = runs["budget_flops"].min()
    drop = runs[runs["budget_flops"] == first]["run_id"].iloc[[0, 1, 5, 6, 7]]
    thin, kept = runs[~runs["run_id"].isin(drop)], long[~long["run_id"].isin(drop)]
    draws = bootstrap_frontier(fit_isoflop(thin), kept, n_bootstrap=300)
    spread = draws.log_values.std(axis=0)
    assert (spread[:, 0] > spread[:, 1:].min()).all()  # three runs tell less than eight
    three = thin.groupby("budget_flops").head(3)
    with pytest.raises(UserError, match="fourth shape"):
        bootstrap_frontier(fit_isoflop(three), kept[kept["run_id"].isin(three["run_id"])])


def test_bootstrap_refusals():
    runs, long = measured()
    fit = fit_isoflop(runs)
    for rows, options, said in [
        (long[1:], {}, "group 'g0' has no row of run"), (long, {"scheme": "pairs"}, "residuals"),
        (pd.concat([long, long[:1]]), {}, "two rows"), (long, {"n_bootstrap": 9}, "at least 100"),
        (long.drop(columns="stderr"), {"evaluation_noise": True}, "stderr"),
        (long.assign(value=long["value"] - 5), {}, "positive"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=said):
            bootstrap_frontier(fit, rows, **options)
    with pytest.raises(UserError, match="not in the fit"):
        bootstrap_frontier(fit_isoflop(runs[:-1]), long)
    with pytest.raises(UserError, match="akima"):
        bootstrap_frontier(fit_isoflop(runs, method="akima"), long)


def test_json_both_ways(suite):
    for fit in (
        fit_isoflop(published(suite), error=LOSS),
        fit_isoflop(planted(), method="huber", delta=0.1, by="params"),
    ):
        back = IsoFlopFit.from_json(fit.to_json())
        pd.testing.assert_frame_equal(back.rows, fit.rows)
        pd.testing.assert_frame_equal(back.optima, fit.optima, check_exact=True)
        pd.testing.assert_frame_equal(back.summary(), fit.summary(), check_exact=True)
        assert repr(back) == repr(fit) and (back.method, back.by, back.delta) == (
            fit.method,
            fit.by,
            fit.delta,
        )
    runs, long = measured()
    draws = bootstrap_frontier(fit_isoflop(runs), long, n_bootstrap=100)
    back = FrontierDraws.from_json(draws.to_json())
    pd.testing.assert_frame_equal(back.summary(), draws.summary(), check_exact=True)
    assert repr(back) == repr(draws) and back.to_json() == draws.to_json()


def test_bootstrap_is_fast(suite):
    """255 runs, three groups, 1000 draws, both schemes: 10 s are allowed, a tenth of a second is usual."""
    import time

    key = ["budget_flops", "num_tokens", "num_params"]
    long = suite.assign(group=suite["corpus"], value=suite[LOSS])[[*key, "group", "value"]]
    fit = fit_isoflop(long.groupby(key, as_index=False)["value"].mean(), error="value")
    start = time.perf_counter()
    for scheme in ("residuals", "runs"):
        assert bootstrap_frontier(fit, long, scheme=scheme, n_bootstrap=1000).log_values.shape == (
            1000,
            3,
            7,
        )
    assert time.perf_counter() - start < 10
