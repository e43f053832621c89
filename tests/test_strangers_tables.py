"""Tables as strangers have them: the law that was put in comes out, or one line that says what to do; each test is of one kind of fault."""

import json
import math
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relscale.analysis import analyse, analyse_points
from relscale.cli import main
from relscale.core import UserError
from relscale.files import read_sheet
from relscale.guesses import guess_columns
from relscale.importers import read_points
from relscale.laws.audit import audit_rows
from relscale.laws.floored_ratios import fit_floored_ratio
from relscale.laws.item_tables import read_items
from relscale.laws.pairing import Columns, pair_points
from relscale.laws.recipes import compare as rs_compare
from relscale.laws.relative import fit_relative
from relscale.laws.tokens_and_size import fit_tokens_and_size
from relscale.lm_eval import from_lm_eval
from relscale.model.hub import load_hf
from relscale.names import role_of, unit_of_name
from relscale.outputs import shell_words
from relscale.table_fit import fit
from relscale.tables import read_folder, read_table
from relscale.wandb_exports import Metric, from_wandb

FLOPS = np.array([1e18, 3e18, 1e19, 3e19, 1e20, 3e20])
SIZES = np.array([7e7, 1.2e8, 2.3e8, 4e8, 7.4e8, 1.3e9])
EXPONENTS = {"web": -0.05, "news": -0.06, "code": -0.08}  # news narrows by 0.01, code by 0.03
LOSSES = {
    g: (3.3 if g == "news" else 3.0) * (FLOPS / 1e18) ** b * (1 + 1e-5 * np.cos(7 * FLOPS / 1e18))
    for g, b in EXPONENTS.items()
}
GAPS = {"news": -0.01, "code": -0.03}


def wide(name: str = "loss_{}", **more) -> pd.DataFrame:
    return pd.DataFrame({"model": list("abcdef"), "flops": FLOPS} | more | {name.format(g): v for g, v in LOSSES.items()})  # fmt: skip


def long(**more) -> pd.DataFrame:
    table = wide("{}").melt(["model", "flops"], var_name="domain", value_name="loss")
    return table.assign(**more)


def assert_law(study, abs_: float = 2e-4) -> None:
    found = study.laws()["delta_beta"].dropna().to_dict()
    assert {g.rpartition(".")[2]: v for g, v in found.items()} == pytest.approx(GAPS, abs=abs_)


# --- what is a value, and what is the error of one


def nested(**more) -> list[dict]:
    rows = zip(*LOSSES.values(), strict=True)
    return [
        {"model": f"m{i}", "flops": FLOPS[i], "results": {g: {"loss": v, "loss_stderr": 0.01} for g, v in zip(LOSSES, row, strict=True)}}
        | {k: v[i] for k, v in more.items()}
        for i, row in enumerate(rows)
    ]  # fmt: skip


def test_an_error_of_a_score_that_is_not_there_is_no_group(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps(nested(Score_se=[0.01, 0.02, 0.03, 0.04, 0.05, 0.06])))
    assert_law(fit(path, baseline="web"))
    for aside in ("loss_sd", "score_se", "loss_ci95"):  # beside values that no name tells
        table = long().rename(columns={"loss": "result"}).assign(**{aside: 0.01})
        with pytest.raises(UserError, match="no column tells the value"):
            fit(table, baseline="web")


def test_swedish_is_a_group_and_asked_about_where_it_may_be_an_error():
    swedish = wide().rename(columns={"loss_code": "loss_se"})
    assert set(guess_columns(swedish).groups) == {"web", "news", "se"}
    guess = guess_columns(swedish.assign(loss=2.0))
    assert any(
        "loss_se was taken for a standard error, and is large" in doubt for doubt in guess.doubts
    )
    small = guess_columns(wide(loss=2.0, loss_se=0.01))
    assert not any("standard error" in doubt for doubt in small.doubts)
    languages = wide("{}").rename(columns={"code": "id"})
    assert "and id not" in guess_columns(languages).doubts[0]


@pytest.mark.parametrize("mark", ["{:.3f}±0.003", "{:.3f} (0.003)", "{:.3f}*"])
def test_a_value_with_something_behind_it_is_named(mark):
    with pytest.raises(UserError, match=r"loss, rows 0, 1.* is not a number"):
        fit(long(loss=long()["loss"].map(mark.format)), baseline="web")


def test_the_advice_on_several_measures_can_be_followed():
    table = wide("eval/{}/bpb", **{"eval/web/loss": FLOPS**-0.1, "train/loss": FLOPS**-0.1})
    with pytest.raises(UserError, match=r"choose by groups=, such as groups='eval/\*/bpb'"):
        fit(table, baseline="web")
    assert_law(fit(table, baseline="web", groups="eval/*/bpb"))
    table = wide("results.{}", Score=FLOPS**-0.1)
    with pytest.raises(UserError, match=r"one column per group by groups='results\.\*'"):
        fit(table, baseline="web")


@pytest.mark.parametrize("name", ["{}_seed{}", "loss_{}_seed_{}", "{} Seed {}"])
def test_columns_of_seeds_are_no_groups(name):
    columns = {name.format(g, s): LOSSES[g] * (1 + s / 1e4) for g in ("web", "news") for s in (0, 1)}  # fmt: skip
    with pytest.raises(UserError, match="names a seed.*write a row for each seed"):
        fit(pd.DataFrame({"flops": FLOPS} | columns), baseline="web")


# --- units


def test_bits_beside_nats_are_made_one():
    table = wide().rename(columns={"loss_news": "loss_news_nats", "loss_code": "loss_code_nats"})
    table["loss_web_bits"] = table.pop("loss_web") / math.log(2)
    laws = fit(table, baseline="web_bits").laws().loc["news_nats"]
    assert laws["ratio_start"] == pytest.approx(1.1, abs=1e-3)
    assert laws["verdict_gap"] == "gap narrows"  # in two units it is below one, and seems to widen
    unsaid = table.rename(columns={"loss_news_nats": "loss_news", "loss_code_nats": "loss_code"})
    with pytest.raises(UserError, match="loss_web_bits is in bits and loss_news tells no unit"):
        fit(unsaid, baseline="web_bits")
    told = fit(unsaid, baseline="web_bits", units={"web_bits": "bits"})
    assert told.laws().loc["news", "ratio_start"] == pytest.approx(1.1, abs=1e-3)
    mixed = long(unit=np.where(long()["domain"] == "web", "bits", "nats"))
    with pytest.raises(UserError, match=r"several units \(unit: bits, nats\)"):
        fit(mixed, baseline="web")


@pytest.mark.parametrize(
    "name, role, factor",
    [
        ("D (B)", "num_tokens", 1e9), ("N (M)", "num_params", 1e6), ("PF-days", "train_flops", 8.64e19), ("petaflop/s-days", "train_flops", 8.64e19),
        ("training compute (1e18 FLOP)", "train_flops", 1e18), ("флопс", "train_flops", None),
    ],
)  # fmt: skip
def test_a_scale_and_its_unit_in_one_header(name, role, factor):
    assert role_of(name) == role and unit_of_name(name, role) == factor


def test_a_logarithm_of_an_unknown_base_is_asked_for():
    table = wide().rename(columns={"flops": "log_flops"})
    table["log_flops"] = np.log10(table["log_flops"])
    with pytest.raises(UserError, match="a logarithm of which base"):
        fit(table, baseline="web")
    assert_law(fit(table, baseline="web", columns={"train_flops": "log_flops:log10"}))


def test_flops_that_began_anew_at_the_largest_whole_number_are_doubted():
    with np.errstate(over="ignore"):
        wrapped = np.int64(6) * SIZES.astype(np.int64) * (FLOPS / 6 / SIZES).astype(np.int64)
    assert (wrapped < 0).any()
    with pytest.raises(UserError, match="begin anew below zero, so compute all of them again"):
        read_points(wide().assign(flops=wrapped))  # dropping these rows would leave wrong ones
    points = read_points(wide().assign(flops=np.abs(wrapped)))
    assert any("just below 2^63" in doubt for doubt in points.doubts)
    right = read_points(wide().assign(flops=FLOPS / 40))  # ends there as well, and is right
    assert not any("2^63" in doubt for doubt in right.doubts)


# --- files


def test_old_ends_of_lines_and_lists_in_cells(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(long().to_csv(index=False, lineterminator="\r").encode())
    assert_law(fit(path, baseline="web"))
    path = tmp_path / "t.json"
    path.write_text(json.dumps(nested(tags=[["a", "b"]] * 6)))
    assert read_sheet(path).frame["tags"].tolist() == ['["a", "b"]'] * 6
    assert_law(fit(path, baseline="web"))


# --- W&B


def test_runs_that_no_state_calls_finished_are_doubted():
    study = fit(wide(State="crashed"), baseline="web")
    assert "State calls no run finished (crashed), and all are taken" in " ".join(study.doubts)
    assert not fit(wide(State="Ohio"), baseline="web").doubts


@pytest.mark.parametrize("form", ["csv", "json", "jsonl"])
def test_the_apis_table_is_a_table(tmp_path, form):
    rows = [
        {"summary": {f"eval/{g}/bpb": v[i] for g, v in LOSSES.items()} | {"flops": FLOPS[i]}, "config": {"lr": 0.1}, "name": f"run-{i}"}
        for i in range(6)
    ]  # fmt: skip
    path = tmp_path / f"t.{form}"
    if form == "csv":
        pd.DataFrame(rows).to_csv(path)
    else:
        path.write_text(json.dumps(rows) if form == "json" else "\n".join(map(json.dumps, rows)))
    study = fit(path, baseline="web")
    assert_law(study)
    assert "no column tells the state of runs" in " ".join(study.doubts)


def test_a_panel_without_its_ranges_is_a_panel(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("Step,a - x - bpb/GB,b - bpb/GB\n1,1.9,1.8\n2,,1.5\n")
    sizes = pd.DataFrame({"run_id": ["a - x", "b"], "corpus": "c", "train_flops": [1e18, 1e19], "num_params": [10**8, 10**9], "num_tokens": [2 * 10**9, 2 * 10**10]})  # fmt: skip
    read = from_wandb(path, suite="s", metrics=[Metric("bpb/{group}")], runs=sizes)
    assert read.scores[["run_id", "value"]].values.tolist() == [["a - x", 1.9], ["b", 1.5]]
    with pytest.raises(UserError, match="a panel of W&B.*choose CSV export"):
        fit(path, baseline="GB")


# --- lm-evaluation-harness


def results(model: str | None, acc: float, **config) -> str:
    head = {"results": {"arc": {"alias": "arc", "acc,none": acc}}, "higher_is_better": {"arc": {"acc": True}}}  # fmt: skip
    named = {} if model is None else {"model_name": model}
    return json.dumps(head | {"versions": {"arc": 1}, "config": {"model_args": ""} | config} | named)  # fmt: skip


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_results_without_a_models_name_are_called_after_their_place(tmp_path):
    put(tmp_path / "a" / "results.json", results(None, 0.4))
    put(tmp_path / "b" / "results.json", results(None, 0.5))
    put(tmp_path / "c.json", results(None, 0.6))
    read = from_lm_eval(tmp_path)
    found = dict(read.scores[["run_id", "value"]].values.tolist())
    assert found == {"a": 0.4, "b": 0.5, "c": 0.6} and len(read.doubts) == 3
    assert from_lm_eval(tmp_path, runs={"a": "x", "b": "y", "c": "z"}).runs.shape[0] == 3


def test_two_models_with_one_last_part_are_not_one_run(tmp_path):
    put(tmp_path / "a" / "results_1.json", results("/ckpt/a/hf", 0.4))
    other = results("/ckpt/b/hf", 0.5).replace("arc", "boolq")  # no score stands twice
    put(tmp_path / "b" / "results_1.json", other)
    with pytest.raises(UserError, match="both end in 'hf'.*with whole names"):
        from_lm_eval(tmp_path, runs=pd.DataFrame({"run_id": ["hf"]}))
    told = from_lm_eval(tmp_path, runs={"/ckpt/a/hf": "a", "/ckpt/b/hf": "b"})
    assert told.scores["run_id"].tolist() == ["a", "b"]


def test_a_part_of_a_task_is_doubted_and_results_are_no_table(tmp_path, capsys):
    path = put(tmp_path / "out.json", results("org/m", 0.4, limit=10.0))
    assert "a part of the items (limit 10)" in from_lm_eval(path).doubts[0]
    assert main(["fit", str(path), "--baseline", "arc"]) == 2
    said = capsys.readouterr().err
    assert "results of one evaluation" in said and "from_lm_eval" in said


# --- rows


def test_settings_that_models_of_one_size_differ_in_are_doubted():
    rates = pd.concat([wide(lr=r, model=[f"{m}{r}" for m in "abcdef"]) for r in (0.001, 0.003)])
    study = fit(rates, baseline="web")
    assert "rows of 2 values of lr (0.001, 0.003) are taken together" in " ".join(study.doubts)
    ladder = wide(lr=[0.003, 0.003, 0.003, 0.001, 0.001, 0.001])  # goes with size
    assert not fit(ladder, baseline="web").doubts


def test_one_name_in_two_forms_of_its_accent_is_one_group():
    table = long().replace({"news": "ne\u0301ws"})
    table.loc[table["flops"] > 1e19, "domain"] = table["domain"].replace({"ne\u0301ws": "n\u00e9ws"})  # fmt: skip
    assert set(fit(table, baseline="web").laws().index) == {"web", "n\u00e9ws", "code"}


def test_a_score_that_the_last_step_lacks_is_told(tmp_path):
    path = tmp_path / "run-a.csv"
    path.write_text("_step,bpb/GB,bpb/US,n,D\n1,1.9,1.8,100000000,1000000000\n2,1.7,,100000000,2000000000\n")  # fmt: skip
    setup = {"suite": "s", "fixed": {"corpus": "c"}, "metrics": [Metric("bpb/{group}")],
             "columns": {"num_params": "n", "num_tokens": "D", "train_flops": "6ND"}}  # fmt: skip
    read = from_wandb(path, **setup)
    assert read.scores["group"].tolist() == ["GB"]
    assert "run run-a: bpb/US empty at its last step with a score (2)" in read.doubts[0]
    assert not from_wandb(path, steps="all", **setup).doubts
    path.write_text("Name,bpb/GB,n,D\na,-,100000000,1000000000\n")
    with pytest.raises(UserError, match=r"run-a\.csv: bpb/GB, row 2, column B: '-' is not a number"):  # fmt: skip
        from_wandb(path, **setup)


@pytest.mark.parametrize("mark, word", [(";", "semicolons"), ("\t", "tabs")])
def test_runs_and_scores_in_a_spreadsheets_csv_are_told_by_their_mark(tmp_path, mark, word):
    for name in ("runs", "scores"):
        table = pd.DataFrame({"run_id": ["a"], "value": [1.5], "group": ["x"]})
        table.to_csv(tmp_path / f"{name}.csv", index=False, sep=mark, decimal=",")
    with pytest.raises(UserError, match=f"runs.csv: cells are parted by {word}: save it with"):
        read_folder(tmp_path)


def test_a_group_called_high_school_has_a_count_as_others_have(tmp_path):
    """The words high, low and n name statistics, and may stand in the name of a group as well."""
    groups = ("high school", "error analysis", "kenya")
    table = pd.DataFrame({"Params (M)": [43, 137, 242, 752]})
    for k, g in enumerate(groups):
        table[f"EM ({g})"] = [0.24 + 0.01 * k, 0.34, 0.38, 0.46 + 0.02 * k]
    for g in groups:
        table[f"EM ({g}) n"] = 1000
    table.to_csv(tmp_path / "t.csv", index=False)
    assert set(fit(tmp_path / "t.csv", baseline="kenya").summary().index) == set(groups[:2])


def test_a_line_break_in_a_name_leaves_the_message_one_line(tmp_path):
    table = {"columns": ["Parameters\n(millions)", "loss usa", "loss india"],
             "data": [["43", 3.1, 3.2], ["", 2.9, 3.0], ["518", 2.7, 2.9]]}  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps(table))
    with pytest.raises(UserError, match="Parameters .millions., record 2") as error:
        fit(tmp_path / "t.json", baseline="usa")
    assert "\n" not in str(error.value)


# --- scales that were counted for each group apart


def near_scales(**more) -> pd.DataFrame:
    table = long(**more)
    off = table["domain"].map({"web": 1, "news": 1.002, "code": 1.004})
    return table.assign(flops=table["flops"] * off)


def test_scales_of_a_run_that_differ_a_little_ask_for_its_pairing(tmp_path, capsys):
    path = tmp_path / "near.csv"
    near_scales().to_csv(path, index=False)
    with pytest.raises(UserError, match="differ a little in train_flops.* with run='run_id'"):
        fit(path, baseline="web")
    study = fit(path, baseline="web", run="run_id")
    assert_law(study)
    assert study.relative.shared.unit == "point" and not study.doubts
    assert any("differ by up to 0.4 %" in note for note in study.notes)
    out = ["--out", str(tmp_path / "r.html")]
    assert main(["fit", str(path), "--baseline", "web", *out]) == 2
    assert capsys.readouterr().err.strip().endswith("pair them by their run with --pair-runs")
    assert main(["fit", str(path), "--baseline", "web", "--pair-runs", *out]) == 0
    near_scales().drop(columns="model").to_csv(path, index=False)
    assert main(["fit", str(path), "--baseline", "web", *out]) == 2
    assert "within 0.4 % of them" in capsys.readouterr().err


def test_checkpoints_that_lie_close_stay_apart():
    runs = [wide(model=f"run{i}").assign(flops=FLOPS * (1 + 0.005 * i)) for i in range(2)]
    table = pd.concat(runs).melt(["model", "flops"], var_name="domain", value_name="loss")
    close = table.assign(model="one")
    columns = Columns("domain", "flops", "loss", run="model")
    assert len(pair_points(close, columns).points) == 12  # of a run, half a percent apart


# --- a command speaks of its own options, in warnings as in errors


def test_warnings_of_a_command_name_its_options(tmp_path, capsys):
    path, asked = tmp_path / "t.csv", ["--baseline", "web", "--out", str(tmp_path / "r.html")]
    wide(loss_avg=np.mean(list(LOSSES.values()), axis=0)).to_csv(path, index=False)
    said = (
        "loss_avg may be a mean over groups, and is taken for a group of its own: leave it out by "
    )
    assert f"{said}groups=" in fit(path, baseline="web").doubts
    for command in ("fit", "report", "audit"):
        assert main([command, str(path), *asked]) == 0
        told = capsys.readouterr().out
        assert f"{said}--groups" in told and "groups=" not in told
    assert "--groups" in (tmp_path / "r.html").read_text()


# --- rows are counted as their file shows them


def test_rows_are_counted_as_the_file_shows_them(tmp_path, capsys):
    table = long()
    table.loc[4, "domain"] = "w" * 201
    odd = table.iloc[4]["domain"][:60]
    for ending, place in ((".csv", "row 6"), (".xlsx", "row 6"), (".jsonl", "record 5")):
        path = tmp_path / f"t{ending}"
        if ending == ".xlsx":
            table.to_excel(path, index=False)
        elif ending == ".csv":
            table.to_csv(path, index=False)
        else:
            table.to_json(path, orient="records", lines=True)
        with pytest.raises(UserError, match=f"{ending}: rows.group, {place}: '{odd}'"):
            fit(path, baseline="web")
    with pytest.raises(UserError, match=r"row 4 \(from 0\)"):
        fit(table, baseline="web")
    several = wide(stderr=[0.1, 0.1, -1, 0.1, 0.1, 0.1])  # three groups of each row
    with pytest.raises(UserError, match=r"rows.stderr, row 2 \(from 0\): must be non-negative"):
        read_points(several, columns={"stderr": "stderr"}, groups="loss_*")


def test_runs_and_scores_are_counted_as_their_files_show_them(tmp_path, capsys):
    runs = "run_id,suite,corpus,status,budget_flops,train_flops,num_params,num_tokens\n"
    (tmp_path / "runs.csv").write_text(runs + "a,s,c,finished,1,1,1,1\n\nb,s,c,finished,1,-1,1,1\n")
    score = {"run_id": "a", "task": "t", "group": "g", "metric": "bits_per_byte", "higher_is_better": False, "task_version": "1"}  # fmt: skip
    lines = [json.dumps(score | {"value": v}) for v in (1.0, 0.0)]
    (tmp_path / "scores.jsonl").write_text("\n".join(lines))
    assert main(["report", str(tmp_path), "--baseline", "g"]) == 2
    assert "runs.csv: runs.train_flops, row 4: must be positive" in capsys.readouterr().err
    (tmp_path / "runs.csv").write_text(runs + "a,s,c,finished,1,1,1,1\n\nb,s,c,finished,1,1,1,1\n")
    assert main(["report", str(tmp_path), "--baseline", "g"]) == 2
    assert "scores.jsonl: scores, records 1, 2: a, t, g" in capsys.readouterr().err


# --- a key that stands twice hides a value, in JSON of any use


def test_a_doubled_key_is_refused_wherever_json_is_read(tmp_path):
    twice = '"loss": 3.0, "loss": 2.0'
    said = "key 'loss' stands twice in a record"
    for name, text in (("t.json", f"[{{{twice}}}]"), ("t.jsonl", f"{{{twice}}}\n")):
        (tmp_path / name).write_text(text)
        for read in (read_table, read_sheet):
            with pytest.raises(UserError, match=said):
                read(tmp_path / name)
    (tmp_path / "config.json").write_text('{"hidden_size": 8, "hidden_size": 16}')
    with pytest.raises(UserError, match="key 'hidden_size' stands twice"):
        load_hf(tmp_path)
    results = tmp_path / "results_2024.json"
    results.write_text(f'{{"model_name": "m", "results": {{"arc": {{{twice}}}}}}}')
    with pytest.raises(UserError, match=said):
        from_lm_eval(results)
    cells = ["{'loss': 3.0, 'loss': 2.0}", f"{{{twice}}}"]
    for cell in cells:
        table = pd.DataFrame({"name": list("abc"), "summary": ["{'loss': 3.0}", cell, cell]})
        with pytest.raises(UserError, match=r"summary, rows 1, 2 .from 0.: .* a key twice"):
            fit(table, baseline="web")


# --- numbers with words of size


@pytest.mark.parametrize(
    "word", ["Mrd.", "Mrd", "млрд", "Md", "mld", "bn", "bilhões", "mil millones"]
)
@pytest.mark.parametrize("mark", [",", "."])
def test_words_of_size_are_read_in_the_languages_of_their_readers(tmp_path, word, mark):
    path = tmp_path / "t.csv"
    sizes = [f"{n} {word}".replace(".", mark, 1) for n in ("0.5", "1.3", "2.8", "7", "13", "30.25")]
    wide(Parameter=sizes).drop(columns="flops").to_csv(path, sep=";", index=False)
    rows = read_points(path).rows
    assert rows["num_params"].unique().tolist() == [5e8, 13e8, 28e8, 7e9, 13e9, 3025e7]


def test_a_word_that_is_no_size_is_named(tmp_path):
    path = tmp_path / "t.csv"
    wide(Parameter=[f"{n},5 mil" for n in range(1, 7)]).drop(columns="flops").to_csv(
        path, index=False
    )
    with pytest.raises(UserError, match="'1,5 mil' is not a number: 'mil' is no size .* 1.3e9"):
        fit(path, baseline="web")


# --- one letter, two forms of it


@pytest.mark.parametrize("there, typed", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_match_in_either_form(tmp_path, there, typed):
    def of(form, text="español"):
        return unicodedata.normalize(form, text)

    rows = (
        long().replace({"domain": {"web": of(there)}}).rename(columns={"flops": of(there, "flöps")})
    )
    columns = wide().rename(columns={"loss_web": f"loss_{of(there)}"})
    for name, table, more in (
        ("l", rows, ["--map", f"train_flops={of(typed, 'flöps')}"]),
        ("w", columns, ["--groups", "loss_*"]),
    ):
        path = tmp_path / f"{name}.csv"
        table.to_csv(path, index=False)
        asked = ["--baseline", of(typed), "--rename", f"{of(typed)}=es", *more]
        assert main(["fit", str(path), *asked, "--out", str(tmp_path / "r.html")]) == 0
        assert (
            main(
                [
                    "audit",
                    str(path),
                    "--baseline",
                    of(typed),
                    *more,
                    "--out",
                    str(tmp_path / "a.html"),
                ]
            )
            == 0
        )
    only = long(lang=of(there))
    assert_law(fit(only, baseline="web", only={"lang": of(typed)}))


# --- scores beside one perplexity, and files that hold no compute


def test_scores_that_no_name_tells_beside_one_measure(tmp_path, capsys):
    path = tmp_path / "t.csv"
    scores = {
        g: 1 - v / 10 for g, v in zip(("ARC", "HellaSwag", "PIQA"), LOSSES.values(), strict=True)
    }
    pd.DataFrame(
        {"model": list("abcdef"), "flops": FLOPS, **scores, "wiki_ppl": LOSSES["web"]}
    ).to_csv(path, index=False)
    out = ["--out", str(tmp_path / "r.html")]
    assert main(["fit", str(path), "--baseline", "ARC", *out]) == 2
    said = capsys.readouterr().err
    assert "group of each wiki_ppl" in said and "--higher-is-better yes" in said
    assert "--groups ARC HellaSwag PIQA, and" in said
    more = ["--groups", "ARC", "HellaSwag", "PIQA", "--higher-is-better", "yes"]
    assert main(["fit", str(path), "--baseline", "ARC", *more, *out]) == 0


def test_a_panel_is_refused_with_a_way_for_a_shell(tmp_path, capsys):
    path = tmp_path / "t.csv"
    pd.DataFrame(
        {"Step": [1, 2], "a - loss": [3, 2], "a - loss__MIN": [3, 2], "a - loss__MAX": [3, 2]}
    ).to_csv(path, index=False)
    assert main(["fit", str(path), "--baseline", "web"]) == 2
    said = capsys.readouterr().err
    assert "choose CSV export" in said and "a table with a row for each run" in said


@pytest.mark.parametrize("there, typed", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_match_in_frames_given_in_python(there, typed):
    def of(form, text="Côte d'Ivoire"):
        return unicodedata.normalize(form, text)

    rows = long().rename(columns={"loss": "value", "domain": "group", "flops": "train_flops"})
    rows = rows.replace({"group": {"web": of(there)}})
    for verb in (fit_relative, analyse_points):
        found = verb(rows, baseline=of(typed))
        assert found.baseline == of(there) and of(there) not in found.summary().index
    audited = audit_rows(rows.assign(num_params=SIZES[0] * rows["train_flops"] / 1e18, num_tokens=10**9 * (1 + rows["train_flops"] % 7)), baseline=of(typed))  # fmt: skip
    assert audited.baseline == of(there) and audited.condition is not None
    assert fit_floored_ratio(rows, baseline=of(typed)).baseline == of(there)
    sized = rows.assign(num_params=rows["model"].map(dict(zip("abcdef", SIZES, strict=True))), num_tokens=rows["train_flops"] ** 0.4)  # fmt: skip
    assert fit_tokens_and_size(sized, baseline=of(typed)).baseline == of(there)
    runs = rows.drop_duplicates("model").assign(run_id=lambda t: t["model"], suite="s", corpus="c", status="finished", budget_flops=lambda t: t["train_flops"], num_params=10**8, num_tokens=10**9)  # fmt: skip
    scores = rows.rename(columns={"model": "run_id"})[["run_id", "group", "value"]].assign(task="t", metric="bits_per_byte", higher_is_better=False, task_version="1")  # fmt: skip
    scores.loc[scores["run_id"] < "c", "group"] = scores["group"].map(lambda g: of(typed, g))
    study = analyse(runs.drop(columns=["group", "value"]), scores, baseline=of(typed))
    assert study.baseline == of("NFC") and set(study.summary().index) == {"news", "code"}


def test_options_in_a_hint_take_names_with_blanks():
    table = wide("{}", wiki_ppl=LOSSES["web"]).rename(columns={"web": "ARC Easy", "news": "Côte d'Ivoire"})  # fmt: skip
    with pytest.raises(UserError, match="group of each wiki_ppl") as error:
        fit(table, baseline="ARC Easy")
    said = shell_words(str(error.value), ("groups", "map", "higher-is-better"))
    assert """by --groups 'ARC Easy' 'Côte d'"'"'Ivoire' code, and --higher-is-better yes""" in said


# --- cells that say what they count


@pytest.mark.parametrize(
    "name, cells, role",
    [
        ("Params", "70M params,120M params,230M params,0.4B params,740M (params),1.3B params", "num_params"),
        ("Modellgröße", "0,07 Mrd. Parameter,0,12 Mrd. Parameter,0,23 Mrd. Parameter,0,4 Mrd. Parameter,0,74 Mrd. Parameter,1,3 Mrd. Parameter", "num_params"),
        ("Params (M)", "70M,120M,230M,400M,740M,1.3B", "num_params"),
        ("flops", "1e18 FLOPs,3×10¹⁸ FLOPs,10 EFLOPs,30 exaFLOPs,0.1 ZFLOPs,$3 \\times 10^{20}$", "train_flops"),
    ],
)  # fmt: skip
def test_words_behind_numbers_are_read_and_told(name, cells, role):
    cells = cells.replace(" Parameter,", " Parameter;").split(";") if ";" in cells.replace(" Parameter,", ";") else cells.split(",")  # fmt: skip
    study = fit(wide(**{name: cells}).drop(columns="flops") if role != "train_flops" else wide(flops=cells), baseline="web")  # fmt: skip
    found = sorted(study.rows[role].unique())
    assert found == pytest.approx(sorted(FLOPS if role == "train_flops" else SIZES), rel=1e-9)
    assert any(name in note and "cells" in note for note in study.notes[1:])


def test_words_of_another_count_are_refused():
    with pytest.raises(UserError, match="'300B tokens' is a number of tokens, and parameters are"):
        read_points(wide(params=["300B tokens"] * 6), columns={"num_params": "params"})
    with pytest.raises(UserError, match="'1e15 FLOP/s' is a number of FLOPs a second"):
        read_points(wide(flops=[f"{n}e15 FLOP/s" for n in range(1, 7)]))
    with pytest.raises(UserError, match="'1 or 2B params' is not a number: write the number alone"):
        read_points(wide(params=["1 or 2B params"] * 6), columns={"num_params": "params"})


def test_a_column_that_pandas_numbered_is_doubted():
    study = fit(wide(**{"loss_news.1": LOSSES["news"]}), baseline="web")
    assert "loss_news.1 may be a column that stood twice" in " ".join(study.doubts)


# --- two recipes at one budget, or in one group


def recipes(folder: Path, **more) -> list[str]:
    rng, files = np.random.default_rng(0), []
    for name, share in (("old", 1.0), ("new", 0.95)):
        table = {"seed": [0, 1, 2], **more} | {
            f"loss{end}": level * share + rng.normal(0, 0.01, 3)
            for end, level in (("_a", 3.0), ("_b", 2.0))
        }
        files.append(str(folder / f"{name}.csv"))
        pd.DataFrame(table).to_csv(files[-1], index=False)
    return files


def test_one_budget_is_compared_and_not_fitted(tmp_path, capsys):
    old, new = recipes(tmp_path, train_flops=1e19)
    assert main(["compare", old, new, "--out", str(tmp_path / "p.html")]) == 0
    assert "new against old at 1e19 FLOPs: the macro mean is 5" in capsys.readouterr().out
    assert set(rs_compare(old, new).table["verdict"]) == {"better"}
    assert main(["fit", old, "--baseline", "a", "--out", str(tmp_path / "q.html")]) == 2
    assert "one value only: a slope needs at least two" in capsys.readouterr().err


@pytest.mark.parametrize("more", [{}, {"lr": [1e-3, 2e-3, 1e-3]}])
def test_one_column_of_errors_is_compared_as_one_group(tmp_path, capsys, more):
    files = recipes(tmp_path, train_flops=[1e18, 1e19, 1e20], **more)
    for file in files:
        pd.read_csv(file).drop(columns="loss_b").rename(columns={"loss_a": "loss"}).to_csv(file, index=False)  # fmt: skip
    both = tmp_path / "both.csv"
    pd.concat([pd.read_csv(f).assign(recipe=Path(f).stem) for f in files]).to_csv(both, index=False)
    for words in (files, [str(both), "--recipe", "recipe"]):
        assert main(["compare", *words, "--out", str(tmp_path / "p.html")]) == 0
        said = capsys.readouterr().out
        assert "loss was taken for the errors of one group" in said and "loss is 5" in said
    assert list(rs_compare(both, recipe="recipe").table.index) == ["loss"]


def test_a_comparison_tells_options_and_takes_rows(tmp_path, capsys):
    files = recipes(tmp_path, train_flops=1e19)
    for file in files:
        table = pd.read_csv(file)
        pd.concat([table.assign(task=t) for t in ("x", "y")]).to_csv(file, index=False)
    assert main(["compare", *files, "--out", str(tmp_path / "p.html")]) == 2
    assert "choose one by --only 'task=VALUE'" in capsys.readouterr().err
    assert main(["compare", *files, "--only", "task=x", "--out", str(tmp_path / "p.html")]) == 0


@pytest.mark.parametrize("lost", ["run_id", "group"])
def test_an_empty_key_of_an_item_is_counted_as_its_file_shows_it(tmp_path, lost):
    items = pd.DataFrame({"run_id": list("aabb"), "group": "g", "item": list("xyxy"), "value": 1.0})
    items.loc[2, lost] = None
    items.to_csv(tmp_path / "items.csv", index=False)
    for table, said in ((items, r"row 2 \(from 0\)"), (tmp_path / "items.csv", "row 4")):
        with pytest.raises(UserError, match=f"{lost}, {said}: empty: fill or drop it"):
            read_items(table)


# --- packed, with two headers, with dates in place of numbers, copied


def zipped(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as parts:
        for name, text in files.items():
            parts.writestr(name.replace("__", "."), text)
    return path


def test_a_zip_of_one_table_is_read_and_held(tmp_path):
    text = wide().to_csv(index=False)
    for name in ("t.zip", "t.csv.zip"):
        assert_law(fit(zipped(tmp_path / name, t__csv=text), baseline="web"))
    with zipfile.ZipFile(tmp_path / "t.zip", "a") as parts:  # what a Mac puts beside it
        parts.writestr("__MACOSX/._t.csv", "x")
    assert_law(fit(tmp_path / "t.zip", baseline="web"))
    for files in ({"a__csv": text, "b__csv": text}, {"plot__png": ""}, {"t__csv__gz": ""}, {}):
        with pytest.raises(UserError, match="unpack it, and give one table"):
            fit(zipped(tmp_path / "many.zip", **files), baseline="web")
    bomb = zipped(tmp_path / "bomb.zip", t__csv="0," * 2**26)
    with pytest.raises(UserError, match="that unpack to more than"):
        fit(bomb, baseline="web")
    bomb.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="cut short, or not zip"):
        fit(bomb, baseline="web")


@pytest.mark.parametrize("first", ["model,flops,loss,loss,loss", "model,flops,loss,,", ",,loss,loss,loss"])  # fmt: skip
def test_a_header_in_two_rows_is_told_as_such(tmp_path, first):
    second = ",,web,news,code" if first[0] == "m" else "model,flops,web,news,code"
    text = f"{first}\n{second}\n{wide().to_csv(index=False, header=False)}"
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=r"header seems to stand in two rows .* loss_news and loss_code"):  # fmt: skip
        fit(tmp_path / "t.csv", baseline="web")


@pytest.mark.parametrize("cell", ["01.Mrz", "1-Mar", "Mar-24", "1. März", pd.Timestamp("2024-03-01"), "2024-03-01"])  # fmt: skip
@pytest.mark.parametrize("column", ["loss_web", "flops"])
def test_a_date_in_place_of_a_number_is_told_as_such(cell, column):
    for rows in ([2], range(6)):
        table = wide().astype({column: object})
        for i in rows:
            table.loc[i, column] = cell
        with pytest.raises(UserError, match=f"{column}, row.* it is a date, as spreadsheets make"):
            fit(table, baseline="web")
    assert_law(fit(wide(loss_updated_at="2024-03-01 10:00"), baseline="web"))


def test_errors_that_nobody_measured_are_doubted():
    same = fit(wide(loss_blog=LOSSES["web"]), baseline="web")
    assert any("errors of blog are those of web" in w for w in same.warnings)
    nats = fit(wide(loss_blog=2 * LOSSES["code"]), baseline="web")
    assert any("errors of code are 0.5 times those of blog" in w for w in nats.warnings)
    flat = fit(wide(loss_blog=0.25), baseline="web")
    assert any("errors of blog are 0.25 at every train_flops" in w for w in flat.warnings)
    assert not any("look whether" in w for w in fit(wide(), baseline="web").warnings)


# --- tables of other tools: leaderboards, logs, checkpoints, folders


def test_a_folder_in_place_of_a_table_says_what_to_do(tmp_path):
    cases = {"m/a.json": "{}", "m/b.json": "{}", "few/a.csv": "a\n", "few/b.json": "{}",
             "runs/runs.csv": "a\n", "runs/scores.csv": "a\n", "lm/org__m/results_2024.json": "{}", "none/x.png": ""}  # fmt: skip
    for name, text in cases.items():
        put(tmp_path / name, text)
    said = {"m": r"jq -s \. .*m/\*\.json > table\.json", "few": r"give one of a\.csv, b\.json", "runs": "relscale report", "lm": "from_lm_eval", "none": "none in this one"}  # fmt: skip
    for name, words in said.items():
        with pytest.raises(UserError, match=f"a folder, and a table is one file: .*{words}"):
            fit(tmp_path / name, baseline="web")


def test_points_that_lie_on_lines_exactly_are_fitted_with_runs_as_units():
    shares = {1.0: 1000, 0.5: 500, 0.25: 250}
    parts = [
        long(model=lambda t: t["model"], step=step, flops=lambda t, s=s: t["flops"] * s)
        for s, step in shares.items()
    ]
    rows = pd.concat(parts, ignore_index=True)
    base = rows["domain"].map({"web": 3.0, "news": 3.3, "code": 3.0})
    rows["loss"] = base * (rows["flops"] / 1e18) ** rows["domain"].map(EXPONENTS)
    study = fit(rows, baseline="web")
    assert study.relative.shared.unit == "run"
    assert_law(study, 1e-6)


def test_checkpoints_of_several_seeds_are_points_of_their_runs():
    rng = np.random.default_rng(0)
    parts = [long(seed=seed, flops=lambda t, s=s: t["flops"] * s) for seed in (0, 1) for s in (0.3, 1.0)]  # fmt: skip
    rows = pd.concat(parts, ignore_index=True)
    rows["loss"] *= np.exp(rng.normal(0, 0.01, len(rows)))
    study = fit(rows, baseline="web")
    assert (study.relative.shared.unit, study.relative.shared.num_units) == ("run", 12)
    assert any("a has several seeds at one train_flops" in w for w in study.warnings)


def test_a_name_that_all_rows_share_is_no_runs_name():
    table = wide().assign(name=list("uvwxyz"), model="open_lm")
    assert guess_columns(table).columns["run_id"] == "name"
    steps = pd.DataFrame(table).assign(step=range(6))  # checkpoints of one model, each with a name
    assert guess_columns(steps).columns["run_id"] == "model"


def test_a_leaderboard_takes_its_tests_alone():
    hard = [0.9, 1.2, 1.9, 3.0, 5.0, 8.0]  # percent, and one below 1
    names = {"Average ⬆️": 50, "BBH": 40, "IFEval": 30}
    table = pd.DataFrame({"Model": list("abcdef"), "#Params (B)": SIZES / 1e9} | {n: np.linspace(v, v + 20, 6) for n, v in names.items()} | {"MATH Lvl 5": hard, "Hub ❤️": range(6), "CO₂ cost (kg)": 0.1})  # fmt: skip
    study = fit(table, baseline="BBH", higher_is_better=True)
    assert set(study.summary().index) == {"Average ⬆️", "IFEval", "MATH Lvl 5"}
    said = " ".join(study.warnings)
    assert "Average ⬆️ may be a mean over groups" in said
    assert "MATH Lvl 5 is from 0.9 to 8, and was read in percent as the others" in said
    mixed = table.assign(**{"MATH Lvl 5": [0.05, 0.06, 7, 8, 9, 10]})
    with pytest.raises(UserError, match="or if all are percent tell the unit of value"):
        fit(mixed, baseline="BBH", higher_is_better=True)
    assert fit(mixed, baseline="BBH", higher_is_better=True, units={"value": "%"})


def test_a_log_that_calls_its_groups_task_names():
    table = long().rename(columns={"domain": "task_name", "loss": "score_headline_value"})
    table["score_headline_value"] = 1 - table["score_headline_value"] / 4
    study = fit(table.assign(task_file=table["task_name"] + ".py"), baseline="web")
    assert set(study.summary().index) == {"news", "code"}
    assert not any("task_file" in w for w in study.warnings)


@pytest.mark.parametrize("unit", ["PFLOP", "PetaFLOP", "petaflops"])
def test_a_unit_of_flops_may_be_singular(unit):
    table = wide(**{f"Compute ({unit})": FLOPS / 1e15}).drop(columns="flops")
    assert fit(table, baseline="web").rows["train_flops"].max() == pytest.approx(3e20)


def test_points_part_thousands_where_commas_are_decimal(tmp_path):
    sizes = ["70", "120", "230", "400", "1.000", "2.800"]
    table = wide("loss_{}").drop(columns="flops").assign(**{"Parameter in Mio": sizes})
    table.to_csv(tmp_path / "t.csv", sep=";", decimal=",", index=False)
    assert fit(tmp_path / "t.csv", baseline="web").rows["num_params"].max() == 2.8e9
    table["Parameter in Mio"] = ["1.070", "1.120", "1.230", "1.400", "1.500", "2.800"]
    table.to_csv(tmp_path / "t.csv", sep=";", decimal=",", index=False)
    with pytest.raises(UserError, match="can be read in two ways"):
        fit(tmp_path / "t.csv", baseline="web")


def test_a_table_in_markdown_is_read(tmp_path):
    rows = ["| " + " | ".join(map(str, row)) + " |" for row in wide().to_numpy()]
    head = "| " + " | ".join(wide()) + " |"
    rule = "|:---|" + "---:|" * (wide().shape[1] - 1)
    (tmp_path / "t.txt").write_text("\n".join([head, rule, *rows]))
    assert_law(fit(tmp_path / "t.txt", baseline="web"))


def test_a_title_is_no_header_in_two_rows(tmp_path):
    title = "Our ladder" + "," * (wide().shape[1] - 1)
    (tmp_path / "t.csv").write_text(f"{title}\n{wide().to_csv(index=False)}")
    with pytest.raises(UserError, match="delete what stands above the header"):
        fit(tmp_path / "t.csv", baseline="web")


def test_records_in_cells_are_told_as_such(tmp_path):
    records = [{"model": r["model"], "flops": r["flops"], "evals": [{"domain": g, "loss": v} for g, v in r["results"].items()]} for r in nested()]  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps(records))
    with pytest.raises(UserError, match="cells of evals hold several records each"):
        fit(tmp_path / "t.json", baseline="web")
