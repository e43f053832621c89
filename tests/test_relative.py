"""Relative laws: exactness, symmetries, calibration, verdicts and speed."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relscale.core import UserError
from relscale.laws.relative import fit_relative

METHODS = ("t", "pairs")


def long_frame(laws, scales, noise=0.0, seed=0, base=(30.0, -0.05)):
    """A baseline and groups with known ratio (at the first scale) and exponent."""
    rng = np.random.default_rng(seed)
    reference = base[0] * scales ** base[1]
    rows = [pd.DataFrame({"group": "base", "train_flops": scales, "value": reference})]
    for name, (start, slope) in laws.items():
        ratio = start * (scales / scales[0]) ** slope * np.exp(noise * rng.normal(size=len(scales)))
        rows.append(
            pd.DataFrame({"group": name, "train_flops": scales, "value": reference * ratio})
        )
    return pd.concat(rows, ignore_index=True)


LAWS = {"slow": (1.1, 0.02), "fast": (1.3, -0.03), "ahead": (0.9, -0.02), "level": (1.2, 0.0)}
SCALES = np.geomspace(3e18, 3e20, 7)
NUMBERS = ["delta_beta", "low", "high", "p_value", "p_adjusted", "ratio_start", "ratio_end"]


@pytest.mark.parametrize("method", METHODS)
def test_exact_laws_are_recovered(method):
    table = fit_relative(long_frame(LAWS, SCALES), baseline="base", interval=method).summary()
    for name, (start, slope) in LAWS.items():
        assert table.loc[name, "delta_beta"] == pytest.approx(slope, abs=1e-12)
        assert table.loc[name, "ratio_start"] == pytest.approx(start, rel=1e-10)
        assert table.loc[name, "gamma"] == pytest.approx(start / SCALES[0] ** slope, rel=1e-9)
        assert table.loc[name, "percent_per_decade"] == pytest.approx(
            100 * (10**slope - 1), abs=1e-8
        )


def test_t_interval_equals_the_textbook():
    from scipy.stats import linregress
    from scipy.stats import t as student

    rows = long_frame(LAWS, SCALES, noise=0.01)
    table = fit_relative(rows, baseline="base").summary()
    wide = rows.pivot(index="train_flops", columns="group", values="value")
    for name in LAWS:
        ref = linregress(np.log(wide.index), np.log(wide[name] / wide["base"]))
        half = student.ppf(0.975, 5) * ref.stderr
        np.testing.assert_allclose(
            table.loc[name, ["delta_beta", "low", "high", "p_value"]].astype(float),
            [ref.slope, ref.slope - half, ref.slope + half, ref.pvalue],
            rtol=1e-8,
        )


def test_pairs_draws_equal_a_fit_of_each_resample():
    from relscale.laws.intervals import pairs_draws

    rng = np.random.default_rng(4)
    x, y = np.log(SCALES), rng.normal(size=(2, 7))
    heights, slopes = pairs_draws(x, y, 50, seed=9)
    picked = np.random.default_rng(9).integers(7, size=(50, 7))
    for row, height, slope in zip(picked, heights, slopes, strict=True):
        for g in range(2):
            direct = np.polyfit(x[row] - x.mean(), y[g, row], 1)
            np.testing.assert_allclose([slope[g], height[g]], direct, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_swapping_the_baseline_flips_the_sign(method):
    rows = long_frame({"other": (1.2, -0.02)}, SCALES, noise=0.01)
    there = fit_relative(rows, baseline="base", interval=method).summary().loc["other"]
    back = fit_relative(rows, baseline="other", interval=method).summary().loc["base"]
    np.testing.assert_allclose(
        [back["delta_beta"], back["low"], back["high"], back["p_value"], back["ratio_end"]],
        [
            -there["delta_beta"],
            -there["high"],
            -there["low"],
            there["p_value"],
            1 / there["ratio_end"],
        ],
        rtol=1e-9,
    )
    assert (there["verdict_gap"], back["verdict_gap"]) == ("gap narrows", "gap narrows")
    assert (there["verdict_rate"], back["verdict_rate"]) == (
        "improves faster",
        "improves more slowly",
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    scale=st.floats(-10, 10),
    error=st.floats(-8, 8),
    method=st.sampled_from(METHODS),
    shuffle=st.integers(0, 100),
)
def test_units_and_row_order_do_not_matter(scale, error, method, shuffle):
    rows = long_frame(LAWS, SCALES, noise=0.01)
    other = rows.assign(
        train_flops=rows["train_flops"] * 10**scale, value=rows["value"] * 10**error
    )
    fit = fit_relative(rows, baseline="base", interval=method, n_bootstrap=200)
    again = fit_relative(
        other.sample(frac=1, random_state=shuffle),
        baseline="base",
        interval=method,
        n_bootstrap=200,
    )
    pd.testing.assert_frame_equal(
        again.summary()[NUMBERS], fit.summary()[NUMBERS], rtol=1e-6, atol=1e-11
    )
    assert again.summary()["verdict"].tolist() == fit.summary()["verdict"].tolist()


@pytest.mark.parametrize("low, high", [(1e12, 1e14), (1e18, 1e20), (1e24, 1e26), (1e12, 1e26)])
def test_magnitudes(low, high):
    scales = np.geomspace(low, high, 6)
    table = fit_relative(long_frame(LAWS, scales, base=(1e5, -0.2)), baseline="base").summary()
    for name, (_, slope) in LAWS.items():
        assert table.loc[name, "delta_beta"] == pytest.approx(slope, abs=1e-11)
    assert np.isfinite(table.select_dtypes(float)).all(axis=None)


@pytest.mark.parametrize("num_budgets", [5, 7])
def test_default_interval_is_calibrated(num_budgets):
    """2000 null groups: 5 % false and 95 % covered, with a binomial error of 0.5 %, so 3.5 to 6.5 % at three errors."""
    scales = np.geomspace(1e18, 1e20, num_budgets)
    null = {f"g{i:04d}": (1.0, 0.0) for i in range(2000)}
    table = fit_relative(long_frame(null, scales, noise=0.01, seed=6), baseline="base").summary()
    assert 0.035 < (table["p_value"] < 0.05).mean() < 0.065
    assert 0.035 < ((table["low"] > 0) | (table["high"] < 0)).mean() < 0.065
    assert (
        table["verdict_rate"] != "unresolved"
    ).sum() <= 2  # Holm: one false verdict in twenty such tables


def test_band_covers_the_law_at_the_ends():
    """The band of 1000 noisy copies of one law holds it 95 % of the time, at the last budget and a decade beyond."""
    rows = long_frame({f"g{i:04d}": (1.2, -0.02) for i in range(1000)}, SCALES, noise=0.01, seed=7)
    fit = fit_relative(rows, baseline="base")
    for flops in (3e20, 3e21):
        band = fit.predict(flops)
        truth = 1.2 * (flops / 3e18) ** -0.02
        covered = ((band["low"] <= truth) & (truth <= band["high"])).mean()
        assert 0.93 < covered < 0.97  # three binomial errors of 0.7 %


def test_verdicts_in_words():
    laws = LAWS | {"crosser": (1.1, -0.05), "nears": (0.8, 0.03)}
    table = fit_relative(long_frame(laws, SCALES, noise=0.002), baseline="base").summary()
    gaps = {
        "slow": "gap widens",
        "fast": "gap narrows",
        "ahead": "gap widens",
        "level": "unresolved",
    }
    assert table["verdict_gap"].to_dict() == gaps | {
        "crosser": "crosses parity",
        "nears": "gap narrows",
    }
    assert table.loc["nears", "verdict_rate"] == "improves more slowly"
    assert table.loc["level", "verdict"].startswith("unresolved: ")


def test_holm_keeps_a_lone_lucky_slope_quiet():
    """A group with P of about .03 speaks alone and is silent among twenty."""
    rows = long_frame({f"g{i:02d}": (1.0, 0.0) for i in range(60)}, SCALES, noise=0.01, seed=8)
    table = fit_relative(rows, baseline="base").summary()
    lucky = table.index[(table["p_value"] > 0.01) & (table["p_value"] < 0.05)][0]
    assert table.loc[lucky, "verdict_rate"] == "unresolved"
    alone = fit_relative(rows[rows["group"].isin(["base", lucky])], baseline="base").summary()
    assert alone.loc[lucky, "verdict_rate"] != "unresolved"


def test_nearly_equal_scales_pair_and_runs_pair_by_name():
    rows = long_frame(LAWS, SCALES, noise=0.01)
    jitter = np.where(rows["group"] == "fast", 1 + 2e-6, 1.0)
    plain, jittered = (
        fit_relative(rows.assign(train_flops=rows["train_flops"] * k), baseline="base").summary()[
            "delta_beta"
        ]
        for k in (1.0, jitter)
    )
    np.testing.assert_allclose(plain, jittered, rtol=1e-4)
    seeds = pd.concat([rows.assign(run_id=rows["train_flops"].astype(str) + s) for s in "ab"])
    for run in ("run_id", None):  # named or found, two runs of a budget are one unit
        paired = fit_relative(seeds, baseline="base", run=run)
        assert set(paired.summary()["num_budgets"]) == {7} and len(paired.lines.x) == 7
        assert len(paired.pairs.points) == 14
    np.testing.assert_allclose(
        paired.summary()["stderr"], fit_relative(rows, baseline="base").summary()["stderr"]
    )


def test_few_scales():
    two = fit_relative(long_frame(LAWS, SCALES[:2]), baseline="base").summary()
    assert two[["low", "high", "p_value", "p_adjusted"]].isna().all(axis=None)
    assert (
        set(two["verdict_gap"]) == {"unresolved"}
        and (two["delta_beta"].round(6) == [-0.02, -0.03, 0, 0.02]).all()
    )
    for method in METHODS:
        three = fit_relative(
            long_frame(LAWS, SCALES[:3], noise=0.01), baseline="base", interval=method
        )
        assert np.isfinite(three.summary()[["low", "high"]]).all(axis=None)


def test_refusals():
    rows = long_frame(LAWS, SCALES)
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(UserError, match="'fast', row 15"):
            fit_relative(
                rows.assign(value=rows["value"].where(rows.index != 15, bad)), baseline="base"
            )
    for kwargs, words in [
        ({"baseline": "nobody"}, "there is ahead, base, fast"),
        ({"baseline": "base", "scale": "flops"}, "rows lack flops"),
        ({"baseline": "base", "interval": "bca"}, "choose 't'"),
        ({"baseline": "base", "n_bootstrap": 5}, "at least 100"),
    ]:
        with pytest.raises(UserError, match=words):
            fit_relative(rows, **kwargs)
    with pytest.raises(UserError, match="'fast' has no row at train_flops"):
        fit_relative(rows.drop(index=15), baseline="base")
    with pytest.raises(UserError, match="one value only"):
        fit_relative(rows[rows["train_flops"] < 4e18], baseline="base")
    with pytest.raises(UserError, match="needs a second"):
        fit_relative(rows[rows["group"] == "base"], baseline="base")
    with pytest.raises(UserError, match="no rows"):
        fit_relative(rows[:0], baseline="base")
    fit = fit_relative(rows, baseline="base")
    with pytest.raises(UserError, match="positive and finite"):
        fit.predict([1e21, -1])
    with pytest.raises(UserError, match="1-G"):
        fit.plot(sign="percent")


def test_paper_sign_is_one_minus_the_ratio():
    import matplotlib

    matplotlib.use("Agg")
    fit = fit_relative(long_frame(LAWS, SCALES), baseline="base")
    assert (fit.points["one_minus_ratio"] == 1 - fit.points["ratio"]).all()
    plain, paper = fit.plot(), fit.plot(sign="1-G")
    for a, b in zip(plain.lines, paper.lines, strict=True):
        np.testing.assert_allclose(
            np.asarray(a.get_ydata()), 1 - np.asarray(b.get_ydata()), atol=1e-12
        )
    assert {t.get_text() for t in plain.texts} == {"base", *LAWS}


def test_large_tables_are_fast():
    """57 groups, 7 budgets, 10,000 draws in a second: a loop over draws would take minutes. Best of three, for a busy machine."""
    rows = long_frame({f"g{i:02d}": (1.0, 0.0) for i in range(57)}, SCALES, noise=0.01)
    for method in METHODS:
        best = np.inf
        for _ in range(3):
            start = time.perf_counter()
            fit_relative(rows, baseline="base", interval=method, n_bootstrap=10_000)
            best = min(best, time.perf_counter() - start)
        assert best < 1.0, (method, best)


def test_gain_is_the_mean_change_of_one_minus_the_ratio():
    """Exact laws over two decades: half the fall of G from end to end, in percentage points, whatever its sign."""
    table = fit_relative(long_frame(LAWS, SCALES), baseline="base").summary()
    for name, (start, slope) in LAWS.items():
        fall = start - start * 100**slope
        assert table.loc[name, "gain_per_decade"] == pytest.approx(100 * fall / 2, abs=1e-9)


def test_one_end_that_is_surely_off_parity_decides_the_gap():
    """Gaps of 10 % that end, or begin, at parity, with 0.2 % of noise: one end of each is sure, and it is enough."""
    laws = {
        "closes": (1.1, np.log(1 / 1.1) / np.log(100)),
        "opens": (1.0, np.log(1.1) / np.log(100)),
    }
    fit = fit_relative(long_frame(laws, SCALES, noise=0.002), baseline="base")
    for scale, level in ((3e18, "opens"), (3e20, "closes")):
        band = fit.predict(scale).set_index("group").loc[level]
        assert band["low"] < 1 < band["high"]  # so this end says nothing
    gaps = fit.summary()[
        "verdict_gap"
    ]  # noise decides on which side of parity the fitted line ends
    assert gaps["closes"] in ("gap narrows", "reaches parity")
    assert gaps["opens"] in ("gap widens", "leaves parity")


def test_p_values_are_adjusted_as_asked():
    """Holm, and Benjamini and Hochberg, each written out here; the verdicts go by them."""
    slopes = {f"g{i}": (1.1, -0.0012 * i) for i in range(8)}
    rows, found = long_frame(slopes, SCALES, noise=0.005, seed=2), {}
    for adjust in ("holm", "bh"):
        table = fit_relative(rows, baseline="base", adjust=adjust).summary().sort_values("p_value")
        p, rank = table["p_value"].to_numpy(), np.arange(8)
        if adjust == "holm":
            wanted = np.maximum.accumulate(np.minimum((8 - rank) * p, 1))
        else:
            wanted = np.minimum.accumulate((8 / (rank + 1) * p)[::-1])[::-1]
        np.testing.assert_allclose(table["p_adjusted"], wanted, rtol=1e-12)
        found[adjust] = (table["verdict_rate"] != "unresolved").sum()
        assert found[adjust] == (wanted < 0.05).sum()
    default = fit_relative(rows, baseline="base").summary()["verdict_rate"]
    assert (
        found["bh"] > found["holm"] and (default != "unresolved").sum() >= found["holm"] > 0
    )  # max-t


def test_stderr_of_a_bootstrap_is_the_deviation_of_its_slopes():
    """300 resamples of the seven points, drawn as the fit draws them and fitted one by one."""
    rows = long_frame({"a": (1.1, -0.02), "b": (1.2, 0.01)}, SCALES, noise=0.01)
    fit = fit_relative(rows, baseline="base", interval="pairs", n_bootstrap=300, random_seed=5)
    x, picked = np.log(SCALES), np.random.default_rng(5).integers(7, size=(300, 7))
    for name, y in zip(fit.summary().index, fit.log_ratio, strict=True):
        slopes = [np.polyfit(x[draw] - x.mean(), y[draw], 1)[0] for draw in picked]
        assert fit.summary().loc[name, "stderr"] == pytest.approx(np.std(slopes, ddof=1), rel=1e-6)
