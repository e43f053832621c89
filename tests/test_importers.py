"""Tables that other tools wrote: what is taken, and what is refused in which words."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.importers import from_table
from relscale.laws.relative import fit_relative
from relscale.lm_eval import from_lm_eval
from relscale.suites import load_scores, load_suite
from relscale.tables import join_scores
from relscale.wandb_exports import Metric, from_wandb

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
LONG = {"group": "dialect", "train_flops": "flops", "value": "bpb"}
WIDE = "flops,web,NA\n1e18,3,4\n1e19,2,3.5\n1e20,1,3\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# --- from_table


@pytest.mark.parametrize("bom", ["", "\ufeff"])  # spreadsheets put a byte order mark in front
def test_long_table_keeps_names_and_digits(tmp_path, bom):
    text = "dialect,flops,bpb,Läufe,note\n" + "".join(
        f"{g},{f},{v},00{i},x\n"
        for i, (f, v) in enumerate([("1e18", 1 / 3), ("1e19", 0.3)])
        for g in ("NA", "कोच्चि", "None")
    )
    path = write(tmp_path / "läufe.csv", bom + text)
    rows = from_table(path, columns=LONG | {"run_id": "Läufe", "note": "note"})
    assert set(rows["group"]) == {"NA", "कोच्चि", "None"} and set(rows["run_id"]) == {"000", "001"}
    assert (
        rows["value"].iloc[0] == 1 / 3 and rows["train_flops"].tolist() == [1e18] * 3 + [1e19] * 3
    )
    assert (rows["note"] == "x").all()


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json", "jsonl"])
def test_forms_and_files_agree(tmp_path, suffix):
    wide = pd.read_csv(write(tmp_path / "w.csv", WIDE))
    path = tmp_path / f"table.{suffix}"
    {
        "csv": lambda: wide.to_csv(path, index=False),
        "parquet": lambda: wide.to_parquet(path),
        "json": lambda: wide.to_json(path, orient="records"),
        "jsonl": lambda: wide.to_json(path, orient="records", lines=True),
    }[suffix]()
    rows = from_table(
        path, columns={"train_flops": "flops"}, groups={"internet": "web", "NA": "NA"}
    )
    long = wide.melt("flops", var_name="g", value_name="v").replace({"web": "internet"})
    again = from_table(long, columns={"group": "g", "train_flops": "flops", "value": "v"})
    pd.testing.assert_frame_equal(rows, again)
    fit = fit_relative(rows, baseline="internet")
    assert list(fit.table.index) == ["NA"] and fit.table["delta_beta"].item() > 0


ROW = "GB,1e18,1\nIN,1e18,2\nGB,1e19,1\n"


@pytest.mark.parametrize(
    "last, said",
    [
        ("IN,1e19,NaN", r"bad.csv: bpb, row 5, column C: 'NaN' is not a number"),
        ("IN,1e19,nan", r"row 5, column C: 'nan' is not a number"),
        ("IN,1e19,inf", r"row 5, column C: 'inf' is not a number"),
        ("IN,1e19,1e999", r"row 5, column C: infinite"),
        ("IN,1e19,", r"bpb, row 5, column C: empty: fill it, or drop"),
        ("IN,1e19,0", r"bpb, row 5, column C: must be positive"),
        ("IN,1e19,-0.1", r"bpb, row 5, column C: must be positive"),
        ("IN,-1e19,1", r"flops, row 5, column B: must be positive"),
        (",1e19,1", r"dialect, row 5, column A: empty"),
        (
            "IN,1e18,1",
            r"rows 3, 5: IN, 1e\+18 stands twice: keep one row for each group, train_flops",
        ),
        ('IN,1e19,"1,500"', r"row 5, column C: '1,500' can be read in two ways"),
    ],
)
def test_a_bad_row_is_named(tmp_path, last, said):
    path = write(tmp_path / "bad.csv", "dialect,flops,bpb\n" + ROW + last + "\n")
    with pytest.raises(UserError, match=said) as caught:
        from_table(path, columns=LONG)
    assert "bad.csv" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "columns, groups, said",
    [
        (
            {"train_flops": "flop"},
            ["web", "NA"],
            r"no column 'flop' for train_flops: did you mean 'flops'",
        ),
        ({"train_flops": "zzz"}, ["web", "NA"], r"no column 'zzz' .* there is flops, web, NA"),
        ({"train_flops": "flops"}, ["web", "NB"], r"no column 'NB' for group NB"),
        ({"train_flops": "flops"}, ["web"], r"1 group only: a gap needs a second one"),
        ({"train_flops": "flops"}, [], r"0 group only"),
        ({"tokens": "flops"}, ["web", "NA"], r"rows lack a scale: add train_flops"),
        ({"train_flops": "flops", "value": "web"}, ["NA"], r"groups= gives value"),
        ({"train_flops": "flops"}, None, r"lacks group, value"),
        (
            {"train_flops": lambda t: 1e18, "run_id": "flops"},
            ["web", "NA"],
            r"train_flops has one value only",
        ),
    ],
)
def test_a_bad_mapping_is_named(tmp_path, columns, groups, said):
    path = write(tmp_path / "wide.csv", WIDE)
    with pytest.raises(UserError, match=said):
        from_table(path, columns=columns, groups=groups)


def test_one_of_two_scales_may_stand_still(tmp_path):
    path = write(tmp_path / "wide.csv", WIDE)
    columns = {"train_flops": "flops", "num_params": lambda t: [7] * len(t)}
    rows = from_table(path, columns=columns, groups=["web", "NA"])
    assert rows["num_params"].unique() == [7] and rows["train_flops"].nunique() == 3


def test_wide_rows_are_those_of_the_file(tmp_path):
    path = write(tmp_path / "wide.csv", "flops,web,NA\n1e18,3,4\n1e19,2,\n")
    with pytest.raises(UserError, match=r"wide.csv: NA, row 3, column C: empty"):
        from_table(path, columns={"train_flops": "flops"}, groups=["web", "NA"])


def test_what_only_the_fit_can_see_is_named_there(tmp_path):
    rows = from_table(
        write(tmp_path / "w.csv", WIDE), columns={"train_flops": "flops"}, groups=["web", "NA"]
    )
    with pytest.raises(UserError, match="no baseline 'US' in group: there is NA, web"):
        fit_relative(rows, baseline="US")
    with pytest.raises(UserError, match=r"group 'NA' has no row at train_flops 1e\+20"):
        fit_relative(rows.iloc[:-1], baseline="web")


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.docx", "x", "unknown suffix '.docx'"),
        ("a.csv", "", "cut short, or not csv"),
        ("a.csv", "flops,web\n", "no rows"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "cut short, or not csv"),
        ("a.parquet", "PAR1", "cut short, or not parquet"),
        ("a.json", '[{"flops": 1', "cut short, or not json"),
        ("a.jsonl", '{"flops": 1}\n{"flo', "cut short, or not jsonl"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, said):
    with pytest.raises(UserError, match=said) as caught:
        from_table(
            write(tmp_path / name, content), columns={"train_flops": "flops"}, groups=["web", "NA"]
        )
    assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        from_table(tmp_path / "absent.csv", columns=LONG)


def test_latin_1_is_refused_not_guessed(tmp_path):
    (tmp_path / "l.csv").write_bytes("dialect,flops,bpb\nMünchen,1e18,1\n".encode("latin-1"))
    with pytest.raises(UserError, match="l.csv: cut short, or not csv"):
        from_table(tmp_path / "l.csv", columns=LONG)


# --- from_wandb

TABLE = """Name,State,lr,params,tokens,gflops,eval/uk/bpb,eval/NA/bpb,acc
007,finished,0.1,1000,20000,0.12,1.5,1.75,0.25
b,Finished,0.1,4000,80000,1.92,1.25,1.5,
c,crashed,0.1,16000,,,NaN,Infinity,NaN
"""
SETUP = {
    "suite": "toy",
    "columns": {
        "num_params": "params",
        "num_tokens": "tokens",
        "train_flops": lambda t: t["gflops"] * 1e9,
        "learning_rate": "lr",
    },
    "metrics": [
        Metric("eval/{group}/bpb", task="text"),
        Metric("acc", "accuracy", True, task="quiz"),
    ],
    "fixed": {"corpus": "toy"},
}


def test_wandb_runs_table(tmp_path):
    runs, scores = from_wandb(write(tmp_path / "export.csv", TABLE), **SETUP)
    assert runs["run_id"].tolist() == ["007", "b"] and set(runs["status"]) == {"finished"}
    assert runs["budget_flops"].tolist() == runs["train_flops"].tolist() == [0.12 * 1e9, 1.92 * 1e9]
    assert len(scores) == 5  # an empty cell is no score
    assert join_scores(runs, scores)["group"].tolist() == ["uk", "NA", "uk", "NA"]
    assert scores.set_index("metric")["higher_is_better"].to_dict() == {
        "bits_per_byte": False,
        "accuracy": True,
    }


def test_wandb_states_that_were_asked_for_are_analysed(tmp_path):
    path = write(tmp_path / "export.csv", TABLE.replace("c,crashed,0.1,16000,,,NaN,Infinity,NaN", "c,crashed,0.1,16000,9e4,2,1,1,"))  # fmt: skip
    read = from_wandb(path, **SETUP, states=["Finished", "CRASHED"])
    assert read.runs["state"].tolist() == ["finished", "finished", "crashed"]
    # what was asked for takes part in the fits, and that a crashed run does is said
    assert set(join_scores(*read)["run_id"]) == {"007", "b", "c"}
    assert "1 runs whose state is crashed" in read.doubts[0]


@pytest.mark.parametrize(
    "old, new, change, said",
    [
        ("007,", "b,", {}, r"export.csv: runs, run b: b stands twice"),
        (
            "1.25,1.5",
            "1.25,NaN",
            {},
            r"eval/NA/bpb, row 3, column H: 'NaN' is not finite: mark the run failed",
        ),
        ("80000", "", {}, r"num_tokens of run b is empty: fill it, or leave the run out"),
        ("80000", "8e4.1", {}, r"tokens, row 3, column E: '8e4.1' is not a number"),
        ("Name", "ID", {}, r"no column 'Name' for run_id"),
        (
            "",
            "",
            {"states": ["running"]},
            r"no running run: there is crashed, finished; check metrics= or states=",
        ),
        (
            "",
            "",
            {"metrics": [Metric("eval/{group}/bits")]},
            r"no column fits 'eval/\{group\}/bits': correct",
        ),
        (
            "",
            "",
            {"metrics": [Metric("eval/{group}/bpb"), Metric("{group}/uk/bpb")]},
            r"'eval/uk/bpb' fits 'eval/\{group\}/bpb' and '\{group\}/uk/bpb': narrow",
        ),
        ("", "", {"steps": "first"}, r"steps='first': choose"),
        ("", "", {"fixed": {}}, r"runs table lacks corpus"),
        (
            "",
            "",
            {"columns": {"num_params": "parms"}},
            r"no column 'parms' for num_params: did you mean 'params'",
        ),
    ],
)
def test_wandb_slips_are_named(tmp_path, old, new, change, said):
    path = write(tmp_path / "export.csv", TABLE.replace(old, new, 1))
    with pytest.raises(UserError, match=said):
        from_wandb(path, **SETUP | change)


def test_wandb_runs_table_may_hold_the_last_step(tmp_path):
    with_step = "".join(f"{line},{i or '_step'}\n" for i, line in enumerate(TABLE.split()))
    runs, scores = from_wandb(write(tmp_path / "export.csv", with_step), **SETUP)
    assert runs["run_id"].tolist() == ["007", "b"] and len(scores) == 5


@pytest.mark.parametrize(
    "source, said",
    [
        (lambda t: t["gflop"] * 1e9, "the function for train_flops fails: no column 'gflop'"),
        (lambda t: t["Name"] * 1e9, "the function for train_flops fails: "),
    ],
)
def test_a_function_that_fails_is_named(tmp_path, source, said):
    setup = SETUP | {"columns": {"train_flops": source}}
    with pytest.raises(UserError, match=said):
        from_wandb(write(tmp_path / "export.csv", TABLE), **setup)


def test_wandb_patterns_are_literal():
    assert Metric("a.b/{group}").match("a.b/x(1)") == ("eval", "x(1)")
    assert Metric("a.b/{group}").match("aXb/x") is None  # a point is a point
    assert Metric("{task}/{group}/bpb").match("mmlu/social_sciences/bpb") == (
        "mmlu",
        "social_sciences",
    )
    # the first name is as short as can be, so that all depth is in the last
    assert Metric("{task}/{group}/bpb").match("mmlu/stem/law/bpb") == ("mmlu", "stem/law")
    with pytest.raises(UserError, match="once each"):
        Metric("{group}/{group}")


HISTORY = """_step,tokens,gflops,params,eval/uk/bpb,eval/NA/bpb
20,20000,2,10000,,
10,10000,1,10000,2.0,2.5
20,,,,1.5,2.25
30,30000,3,10000,,
"""


def test_wandb_history_carries_the_last_logged_value(tmp_path):
    folder = write(tmp_path / "h" / "run1.csv", HISTORY).parent
    setup = SETUP | {"metrics": SETUP["metrics"][:1], "columns": {k: v for k, v in SETUP["columns"].items() if k != "learning_rate"}}  # fmt: skip
    runs, scores = from_wandb(folder, **setup)
    assert runs[["run_id", "num_tokens", "train_flops"]].values.tolist() == [["run1", 20000, 2e9]]
    assert scores["value"].tolist() == [
        1.5,
        2.25,
    ]  # not the tokens of step 30, where nothing was measured
    runs, scores = from_wandb(folder, **setup, steps="all")
    assert runs[["run_id", "status"]].values.tolist() == [
        ["run1@10", "checkpoint"],
        ["run1", "finished"],
    ]
    assert len(scores) == 4
    write(folder / "run2.csv", "_step,eval/uk/bpb,eval/NA/bpb,tokens,gflops,params\n1,,,1,1,1\n")
    with pytest.raises(UserError, match="run2.csv: no step with a score"):
        from_wandb(folder, **setup)
    write(folder / "run2.csv", "_step,eval/uk/bpb,eval/NA/bpb,tokens,gflops,params\n,1,1,1,1,1\n")
    with pytest.raises(UserError, match="run2.csv: _step, row 2, column A: no step"):
        from_wandb(folder, **setup)
    with pytest.raises(UserError, match="no .csv, .*, .parquet, .* file in it"):
        from_wandb(write(tmp_path / "e" / "x.txt", "").parent, **setup)


def test_wandb_nested_json(tmp_path):
    record = {
        "Name": "a",
        "config": {"N": 10000, "D": 200000},
        "summary": {"bpb": 1.5},
        "f": 1.2e10,
    }
    path = write(tmp_path / "runs.json", json.dumps([record]))
    runs, scores = from_wandb(
        path,
        suite="s",
        columns={"num_params": "config.N", "num_tokens": "config.D", "train_flops": "f"},
        metrics=[Metric("summary.bpb")],
        fixed={"corpus": "c"},
    )
    assert runs["num_tokens"].item() == 200000 and scores["value"].item() == 1.5


def test_the_ladder_by_hand_is_the_ladder_that_ships():
    if not (SHARED / "olmo_ladder").exists():
        pytest.skip("the exports are not beside this checkout")
    logged = {
        "num_tokens": "throughput/total_tokens",
        "train_flops": lambda t: t["throughput/total_training_Gflops"] * 1e9,
        "num_params": lambda t: t["batch_size_in_tokens"],  # not in the export; any whole number
        "num_steps": "_step",
        "learning_rate": "learning_rate_peak",
    }
    kinds = [("_bpb", "bits_per_byte", False), ("_soft", "choice_probability", True)]
    runs, scores = from_wandb(
        SHARED / "olmo_ladder",
        suite="olmo_ladder",
        columns=logged,
        metrics=[
            Metric("eval/{group}-validation/CrossEntropyLoss", "nats_per_token", task="text"),
            *(
                Metric(
                    f"eval/downstream{end}/mmlu_{{group}}_test_rc_5shot{end}", name, up, "mmlu_test"
                )
                for end, name, up in kinds
            ),
        ],
        fixed={"corpus": "olmoe-mix-0924"},
        steps="all",
    )
    shipped = load_suite("olmo_ladder").set_index("run_id")
    mine = runs.set_index("run_id").loc[shipped.index]
    same = ["status", "budget_flops", "train_flops", "num_tokens", "num_steps", "learning_rate"]
    pd.testing.assert_frame_equal(mine[same], shipped[same], check_exact=True)
    key = ["run_id", "task", "group", "metric"]
    kept = load_scores("olmo_ladder").set_index(key)["value"]
    mine = scores.set_index(key)["value"]
    both = mine.index.intersection(kept.index)
    assert len(both) == 300 * (11 + 4 + 4)
    assert (mine[both] == kept[both]).all()


def test_the_papers_export_is_the_suite_that_ships():
    source = SHARED / "held2025_runs" / "isoflop_runs.csv"
    if not source.exists():
        pytest.skip("the export is not beside this checkout")
    runs, scores = from_wandb(
        source,
        suite="held2025",
        columns={
            "run_id": "run",
            "corpus": "corpus",
            "budget_flops": "budget_forward_flops",
            "train_flops": lambda t: t["train_gflops"] * 1e9,
            "num_params": "params",
            "num_tokens": "tokens",
        },
        metrics=[Metric("paloma_macro_loss_nats", "nats_per_token", task="paloma")],
    )
    shipped = load_suite("held2025").set_index("run_id")
    mine = runs.set_index("run_id").loc[shipped.index]
    assert len(runs) == len(scores) == 258  # three more at 6e17
    same = ["corpus", "budget_flops", "train_flops", "num_params", "num_tokens"]
    pd.testing.assert_frame_equal(mine[same], shipped[same], check_exact=True)
    values = scores.set_index("run_id")["value"].loc[shipped.index]
    assert (values == shipped["paloma_macro_loss"]).all()


# --- from_lm_eval


def results(model="org/a", **changes) -> dict:
    """Results in the form that the harness 0.4 writes, invented by hand."""
    leaves = ["mmlu_law", "mmlu_physics"]
    data = {
        "results": {
            "mmlu": {"acc,none": 0.5, "acc_stderr,none": 0.01, "alias": "mmlu"},
            "mmlu_law": {"alias": " - law", "acc,none": 0.4, "acc_stderr,none": 0.02},
            "mmlu_physics": {"alias": " - physics", "acc,none": 0.6, "acc_stderr,none": 0.03},
            "gsm8k": {"alias": "gsm8k", "exact_match,strict-match": 0.1, "exact_match_stderr,strict-match": 0.01},
            "wikitext": {"alias": "wikitext", "bits_per_byte,none": 0.9, "bits_per_byte_stderr,none": "N/A"},
        },
        "groups": {"mmlu": {"acc,none": 0.5, "acc_stderr,none": 0.01, "alias": "mmlu"}},
        "group_subtasks": {"mmlu": leaves, "wikitext": [], "gsm8k": []},
        "versions": {"mmlu": 2, "mmlu_law": 1.0, "mmlu_physics": 1.0, "gsm8k": 3.0, "wikitext": 2.0},
        "n-shot": {"mmlu_law": 5, "mmlu_physics": 5, "gsm8k": 5, "wikitext": 0},
        "higher_is_better": {
            "mmlu": {"acc": None},
            "mmlu_law": {"acc": True},
            "mmlu_physics": {"acc": True},
            "gsm8k": {"exact_match": True},
            "wikitext": {"bits_per_byte": False},
        },
        "n-samples": {
            "mmlu_law": {"original": 300, "effective": 100},
            "mmlu_physics": {"original": 50, "effective": 50},
            "gsm8k": {"original": 9, "effective": 9},
            "wikitext": {"original": 62, "effective": 62},
        },
        "config": {"model": "hf", "model_args": f"pretrained={model},dtype=float32"},
        "model_name": model,
    }  # fmt: skip
    return data | changes


def save(folder: Path, data: dict, date="2025-01-01T00-00-00.000001") -> Path:
    return write(folder / "org__a" / f"results_{date}.json", json.dumps(data))


def test_lm_eval_fields(tmp_path):
    save(tmp_path, results())
    scores = from_lm_eval(tmp_path, runs={"org/a": "run1"}).scores.set_index(
        ["task", "group", "metric"]
    )
    assert (scores["run_id"] == "run1").all() and len(scores) == 5
    law = scores.loc[("mmlu", "law", "acc")]
    assert (law["value"], law["stderr"], law["n"], law["task_version"]) == (
        0.4,
        0.02,
        100,
        "1.0, 5-shot",
    )
    whole = scores.loc[("mmlu", "all", "acc")]
    assert (whole["n"], whole["higher_is_better"]) == (150, True)  # told by its members
    wiki = scores.loc[("wikitext", "all", "bits_per_byte")]
    assert wiki["task_version"] == "2.0, 0-shot"  # none is a number of shots, too
    assert whole["task_version"] == "2"  # and here the file does not say
    assert np.isnan(wiki["stderr"]) and not wiki["higher_is_better"]
    assert ("gsm8k", "all", "exact_match,strict-match") in scores.index


@pytest.mark.parametrize(
    "model, args",
    [(None, "pretrained=org/a,dtype=x"), (None, {"pretrained": "org/a"}), ("org/a", "")],
)
def test_lm_eval_finds_the_model(tmp_path, model, args):
    save(tmp_path, results(model_name=model, config={"model_args": args}))
    assert set(
        from_lm_eval(tmp_path, runs=pd.DataFrame({"run_id": ["a", "b"]})).scores["run_id"]
    ) == {"a"}


def nested(**task) -> dict:
    return {"results": {"t": task}}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"model_name": "org/z"}, r"model 'org/z' is not in runs: give runs=\{'org/z': run_id"),
        ({"results": None}, r"no 'results' in it"),
        ({"results": {"t": 0.5}}, r"no 'results' in it"),
        (nested(alias="t"), r"no metric such as 'acc,none'"),
        (
            nested(**{"acc,none": "N/A"}),
            r"t, acc,none: 'N/A' is not a finite number: evaluate the task again",
        ),
        (nested(**{"acc,none": float("nan")}), r"t, acc,none: nan is not a finite number"),
        (
            nested(**{"zeal,none": 0.5}),
            r"t, zeal,none: no direction: give higher_is_better=\{'zeal': \.\.\.\}",
        ),
    ],
)
def test_lm_eval_slips_are_named(tmp_path, change, said):
    path = save(tmp_path, results(**change | {"groups": {}}))
    with pytest.raises(UserError, match=said) as caught:
        from_lm_eval(tmp_path, runs={"org/a": "a"})
    assert path.name in str(caught.value)


def test_lm_eval_direction_can_be_given(tmp_path):
    save(tmp_path, results(groups={}, **nested(**{"zeal,none": 0.5})))
    scores = from_lm_eval(tmp_path, runs={"org/a": "a"}, higher_is_better={"zeal": True}).scores
    assert scores["higher_is_better"].tolist() == [True]


def plain(**tasks) -> dict:
    """Results of tasks that no group holds, with nothing told beside the values."""
    empty = ("groups", "group_subtasks", "versions", "n-shot", "higher_is_better", "n-samples")
    return results(results=tasks, **dict.fromkeys(empty, {}))


def test_lm_eval_one_metric_may_have_two_directions(tmp_path):
    """A name is no direction: each task's own counts, a group's is its members', and no other is borrowed."""
    tasks = ["up", "down", "family", "family_a", "other"]
    data = plain(**{task: {"score,none": 0.5} for task in tasks})
    data["higher_is_better"] = {"up": {"score": True}, "down": {"score": False}, "family_a": {"score": False}}  # fmt: skip
    data["group_subtasks"] = {"family": ["family_a"]}
    save(tmp_path, data)
    with pytest.raises(UserError, match="other, score,none: no direction"):
        from_lm_eval(tmp_path, runs={"org/a": "a"})
    scores = from_lm_eval(tmp_path, runs={"org/a": "a"}, higher_is_better={"score": True}).scores
    better = scores.set_index(["task", "group"])["higher_is_better"].to_dict()
    assert better == {
        ("up", "all"): True,
        ("down", "all"): False,
        ("family", "all"): False,
        ("family", "a"): False,
        ("other", "all"): True,
    }


def test_lm_eval_a_filter_has_its_own_standard_error(tmp_path):
    values = {"acc,none": 0.5, "acc_stderr,none": 0.01, "acc,strict-match": 0.3, "acc_stderr,strict-match": 0.02,
              "acc,flexible-extract": 0.4, "acc_stderr,flexible-extract": 0.03, "acc,bare": 0.2}  # fmt: skip
    save(tmp_path, plain(gsm8k=values))
    scores = from_lm_eval(tmp_path, runs={"org/a": "a"}, higher_is_better={"acc": True}).scores
    errors = scores.set_index("metric")["stderr"].astype(object)
    assert errors.drop("acc,bare").to_dict() == {
        "acc": 0.01,
        "acc,strict-match": 0.02,
        "acc,flexible-extract": 0.03,
    }
    assert np.isnan(errors["acc,bare"])


@pytest.mark.parametrize("lacking", [["mmlu_law"], ["mmlu_physics"], ["mmlu_law", "mmlu_physics"]])
def test_lm_eval_items_of_a_group_are_unknown_when_a_members_are(tmp_path, lacking):
    data = results()
    for task in lacking:
        del data["n-samples"][task]
    save(tmp_path, data)
    scores = from_lm_eval(tmp_path, runs={"org/a": "a"}).scores.set_index(["task", "group"])
    assert pd.isna(scores.at[("mmlu", "all"), "n"])  # a part of the items is not their number
    for task, n in {"mmlu_law": 100, "mmlu_physics": 50}.items():
        own = scores.at[("mmlu", task.removeprefix("mmlu_")), "n"]
        assert pd.isna(own) if task in lacking else own == n


def test_lm_eval_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no results_\\*.json below it"):
        from_lm_eval(tmp_path / "empty", runs={})
    first = save(tmp_path, results())
    cut = first.read_text()[:200]
    later = results()
    later["results"]["wikitext"]["bits_per_byte,none"] = 0.8
    second = save(tmp_path, later, "2025-02-01T00-00-00.000001")
    with pytest.raises(UserError, match="both hold a, mmlu, all, acc: remove one, or newest=True"):
        from_lm_eval(tmp_path, runs={"org/a": "a"})
    newest = from_lm_eval(tmp_path, runs={"org/a": "a"}, newest=True).scores
    (tmp_path / "a").mkdir()  # its date is later, and its path now earlier
    moved = second.rename(tmp_path / "a" / second.name)
    again = from_lm_eval(tmp_path, runs={"org/a": "a"}, newest=True).scores.set_index("task")[
        "value"
    ]
    assert again["wikitext"] == 0.8
    moved.rename(second)
    assert len(newest) == 5 and newest.loc[newest["task"] == "wikitext", "value"].item() == 0.8
    second.write_text(cut)
    with pytest.raises(
        UserError, match=f"{second.name}: cut short, or not JSON .*: evaluate again, or remove"
    ):
        from_lm_eval(tmp_path, runs={"org/a": "a"})
