"""Claims that public compute decides, computed once more from the tables by other means."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from test_claims import FOLDER, claims_of

from relscale.core import data_path

if not FOLDER.is_dir():
    pytest.skip("no notebooks here", allow_module_level=True)


def claim(study, words):
    """The row of a study whose claim begins with these words, with plain minus signs."""
    rows = [r for r in claims_of(next(FOLDER.glob(f"{study}_*.ipynb"))) if r["claim"].startswith(words)]  # fmt: skip
    assert len(rows) == 1, f"{study}: {len(rows)} rows begin with {words!r}"
    return {k: v.replace("−", "-") for k, v in rows[0].items()}


def table(suite, kind):
    path = data_path(f"{suite}/README.md").with_name(f"{kind}.parquet")
    return pd.read_parquet(path) if path.is_file() else pd.read_csv(path.with_suffix(".csv"))


@pytest.fixture(scope="module")
def gadre():
    """Runs with the loss of OpenLM's text, and the accuracies of eight question sets."""
    scores = table("gadre2024", "scores")
    wide = scores.assign(what=scores["task"].where(scores["task"] != "text", scores["group"]))
    wide = wide.pivot(index="run_id", columns="what", values="value")
    return table("gadre2024", "runs").set_index("run_id").join(wide)


def test_letters_and_continuations():
    board = table("leaderboard", "scores").query("task == 'mmlu'").groupby("run_id")["value"].mean()
    flops = table("leaderboard", "runs").set_index("run_id")["train_flops"]
    ladder = table("olmo_ladder", "runs").query("status == 'finished'").set_index("run_id")
    scores = table("olmo_ladder", "scores").query("task == 'mmlu_test' and metric == 'accuracy_per_char'")  # fmt: skip
    own = scores[scores["run_id"].isin(ladder.index)].groupby("run_id")["value"].mean()
    row = claim("03", "Letters reach high accuracy")
    assert row["agrees"] == "yes" and f"{board.max():.1%} at most of 104" in row["here"]
    top = ladder["train_flops"].max()
    letters = board[flops.loc[board.index] <= top]
    texts = own[ladder.loc[own.index, "train_flops"] >= flops.min()]
    row = claim("03", "Continuations reach less accuracy")
    assert f"ladder {texts.median():.1%} in the median and {texts.max():.1%} at most" in row["here"]
    assert f"letters {letters.median():.1%} and {letters.max():.1%}" in row["here"]
    assert texts.median() > letters.median() and row["agrees"] == "no"


def test_the_corpus_with_code_is_nearest_to_code(gadre):
    rows = gadre[gadre["token_multiplier"] == 1]
    log = np.log(rows["paloma_programming_languages"] / rows["paloma_c4_en"])
    by = log.groupby([rows["corpus"], rows["num_params"]]).first().unstack("corpus")
    assert (by["redpajama"] < by[["c4", "refinedweb"]].min(axis=1)).all()
    row = claim("02", "The gaps follow what each corpus holds")
    means = np.exp(by.mean())
    assert f"{means['redpajama']:.2f} on RedPajama" in row["here"] and f"{means['c4']:.2f} on C4" in row["here"]  # fmt: skip
    assert row["agrees"] == "yes"


def test_pairs_of_subjects_cross():
    """Student's t on each pair's difference, Holm by hand, and the crossing of two fitted lines."""
    scores = table("gemstones", "scores").query("task == 'mmlu' and metric == 'loss'")
    runs = table("gemstones", "runs").query("status == 'finished'").set_index("run_id")
    logs = np.log(scores.pivot(index="run_id", columns="member", values="value").loc[runs.index])
    x, found = np.log(runs["train_flops"].to_numpy(float)), []
    for a, b in itertools.combinations(sorted(logs), 2):
        fit = stats.linregress(x, (logs[a] - logs[b]).to_numpy())
        found.append((fit.pvalue, -fit.intercept / fit.slope, "moral_scenarios" in (a, b)))
    found = sorted(found)
    holm = np.maximum.accumulate([p * (len(found) - k) for k, (p, *_) in enumerate(found)])
    proven = [moral for (_, at, moral), p in zip(found, holm, strict=True) if p < 0.05 and x.min() <= at <= x.max()]  # fmt: skip
    row = claim("05", "Orders are unstable")
    assert f"{len(proven)} of {len(found)} pairs cross" in row["here"]
    assert f"{len(proven) - sum(proven)} of them without moral_scenarios" in row["here"]
    assert row["agrees"] == "yes"


def test_a_slope_of_six_hundredths_is_lost_in_the_scatter_of_real_models():
    runs = table("pythia", "runs").query("status == 'finished'")
    scores = table("pythia", "scores").query(
        "task == 'crows_pairs' and metric == 'stereotype_share'"
    )
    share = scores.merge(runs[["run_id", "num_params"]], on="run_id")
    flops = runs.drop_duplicates("num_params").set_index("num_params")["train_flops"]

    def sigma(column):
        wide = 100 * share.groupby([column, "num_params"])["value"].mean().unstack()
        x = np.log10(flops.loc[wide.columns].to_numpy(float))
        rest = [y - np.polyval(np.polyfit(x, y, 1), x) for y in wide.to_numpy()]
        return np.sqrt(np.mean([r @ r / (len(x) - 2) for r in rest]))

    mean, alone = sigma("group"), sigma("member")
    x = np.linspace(0, 2, 7)
    stderr = mean / np.sqrt(((x - x.mean()) ** 2).sum())
    critical = stats.t.ppf(0.975, 5)
    power = 1 - stats.nct.cdf(critical, 5, (grid := np.linspace(0.01, 20, 4000)) / stderr)
    least = grid[np.argmax(power >= 0.8)]
    row = claim("06", "A slope of")
    assert f"{mean:.1f} points, seven budgets" in row["here"] and row["agrees"] == "no"
    assert float(re.search(r"tell ([\d.]+) points", row["here"])[1]) == pytest.approx(least, rel=0.03)  # fmt: skip
    row = claim("06", "Clusters reduce noise in the fit")
    assert f"{alone:.1f} points for a single kind of bias, {mean:.1f} for the mean of ten" in row["here"]  # fmt: skip
    assert alone > mean > alone / np.sqrt(10) and row["agrees"] == "yes"


def test_muons_lead_shrinks():
    runs = table("wen2025", "runs")
    wide = runs.pivot(index="train_flops", columns="optimizer", values="c4_en_loss")
    four = wide.dropna(subset=["adamw", "nadamw", "muon", "soap"])
    assert len(four) == 12
    x = np.log(four.index.to_numpy(float))
    fit = stats.linregress(x, np.log(four["muon"] / four["adamw"]).to_numpy())
    half = stats.t.ppf(0.975, 10) * fit.stderr
    row = claim("07", "Muon's lead shrinks with scale")
    assert f"{fit.slope:+.4f} [{fit.slope - half:+.4f}, {fit.slope + half:+.4f}]" in row["here"]
    assert row["agrees"] == "yes" and fit.slope > half
    six = wide.dropna(subset=["cautious"])
    fit = stats.linregress(np.log(six.index.to_numpy(float)), np.log(six["cautious"] / six["adamw"]).to_numpy())  # fmt: skip
    half = stats.t.ppf(0.975, 4) * fit.stderr
    row = claim("07", "C-AdamC and Cautious improve steadily")
    assert f"{fit.slope:+.4f} [{fit.slope - half:+.4f}, {fit.slope + half:+.4f}]" in row["here"]


def test_what_the_paper_says_of_itself():
    row = claim("05", "Singapore and Nigeria: within a point")
    assert f"{(20 - np.log10(6e19)) / (np.log10(6e19) - 18):.2f} points apart" in row["here"]
    p = {n: stats.t.sf(0.82 * np.sqrt((n - 2) / (1 - 0.82**2)), n - 2) * 2 for n in (9, 10)}
    row = claim("05", "A correlation of 0.82 over ten corpora")
    assert f"P {p[10]:.4f} with ten points, {p[9]:.4f} with nine" in row["here"]
    row = claim("02", "Nemotron: STEM 2.45, humanities 3.16")
    assert f"{100 * (1 - 3.16 / 2.45):.0f} %" in row["here"] and row["agrees"] == "no"
    row = claim("02", "Nemotron at 1e20")
    assert f"{100 * (1 - 1.61 / 1.56):.1f} %" in row["here"]


def test_a_study_that_cannot_show_a_finding_cannot_tell():
    """One standard: what a negative control or a blind model shows is no verdict, whichever way it points."""
    for study, sign in (("05", "negative control"), ("06", "models this small give one answer")):
        rows = claims_of(next(FOLDER.glob(f"{study}_*.ipynb")))
        blind = [r for r in rows if sign in r["why"]]
        assert len(blind) > 4 and {r["agrees"] for r in blind} == {"cannot tell"}


def test_steps_of_the_released_runs():
    runs = table("held2025", "runs")
    row = claim("01", "Training aims at 2^16 steps")
    up = runs[runs["num_steps"] <= 65_536]["num_steps"]
    tokens = runs["batch_size"] * runs["num_steps"] * 4096
    assert f"in {(tokens == runs['num_tokens']).sum()} of 255" in row["here"]
    assert f"{up.min():,} to {up.max():,} steps in the {len(up)} runs" in row["here"]
    assert f"{(abs(np.log(up / 65_536)) < 0.05).sum()} of them within 5 %" in row["here"]


def test_caution_improves_in_the_runs_of_appendix_b():
    """The two-way interval again, from one least-squares problem with a column for every effect, by the pseudo-inverse."""
    runs = table("held2025_optimizers", "runs")
    names = ["adamw", "adamc", "cautious", "c-adamc", "muon"]
    flops = sorted(runs["train_flops"].unique())
    rows = runs.assign(
        which=runs["optimizer"].map(names.index), budget=runs["train_flops"].map(flops.index)
    )
    x = np.log(rows["train_flops"])
    x = (x - np.log(flops).mean()).to_numpy()
    design = np.zeros((20, 5 + 4 + 4))  # levels, slopes against AdamW, what a budget does to all
    design[np.arange(20), rows["which"]] = 1
    other = rows["which"].to_numpy() > 0
    design[other, 4 + rows["which"].to_numpy()[other]] = x[other]
    design[np.arange(20), 9 + rows["budget"]] = 1
    y = np.log(rows["c4_en_bpb"].to_numpy())
    inverse = np.linalg.pinv(design.T @ design)
    solved = inverse @ design.T @ y
    freedom = 20 - np.linalg.matrix_rank(design)
    sigma = np.sqrt(((y - design @ solved) ** 2).sum() / freedom)
    assert freedom == 8
    half = stats.t.ppf(0.975, 8) * sigma * np.sqrt(np.diag(inverse)[5:9])
    row = claim("07", "C-AdamC and Cautious improve steadily")
    for place, name in ((1, "Cautious"), (2, "C-AdamC")):
        slope = solved[5 + place]
        said = f"Δβ {slope:+.4f} [{slope - half[place]:+.4f}, {slope + half[place]:+.4f}]"
        assert said.replace("-", "−") in row["here"].replace("-", "−"), (name, said)
        assert slope + half[place] < 0
    wide = runs.pivot(index="train_flops", columns="optimizer", values="c4_en_bpb")
    lead = 100 * (1 - wide.div(wide["adamw"], axis=0))
    assert row["agrees"] == "yes" and (lead[["cautious", "c-adamc"]].diff().iloc[2:] > 0).all(axis=None)  # fmt: skip
    row = claim("07", "Muon is clearly ahead")
    assert f"{lead['muon'].iloc[0]:+.2f} %" in row["here"] and row["agrees"] == "yes"
    row = claim("07", "Methods for stability pay primarily")
    assert f"{lead['adamc'].iloc[-1]:+.2f} %" in row["here"] and row["agrees"] == "yes"
    assert (lead[["cautious", "c-adamc", "adamc"]].iloc[:2] < 0.02).all(axis=None)


def test_the_largest_open_models_are_forecast_from_their_own_recipe():
    """The same sigmoids by a search without derivatives, for the four families that a median of nine rests on."""
    from scipy.optimize import minimize

    runs, scores = (table("leaderboard", kind) for kind in ("runs", "scores"))
    asked = scores[scores["task"] == "mmlu"]
    right = (asked["value"] * asked["n"]).groupby(asked["run_id"]).sum()
    runs = runs.assign(accuracy=runs["run_id"].map(right / asked.groupby("run_id")["n"].sum()))
    runs = runs.assign(x=np.log10(runs["train_flops"])).sort_values("x", kind="stable")
    errors = {}
    for family in ("llama", "qwen1.5", "qwen2", "starcoder2"):
        own = runs[runs["family"] == family]
        part = runs[(runs["family"] != family) | (runs["x"] < own["x"].max())]
        names = sorted(part["family"].unique())
        which, x, y = part["family"].map(names.index).to_numpy(), part["x"].to_numpy(), part["accuracy"].to_numpy()  # fmt: skip

        def squares(p, x=x, y=y, which=which):
            fitted = 0.25 + 0.75 * special.expit((x + p[2:][which] - p[0]) * p[1])
            return ((fitted - y) ** 2).sum() + (0.05 * p[2:]) @ (0.05 * p[2:])

        best = minimize(squares, [23.8, 1.2, *np.zeros(len(names))], method="L-BFGS-B", options={"maxfun": 10**6, "maxiter": 10**4, "ftol": 1e-14}).x  # fmt: skip
        last = own.iloc[-1]
        shift = best[2 + names.index(family)]
        told = 0.25 + 0.75 * special.expit((last["x"] + shift - best[0]) * best[1])
        errors[family] = abs(told - last["accuracy"]), abs(own[own["x"] < last["x"]]["accuracy"].iloc[-1] - last["accuracy"])  # fmt: skip
    row = claim("04", "Accuracy is a predictable function of compute")
    assert row["agrees"] == "yes"
    known, unchanged = np.median(list(errors.values()), axis=0)
    said = re.search(r"off by ([\d.]+) points in the median, no change by ([\d.]+)", row["here"])
    # a median of four families is near that of nine, and it is the same order that decides
    assert known < unchanged / 2 and float(said[1]) < float(said[2]) / 2
    assert errors["llama"][0] == pytest.approx(0.018, abs=0.002) and errors["qwen2"][0] == pytest.approx(0.056, abs=0.002)  # fmt: skip
