"""Forecasts in two stages: planted laws, independent transcriptions, coverage, invariance, faults."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.laws.backtests import Backtest, backtest
from relscale.laws.conformal import MemberForecasts, forecast_members
from relscale.laws.forecast import Forecast, fit_forecast, pair_scores
from relscale.suites import load_scores, load_suite


def error_at(flops):
    return 0.5 + 0.6 * (flops / 3e20) ** -0.16


def score_at(error, chance=0.25, ceiling=1.0):
    return chance + (ceiling - chance) / (1 + np.exp(6 * (error - 0.95)))


def made_up(flops, rng, error_sd=0.012, score_sd=0.01, rho=0.0, link=score_at):
    a, b = rng.normal(size=(2, len(flops)))
    error = error_at(flops) * np.exp(error_sd * a)
    score = link(error) + score_sd * (rho * a + np.sqrt(1 - rho**2) * b)
    return pd.DataFrame({"train_flops": flops, "loss": error, "score": np.clip(score, 0, 1)})


FLOPS = np.geomspace(3e18, 3e22, 24)


@pytest.fixture(scope="module")
def ladder():
    return made_up(FLOPS, np.random.default_rng(0))


def parameters(fit):
    table = fit.summary()
    return table[table["parameter"] != "sigma"].set_index(["stage", "parameter"])


def test_planted_parameters_come_back_as_often_as_their_intervals_say():
    """95 % intervals of 80 draws and 4 parameters: standard error 2.4 % each, so 88 to 100 %."""
    rng, hits = np.random.default_rng(1), np.zeros(4)
    truth = [0.5, 0.16, 0.95, 6.0]
    for _ in range(80):
        found = parameters(fit_forecast(made_up(FLOPS, rng), chance=0.25, windows=0))
        rows = found.loc[[(1, "floor"), (1, "slope"), (2, "midpoint"), (2, "steepness")]]
        hits += (rows["low"] <= truth) & (truth <= rows["high"])
    assert (hits >= 0.88 * 80).all(), hits


def test_without_noise_all_parameters_are_exact():
    """All four of the sigmoid free; the bound is the solver's stop, 1e-9 a step, times a poor condition."""
    exact = made_up(FLOPS, np.random.default_rng(0), 0, 0, link=lambda e: score_at(e, 0.2, 0.9))
    value = parameters(fit_forecast(exact, chance="free", ceiling="free"))["value"]
    assert value[1].to_dict() == pytest.approx(
        {"floor": 0.5, "gain": 0.6 * (np.sqrt(3e18 * 3e22) / 3e20) ** -0.16, "slope": 0.16},
        rel=1e-4,
    )
    assert value[2].to_dict() == pytest.approx(
        {"chance": 0.2, "ceiling": 0.9, "midpoint": 0.95, "steepness": 6.0}, rel=1e-4
    )


def test_params_and_tokens_come_back():
    rng, (n, d) = (
        np.random.default_rng(2),
        np.meshgrid(np.geomspace(1e8, 3e9, 6), [1e9, 1e10, 1e11]),
    )
    n, d = n.ravel(), d.ravel()
    error = (0.5 + 0.3 * (n / 1e9) ** -0.3 + 0.2 * (d / 1e10) ** -0.35) * np.exp(
        0.003 * rng.normal(size=18)
    )
    rows = pd.DataFrame({"n": n, "d": d, "loss": error, "score": score_at(error)})
    fit = fit_forecast(rows, scale=("n", "d"), law="params_tokens", chance=0.25)
    found = parameters(fit).loc[1]
    for name, true in (("floor", 0.5), ("params_slope", 0.3), ("tokens_slope", 0.35)):
        assert found.loc[name, "low"] < true < found.loc[name, "high"], name
    far = fit.predict([[1e10, 1e12]]).iloc[0]
    true = score_at(0.5 + 0.3 * 10**-0.3 + 0.2 * 100**-0.35)
    assert far["low"] < true < far["high"] and far["high"] - far["low"] < 0.2
    # along one length size and tokens grow together, and no fit can tell their slopes apart
    line = rows.assign(d=20 * rows["n"], loss=error_at(6 * 20 * rows["n"] ** 2))
    tied = fit_forecast(line, scale=("n", "d"), law="params_tokens", chance=0.25)
    assert "tell the parameters apart" in tied.status and tied.predict(line)["low"].isna().all()


@pytest.mark.parametrize("together, n", [(0.0, 8), (-0.6, 12)])
def test_coverage(together, n):
    """150 worlds each, ten times beyond the data: standard error 1.8 %, so 89 to 100 %, three errors below 95 %."""
    rng, flops = np.random.default_rng(3), np.geomspace(3e19, 1e22, n)
    truth, curve, new = score_at(error_at(1e23)), 0, 0
    for _ in range(150):
        made = made_up(np.append(flops, 1e23), rng, rho=together)
        at = fit_forecast(made[:-1], chance=0.25, windows=0).predict(1e23).iloc[0]
        curve += at["low"] <= truth <= at["high"]
        new += at["new_low"] <= made["score"].iloc[-1] <= at["new_high"]
    assert curve >= 0.89 * 150 and new >= 0.89 * 150, (curve, new)


def test_a_new_model_needs_both_scatters():
    """Many models, so that the parameters are known: then the interval is the two scatters through the link."""
    rng, flops = np.random.default_rng(4), np.geomspace(3e18, 3e22, 2000)
    at = fit_forecast(made_up(flops, rng, rho=0.5), chance=0.25, windows=0).predict(3e20).iloc[0]
    e = error_at(3e20)
    tangent = (score_at(e * 1.0001) - score_at(e / 1.0001)) / 0.0002
    half = 1.96 * np.sqrt((0.012 * tangent) ** 2 + 2 * tangent * 0.012 * 0.01 * 0.5 + 0.01**2)
    # 2000 models leave 1.6 % on each scatter and 2 % on their correlation
    assert (at["new_high"] - at["new_low"]) / 2 == pytest.approx(half, rel=0.06)
    assert at["high"] - at["low"] < 0.1 * half


def test_linear_link_and_power_law_equal_the_closed_form(ladder):
    """Two straight lines: least squares, and the joint variance written out with numpy alone."""
    rows = ladder[["train_flops", "loss", "score"]].to_numpy()
    x, y, z, s = np.log(rows[:, 0]), np.log(rows[:, 1]), rows[:, 1], rows[:, 2]
    one, two = np.stack([np.ones(24), x], 1), np.stack([np.ones(24), z], 1)
    a, b = (np.linalg.lstsq(m, v, rcond=None)[0] for m, v in ((one, y), (two, s)))
    r, q = y - one @ a, s - two @ b
    cov = np.array([[r @ r, r @ q], [r @ q, q @ q]]) / 22
    u = np.log(1e24)
    e = np.exp(a[0] + a[1] * u)
    c = np.stack(
        [b[1] * e * np.array([1, u]) @ np.linalg.pinv(one), np.array([1, e]) @ np.linalg.pinv(two)]
    )
    v = np.array([b[1] * e, 1.0])
    known, all_of_it = np.einsum("in,ij,jn->", c, cov, c), v @ cov @ v
    at = fit_forecast(ladder, law="power", link="linear").predict(1e24).iloc[0]
    t = 2.073873  # Student, 22 degrees of freedom
    value = b[0] + b[1] * e
    want = [value, value - t * np.sqrt(known), value + t * np.sqrt(known)]
    want += [value - t * np.sqrt(known + all_of_it), value + t * np.sqrt(known + all_of_it)]
    got = at[["value", "low", "high", "new_low", "new_high"]]
    np.testing.assert_allclose(got, want, rtol=1e-5)  # the slope of the link is a finite difference


def test_stages_equal_scipy_curve_fit(ladder):
    from scipy.optimize import curve_fit

    rows = ladder.to_numpy()

    def law(f, floor, gain, slope):
        return np.log(floor + gain * (f / 3e20) ** -slope)

    def link(e, c, k, m):
        return c + (1 - c) / (1 + np.exp(k * (e - m)))

    a, cov_a = curve_fit(law, rows[:, 0], np.log(rows[:, 1]), p0=[0.4, 0.5, 0.2])
    b, cov_b = curve_fit(link, rows[:, 1], rows[:, 2], p0=[0.2, 5.0, 1.0])
    found = parameters(fit_forecast(ladder, chance="free"))
    mine = found.loc[[(1, "floor"), (1, "slope"), (2, "chance"), (2, "steepness"), (2, "midpoint")]]
    np.testing.assert_allclose(mine["value"], [a[0], a[2], *b], rtol=1e-3)
    errors = np.sqrt(np.concatenate([np.diag(cov_a)[[0, 2]], np.diag(cov_b)]))
    np.testing.assert_allclose(mine["stderr"], errors, rtol=1e-2)


def test_units_and_order_do_not_matter(ladder):
    base = fit_forecast(ladder, chance=0.25).predict([1e20, 1e24]).iloc[:, 2:]
    for other, scale in (
        (ladder.assign(train_flops=ladder["train_flops"] * 1e-15), 1e-15),
        (ladder.assign(loss=ladder["loss"] * 0.693), 1.0),
        (ladder.sample(frac=1, random_state=0), 1.0),
    ):
        again = fit_forecast(other, chance=0.25).predict(np.array([1e20, 1e24]) * scale)
        np.testing.assert_allclose(again.iloc[:, 2:], base, rtol=1e-5)


@pytest.mark.parametrize("chance", [0.0, 0.25, "free"])
def test_forecasts_stay_between_chance_and_ceiling(chance):
    """Noisy scores near chance, and forecasts far below and far above the data."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        rows = made_up(FLOPS[:10], rng, error_sd=0.03, score_sd=0.03)
        at = fit_forecast(rows, chance=chance, ceiling=0.9, windows=2).predict(
            np.geomspace(1e15, 1e28, 9)
        )
        least = 0.0 if chance == "free" else chance
        inner = at[["low", "value", "high"]].dropna().to_numpy()
        assert (inner >= least - 1e-12).all() and (inner <= 0.9 + 1e-12).all()
        assert (np.diff(inner, axis=1) >= 0).all()
        outer = at.dropna()
        assert (outer["new_low"] <= outer["low"]).all() and (
            outer["new_high"] >= outer["high"]
        ).all()
        assert outer["new_low"].min() >= 0 and outer["new_high"].max() <= 1


def test_doubtful_fits_say_so(ladder):
    rng = np.random.default_rng(6)
    guess = ladder.assign(score=0.25 + 0.01 * rng.normal(size=24))
    assert "slope within its error of zero" in fit_forecast(guess, chance=0.25).status
    fall = ladder.assign(score=ladder["score"].to_numpy()[::-1])
    assert fit_forecast(fall, chance=0.1).status != "ok"
    worse = ladder.assign(loss=ladder["loss"].to_numpy()[::-1])
    assert "does not fall" in fit_forecast(worse, chance=0.25).status
    assert "does not fall" in fit_forecast(worse, chance=0.25, law="power").status
    wrong = ladder.assign(
        score=1 - ladder["score"]
    )  # a share of wrong answers rises with the error
    # a line may rise, and through a sigmoid's points it is contradicted
    assert fit_forecast(wrong, link="linear").status == "stage two: contradicted by the points"
    still = fit_forecast(ladder.assign(score=0.5), chance=0.25)
    assert still.status != "ok" and still.predict(1e24)["value"].item() == pytest.approx(0.5)
    few = fit_forecast(ladder[::8], chance=0.25)
    assert "no degrees of freedom" in few.status and few.predict(1e24)[
        ["low", "new_high"]
    ].isna().all(axis=None)
    foot = fit_forecast(made_up(FLOPS[:10], rng), chance=0.25, ceiling="free")
    wide = foot.predict(1e26).iloc[0]  # a ceiling that no model came near
    assert foot.status != "ok" or wide["high"] - wide["low"] > 0.1


def test_backtest_holds_out_what_it_says(ladder):
    test = backtest(ladder.assign(run_id=[f"r{i}" for i in range(24)]), holdout=3, chance=0.25)
    cuts = ladder["train_flops"].nlargest(3).to_numpy()[::-1]
    assert test.table.groupby("cut").size().to_dict() == dict(zip(cuts, (3, 2, 1), strict=True))
    assert (test.table["train_flops"] >= test.table["cut"]).all()
    alone = fit_forecast(ladder[:21], chance=0.25).predict(FLOPS[21:])
    first = test.table[test.table["cut"] == cuts[0]]
    np.testing.assert_array_equal(first["predicted"], alone["value"])
    np.testing.assert_array_equal(first["observed"], ladder["score"][21:])
    inside = (alone["new_low"] <= ladder["score"][21:].to_numpy()) & (
        ladder["score"][21:].to_numpy() <= alone["new_high"]
    )
    assert list(first["inside"]) == list(inside)
    last = test.summary().iloc[-1]
    assert last["cut"] == "all" and last["n"] == 6 and last["inside"] == test.table["inside"].sum()
    changed = ladder.copy()  # what is held out must not reach the fit
    changed.loc[21:, "score"] = 0.0
    blind = backtest(changed, holdout=[cuts[0]], chance=0.25).table
    np.testing.assert_array_equal(blind["predicted"], first["predicted"])
    assert (blind["inside"] == 0).all()
    no_change = np.abs(ladder["score"][20] - first["observed"])
    np.testing.assert_allclose(first["no_change_error"], no_change)


def test_json_and_pictures(ladder):
    import matplotlib

    matplotlib.use("Agg")
    pair = ladder.assign(
        n=ladder["train_flops"] ** 0.5, d=ladder["train_flops"] ** 0.5 * np.tile([1, 5], 12)
    )
    two = fit_forecast(pair, scale=("n", "d"), law="params_tokens", chance=0.25)
    for fit, at in ((fit_forecast(ladder, chance="free"), 1e24), (two, [[1e12, 1e12]])):
        again = Forecast.from_json(fit.to_json())
        pd.testing.assert_frame_equal(again.predict(at), fit.predict(at), check_exact=True)
        pd.testing.assert_frame_equal(again.summary(), fit.summary(), check_exact=True)
        assert repr(again) == repr(fit) and again.scale == fit.scale
        for stage in ("one", "two", "both"):
            ax = fit.plot(stage=stage)
            assert ax.get_xlabel() and ax.get_ylabel()
            matplotlib.pyplot.close(ax.figure)
    test = backtest(ladder, holdout=2, chance=0.25)
    again = Backtest.from_json(test.to_json())
    pd.testing.assert_frame_equal(again.table, test.table, check_exact=True)
    ax = again.plot()
    matplotlib.pyplot.close(ax.figure)


def test_refusals(ladder):
    for broken, message in (
        (lambda: fit_forecast(ladder, law="cubic"), "law='cubic': choose"),
        (lambda: fit_forecast(ladder, link="probit"), "link='probit': choose"),
        (lambda: fit_forecast(ladder, scale=("a", "b")), "takes one column"),
        (lambda: fit_forecast(ladder, law="params_tokens"), "takes a pair"),
        (lambda: fit_forecast(ladder, score="acc"), "rows lack acc"),
        (
            lambda: fit_forecast(ladder.assign(score=50.0)),
            "score, rows 0, 1, 2, 3, 4.*from 0.: must be fractions",
        ),
        (lambda: fit_forecast(ladder.assign(loss=np.nan)), "loss, rows 0"),
        (lambda: fit_forecast(ladder.assign(score=0.5, loss=1.0)), "loss has 1 different"),
        (lambda: fit_forecast(ladder, chance=0.5, ceiling=0.4), "chance < ceiling"),
        (lambda: fit_forecast(ladder, link="linear", ceiling=0.9), "no chance or ceiling"),
        (lambda: fit_forecast(ladder, chance=0.2).predict([1e20, 0]), "positive and finite"),
        (
            lambda: fit_forecast(ladder, chance=0.2).predict(ladder[["loss"]]),
            "rows lack train_flops",
        ),
        (lambda: fit_forecast(ladder, chance=0.2).plot(stage="three"), "choose 'both'"),
        (lambda: backtest(ladder, holdout=24), "hold out 1 to 23"),
        (lambda: backtest(ladder, holdout=[1e30]), "24 rows below and 0 above"),
        (lambda: backtest(ladder, scale=("a", "b"), law="params_tokens"), "say by which column"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            broken()
        assert "\n" not in str(caught.value)


def test_pair_scores_puts_two_metrics_of_a_run_side_by_side():
    runs, scores = load_suite("olmo_ladder"), load_scores("olmo_ladder")
    rows = pair_scores(runs, scores, task="mmlu_test", score="accuracy_per_char")
    assert len(rows) == 30 * 4 and rows[["bits_per_byte", "accuracy_per_char"]].notna().all(
        axis=None
    )
    row = rows[(rows["run_id"] == "3B-10xC") & (rows["group"] == "stem")].iloc[0]
    mine = scores[
        (scores["run_id"] == "3B-10xC")
        & (scores["task"] == "mmlu_test")
        & (scores["group"] == "stem")
    ]
    for metric in ("bits_per_byte", "accuracy_per_char"):
        assert row[metric] == mine.loc[mine["metric"] == metric, "value"].item()
    with pytest.raises(UserError, match="no group 'art'"):
        pair_scores(runs, scores, task="mmlu_test", score="accuracy_per_char", group="art")


def test_import_is_light():
    code = "import sys, relscale.laws.stages; print([m for m in ('jax', 'lmfit', 'scipy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stage_two_is_judged_at_the_error_that_was_reached(ladder):
    """A straight link, written out with numpy: the held-out error goes in, and not its forecast."""
    train, held = ladder[:21], ladder[21:]
    line = np.polyfit(train["loss"], train["score"], 1)
    test = backtest(ladder, holdout=[held["train_flops"].min()], law="power", link="linear")
    wanted = np.abs(np.polyval(line, held["loss"]) - held["score"])
    np.testing.assert_allclose(test.table["stage_two_error"], wanted, rtol=1e-6)
    assert (np.abs(test.table["predicted_error"] - held["loss"].to_numpy()) > 1e-3).any()


def test_members_equal_prediction_intervals_written_out():
    """A power law a member: numpy's line and scipy's quantile give the first two intervals, to rounding."""
    from scipy.stats import t

    rng, flops = np.random.default_rng(7), np.geomspace(1e19, 1e21, 12)
    y = np.log(flops) * -0.06 + 3 + 0.03 * rng.normal(size=(3, 12))
    rows = members(flops, y)
    fit = forecast_members(rows, level=0.9)
    at = fit.predict(3e21)
    u, far = np.log(flops), np.log(3e21)
    for k in range(3):
        line = np.polyfit(u, y[k], 1)
        sigma = np.sqrt(np.sum((y[k] - np.polyval(line, u)) ** 2) / 10)
        known = 1 / 12 + (far - u.mean()) ** 2 / np.sum((u - u.mean()) ** 2)
        q = t.ppf(0.95, 10) * sigma
        want = np.polyval(line, far) + np.array(
            [-q * known**0.5, q * known**0.5, -q * (1 + known) ** 0.5]
        )
        got = np.log(at.loc[k, ["low", "high", "new_low"]].to_numpy(float))
        np.testing.assert_allclose(got, want, rtol=1e-7)


def members(flops, log_error):
    count = len(log_error)
    return pd.DataFrame(
        {
            "run_id": np.tile([f"r{i:02}" for i in range(len(flops))], count),
            "group": np.repeat([f"g{k}" for k in range(count)], len(flops)),
            "train_flops": np.tile(flops, count),
            "error": np.exp(np.asarray(log_error)).ravel(),
        }
    )


def test_misses_of_windows_equal_lines_written_out():
    """Every window by numpy's line, the quantile at a distance by hand, with Student's factor of its scales."""
    from scipy.stats import norm, t

    rng, flops = np.random.default_rng(8), np.geomspace(1e19, 1e21, 12)
    u = np.log(flops)
    y = u * -0.06 + 3 + 0.002 * (u - u[0]) ** 2 + 0.02 * rng.normal(size=(4, 12))
    fit = forecast_members(members(flops, y), level=0.8)
    sigma = [np.sqrt(np.sum((v - np.polyval(np.polyfit(u, v, 1), u)) ** 2) / 10) for v in y]
    found = []
    for k in range(6, 12):  # half of the runs, up to all but one
        for j in range(k, 12):
            size = [
                abs(v[j] - np.polyval(np.polyfit(u[:k], v[:k], 1), u[j])) / s
                for v, s in zip(y, sigma, strict=True)
            ]
            found.append((u[j] - u[k - 1], j, size))
    d = np.log(2.5)
    near = [f for f in found if abs(f[0] - d) <= np.log(2)]
    scales = len({f[1] for f in near})
    want = np.quantile([f[2] for f in near], 0.8) * t.ppf(0.9, scales) / norm.ppf(0.9)
    assert (
        fit.misses.half(d, 0.8) == pytest.approx(want, rel=1e-6) and fit.misses.count(d) == scales
    )
    at = fit.predict(flops[-1] * 2.5)
    half = (np.log(at["far_high"]) - np.log(at["far_low"])) / 2
    own = (np.log(at["new_high"]) - np.log(at["new_low"])) / 2
    np.testing.assert_allclose(half, np.maximum(own, want * np.array(sigma)), rtol=1e-6)


def test_members_go_to_json_and_back_and_refuse():
    flops = np.geomspace(1e19, 1e21, 10)
    y = -0.06 * np.log(flops) + 3 + 0.02 * np.random.default_rng(9).normal(size=(2, 10))
    rows = members(flops, y)
    fit = forecast_members(rows)
    again = MemberForecasts.from_json(fit.to_json())
    pd.testing.assert_frame_equal(
        again.predict([1e20, 4e21]), fit.predict([1e20, 4e21]), check_exact=True
    )
    pd.testing.assert_frame_equal(again.table, fit.table, check_exact=True)
    shuffled = forecast_members(rows.sample(frac=1, random_state=1)).predict(4e21)
    pd.testing.assert_frame_equal(shuffled, fit.predict(4e21))
    for broken, message in (
        (lambda: forecast_members(rows, law="cubic"), "choose 'power'"),
        (lambda: forecast_members(rows, law="params_tokens"), "takes a pair|takes one"),
        (lambda: forecast_members(rows.assign(error=-1.0)), "error, rows 0"),
        (lambda: forecast_members(rows.iloc[1:]), "missing in some runs"),
        (lambda: forecast_members(rows, level=90), "level=90"),
        (lambda: forecast_members(rows, run="run"), "rows lack run"),
    ):
        with pytest.raises(UserError, match=message):
            broken()


def test_far_intervals_add_doubt_beyond_the_data_only(ladder):
    fit = fit_forecast(ladder, level=0.9)
    at = fit.predict([1e20, 3e22, 1e23, 1e25])
    near, far = at.iloc[:2], at.iloc[2:]
    assert (near["far_low"] == near["new_low"]).all() and (
        near["far_high"] == near["new_high"]
    ).all()
    assert (far["far_low"] <= far["new_low"]).all() and (far["far_high"] > far["new_high"]).all()
    wider = fit_forecast(ladder, level=0.99).predict(1e23)
    assert (wider["new_low"] < at["new_low"].iloc[2]).all()
    with pytest.raises(UserError, match="level"):
        fit_forecast(ladder, level=95)


def test_link_from_other_models_and_chance_from_options(ladder):
    other = made_up(np.geomspace(1e18, 1e23, 60), np.random.default_rng(11))
    fit = fit_forecast(ladder.drop(columns="score"), second=other, windows=0)
    alone = fit_forecast(other, windows=0)
    np.testing.assert_allclose(fit.two.theta, alone.two.theta)
    np.testing.assert_allclose(fit.one.theta, fit_forecast(ladder, windows=0).one.theta)
    assert Forecast.from_json(fit.to_json()).predict(1e24).equals(fit.predict(1e24))
    given = fit_forecast(ladder.assign(k=4), options="k", windows=0)
    np.testing.assert_allclose(given.two.theta[0], 0.25)
    for broken, message in (
        (lambda: fit_forecast(ladder.assign(k=1), options="k"), "numbers of options"),
        (lambda: fit_forecast(ladder, options="k", chance=0.25), "one of the two"),
        (lambda: fit_forecast(ladder, second=other[["loss"]]), "rows lack score"),
    ):
        with pytest.raises(UserError, match=message):
            broken()
