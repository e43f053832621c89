"""Variance explained by scale: against brute force, under redrawing in blocks, and what is refused."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.laws.formats import FormatComparison, compare_formats, error_of
from relscale.suites import load_scores, load_suite

WAYS = {
    "bits": ("mmlu_test", "bits_per_byte"),
    "log": ("mmlu_test", "choice_log_probability"),
    "share": ("mmlu_test", "accuracy_per_char"),
}


def suite(num_runs=12, seed=0, r2=0.6, per_block=1, groups=("a", "b")):
    """Tables of one noisy task, each run written `per_block` times as checkpoints that are copies."""
    random = np.random.default_rng(seed)
    flops = np.geomspace(1e18, 1e21, num_runs)
    x = np.log(flops)
    noise = np.sqrt((0.1 * x).var() * (1 - r2) / r2) * random.normal(size=num_runs)
    runs, scores = [], []
    for i in range(num_runs):
        for k in range(per_block):
            name = f"r{i}-{k}"
            runs.append({
                "run_id": name, "suite": "s", "corpus": "c", "status": "finished", "budget_flops": flops[i],
                "train_flops": flops[i], "num_params": 10, "num_tokens": 10, "trunk": f"r{i}",
            })  # fmt: skip
            for j, group in enumerate(groups):
                loss = math.exp(4 - 0.1 * x[i] + noise[i]) * (1 + j)
                for metric, value in (
                    ("bits_per_byte", loss),
                    ("accuracy", 0.3 + 0.02 * i + 0.1 * j),
                ):
                    scores.append({
                        "run_id": name, "task": "mcq", "group": group, "metric": metric, "value": value,
                        "higher_is_better": metric == "accuracy", "task_version": "1",
                    })  # fmt: skip
    return pd.DataFrame(runs), pd.DataFrame(scores)


def test_against_brute_force_on_the_ladder():
    """float64 transcriptions: the square of numpy's correlation, and a refit without each run in turn."""
    runs, scores = load_suite("olmo_ladder"), load_scores("olmo_ladder")
    got = compare_formats(runs, scores, WAYS, accuracy="accuracy_per_char").summary()
    finished = runs[runs["status"] == "finished"].set_index("run_id")
    for name, (task, metric) in WAYS.items():
        own = scores[(scores["task"] == task) & (scores["metric"] == metric)]
        value = own.groupby("run_id")["value"].mean().loc[finished.index]
        y = np.log({"bits": value, "log": -value, "share": 1 - value}[name].to_numpy())
        x = np.log10(finished["train_flops"].to_numpy())
        np.testing.assert_allclose(got.at[name, "r2"], np.corrcoef(x, y)[0, 1] ** 2, rtol=1e-10)
        missed = total = 0.0
        for i in range(30):
            keep = np.arange(30) != i
            missed += (y[i] - np.polyval(np.polyfit(x[keep], y[keep], 1), x[i])) ** 2
            total += (y[i] - y[keep].mean()) ** 2
        np.testing.assert_allclose(got.at[name, "r2_left_out"], 1 - missed / total, rtol=1e-8)
        slope, height = np.polyfit(x, y, 1)
        sigma = math.sqrt(np.sum((y - height - slope * x) ** 2) / 28)
        np.testing.assert_allclose(got.at[name, "sigma_decades"], sigma / abs(slope), rtol=1e-8)
    assert (got["r2_left_out"] < got["r2_adjusted"]).all() and (
        got["r2_adjusted"] < got["r2"]
    ).all()


def test_copies_within_a_block_add_nothing():
    """Three copies of each run: by block the interval is that of single runs, by run it is far too short."""
    one = compare_formats(*suite(), {"x": "mcq"}).summary().loc["x"]
    runs, scores = suite(per_block=3)
    blocks = compare_formats(runs, scores, {"x": "mcq"}, block="trunk").summary().loc["x"]
    naive = compare_formats(runs, scores, {"x": "mcq"}).summary().loc["x"]
    for column, tolerance in {"r2": 1e-9, "r2_left_out": 1e-9, "low": 0.02, "high": 0.02}.items():
        np.testing.assert_allclose(blocks[column], one[column], atol=tolerance)
    assert naive["high"] - naive["low"] < 0.7 * (one["high"] - one["low"])
    assert naive["r2_left_out"] > one["r2_left_out"] + 0.01


def test_units_do_not_matter():
    runs, scores = suite()
    got = compare_formats(runs, scores, {"x": "mcq"}).summary()
    runs["train_flops"] *= 7
    bits = scores["metric"] == "bits_per_byte"
    scores.loc[bits, "value"] *= 3
    pd.testing.assert_frame_equal(
        got, compare_formats(runs, scores, {"x": "mcq"}).summary(), rtol=1e-9
    )


def test_a_longer_range_raises_r2_and_leaves_the_scatter():
    """Twice the decades at the same noise: R2 rises from 0.6 to about 0.86, scatter stays within its own error."""
    short = compare_formats(*suite(60, seed=2), {"x": "mcq"}).summary().loc["x"]
    runs, scores = suite(60, seed=2)
    wide = runs["train_flops"] ** 2 / 1e18
    extra = -0.1 * np.log(wide / runs["train_flops"]).to_numpy()
    rows = scores["metric"] == "bits_per_byte"
    extra = pd.Series(extra, index=runs["run_id"])
    scores.loc[rows, "value"] *= np.exp(extra.loc[scores.loc[rows, "run_id"]].to_numpy())
    long = compare_formats(runs.assign(train_flops=wide), scores, {"x": "mcq"}).summary().loc["x"]
    assert long["r2"] > short["r2"] + 0.15
    assert 0.7 < long["sigma_decades"] / short["sigma_decades"] < 1.4


def test_groups_and_reference():
    runs, scores = suite()
    whole = compare_formats(runs, scores, {"x": "mcq"})
    a, b = (compare_formats(runs, scores, {"x": "mcq"}, group=g) for g in "ab")
    mean = (a.rows["error"] + b.rows["error"]) / 2
    np.testing.assert_allclose(whole.rows["error"], mean)
    assert math.isclose(whole.summary().at["x", "accuracy_max"], 0.3 + 0.02 * 11 + 0.05)
    other = scores[scores["task"] == "mcq"].assign(task="cf")
    other.loc[other["metric"] == "accuracy", "value"] -= 0.05
    both = compare_formats(runs, pd.concat([scores, other]), {"x": "mcq", "y": "cf"}, reference="y")
    assert math.isclose(both.summary().at["x", "accuracy_difference"], 0.05)
    assert both.summary()["p_difference"].isna().all()  # the same losses: no spread to judge by
    assert FormatComparison.from_json(both.to_json()).summary().equals(both.summary())
    linear = compare_formats(runs, scores, {"x": "mcq"}, law="logarithm", accuracy=None)
    y = linear.rows["error"].to_numpy()
    want = np.corrcoef(np.log(linear.rows["train_flops"]), y)[0, 1] ** 2
    assert math.isclose(linear.summary().at["x", "r2"], want)
    assert np.isnan(linear.summary().at["x", "accuracy_max"]) and "accuracy" not in repr(linear)


def test_equal_formats_are_rarely_told_apart():
    """Two formats of one truth, 120 suites of 15 runs: at most 10 % differ at P < 0.05 (4 sigma would be 13 %)."""
    from relscale.laws.formats import _p_of, _resampled_correlations

    random, x, hits = np.random.default_rng(1), np.linspace(-1, 1, 15), 0
    noise = math.sqrt(x.var() * 0.4 / 0.6)
    for i in range(120):
        y = x + noise * random.normal(size=(2, 15))
        z = np.arctanh([np.corrcoef(x, row)[0, 1] for row in y])
        drawn = np.arctanh(_resampled_correlations(x, y, np.arange(15), 300, seed=i))
        hits += _p_of(z[0] - z[1], drawn[:, 0] - drawn[:, 1], 15) < 0.05
    assert hits <= 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formats": {}}, "no format None"),
        ({"reference": "z"}, "no format 'z'"),
        ({"law": "linear"}, "law='linear'"),
        ({"n_bootstrap": 5}, "n_bootstrap=5"),
        ({"formats": {"x": "none"}}, "no task 'none'"),
        ({"metric": "loss"}, "no score of metric 'loss'"),
        ({"accuracy": "acc"}, "no score of metric 'acc'"),
        ({"group": "c"}, "no group 'c'"),
        ({"scale": "size"}, "runs lack 'size'"),
        ({"block": "trunks"}, "runs lack 'trunks'"),
        ({"runs": suite(3)[0]}, "3 blocks at 3 scales"),
        ({"scores": suite()[1].assign(value=0.5)}, "the same error in every run"),
    ],
)
def test_refusals(change, message):
    runs, scores = suite()
    call = {"runs": runs, "scores": scores, "formats": {"x": "mcq"}} | change
    with pytest.raises(UserError, match=message) as caught:
        compare_formats(**call)
    assert "\n" not in str(caught.value)


def test_errors_need_a_logarithm():
    with pytest.raises(UserError, match="an error of 0 has no logarithm"):
        error_of([0.5, 1.0], True, "accuracy")


def test_plots_and_no_jax():
    got = compare_formats(*suite(), {"x": "mcq"})
    assert [got.plot(what=w).get_ylabel() for w in ("fit", "accuracy")] == [
        "error",
        "accuracy less that of x",
    ]
    assert len(got.plot().get_yticklabels()) == 1
    with pytest.raises(UserError, match="what='r'"):
        got.plot(what="r")
    code = "import sys, relscale.laws.formats; print({'jax', 'matplotlib', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_r2_interval_is_students_on_fishers_scale():
    """Draws whose z has a standard deviation of exactly 0.2, of ten blocks: 2.306004 of them either way."""
    from relscale.laws.formats import _r2_interval

    z = np.arctanh(0.6) + 0.2 * np.array([-1.0, 1.0])
    want = np.tanh(np.arctanh(0.6) + 2.306004 * np.array([-0.2, 0.2])) ** 2
    np.testing.assert_allclose(_r2_interval(0.6, np.tanh(z), 10), want, rtol=1e-6)
    np.testing.assert_allclose(_r2_interval(-0.6, np.tanh(-z), 10), want, rtol=1e-6)
    assert _r2_interval(0.1, np.tanh(z), 10)[0] == 0  # no correlation is among the possible


def test_a_difference_of_formats_has_one_p_whoever_is_the_reference():
    runs, scores = suite(r2=0.9)
    other = suite(seed=1, r2=0.3)[1].assign(task="cf")
    both, formats = pd.concat([scores, other]), {"x": "mcq", "y": "cf"}
    found = [
        compare_formats(runs, both, formats, reference=name).summary()["p_difference"].dropna()
        for name in formats
    ]
    assert 0 < found[0]["y"] < 1 and math.isclose(found[0]["y"], found[1]["x"], rel_tol=1e-9)
