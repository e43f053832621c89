"""Files of lm-eval 0.4.13 and 0.5.0.dev1, written by those versions: names, values, and errors over clusters of items."""

import json
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm

from relscale.core import UserError
from relscale.eval.prompts import choice_metrics, harness_metrics
from relscale.lm_eval import from_lm_eval
from relscale.lm_samples import clustered_stderr, from_lm_eval_items

GOLDEN = Path(__file__).parent / "golden" / "lm_eval"
VERSIONS = ("0.4.13", "0.5.0.dev1")


def results(version):
    return GOLDEN / version / "results_2026-11-27.json"


def items(version):
    """Every record of both tasks of questions."""
    files = sorted(p for p in (GOLDEN / version).glob("samples_*") if "text" not in p.name)
    return [json.loads(line) for p in files for line in p.read_text().splitlines()]


def nats_of(record):
    return [float(r[0][0] if isinstance(r[0], list) else r[0]) for r in record["filtered_resps"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_both_versions_read_alike(version):
    read = from_lm_eval(results(version), runs={"toy": "a"})
    places = set(zip(read.scores["task"], read.scores["group"], strict=True))
    assert places == {("toy", "birds"), ("toy", "rivers"), ("toy", "all"), ("toy_text", "all")}
    table = read.scores.set_index(["task", "group", "metric"])
    assert table.loc[("toy", "all", "acc"), "n"] == 8
    better = table["higher_is_better"].groupby("metric").first()
    assert better["acc"] and not better["brier_score"] and not better["bits_per_byte"]
    told = [d for d in read.doubts if "delimiter" in d]
    assert bool(told) == (version != "0.4.13")
    assert any("bits per byte of the option" in d for d in read.doubts) == (version != "0.4.13")


def test_the_values_of_both_versions_agree_where_the_rule_does():
    one, other = (from_lm_eval(results(v), runs={"toy": "a"}).scores for v in VERSIONS)
    both = one.merge(other, on=["task", "group", "metric"])
    same = both[~both["metric"].isin(["acc_norm", "acc_bytes"])]
    assert len(same) >= 7
    np.testing.assert_allclose(same["value_x"], same["value_y"], rtol=1e-6)


def test_every_metric_of_0_5_item_by_item():
    """`harness_metrics` from the recorded log-likelihoods, against what the harness itself wrote for each item."""
    for record in items("0.5.0.dev1"):
        ours = harness_metrics(nats_of(record), record["doc"]["choices"], record["doc"]["gold"])
        for name, value in ours.items():
            assert value == pytest.approx(record[name], rel=1e-9), name


def test_lengths_of_0_4_leave_the_delimiter_out():
    for record in items("0.4.13"):
        ours = choice_metrics(nats_of(record), record["doc"]["choices"], record["doc"]["gold"])
        assert (ours["accuracy_per_char"], ours["accuracy_per_byte"]) == (
            record["acc_norm"],
            record["acc_bytes"],
        )


def test_the_released_suites_metric_is_another_number():
    """choice_prob_norm: 2^(bits per byte) over the options, written out, is not the harness's of this name."""
    differ = []
    for record in items("0.5.0.dev1"):
        options, gold, nats = record["doc"]["choices"], record["doc"]["gold"], nats_of(record)
        bits = [x / (len(o.encode()) * np.log(2)) for x, o in zip(nats, options, strict=True)]
        released = np.exp(bits[gold]) / np.exp(bits).sum()
        ours = choice_metrics(nats, options, gold)["choice_probability_bits"]
        assert ours == pytest.approx(released, rel=1e-9)
        differ.append(abs(released - record["choice_prob_norm"]))
    assert max(differ) > 0.02


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("by", ["passage", "task"])
def test_clustered_errors_are_those_of_a_regression_on_a_constant(version, by):
    read = from_lm_eval_items(results(version), by=by, runs={"toy": "a"})
    own = items(version)
    x = np.array([r["acc"] for r in own], float)
    task = ["birds"] * 5 + ["rivers"] * 3
    labels = [r["doc"]["passage"] if by == "passage" else t for r, t in zip(own, task, strict=True)]
    codes = np.unique(labels, return_inverse=True)[1]
    fit = sm.OLS(x, np.ones(8)).fit(cov_type="cluster", cov_kwds={"groups": codes})
    row = read.scores.set_index(["task", "group", "metric"]).loc[("toy", "all", "acc")]
    assert row["num_clusters"] == len(set(labels))
    assert row["stderr"] == pytest.approx(fit.bse[0], rel=1e-9)
    assert any("clusters" in d for d in read.doubts)


def test_weights_and_slips():
    x = np.array([0.0, 1, 1, 0, 1])
    twice = clustered_stderr([*x, *x[:2]], [0, 1, 2, 3, 4, 0, 1])
    assert clustered_stderr(x, range(5), [2, 2, 1, 1, 1]) == pytest.approx(twice)
    assert np.isnan(clustered_stderr(x, [0] * 5))
    with pytest.raises(UserError, match="need one of each"):
        clustered_stderr(x, [0, 1])
    with pytest.raises(UserError, match="by='task'"):
        from_lm_eval_items(results("0.4.13"), by="author")
