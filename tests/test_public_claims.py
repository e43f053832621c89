"""What two studies say of public suites, computed once more from the tables by other means."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.stats import linregress, t

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "nbs/case_studies"
if not STUDIES.is_dir():
    pytest.skip("no notebooks here", allow_module_level=True)


def said(study):
    """All that the last table of a study shows, as one text."""
    cells = json.loads((STUDIES / study).read_text(encoding="utf-8"))["cells"]
    outputs = [o.get("data", {}) for c in cells for o in c.get("outputs", [])]
    return "".join([d["text/html"] for d in outputs if "text/html" in d][-1]).replace("−", "-")


def with_interval(x, y, digits=4):
    """A slope and its textbook interval, as the claims write them."""
    fit = linregress(x, y)
    half = t.ppf(0.975, len(x) - 2) * fit.stderr
    ends = (fit.slope, fit.slope - half, fit.slope + half)
    return "{:+.{d}f} [{:+.{d}f}, {:+.{d}f}]".format(*ends, d=digits)


def losses():
    runs = pd.read_csv(ROOT / "data/gadre2024/runs.csv")
    scores = pd.read_parquet(ROOT / "data/gadre2024/scores.parquet").query("task == 'text'")
    return runs, scores.pivot(index="run_id", columns="group", values="value").map(np.log)


def test_the_corpus_that_holds_a_text_takes_its_adverse_exponent_away():
    runs, logs = losses()
    claims = said("08_representation.ipynb")
    for corpus in ("c4", "redpajama", "refinedweb"):
        own = runs[(runs["corpus"] == corpus) & (runs["token_multiplier"] == 1)]
        at = logs.loc[own["run_id"]]
        x = np.log(6.0 * own["num_params"] * own["num_tokens"])
        y = (at["paloma_refinedweb"] - at["paloma_c4_en"]).to_numpy()
        assert with_interval(x, y) in claims, corpus


def test_own_texts_gain_with_compute():
    runs, logs = losses()
    table = runs.merge(logs, left_on="run_id", right_index=True)
    own = {"c4": "paloma_c4_en", "redpajama": "paloma_redpajama", "refinedweb": "paloma_refinedweb"}
    long = table.melt(["corpus", "num_params", "token_multiplier"], list(own.values()), "text")
    cell = ["num_params", "token_multiplier"]
    full = long.groupby(cell)["corpus"].transform("nunique") == 3
    long = long[full].assign(own=lambda d: d["corpus"].map(own) == d["text"])
    mean = long.groupby([*cell, "own"])["value"].mean().unstack()
    y = mean[True] - mean[False]
    n = y.index.get_level_values(0).to_numpy(float)
    d = n * y.index.get_level_values(1)
    plane = sm.OLS(y.to_numpy(), sm.add_constant(np.log(np.stack([n, d], axis=1)))).fit()
    assert len(y) == 33
    assert f"own texts against others' {plane.params[1:].mean():+.4f} [" in said(
        "08_representation.ipynb"
    )


def test_stereotypes_rise_with_compute_in_every_kind():
    runs = pd.read_csv(ROOT / "data/pythia/runs.csv").query("status == 'finished'")
    scores = pd.read_parquet(ROOT / "data/pythia/scores.parquet")
    share = scores.query("task == 'crows_pairs' and metric == 'stereotype_share'")
    share = share.merge(runs[["run_id", "num_params"]], on="run_id")
    flops = runs.drop_duplicates("num_params").set_index("num_params")["train_flops"]
    claims, rising = said("06_ai_risk.ipynb"), 0
    for language, rows in share.groupby("group"):
        by_size = rows.groupby("num_params")["value"].mean()
        x = np.log10(flops.loc[by_size.index])
        wanted = with_interval(x, 100 * by_size.to_numpy(), digits=1)
        assert f"{language.capitalize()} {wanted} points a decade" in claims
        for _, one in rows.groupby("member"):
            mean = one.groupby("num_params")["value"].mean()
            rising += linregress(x, mean.to_numpy()).slope > 0
    assert f"{rising} of 20 kinds of bias rise" in claims
