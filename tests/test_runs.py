"""The contract between training and analysis: what it refuses, and what files keep."""

import hashlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.eval.items import MMLU_DOMAINS
from relscale.suites import load_items, load_scores, load_suite
from relscale.tables import (
    RUNS_SCHEMA,
    join_scores,
    read_as_is,
    read_folder,
    read_table,
    validate_runs,
    validate_scores,
    write_table,
)

ROOT = Path(__file__).parent.parent


@pytest.fixture
def runs():
    return pd.DataFrame(
        {
            "run_id": ["001", "002", "NA"],
            "suite": "toy",
            "corpus": "kjv",
            "status": "finished",
            "budget_flops": [1e12, 2e12, 4e12],
            "train_flops": [0.1, 1 / 3, 3e26],  # awkward floats: any rounding in a file shows
            "num_params": [1, 2, 3],
            "num_tokens": [2**53 + 1, 2**60 + 1, 5],  # whole numbers that a float cannot hold
            "loss": [3.1, 3.0, 2.9],
        }
    )


@pytest.fixture
def scores(runs):
    rows = [(r, g) for r in runs["run_id"] for g in ("GB", "NA")]
    return pd.DataFrame(rows, columns=["run_id", "group"]).assign(
        task="text", metric="bits_per_byte", value=1.5, higher_is_better=False, task_version="1"
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json", ".jsonl"])
def test_round_trip_is_exact(runs, tmp_path, suffix):
    path = tmp_path / f"runs{suffix}"
    checked = validate_runs(runs)
    write_table(checked, path)
    back = validate_runs(read_table(path))
    pd.testing.assert_frame_equal(back, checked, check_exact=True)
    assert list(back["run_id"]) == ["001", "002", "NA"]
    assert back["num_tokens"].tolist() == [2**53 + 1, 2**60 + 1, 5]  # not both rounded alike


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json", ".jsonl"])
def test_equal_frames_give_equal_bytes(runs, tmp_path, suffix):
    """Index, attributes and the storage type of a column are not content."""
    other = runs.copy()
    other.index = [7, 8, 9]
    other.attrs = {"made": "elsewhere"}
    other["run_id"] = other["run_id"].astype(object)
    digests = set()
    for i, frame in enumerate((runs, other)):
        write_table(frame, tmp_path / f"{i}{suffix}")
        digests.add(hashlib.sha256((tmp_path / f"{i}{suffix}").read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json", ".jsonl"])
def test_one_rule_for_what_is_missing(tmp_path, suffix):
    """Nothing there is missing; a word never is, whatever other tools take it for."""
    words = ["NA", "nan", "NaN", "None", "null", "N/A", None]
    frame = pd.DataFrame({"group": words, "mine": words, "value": [0.5, None, 1, 2, 3, 4, 5]})
    write_table(frame, tmp_path / f"t{suffix}")
    for back in (read_table(tmp_path / f"t{suffix}"), read_as_is(tmp_path / f"t{suffix}")):
        for column in ("group", "mine"):
            assert back[column].tolist()[:-1] == words[:-1]
            assert back[column].isna().tolist() == [False] * 6 + [True]
        assert back["value"].isna().tolist() == [False, True] + [False] * 5


@pytest.mark.parametrize(
    "name, text", [("t.csv", "group,value\nGB,{}\n"), ("t.jsonl", '{{"group": "GB", "value": {}}}\n'), ("t.json", '[{{"group": "GB", "value": {}}}]')]
)  # fmt: skip
def test_a_number_that_diverged_is_refused_not_missing(tmp_path, name, text):
    (tmp_path / name).write_text(text.format("NaN"))
    with pytest.raises(UserError, match="value, (row 2|record 1): 'NaN' is not a number"):
        read_table(tmp_path / name)
    (tmp_path / name).write_text(text.format("Infinity"))
    assert np.isinf(read_table(tmp_path / name)["value"].item())  # validation names it


def test_json_refuses_what_it_cannot_hold(runs, tmp_path):
    for suffix in (".json", ".jsonl"):
        with pytest.raises(UserError, match="write it as .csv or .parquet"):
            write_table(runs.assign(loss=np.inf), tmp_path / f"t{suffix}")
    assert not list(tmp_path.iterdir())


def test_json_keeps_a_line_separator_and_a_byte_order_mark(tmp_path):
    text = '{"group": "a\u2028b", "value": 1.5}\n'
    (tmp_path / "t.jsonl").write_text("\ufeff" + text, "utf-8")
    assert read_table(tmp_path / "t.jsonl")["group"].item() == "a\u2028b"


def test_cells_beyond_the_header_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("group,value\nGB,1,9\nIN,2,9\n")
    with pytest.raises(UserError, match="more cells than the header"):
        read_as_is(tmp_path / "t.csv")  # pandas alone takes the first column for row names


def test_a_folder_prefers_parquet_and_names_two_names_for_one(runs, scores, tmp_path):
    write_table(scores, tmp_path / "scores.csv")
    write_table(runs.assign(loss=9.0), tmp_path / "runs.csv")
    write_table(runs.rename(columns={"run_id": "name"}), tmp_path / "runs.parquet")
    mine, theirs = read_folder(tmp_path, columns={"run_id": "name"})
    assert mine["run_id"].tolist() == ["001", "002", "NA"] and mine["loss"].max() < 9
    assert theirs["run_id"].tolist() == scores["run_id"].tolist()
    write_table(runs.assign(name="x"), tmp_path / "runs.parquet")
    with pytest.raises(UserError, match="run_id is there, and so is name"):
        read_folder(tmp_path, columns={"run_id": "name"})


def test_broken_files_are_named(tmp_path):
    for name, content in [
        ("a.parquet", b"PAR1 half a file"),
        ("b.csv", b""),
        ("c.csv", b"\xff\xfe\x00\x01"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            read_table(tmp_path / name)


@pytest.mark.parametrize("column", [c.name for c in RUNS_SCHEMA if c.required])
def test_each_required_column_is_required(runs, column):
    with pytest.raises(UserError, match=f"lacks {column}"):
        validate_runs(runs.drop(columns=column))
    hole = runs.astype({column: object})
    hole.loc[1, column] = None
    with pytest.raises(UserError, match=f"{column}, row 1 .from 0.: no value"):
        validate_runs(hole)


@pytest.mark.parametrize("value", [np.inf, -1.0, 0.0, "many"])
@pytest.mark.parametrize("column", ["budget_flops", "train_flops", "num_params", "num_tokens"])
def test_numbers_out_of_range_name_their_row(runs, column, value):
    bad = runs.astype({column: object})
    bad.loc[2, column] = value
    with pytest.raises(UserError, match=f"{column}, row 2"):
        validate_runs(bad)


def test_many_bad_rows_are_counted(runs):
    many = pd.concat([runs] * 3, ignore_index=True)
    many = many.assign(run_id=[str(i) for i in range(9)], budget_flops=[1e12, 2e12] + [0.0] * 7)
    with pytest.raises(
        UserError, match=r"budget_flops, rows 2, 3, 4, 5, 6 and 2 more \(from 0\): must be"
    ):
        validate_runs(many)


def test_scores_refusals(scores):
    assert len(validate_scores(scores)) == 6
    assert len(validate_scores(scores.assign(stderr=0.0))) == 6  # a standard error may be zero
    with pytest.raises(UserError, match="stderr, rows .* must be non-negative"):
        validate_scores(scores.assign(stderr=-0.1))
    with pytest.raises(UserError, match="stands twice"):
        validate_scores(pd.concat([scores, scores[:1]]))
    with pytest.raises(UserError, match="both directions"):
        validate_scores(scores.assign(higher_is_better=[True] + [False] * 5))
    with pytest.raises(UserError, match="truth value"):
        validate_scores(scores.assign(higher_is_better="maybe"))
    with pytest.raises(UserError, match="bits per byte must be positive"):
        validate_scores(scores.assign(value=-1.0))


def test_join_takes_finished_runs_and_refuses_holes(runs, scores):
    joined = join_scores(runs, scores)
    assert len(joined) == 6 and {"loss", "group", "value", "stderr"} <= set(joined.columns)
    some = runs.assign(status=["finished", "failed", "finished"])
    assert set(join_scores(some, scores)["run_id"]) == {"001", "NA"}
    with pytest.raises(UserError, match="run 002 has no score for NA"):
        join_scores(runs, scores.drop(index=3))
    with pytest.raises(UserError, match="no score for every group|no score for GB"):
        join_scores(runs, scores[scores["run_id"] != "002"])
    with pytest.raises(UserError, match="versions 1, 2"):
        join_scores(runs, scores.assign(task_version=["1", "1", "2", "2", "1", "1"]))
    with pytest.raises(UserError, match="name one of"):
        join_scores(runs, pd.concat([scores, scores.assign(task="speech")]))
    with pytest.raises(UserError, match="rename it"):
        join_scores(runs.assign(group="x"), scores)


def test_join_does_not_depend_on_row_order(runs, scores):
    key = ["run_id", "group"]
    shuffled = join_scores(
        runs.sample(frac=1, random_state=1), scores.sample(frac=1, random_state=2)
    )
    pd.testing.assert_frame_equal(
        shuffled.sort_values(key, ignore_index=True),
        join_scores(runs, scores).sort_values(key, ignore_index=True),
    )


def test_published_suite():
    suite = load_suite("held2025")
    assert suite.groupby("corpus").size().to_dict() == {
        "commonpile": 85,
        "dclm": 85,
        "nemotron": 85,
    }
    # five widths at 1e18, more at larger budgets: the paper's grid
    assert suite[suite["corpus"] == "dclm"].groupby("budget_flops").size().tolist() == [
        5,
        10,
        15,
        10,
        15,
        15,
        15,
    ]
    assert (
        abs(suite["forward_flops"] / suite["budget_flops"] - 1) < 1e-4
    ).all()  # budgets are forward FLOPs
    with pytest.raises(UserError, match="held2025"):
        load_suite("kaplan2020")


def test_ladder_is_what_its_card_says():
    runs, scores = load_suite("olmo_ladder"), load_scores("olmo_ladder")
    ends = runs[runs["status"] == "finished"]
    assert (len(runs), len(ends), len(scores)) == (300, 30, 300 * 91)
    assert set(scores["run_id"]) == set(runs["run_id"])
    assert ends.groupby(["size", "chinchilla"]).size().unique().tolist() == [1, 2]
    # the logged FLOPs are the OLMo code's formula, exactly up to float64
    n, d = runs["num_params_matmul"].astype(float), runs["num_tokens"]
    attention = 4.0 * runs["num_layers"] * runs["hidden"] * 4096
    formula = d * (2 * n + 4.0 * runs["num_params"] + 3 * attention)
    np.testing.assert_allclose(runs["train_flops"], formula, rtol=1e-12)
    np.testing.assert_allclose(runs["forward_flops"], d * (2 * n + attention), rtol=1e-12)
    # "times Chinchilla" is tokens over 20 N; the runs went on for up to 0.3 % more
    np.testing.assert_allclose(
        ends["num_tokens"] / (20 * ends["num_params_matmul"]), ends["chinchilla"], rtol=0.004
    )
    tokens = runs["batch_size"] * runs["num_steps"] * runs["seq_len"]
    assert (tokens == runs["num_tokens"]).all()
    # the ends are on the schedule's floor, a tenth of the peak; no checkpoint has come that low
    floor = runs["learning_rate_now"] / runs["learning_rate"]
    assert (floor[ends.index] < 0.1001).all() and (floor.drop(ends.index) > 0.1001).all()
    up = scores.groupby("metric")["higher_is_better"].unique().map(list).to_dict()
    chances = ["accuracy", "accuracy_per_char", "choice_probability", "choice_log_probability"]
    assert up == {"bits_per_byte": [False], "nats_per_token": [False]} | {
        m: [True] for m in chances
    }
    shares = scores[scores["metric"].isin(chances[:3])]["value"]
    assert shares.between(0, 1).all()
    assert (scores.loc[scores["metric"] == chances[3], "value"] < 0).all()
    # one right answer has less than all: exp of the mean log is below the mean (Jensen)
    key = ["run_id", "task", "group"]
    soft = scores.pivot(index=key, columns="metric", values="value")[chances[2:]].dropna()
    assert (np.exp(soft[chances[3]]) <= soft[chances[2]]).all()
    with pytest.raises(UserError, match="load_suite"):
        load_scores("held2025")


@pytest.mark.parametrize(
    "suite, source",
    [("held2025", "held2025_runs/isoflop_runs.csv"), ("olmo_ladder", "olmo_ladder")],
)
def test_published_suite_is_remade(suite, source, tmp_path):
    source = ROOT.parent / "shared" / "data" / source
    if not source.exists():
        pytest.skip("the exports are not beside this checkout")
    shipped = ROOT / "data" / suite
    (tmp_path / "make.py").write_bytes((shipped / "make.py").read_bytes())
    subprocess.run([sys.executable, tmp_path / "make.py", source], check=True, cwd=ROOT)
    for made in tmp_path.glob("*.csv"):
        assert made.read_bytes() == (shipped / made.name).read_bytes()
    for made in tmp_path.glob("*.parquet"):  # its bytes hold the writer's version
        again, kept = pd.read_parquet(made), pd.read_parquet(shipped / made.name)
        pd.testing.assert_frame_equal(again, kept, check_exact=True)


def test_gemstones_and_leaderboard_are_what_their_cards_say():
    gems, scores = load_suite("gemstones"), load_scores("gemstones")
    assert (
        gems.groupby("model").size().tolist() == [35] * 22
        and (gems["status"] == "finished").sum() == 22
    )
    subjects = scores[(scores["task"] == "mmlu") & (scores["metric"] == "loss")]
    assert subjects.groupby("run_id").size().unique() == [57] and len(scores) == 59_378
    items = pd.read_csv(ROOT / "data/gemstones/subjects.csv").groupby("group")["n"].sum()
    assert items.to_dict() == {
        "humanities": 4705,
        "other": 3107,
        "social_sciences": 3077,
        "stem": 3153,
    }
    assert (subjects.groupby("run_id")["n"].sum() == 14_042).all()
    # the authors' own FLOPs of one of their models, from their table, and twice the work with twice the tokens
    one = gems.set_index("run_id")
    assert one.loc["1024x28@2385", "train_flops"] == pytest.approx(35793708161496514560, rel=1e-12)
    assert one.loc["1024x28@4770", "train_flops"] == 2 * one.loc["1024x28@2385", "train_flops"]
    assert one.loc["1024x28", ["num_params", "num_tokens"]].tolist() == [
        543_482_880,
        350_119_526_400,
    ]
    losses = load_items("gemstones", model=["256x23", "3072x12"], step=83475)  # two columns of 220
    means = losses.groupby(["run_id", "member"])["value"].mean()
    held = subjects.set_index(["run_id", "member"])["value"].loc[means.index]
    np.testing.assert_allclose(means, held, rtol=1e-3)  # float16 of the items: 5e-4 each
    board, answers = load_suite("leaderboard"), load_scores("leaderboard")
    assert (len(board), board["family"].nunique(), len(answers)) == (104, 31, 104 * 62)
    flops = 6.0 * board["num_params"] * board["num_tokens"]
    np.testing.assert_allclose(board["train_flops"], flops, rtol=1e-9)
    rows = join_scores(board, answers, task="mmlu", metric="accuracy")
    assert rows.groupby("group")["member"].nunique().to_dict() == {
        "humanities": 13, "other": 13, "social_sciences": 12, "stem": 19
    }  # fmt: skip


def made_up_gemstones(root, rng):
    """A checkout of the form of the source repository, of two models at two checkpoints; and what was written."""
    written, revisions = {}, ("main", "step_00002385")
    for model in ("Gemstone-256x23", "Gemstone-384x13"):
        for revision in revisions:
            place = root / "benchmarks/bhagia_task_losses" / model / revision
            place.mkdir(parents=True)
            tasks = dict.fromkeys(
                ("arcc", "arce", "coqa", "openbook", "piqa", "siqa", "winogrande"), ["main"]
            )
            tasks |= {
                "hellaswag": ["indomain", "zeroshot"],
                "mmlu": sum(map(list, MMLU_DOMAINS.values()), []),
            }
            for task, parts in tasks.items():
                losses = {part: rng.uniform(1, 9, 3 + len(part) % 3).tolist() for part in parts}
                (place / f"losses_{task}.json").write_text(json.dumps(losses))
                written[model, revision, task] = losses
    names = [f"{m}-{r}" for m in ("Gemstone-256x23", "Gemstone-384x13") for r in revisions]
    columns = ("arc:challenge", "arc:easy", "commonsense_qa", "hellaswag", "mmlu", "openbookqa", "piqa", "siqa", "winogrande")  # fmt: skip
    for end in ("", "_err"):
        table = pd.DataFrame(rng.uniform(0, 1, (4, 9)), index=names, columns=columns)
        table.to_parquet(root / f"benchmarks/light_eval_df{end}.parquet")
    text = root / "other_validation_losses/dclm_losses"
    text.mkdir(parents=True)
    (text / "Gemstone-256x23.json").write_text(json.dumps({"main": 3.5, "step_00002385": 4.5}))
    return written


def made(suite, checkout, folder):
    """The tables that a suite's maker writes beside itself, from a checkout."""
    folder.mkdir()
    (folder / "make.py").write_bytes((ROOT / "data" / suite / "make.py").read_bytes())
    subprocess.run([sys.executable, folder / "make.py", checkout], check=True, cwd=ROOT)
    return read_table(folder / "runs.csv"), read_table(folder / "scores.parquet")


def test_gemstones_are_made_from_a_checkout(tmp_path):
    written = made_up_gemstones(tmp_path / "source", np.random.default_rng(0))
    runs, scores = made("gemstones", tmp_path / "source", tmp_path / "made")
    shipped = load_suite("gemstones").set_index("run_id").loc[runs["run_id"]].reset_index()
    pd.testing.assert_frame_equal(validate_runs(runs), shipped)  # which the authors' table holds
    assert len(scores) == 4 * (57 + 9 + 9) + 2
    at = scores.set_index(["run_id", "task", "group", "metric", "member"])["value"].sort_index()
    law = written["Gemstone-256x23", "step_00002385", "mmlu"]["professional_law"]
    key = ("256x23@2385", "mmlu", "humanities", "loss", "professional_law")
    assert at.loc[key] == pytest.approx(sum(law) / len(law), rel=1e-14)
    row = scores[(scores["run_id"] == "256x23@2385") & (scores["member"] == "professional_law")]
    assert row["stderr"].item() == pytest.approx(statistics.stdev(law) / len(law) ** 0.5, rel=1e-12)
    items = pd.read_parquet(tmp_path / "made/items.parquet", columns=["member", "384x13"])
    own = items.loc[items["member"] == "virology", "384x13"].astype(float)
    np.testing.assert_allclose(
        own, written["Gemstone-384x13", "main", "mmlu"]["virology"], rtol=5e-4
    )


def test_leaderboard_is_made_from_a_checkout(tmp_path):
    rng, names = np.random.default_rng(0), sum(map(list, MMLU_DOMAINS.values()), [])
    table = pd.DataFrame(
        rng.uniform(0, 1, (4, 62)),
        columns=[f"hendrycksTest-{n}" for n in names]
        + ["ARC", "HellaSwag", "Winogrande", "TruthfulQA", "GSM8K"],
    )
    table.insert(0, "Model", ["a-1b", "a-7b", "a-7b-chat", "lost"])
    table = table.assign(Family="a", Instruct=[False, False, True, False])
    table["#Params (B)"], table["Pretraining Data Size (T)"] = [1.0, 7.0, 7.0, 1.0], 0.3
    table["FLOPs (1E21)"] = [1.8, 12.6, 12.6, np.nan]
    (tmp_path / "source/data").mkdir(parents=True)
    table.to_csv(tmp_path / "source/data/data_v1.csv")
    runs, scores = made("leaderboard", tmp_path / "source", tmp_path / "made")
    assert runs["run_id"].tolist() == ["a-1b", "a-7b"] and runs["train_flops"].tolist() == [
        1.8e21,
        1.26e22,
    ]
    of_law = scores[scores["member"] == "professional_law"].set_index("run_id")
    assert of_law["value"].tolist() == table["hendrycksTest-professional_law"][:2].tolist()
    assert of_law["n"].tolist() == [1534, 1534] and set(of_law["group"]) == {"humanities"}
