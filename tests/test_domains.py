"""What the studies on Gemstones and the leaderboard say, found a second way from the shipped tables."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_claims import FOLDER, claims_of

from relscale.suites import load_scores, load_suite


@pytest.fixture(scope="module")
def claims():
    rows = claims_of(FOLDER / "02_knowledge_domains.ipynb")
    return {row["claim"]: row | {"here": row["here"].replace("−", "-")} for row in rows}


@pytest.fixture(scope="module")
def losses():
    """Loss of MMLU by subject, one row per checkpoint; its FLOPs; and items and domain of every subject."""
    scores = load_scores("gemstones").query("task == 'mmlu' and metric == 'loss'")
    wide = scores.pivot(index="run_id", columns="member", values="value")
    of = scores.groupby("member")[["n", "group"]].first()
    return wide, load_suite("gemstones").set_index("run_id").loc[wide.index], of


def numbers(text, name):
    """The slope and interval that stand after a name: 'other -0.008 [-0.014, -0.003]'."""
    found = re.search(rf"{re.escape(name)} (-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]", text)
    return [float(v) for v in found.groups()]


def by_item(wide, of, domain, without=()):
    names = [s for s in of.index[of["group"] == domain] if s not in without]
    return wide[names].to_numpy() @ of.loc[names, "n"] / of.loc[names, "n"].sum()


def line(x, y):
    fit = stats.linregress(x, y)
    half = stats.t.ppf(0.975, len(x) - 2) * fit.stderr
    return [fit.slope, fit.slope - half, fit.slope + half]


def test_slopes_on_the_frontier(claims, losses):
    wide, runs, of = losses
    flops, scores = runs["train_flops"].to_numpy(), load_scores("gemstones")
    loss = scores[scores["group"] == "dclm"].set_index("run_id")["value"].loc[runs.index].to_numpy()
    edges = np.geomspace(flops.min() * 0.999999, flops.max() * 1.000001, 12)
    step = np.digitize(flops, edges)
    at = [min(np.flatnonzero(step == k), key=lambda i: loss[i]) for k in range(1, 12)]
    x, best = np.log(flops[at]), wide.iloc[at]
    stem = np.log(by_item(best, of, "stem"))
    text = claims["The social sciences and other domains improve faster than STEM"]["here"]
    for domain, name in (("other", "Gemstones other"), ("social_sciences", "social sci.")):
        own = line(x, np.log(by_item(best, of, domain)) - stem)
        np.testing.assert_allclose(numbers(text, name), own, atol=6e-4)  # three digits shown
        assert own[2] < 0
    text = claims["The humanities are furthest behind STEM and gain on it most"]["here"]
    own = line(x, np.log(by_item(best, of, "humanities")) - stem)
    np.testing.assert_allclose(numbers(text, "Gemstones"), own, atol=6e-4)
    rest = line(x, np.log(by_item(best, of, "humanities", ["moral_scenarios"])) - stem)
    assert own[1] > 0 and rest[1] < 0 < rest[2]


def test_domains_explain_no_more_than_subjects_in_loss(claims, losses):
    wide, runs, of = losses
    ends = (runs["status"] == "finished").to_numpy()
    x = np.log(runs["train_flops"].to_numpy()[ends])
    slopes = pd.Series({s: np.polyfit(x, np.log(wide[s].to_numpy()[ends]), 1)[0] for s in of.index})
    assert slopes.idxmax() == "moral_scenarios" and (slopes > 0).sum() == 1
    f, p = stats.f_oneway(*(slopes[of["group"] == g] for g in of["group"].unique()))
    row = claims["Domains differ in how they scale, in loss, beyond which subjects they hold"]
    assert f"F {f:.2f}, P {p:.2f}" in row["here"] and p > 0.05 and row["agrees"] == "no"


def test_accuracy_above_chance_parts_domains(claims):
    runs = load_suite("leaderboard").set_index("run_id")
    scores = (
        load_scores("leaderboard").query("task == 'mmlu'").assign(error=lambda d: 1 - d["value"])
    )
    scores["lost"] = scores["error"] * scores["n"]
    sums = scores.groupby(["run_id", "group"])[["lost", "n"]].sum()
    error = (sums["lost"] / sums["n"]).unstack()
    total = scores.groupby("run_id")["lost"].sum() / 14_042
    seen = runs.loc[total.index[total < 0.7]]
    seen = seen[seen.groupby("family")["train_flops"].transform("nunique") > 1]
    text = claims["The social sciences and other domains improve faster than STEM"]["here"]
    text = text.split("leaderboard above chance ")[1]
    for domain, name in (("other", "other"), ("social_sciences", "social sci.")):
        y = np.log(error[domain] / error["stem"])
        slopes = []
        for _, own in seen.groupby("family"):  # a line each, no model of how families differ
            slopes.append(np.polyfit(np.log(own["train_flops"]), y[own.index], 1)[0])
        _, low, high = numbers(text, name)
        assert low < np.median(slopes) < high < 0
        assert stats.binomtest(int(np.sum(np.array(slopes) < 0)), len(slopes)).pvalue < 0.05


def test_figure_a2_depends_on_how_points_are_chosen():
    """R squared along checkpoints chosen by the task's own loss, and by loss on text."""
    told = {row["claim"]: row for row in claims_of(FOLDER / "04_loss_to_accuracy.ipynb")}
    row = told["On Gemstones, with reasonably strong R²"]
    scores, runs = load_scores("gemstones"), load_suite("gemstones").set_index("run_id")
    scores = scores[scores["metric"] == "loss"]
    text = scores[scores["group"] == "dclm"].set_index("run_id")["value"].loc[runs.index]
    log_flops = np.log10(runs["train_flops"].to_numpy())
    width = (log_flops.max() - log_flops.min()) / 11
    step = np.minimum(((log_flops - log_flops.min()) / width - 1e-9).astype(int), 10)
    found = {"own": [], "text": []}
    for _, own in scores[scores["task"] != "text"].groupby(
        ["task", scores["group"].where(scores["task"] != "mmlu")], dropna=False
    ):
        lost = (own["value"] * own["n"].astype(float)).groupby(own["run_id"]).sum()
        loss = (lost / own.groupby("run_id")["n"].sum().astype(float)).loc[runs.index].to_numpy()
        for name, by in (("own", loss), ("text", text.to_numpy())):
            at = [np.flatnonzero(step == k)[np.argmin(by[step == k])] for k in range(11)]
            found[name].append(stats.linregress(log_flops[at], np.log(loss[at])).rvalue ** 2)
    spans = {k: f"{min(v):.2f} to {max(v):.2f}" for k, v in found.items()}
    assert len(found["own"]) == 9
    assert spans["text"] in row["here"] and f"median {np.median(found['text']):.2f}" in row["here"]
    assert spans["own"] in row["why"] and row["agrees"] == "no"
