"""Planes of log ratios: the covariance by cluster against statsmodels, exact moments, and what the fit refuses."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.linalg import fractional_matrix_power
from statsmodels.stats.outliers_influence import variance_inflation_factor
from statsmodels.stats.sandwich_covariance import S_crosssection

from relscale.core import UserError
from relscale.laws.tokens_and_size import (
    TokensAndSizeFit,
    cluster_covariance,
    crossed_covariance,
    design_condition,
    fit_tokens_and_size,
)


def problem(seed=0, n=24, clusters=5):
    """A design (n, 3) of uneven clusters, one regressor constant within them."""
    rng = np.random.default_rng(seed)
    which = np.sort(np.concatenate([np.arange(clusters), rng.integers(0, clusters, n - clusters)]))
    x = np.column_stack([np.ones(n), rng.normal(size=clusters)[which], rng.normal(size=n)])
    return x, rng.normal(size=n) + rng.normal(size=clusters)[which], which


def test_covariance_is_that_of_statsmodels_on_adjusted_residuals():
    x, y, which = problem()
    fit = sm.OLS(y, x).fit()
    hat = x @ fit.normalized_cov_params @ x.T
    adjusted = np.empty_like(y)
    for g in np.unique(which):
        own = which == g
        power = fractional_matrix_power(np.eye(own.sum()) - hat[np.ix_(own, own)], -0.5)
        adjusted[own] = power @ fit.resid[own]
    meat = S_crosssection(x * adjusted[:, None], which)
    wanted = fit.normalized_cov_params @ meat @ fit.normalized_cov_params
    found, _ = cluster_covariance(x, np.stack([fit.resid, 2 * fit.resid]), which)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-9)
    np.testing.assert_allclose(found[1], 4 * wanted, rtol=1e-9)
    single = cluster_covariance(x, fit.resid[None], np.arange(len(y)))[0][0]
    np.testing.assert_allclose(single, fit.get_robustcov_results("HC2").cov_params(), rtol=1e-9)


def test_covariance_is_unbiased_and_its_degrees_of_freedom_are_those_of_its_moments():
    x, _, which = problem(3)
    bread = np.linalg.inv(x.T @ x)
    maker = np.eye(len(x)) - x @ bread @ x.T
    # E[V] over independent unit errors is the sum over unit vectors, and must be (X'X)^-1: exactly
    total = cluster_covariance(x, maker, which)[0].sum(axis=0)
    np.testing.assert_allclose(total, bread, rtol=1e-8)
    draws = np.random.default_rng(0).normal(size=(5_000, len(x))) @ maker
    found, freedom = cluster_covariance(x, draws, which)
    own = np.einsum("gkk->gk", found)
    # of a scaled chi square: 2 mean^2 / variance; 5,000 draws know the variance to some 5 %
    np.testing.assert_allclose(2 * own.mean(axis=0) ** 2 / own.var(axis=0), freedom, rtol=0.1)
    assert freedom[1] < 5  # one regressor varies only between five clusters


def test_two_ways_are_one_where_the_second_is_every_point():
    x, y, which = problem(1)
    resid = sm.OLS(y, x).fit().resid[None]
    one, points = cluster_covariance(x, resid, which), np.arange(len(y))
    both = crossed_covariance(x, resid, [which, points])
    np.testing.assert_allclose(both[0], one[0], rtol=1e-9)
    assert (both[1] <= one[1]).all()


def rows(noise=0.01, seed=0, lengths=5):
    rng, out = np.random.default_rng(seed), []
    for n in (1e8, 3e8, 1e9, 3e9):
        for d in np.geomspace(2e9, 6e10, lengths):
            for group, a, b in (("base", 0, 0), ("size", -0.02, 0), ("tokens", 0, 0.03)):
                value = 3 * n**a * d**b * np.exp(noise * rng.normal())
                out.append((group, n, d, value))
    return pd.DataFrame(out, columns=["group", "num_params", "num_tokens", "value"])


def test_exponents_are_those_of_least_squares_and_predictions_lie_on_the_plane():
    table = rows()
    fit = fit_tokens_and_size(table, baseline="base", cluster="num_params")
    wide = np.log(table.pivot(index=["num_params", "num_tokens"], columns="group", values="value"))
    y = (wide["tokens"] - wide["base"]).to_numpy()
    x = np.log(wide.index.to_frame().to_numpy(float))
    plain = sm.OLS(y, sm.add_constant(x)).fit()
    row = fit.summary().loc["tokens"]
    found = row[["size_exponent", "token_exponent"]].to_numpy(float)
    np.testing.assert_allclose(found, plain.params[1:])
    np.testing.assert_allclose(row["sigma"] ** 2, plain.mse_resid)
    at = fit.predict([1e8, 2e9], 7e9).query("group == 'tokens'")
    wanted = np.exp(
        plain.predict(sm.add_constant(np.log([[1e8, 7e9], [2e9, 7e9]]), has_constant="add"))
    )
    np.testing.assert_allclose(at["ratio"], wanted)
    assert (at["new_low"] < at["low"]).all() and (at["low"] < at["ratio"]).all()
    verdicts = fit_tokens_and_size(rows(0.002), baseline="base").summary()["verdict"]
    assert verdicts["size"].startswith("moves with size:")
    assert verdicts["tokens"].startswith("moves with tokens:")
    again = TokensAndSizeFit.from_json(fit.to_json())
    pd.testing.assert_frame_equal(again.summary(), fit.summary())
    assert again.doubts == fit.doubts and "only a large effect" in fit.doubts[0]
    assert fit.plot().get_xlabel() == "exponent of training tokens"


def test_what_repeats_is_the_cluster_unless_it_is_named():
    table = rows()
    assert fit_tokens_and_size(table, baseline="base").clusters == ("point",)
    seeds = pd.concat([table.assign(run_id=s) for s in "ab"])
    seeds["run_id"] += seeds["num_params"].astype(str) + seeds["num_tokens"].astype(str)
    twice = fit_tokens_and_size(seeds, baseline="base")
    assert twice.clusters == ("size and tokens",)
    # the same rows once more tell nothing new: same exponents, same errors as by their means
    one = fit_tokens_and_size(table, baseline="base").summary()
    np.testing.assert_allclose(
        twice.summary()["token_high"] - twice.summary()["token_low"],
        one["token_high"] - one["token_low"],
        rtol=0.02,
    )
    trunks = fit_tokens_and_size(table.assign(run=table["num_params"]), baseline="base", run="run")
    assert trunks.clusters == ("run",) and trunks.summary()["num_clusters"].eq(4).all()


def test_a_group_that_is_the_baseline_moves_with_nothing():
    table = rows()
    same = table[table["group"] == "base"].assign(group="copy")
    row = fit_tokens_and_size(pd.concat([table, same]), baseline="base").summary().loc["copy"]
    assert row["ratio_centre"] == 1 and row["size_exponent"] == 0
    assert row["verdict"].startswith("neither is seen to move it")


def test_a_design_is_measured_as_its_matrix_is():
    rng = np.random.default_rng(4)
    n = np.exp(rng.normal(20, 1, 30))
    d = 20 * n ** (0.9) * np.exp(rng.normal(0, 0.4, 30))
    found = design_condition(pd.DataFrame({"num_params": n, "num_tokens": d}))
    x = np.log(np.column_stack([n, d]))
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    assert found.condition == pytest.approx(np.linalg.cond(z))
    assert found.inflation == pytest.approx(variance_inflation_factor(sm.add_constant(x), 1))
    assert found.coverage == pytest.approx((d / n).max() / (d / n).min())


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.assign(num_tokens=20 * t["num_params"]).drop_duplicates(["group", "num_params"]), {}, "tokens follow size exactly"),
        (lambda t: t[t["num_params"] == 1e8], {}, "all runs have one size"),
        (lambda t: t.iloc[1:], {}, "no row at num_params"),
        (lambda t: t.assign(value=0.0), {}, "has no logarithm"),
        (lambda t: t, {"baseline": "web"}, "no baseline 'web'"),
        (lambda t: t, {"size": "width"}, "lack width"),
        (lambda t: t, {"cluster": "seed"}, "no such column"),
        (lambda t: t.assign(seed=np.nan), {"cluster": "seed"}, "an empty cell"),
        (lambda t: t.assign(half=t["num_tokens"] > 1e10), {"cluster": "half"}, "has 2 values"),
        (lambda t: pd.concat([t, t]), {}, "has two rows"),
    ],
)  # fmt: skip
def test_a_slip_is_told_in_one_line(change, options, message):
    with pytest.raises(UserError, match=message) as caught:
        fit_tokens_and_size(change(rows()), **({"baseline": "base"} | options))
    assert "\n" not in str(caught.value)
