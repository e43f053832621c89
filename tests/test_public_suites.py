"""The makers of gadre2024 and pythia on small checkouts of the sources' form, and the totals of the shipped tables."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError, data_path
from relscale.laws.surface import fit_chinchilla
from relscale.suites import load_scores, load_suite
from relscale.tables import read_table, validate_scores

DATA = Path(__file__).resolve().parent.parent / "data"


def maker(name):
    spec = importlib.util.spec_from_file_location(f"make_{name}", DATA / name / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def gadre_checkout(folder, params=10_569_312):
    """Two runs of one size: losses of 3 and 5 nats on two texts."""
    here = folder / "exp_data"
    for corpus, loss in (("c4_original", 3.0), ("rpj", 5.0)):
        name = f"{corpus}-d=96_l=8_h=4-1.0"
        result = {"loss": loss, "sequences": 120, "tokens": 245_760,
                  "loss_sequences_lower_95": loss - 0.2, "loss_sequences_upper_95": loss + 0.3,
                  "loss_tokens_lower_95": loss - 0.02, "loss_tokens_upper_95": loss + 0.02}  # fmt: skip
        texts = ("val_tok_mult/paloma_ptb/1.tar", "val_tok_mult/de-en/val_de-en_100.tar")
        write_json(here / f"models/{name}.json", {
            "name": name, "dataset_name": corpus, "open_lm_args": ["--lr", "1", "--seed", "124"],
            "hyperparameters": {"model": "scaling/open_lm_configs/d=96_l=8_h=4.json", "params": params,
                                "params_no_embed": 5_727_840, "tokens": 211_386_240, "lr": 0.003,
                                "wd": 0.033, "global_bs": 64, "chinchilla_multiplier": 1.0},
            "results": [result | {"val_data": [f"training/eval_data/{t}"]} for t in texts],
        })  # fmt: skip
        write_json(here / f"evals/evaluation_{name}_heavy.json",
                   {"eval_metrics": {"icl": {"piqa": 0.6}}})  # fmt: skip
    (here / "eval_metadata.csv").write_text("Eval Task,#datapoints\npiqa,1838\n", encoding="utf-8")
    return folder


def test_gadre_maker_reads_a_checkout_of_the_sources_form(tmp_path):
    runs, scores = maker("gadre2024").read_checkout(gadre_checkout(tmp_path))
    assert runs["corpus"].tolist() == ["c4", "redpajama"] and (runs["seed"] == 124).all()
    assert runs["budget_flops"].iloc[0] == 6.0 * 10_569_312 * 211_386_240
    # by hand, a token: 2 x 5,727,840 multiply-adds, and 4 x 8 x 96 x 2048 FLOPs of attention
    assert runs["forward_flops"].iloc[0] == 211_386_240 * (11_455_680 + 6_291_456)
    text = scores[scores["task"] == "text"]
    assert text.groupby("group")["value"].apply(list).to_dict() == {
        "c4_german": [3.0, 5.0],
        "paloma_ptb": [3.0, 5.0],
    }
    np.testing.assert_allclose(text["stderr"], 0.5 / 3.919928, rtol=1e-6)
    assert scores.query("task == 'piqa'")["n"].tolist() == [1838, 1838]


def test_gadre_maker_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(UserError, match="give a checkout"):
        maker("gadre2024").read_checkout(tmp_path)
    with pytest.raises(UserError, match="are not the embedding's"):
        maker("gadre2024").read_checkout(gadre_checkout(tmp_path, params=10_569_313))


def pythia_checkout(folder, count=(101, 101)):
    """A step before and a step after training began, of two models; 40 % of `count` items each."""
    for name, n in zip(("70m", "1b-bf16"), count, strict=True):
        for step in (0, 143_000):
            results = {
                f"crows_pairs_{k}": {"likelihood_difference": 4.0, "likelihood_difference_stderr": 0.3,
                                     "pct_stereotype": 0.4, "pct_stereotype_stderr": (0.24 / (n - 1)) ** 0.5}
                for k in ("english", "french_autre")
            } | {"lambada_openai": {"ppl": 30.0, "ppl_stderr": 1.0, "acc": 0.5, "acc_stderr": (0.25 / 99) ** 0.5}}  # fmt: skip
            path = folder / f"evals/pythia-v1/pythia-{name}/zero-shot/{name}_step{step}.json"
            write_json(path, {"results": results, "versions": dict.fromkeys(results, 0)})
    return folder


def test_pythia_maker_reads_a_checkout_of_the_sources_form(tmp_path):
    runs, scores, untrained = maker("pythia").read_checkout(pythia_checkout(tmp_path))
    assert runs["run_id"].tolist() == ["70m", "1b"]
    assert set(untrained["run_id"]) == {"70m@0", "1b@0"} and len(untrained) == len(scores)
    assert runs["num_tokens"].tolist() == [299_892_736_000] * 2
    # published parameters of EleutherAI/pythia-70m and -1b
    assert runs["num_params"].tolist() == [70_426_624, 1_011_781_632]
    counts = scores.groupby("task")["n"].first().to_dict()
    assert counts == {"crows_pairs": 101, "crows_pairs_total": 101, "lambada_openai": 100}
    kinds = scores[scores["task"] == "crows_pairs"]
    assert set(kinds["member"]) == {"french_other"} and set(kinds["group"]) == {"french"}
    assert scores.loc[scores["task"] != "crows_pairs", "member"].isna().all()


def test_pythia_maker_refuses_files_that_disagree_on_the_items(tmp_path):
    with pytest.raises(UserError, match="the standard errors tell"):
        maker("pythia").read_checkout(pythia_checkout(tmp_path, count=(101, 102)))
    with pytest.raises(UserError, match="give a checkout"):
        maker("pythia").read_checkout(tmp_path / "none")


def test_totals_of_gadre2024():
    runs, scores = load_suite("gadre2024"), load_scores("gadre2024")
    assert runs.groupby("corpus").size().to_dict() == {"c4": 34, "redpajama": 35, "refinedweb": 35}
    assert (runs["num_params"].min(), runs["num_params"].max()) == (10_569_312, 6_889_410_560)
    text = scores[scores["task"] == "text"]
    assert text.groupby("group").size().to_dict() == dict.fromkeys(text["group"], 104)
    assert text["group"].nunique() == 8 and (text["stderr"] > 0).all()
    asked = scores[scores["metric"] == "accuracy"]
    assert len(asked) == 104 * 46 and asked["n"].notna().all()
    # tokens are the stated multiple of 20 a parameter, to the rounding of a batch
    named = runs["num_tokens"] / (20 * runs["num_params"])
    np.testing.assert_allclose(named, runs["token_multiplier"], rtol=1e-6)


def test_shipped_floors_are_those_of_the_shipped_losses():
    floors = pd.read_csv(data_path("gadre2024/floors.csv"))
    assert floors.groupby("left_out").size().to_dict() == dict.fromkeys(floors["left_out"], 9)
    runs, scores = load_suite("gadre2024"), load_scores("gadre2024")
    rows = runs.merge(scores.query("group == 'paloma_c4_en'"), on="run_id")
    shared = rows.groupby(["size", "token_multiplier"])["corpus"].transform("nunique") == 3
    fit = fit_chinchilla(rows[shared & (rows["corpus"] == "c4")], error="value")
    kept = floors.query("left_out == 'none' and corpus == 'c4' and group == 'paloma_c4_en'").iloc[0]
    for name in ("E", "alpha", "beta"):  # the optimum is flat: to three digits on any machine
        assert fit.values[name] == pytest.approx(kept[name], rel=1e-3)


def test_totals_of_pythia():
    runs, scores = load_suite("pythia"), load_scores("pythia")
    untrained = validate_scores(read_table(data_path("pythia/untrained.parquet")))
    assert runs.groupby(["corpus", "size"]).size().to_dict() == {
        (corpus, size): 26
        for corpus in ("pile", "pile_deduped")
        for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")
    }
    assert (runs["status"] == "finished").sum() == 16
    both = pd.concat([scores, untrained])
    both = both[both["task"].isin(["crows_pairs", "crows_pairs_total"])]
    assert set(both.groupby("metric").size()) == {22 * 8 * 2 * 27}
    # each language's total is the pool of its ten kinds
    share = scores[scores["metric"] == "stereotype_share"]
    kinds, total = (share[share["task"] == t] for t in ("crows_pairs", "crows_pairs_total"))
    key = ["run_id", "group"]
    assert kinds.groupby(key)["member"].nunique().eq(10).all()
    sums = kinds.assign(value=kinds["value"] * kinds["n"]).groupby(key)[["value", "n"]].sum()
    assert (sums["n"] == 1677).all()
    pooled = sums["value"] / sums["n"]
    np.testing.assert_allclose(
        pooled, total.set_index(key)["value"].reindex(pooled.index), atol=1e-9
    )
    asked = scores[scores["task"] == "mmlu"]
    assert asked["member"].nunique() == 57 and asked["group"].nunique() == 4
