"""Any table goes in: a right table comes out, or one true line; nothing lost, mislabelled or turned round in silence."""

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.files import numbers_of, read_sheet
from relscale.guesses import guess_columns
from relscale.importers import Points, from_table, read_points
from relscale.laws.relative import fit_relative
from relscale.lm_eval import from_lm_eval
from relscale.names import unit_of_name
from relscale.other_tools import from_evaluations
from relscale.table_fit import fit
from relscale.wandb_exports import Metric, from_wandb
from relscale.written_numbers import number_of

MODELS = [(0.07, 1.4), (0.41, 8.2), (1.4, 28.0), (6.9, 138.0), (12.0, 240.0)]  # billions


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# --- files


@pytest.mark.parametrize(
    "cell, number",
    [
        ("1e9", 1e9), ("1.4B", 1.4e9), ("12 M", 12e6), ("70m", 70e6), ("3 x 10^18", 3e18), ("3×10^18", 3e18), ("10^20", 1e20),
        ("−2", -2), ("45 %", 45), ("300 billion", 3e11), ("nan", None), ("1.2.3", None), ("~7B", None), ("7 apples", None), ("", None),
    ],
)  # fmt: skip
def test_a_written_number(cell, number):
    found = number_of(cell, sizes=True)
    assert found is None if number is None else float(found) == number


@pytest.mark.parametrize(
    "cells, said",
    [
        (["1,000,000", "2,500,000"], [1e6, 2.5e6]),
        (["3,1", "2,6"], [3.1, 2.6]),
        (["0,125", "0,250"], [0.125, 0.25]),  # no number of thousands begins with a zero
        (["1,234.5", "2,000.25"], [1234.5, 2000.25]),
        (["1.234,5", "2.000,25"], [1234.5, 2000.25]),
        (["3,141", "2,718"], "two ways"),
        (["3,1", "2.6"], "two ways"),
        (["1,000,000", "3,1"], "two ways"),
        (["1 000 000", "2 500 000"], [1e6, 2.5e6]),
        (["1,5", "abc"], "'abc' is not a number"),
    ],
)
def test_what_a_comma_means_the_column_tells(tmp_path, cells, said):
    path = write(tmp_path / "t.tsv", "a\tb\n" + "".join(f"{c}\tx\n" for c in cells))
    if isinstance(said, str):
        with pytest.raises(UserError, match=said):
            numbers_of(read_sheet(path), "a")
    else:
        assert numbers_of(read_sheet(path), "a").tolist() == said


def test_a_semicolon_file_has_decimal_commas_unless_its_cells_speak_against(tmp_path):
    with_comma = write(tmp_path / "a.csv", "N;loss;x\n1e8;3,141;0,5\n1e9;2,718;1,25\n")
    assert numbers_of(read_sheet(with_comma), "loss").tolist() == [3.141, 2.718]
    with_point = write(tmp_path / "b.csv", "N;loss\n1e8;3.141\n1e9;2.718\n")
    assert numbers_of(read_sheet(with_point), "loss").tolist() == [3.141, 2.718]
    both = write(tmp_path / "c.csv", "N;loss\n1.400;3,1\n2.800;2,7\n")
    with pytest.raises(UserError, match="two ways"):
        numbers_of(read_sheet(both), "N")


RECORDS = [{"N": 1e8, "loss": 3.5, "note": "a\u2028b"}, {"N": 1e9, "loss": 2.75, "note": "c\x85d"}]
JSON_SHAPES = {
    "records": RECORDS,
    "pandas": {k: {str(i): r[k] for i, r in enumerate(RECORDS)} for k in RECORDS[0]},
    "lists": {k: [r[k] for r in RECORDS] for k in RECORDS[0]},
    "split": {"columns": list(RECORDS[0]), "index": [0, 1], "data": [list(r.values()) for r in RECORDS]},
    "table": {"schema": {}, "data": RECORDS},
}  # fmt: skip


@pytest.mark.parametrize("shape", [*JSON_SHAPES, "lines", "lines.json"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("packed", [False, True])
def test_json_in_its_shapes(tmp_path, shape, encoding, packed):
    lines = "\r\n".join(json.dumps(r, ensure_ascii=False) for r in RECORDS)
    text = (
        lines if shape.startswith("lines") else json.dumps(JSON_SHAPES[shape], ensure_ascii=False)
    )
    name = "t.jsonl" if shape == "lines" else "t.json"
    data = text.encode(encoding)
    path = write(tmp_path / (name + ".gz" * packed), gzip.compress(data) if packed else data)
    assert read_sheet(path).frame.to_dict("records") == RECORDS


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.csv", "a,b,a\n1,2,3\n", "'a' stands twice in the header .columns A, C."),
        ("a.csv", "Sweep of May,,,\nN,loss,x,y\n1,2,3,4\n", "most columns have no name"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "cut short, or not csv"),
        ("a.csv", "a,b\n", "no rows"),
        ("a.csv", "a,b\n,\n,\n", "no rows"),
        ("a.json", '[{"a": 1, "a": 2}]', "key 'a' stands twice"),
        ("a.json", '{"x": {"loss": 1}, "y": {"loss": 2}}', "a record of records"),
        ("a.json", "[1, 2]", "something else than records"),
        ("a.xls", "x", "save it as .xlsx or .csv"),
        ("a.csv.gz", "a,b\n1,2\n", "cut short, or not gz"),
    ],
)
def test_a_file_that_is_none_is_said(tmp_path, name, text, said):
    with pytest.raises(UserError, match=said) as caught:
        read_sheet(write(tmp_path / name, text))
    assert "\n" not in str(caught.value)


def test_what_is_passed_over_is_noted(tmp_path):
    text = "# of May\n# by me\n,a,b,\n0,1,2,\n1,3,4,\n,,,\n2,5,6,\n,,,\n"
    sheet = read_sheet(write(tmp_path / "a.csv", text))
    assert sheet.frame.to_dict("list") == {"a": ["1", "3", "5"], "b": ["2", "4", "6"]}
    assert sheet.row_numbers == [4, 5, 7]
    assert " ".join(sheet.notes).count("left out") >= 2 and "rows 6, 8" in " ".join(sheet.notes)


def test_a_workbook_without_its_reader_is_one_line(tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "openpyxl" else found(n, *a))  # fmt: skip
    with pytest.raises(UserError, match=r"openpyxl not installed: pip install 'relscale\[excel\]'"):
        read_sheet(write(tmp_path / "a.xlsx", "x"))


def test_a_workbook(tmp_path):
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame({"params_B": [0.07, 1.4], "loss_usa": [3.5, 2.75], "loss_india": [4, 3.5]})
    with pd.ExcelWriter(tmp_path / "a.xlsx") as book:
        frame.to_excel(book, sheet_name="one", index=False)
        frame.to_excel(book, sheet_name="two", index=False)
    with pytest.raises(UserError, match=r"2 sheets have cells in them \(one, two\)"):
        read_points(tmp_path / "a.xlsx")
    rows = read_points(tmp_path / "a.xlsx", sheet="two").rows
    assert rows["num_params"].tolist() == [70_000_000, 1_400_000_000] * 2


# --- units and names


@pytest.mark.parametrize(
    "name, wanted, factor",
    [
        ("Model Size (B)", "num_params", 1e9), ("params [M]", "num_params", 1e6), ("params_B", "num_params", 1e9),
        ("tokens_T", "num_tokens", 1e12), ("tokens (billions)", "num_tokens", 1e9), ("FLOPs (1E21)", "train_flops", 1e21),
        ("train_gflops", "train_flops", 1e9), ("compute (PFLOPs)", "train_flops", 1e15), ("compute (PF-days)", "train_flops", 8.64e19),
        ("flops (x10^18)", "train_flops", 1e18), ("acc (%)", "value", 0.01), ("num_params", "num_params", None), ("train_flops", "train_flops", 1),
    ],
)  # fmt: skip
def test_the_unit_in_a_name(name, wanted, factor):
    assert unit_of_name(name, wanted) == factor


def table(**changes) -> pd.DataFrame:
    """One row a model: sizes and tokens in billions, losses of two countries."""
    n = np.array([m[0] for m in MODELS])
    base = {
        "model": [f"m{i}" for i in range(5)], "params_B": n, "tokens_B": [m[1] for m in MODELS],
        "loss_usa": 3 * n**-0.08, "loss_india": 3.5 * n**-0.07,
    }  # fmt: skip
    return pd.DataFrame(base | changes)


def test_one_row_a_model(tmp_path):
    table().to_csv(tmp_path / "t.csv", index=False)
    for source in (tmp_path / "t.csv", table()):
        points = read_points(source)
        usa = points.rows[points.rows["group"] == "usa"]
        assert usa["num_params"].tolist() == [
            70_000_000,
            410_000_000,
            1_400_000_000,
            6_900_000_000,
            12_000_000_000,
        ]
        assert usa["train_flops"].tolist() == [
            6.0 * round(n * 1e9) * round(d * 1e9) for n, d in MODELS
        ]
        np.testing.assert_allclose(usa["value"], table()["loss_usa"], rtol=1e-15)
        assert "train_flops = 6ND" in repr(points.guess) and points.doubts == []
        assert Points.from_json(points.to_json()).rows.equals(points.rows)
    fit = fit_relative(points.rows, baseline="usa", scale="num_params")
    assert abs(fit.table["delta_beta"].item() - 0.01) < 1e-12


def test_a_guess_can_be_corrected():
    frame = table(loss_usa_b=1.0).rename(columns={"params_B": "how big"})
    with pytest.raises(UserError, match="rows lack a scale"):
        read_points(frame.drop(columns="tokens_B"), groups=["loss_usa", "loss_india"])
    points = read_points(frame, columns={"num_params": "how big:billions"}, groups={"a": "loss_usa", "b": "loss_india"})  # fmt: skip
    assert set(points.rows["group"]) == {"a", "b"} and points.rows["num_params"].max() == 12e9
    assert set(read_points(table(), groups="loss_*").rows["group"]) == {"usa", "india"}
    with pytest.raises(UserError, match="no column fits 'los_\\*'"):
        read_points(table(), groups="los_*")
    with pytest.raises(UserError, match="are of several measures"):
        read_points(table(acc_usa=0.5, acc_india=0.4))
    assert guess_columns(table()).groups == {"usa": "loss_usa", "india": "loss_india"}


@pytest.mark.parametrize(
    "columns, factor",
    [
        ({"num_params": "params_B:1e9"}, 1), ({"num_params": "params_B:billions"}, 1), ({"num_params": "params_B:1e6"}, 1e-3),
        ({"num_params": lambda t: t["params_B"] * 1e9}, 1),
    ],
)  # fmt: skip
def test_a_unit_that_is_given_counts(columns, factor):
    rows = read_points(table(tokens_B=np.nan).drop(columns="tokens_B"), columns=columns).rows
    assert rows["num_params"].max() == 12e9 * factor


@pytest.mark.parametrize(
    "change, said",
    [
        (
            {"params_B": "params"},
            r"0.07 is not a whole number: if it counts billions, give num_params = params:1e9",
        ),
        ({"tokens_B": "tokens"}, r"not a whole number|no number of training tokens"),
        ({"tokens_B": "tokens_M"}, r"tokens per parameter"),
    ],
)
def test_a_magnitude_that_cannot_be_is_questioned(change, said):
    with pytest.raises(UserError, match=said):
        read_points(table().rename(columns=change))


def test_sizes_check_each_other():
    right = table(flops=[6 * n * d * 1e18 for n, d in MODELS])
    assert len(read_points(right).rows) == 10
    wrong = right.assign(flops=right["flops"] / 1000)
    with pytest.raises(UserError, match="train_flops is 0.001 times 6ND: give the units of"):
        read_points(wrong)
    told = {"train_flops": "flops:1", "num_params": "params_B:1e9", "num_tokens": "tokens_B:1e9"}
    assert "do not fit each other" in read_points(wrong, columns=told).doubts[0]


def test_whole_numbers_do_not_wrap(tmp_path):
    frame = table().rename(columns={"params_B": "N", "tokens_B": "D"})
    frame = frame.assign(
        N=(frame["N"] * 1e9).round().astype(int), D=(frame["D"] * 1e9).round().astype(int)
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    for source in (frame, tmp_path / "t.csv"):
        rows = read_points(source, columns={"train_flops": lambda t: 6 * t["N"] * t["D"]}).rows
        assert (
            rows["train_flops"].max() == 6 * 12e9 * 240e9 > 2**63
        )  # in whole numbers it is another, positive one
        assert (rows["train_flops"] == 6.0 * rows["num_params"] * rows["num_tokens"]).all()


def test_a_cell_is_named_as_a_spreadsheet_does(tmp_path):
    text = "# May\nmodel,params_B,loss_usa,loss_india\na,0.07,3.5,4\n\nb,1.4,2.7,\nc,7,2.2,2.5\n"
    with pytest.raises(UserError, match=r"t.csv: loss_india, row 5, column D: empty: fill it"):
        read_points(write(tmp_path / "t.csv", text))


# --- long tables


def long_table() -> pd.DataFrame:
    rows = [
        {"size": f"{n}B", "seed": s, "family": "f", "dialect": g, "bpb": v * n**-0.05 * (1 + 0.001 * s)}
        for n, _ in MODELS for s in (0, 1) for g, v in (("GB", 1.0), ("IN", 1.2))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_seeds_and_families_are_kept():
    points = read_points(long_table())
    assert points.rows["seed"].tolist() == long_table()["seed"].tolist()
    assert set(points.rows["family"]) == {"f"} and len(points.rows) == 20
    with pytest.raises(
        UserError,
        match=r"stands twice: keep one row for each .* or name the column of run_id and seed",
    ):
        read_points(long_table().drop(columns="seed"))


def test_several_tasks_are_not_mixed():
    frame = pd.concat([long_table().assign(task=t) for t in ("paloma", "other")])
    with pytest.raises(UserError, match=r"2 values of task \(paloma, other\): choose one by only="):
        read_points(frame)
    points = read_points(frame, only={"task": "paloma"})
    assert len(points.rows) == 20 and "20 of another task" in points.account.to_string()
    with pytest.raises(UserError, match="no row has task 'palma': there is paloma, other"):
        read_points(frame, only={"task": "palma"})


# --- direction


def bench(rise=3, fall=1, error=False) -> pd.DataFrame:
    size = np.array([m[0] for m in MODELS])
    step = np.log(size / size[0])
    up = {f"Up{i}": 0.25 + (0.06 + 0.01 * i) * step for i in range(rise)}
    down = {f"Down{i}": 0.5 - 0.03 * step for i in range(fall)}
    values = {k: 1 - v if error else v for k, v in (up | down).items()}
    return pd.DataFrame({"Model": [f"m{i}" for i in range(5)], "Model Size (B)": size} | values)


@pytest.mark.parametrize("rise, fall", [(3, 0), (3, 1), (1, 1), (1, 3)])
def test_an_accuracy_is_never_an_error_in_silence(rise, fall):
    frame = bench(rise, fall) if rise + fall > 1 else bench(2)
    with pytest.raises(UserError, match="give higher_is_better=True"):
        read_points(frame)
    with pytest.raises(UserError, match="give higher_is_better=True"):
        from_table(frame, columns={"num_params": "Model Size (B)"}, groups=list(frame)[2:])
    turned = read_points(frame, higher_is_better=True).rows
    errors = read_points(bench(rise, fall, error=True), higher_is_better=False).rows
    np.testing.assert_allclose(turned["value"], errors["value"], rtol=1e-12)
    percent = frame.copy()
    percent.iloc[:, 2:] *= 100
    np.testing.assert_allclose(
        read_points(percent, higher_is_better=True).rows["value"], errors["value"], rtol=1e-12
    )


def test_a_name_that_tells_an_accuracy_turns_it_and_that_is_told():
    frame = bench(3, 0).rename(columns=lambda c: c.replace("Up", "acc_"))
    points = read_points(frame)
    assert (points.rows["value"] < 0.76).all() and "the error is 1 - value" in " ".join(
        points.doubts
    )
    told = read_points(frame, higher_is_better={"0": True, "1": True, "2": True})
    assert told.rows["value"].equals(points.rows["value"])
    kept = read_points(
        frame.assign(**{c: 1 - frame[c] for c in frame if "acc" in c}), higher_is_better=False
    )
    np.testing.assert_allclose(kept.rows["value"], points.rows["value"], rtol=1e-12)


def test_errors_that_rise_are_doubted_and_pass_when_told():
    frame = table(loss_india=3 * np.array([m[0] for m in MODELS]) ** 0.05)
    assert read_points(frame).doubts == ["the error of india rises with scale"]
    frame = frame.assign(loss_usa=frame["loss_india"] * 1.1)
    with pytest.raises(UserError, match="the value rises with scale in every group"):
        read_points(frame)
    assert read_points(frame, higher_is_better=False).doubts


def test_an_accuracy_of_one_or_a_mix_of_units_is_refused():
    frame = bench(2, 0)
    with pytest.raises(UserError, match="seems in percent and"):
        read_points(frame.assign(Up0=frame["Up0"] * 100), higher_is_better=True)
    with pytest.raises(UserError, match="reaches an accuracy of 1"):
        read_points(frame.assign(Up0=[0.2, 0.5, 0.8, 0.9, 1.0]), higher_is_better=True)


def test_percent_signs_in_cells():
    frame = table(**{f"err_{g}": [f"{v} %" for v in (60, 50, 40.5, 30, 20)] for g in "ab"})
    frame = frame.drop(columns=["loss_usa", "loss_india"])
    assert read_points(frame).rows["value"].tolist() == [0.6, 0.5, 0.405, 0.3, 0.2] * 2
    frame.loc[2, "err_b"] = "40.5"
    with pytest.raises(UserError, match="err_b, row 2 .from 0.: no % as in the others"):
        read_points(frame)


def test_bits_nats_and_perplexities():
    frame = table()
    nats = read_points(frame, groups={"a": "loss_usa:nats", "b": "loss_india:nats"}).rows["value"]
    bits = frame.assign(
        loss_usa=frame["loss_usa"] / np.log(2), loss_india=np.exp(frame["loss_india"])
    )
    same = read_points(bits, groups={"a": "loss_usa:bits", "b": "loss_india:ppl"}).rows["value"]
    np.testing.assert_allclose(same, nats, rtol=1e-12)
    with pytest.raises(UserError, match="unit 'bats' of value"):
        read_points(bits, groups={"a": "loss_usa:bats", "b": "loss_india"})


# --- W&B

PANEL = '"Step","d1 - x - bpb/GB","d1 - x - bpb/GB__MIN","d1 - x - bpb/GB__MAX","d2 - bpb/GB","d2 - bpb/GB__MIN","d2 - bpb/GB__MAX"\n'
SIZES = pd.DataFrame({"run_id": ["d1 - x", "d2"], "corpus": "c", "train_flops": [1e18, 1e19], "num_params": [10**8, 10**9], "num_tokens": [2 * 10**9, 2 * 10**10]})  # fmt: skip


def test_the_lines_of_a_panel_are_runs(tmp_path):
    path = write(
        tmp_path / "p.csv",
        PANEL + '"1","1.9","1.9","1.9","1.8","1.8","1.8"\n"2","","","","1.5","1.4","1.6"\n',
    )
    read = from_wandb(path, suite="s", metrics=[Metric("bpb/{group}")], runs=SIZES)
    assert read.scores[["run_id", "group", "value"]].values.tolist() == [
        ["d1 - x", "GB", 1.9],
        ["d2", "GB", 1.5],
    ]
    assert "averages" in read.doubts[0] and read.runs["train_flops"].tolist() == [1e18, 1e19]
    with pytest.raises(UserError, match="run 'd1 - x' is not in runs"):
        from_wandb(path, suite="s", metrics=[Metric("bpb/{group}")], runs=SIZES[1:])


@pytest.mark.parametrize("form", ["csv", "json", "records"])
def test_the_api_table(tmp_path, form):
    rows = [
        {"summary": {"bpb/GB": v, "n": 10**8}, "config": {"model": {"D": 2 * 10**9}, "tag": None}, "name": f"r{i}", "state": s}
        for i, (v, s) in enumerate([(1.9, "finished"), (1.7, "Finished"), (float("nan"), "crashed")])
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    path = tmp_path / ("t.csv" if form == "csv" else "t.json")
    frame.to_csv(path) if form == "csv" else frame.to_json(
        path, orient="columns" if form == "json" else "records"
    )
    setup = {"suite": "s", "fixed": {"corpus": "c"}, "metrics": [Metric("bpb/{group}")],
             "columns": {"num_params": "n", "num_tokens": "model.D", "train_flops": "6ND"}}  # fmt: skip
    read = from_wandb(path, **setup)
    assert (
        read.scores["value"].tolist() == [1.9, 1.7]
        and read.runs["train_flops"].tolist() == [6 * 1e8 * 2e9] * 2
    )
    assert read.left_out[read.left_out["kind"] == "run"]["name"].tolist() == ["r2"]
    if form == "csv":
        with pytest.raises(UserError, match="'NaN' is not finite: mark the run failed"):
            from_wandb(path, **setup, states=["finished", "crashed"])


def test_many_runs_in_one_history(tmp_path):
    text = "run_name,_step,bpb/GB,n,d\n" + "".join(f"{r},{s},{v},100000000,{s}000000000\n" for r, a in (("a", 2.0), ("b", 1.5)) for s, v in ((1, a), (2, a - 0.5)))  # fmt: skip
    setup = {"suite": "s", "fixed": {"corpus": "c"}, "metrics": [Metric("bpb/{group}")], "columns": {"num_params": "n", "num_tokens": "d", "train_flops": "6ND"}}  # fmt: skip
    read = from_wandb(write(tmp_path / "h.csv", text + "c,1,,100000000,1000000000\n"), **setup)
    assert read.runs["run_id"].tolist() == ["a", "b"] and read.scores["value"].tolist() == [
        1.5,
        1.0,
    ]
    assert read.left_out[["name", "why"]].values.tolist() == [["c", "no step with a score"]]
    every = from_wandb(tmp_path / "h.csv", **setup, steps="all")
    assert every.runs["run_id"].tolist() == ["a@1", "a", "b@1", "b"]


def test_a_folder_accounts_for_every_file(tmp_path):
    for name in ("a", "b"):
        write(
            tmp_path / f"{name}.csv.gz",
            gzip.compress(b"_step,bpb/GB,n,d\n1,1.5,100000000,2000000000\n"),
        )
    write(tmp_path / "notes.txt", "x")
    write(tmp_path / "plot.png", "x")
    read = from_wandb(tmp_path, suite="s", fixed={"corpus": "c"}, metrics=[Metric("bpb/{group}")], columns={"num_params": "n", "num_tokens": "d", "train_flops": "6ND"})  # fmt: skip
    assert read.runs["run_id"].tolist() == ["a", "b"]
    files = read.account[read.account["kind"] == "file"]
    assert dict(zip(files["name"], files["taken"], strict=True)) == {"notes.txt": False, "plot.png": False, "a.csv.gz": True, "b.csv.gz": True}  # fmt: skip


def test_the_names_of_trainers(tmp_path):
    names = ["eval/lm/c4_en-validation/CE loss", "eval/lm/c4_en-validation/PPL", "eval/downstream/arc_easy (accuracy v2)", "eval/downstream/arc_easy (length-normalized accuracy v2)", "eval/downstream/arc_easy (BPB v2)"]  # fmt: skip
    frame = pd.DataFrame([[3.0, 20.0, 0.5, 0.55, 0.9]], columns=names).assign(
        Name="a", State="finished", n=1e8, d=2e9
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    setup = {"suite": "s", "fixed": {"corpus": "c"}, "columns": {"num_params": "n", "num_tokens": "d", "train_flops": "6ND"}}  # fmt: skip
    read = from_wandb(tmp_path / "t.csv", metrics="olmo-core", **setup)
    found = read.scores.set_index("metric")["higher_is_better"].to_dict()
    assert found == {
        "nats_per_token": False,
        "accuracy": True,
        "accuracy_per_char": True,
        "bits_per_byte": False,
    }
    assert "eval/lm/c4_en-validation/PPL" in read.left_out["name"].tolist()
    with pytest.raises(UserError, match="no column fits the names of levanter"):
        from_wandb(tmp_path / "t.csv", metrics="levanter", **setup)


@pytest.mark.parametrize("pattern, said", [("acc/{group}", "give higher_is_better=True"), ("loss/{group}", "names no bits per byte"), ("{group} ppl", "names no bits")])  # fmt: skip
def test_a_metric_is_not_mislabelled(pattern, said):
    with pytest.raises(UserError, match=said):
        Metric(pattern)


# --- evaluation tools


def harness(revision: str, acc: float, **changes) -> dict:
    return {"results": {"arc": {"alias": "arc", "acc,none": acc, "acc_stderr,none": 0.01, "sample_len": 100}}, "higher_is_better": {"arc": {"acc": True}},
            "versions": {"arc": 1}, "n-shot": {"arc": 0}, "config": {"model_args": f"pretrained=org/m,revision={revision}"}, "model_name": "org/m"} | changes  # fmt: skip


def test_revisions_are_runs(tmp_path):
    for i, step in enumerate((1000, 16000, 143000)):
        write(
            tmp_path / "org__m" / f"results_2025-03-0{i + 1}T00-00-00.000001.json",
            json.dumps(harness(f"step{step}", 0.2 + 0.1 * i)),
        )
    for newest in (False, True):
        read = from_lm_eval(tmp_path, runs={"org/m": "m"}, newest=newest)
        assert read.scores["run_id"].tolist() == ["m@step1000", "m@step16000", "m@step143000"]
    assert from_lm_eval(tmp_path).runs["run_id"].tolist()[0] == "org/m@step1000"
    table_ = pd.DataFrame({"run_id": ["m@step1000", "m-step16000", "m_step143000"]})
    assert (
        from_lm_eval(tmp_path, runs=table_).scores["run_id"].tolist() == table_["run_id"].tolist()
    )
    with pytest.raises(UserError, match="model 'org/m@step16000' is not in runs"):
        from_lm_eval(tmp_path, runs=pd.DataFrame({"run_id": ["m@step1000", "m"]}))


def test_a_newer_file_replaces_an_older_one_only_of_the_same_version(tmp_path):
    write(tmp_path / "NAME_2025-01-01T00-00-00.1.json", json.dumps(harness("main", 0.2)))
    write(tmp_path / "NAME_2025-02-01T00-00-00.1.json", json.dumps(harness("main", 0.3)))
    write(tmp_path / "other.json", json.dumps({"a": 1}))
    read = from_lm_eval(tmp_path, newest=True)
    assert read.scores["value"].tolist() == [0.3]
    assert set(read.left_out["why"]) == {
        "no results of an evaluation in it",
        "a newer file holds them",
    }
    write(
        tmp_path / "NAME_2025-03-01T00-00-00.1.json",
        json.dumps(harness("main", 0.4, **{"n-shot": {"arc": 25}})),
    )
    with pytest.raises(
        UserError, match="has versions 1, 0-shot and 1, 25-shot: keep the files of one"
    ):
        from_lm_eval(tmp_path, newest=True)


def test_subjects_are_groups_of_one_task_however_the_file_is_old(tmp_path):
    leaf = {"acc,none": 0.4, "acc_stderr,none": 0.02}
    names = {"mmlu": "mmlu", "mmlu_stem": " - stem", "mmlu_anatomy": "  - anatomy"}
    indented = {
        "results": {n: leaf | {"alias": a} for n, a in names.items()},
        "config": {"model_args": "pretrained=org/a"},
    }
    told = indented | {
        "group_subtasks": {"mmlu": ["mmlu_stem"], "mmlu_stem": ["mmlu_anatomy"]},
        "higher_is_better": {n: {"acc": True} for n in names},
    }
    old = {
        "results": {"hendrycksTest-anatomy": {"acc": 0.4, "acc_stderr": 0.02}},
        "config": {"model_args": "pretrained=org/a", "num_fewshot": 5},
    }
    for i, data in enumerate((indented, told, old)):
        read = from_lm_eval(write(tmp_path / f"{i}.json", json.dumps(data)))
        of = read.scores[read.scores["task"] == "mmlu"].set_index("group")
        assert (of.loc["anatomy", ["value", "stderr"]] == [0.4, 0.02]).all() and of[
            "higher_is_better"
        ].all()
        assert bool(read.doubts) == (data is not told)
    assert of["task_version"].item() == "N/A, 5-shot"


def test_other_tools(tmp_path):
    log = {"status": "success", "eval": {"task": "x/quiz", "model": "hf/org/a"}, "results": {"completed_samples": 9, "scores": [{"name": "c", "metrics": {"accuracy": {"value": 0.5}, "stderr": {"value": 0.1}}}]}}  # fmt: skip
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as packed:
        packed.writestr("header.json", json.dumps(log))
    gap = {
        "model_a": "big",
        "model_b": "small",
        "datasets": [
            {"name": "c4", "documents": 3, "model_a_bpb": 0.9, "model_b_bpb": 1.1, "gap_bpb": -0.2}
        ],
    }
    write(tmp_path / "gap/summary.json", json.dumps(gap))
    val = {"name": "w", "hyperparameters": {"params": 5, "tokens": 9}, "results": [{"val_data": [f"s3://b/{g}/shard.tar"], "loss": v, "loss_tokens_lower_95": -1.0, "loss_tokens_upper_95": -1.0} for g, v in (("c4", 3.0), ("code", 2.0))]}  # fmt: skip
    write(tmp_path / "w.json", json.dumps(val))
    read = from_evaluations(tmp_path)
    found = read.scores.set_index(["run_id", "task", "group"])["value"].to_dict()
    assert found == {
        ("hf/org/a", "quiz", "all"): 0.5, ("big", "datasets", "c4"): 0.9, ("small", "datasets", "c4"): 1.1,
        ("w", "val", "c4"): 3.0, ("w", "val", "code"): 2.0,
    }  # fmt: skip
    assert read.runs.set_index("run_id").loc["w", "num_params"] == 5
    write(tmp_path / "log2.json", json.dumps(log | {"status": "error"}))
    assert "Inspect, status error" in from_evaluations(tmp_path).left_out["why"].tolist()


# --- tables at random


def random_table(rng: np.random.Generator, folder: Path):
    """A table in one of many dresses: its file, how it is to be read, the rows that are right, and a slip that was put in."""
    count, names = (
        int(rng.integers(4, 9)),
        list(rng.permutation(["usa", "india", "NA", "en-GB", "kenya"])[: rng.integers(2, 5)]),
    )
    params = np.round(np.geomspace(5e7, 5e10, count) * rng.uniform(0.9, 1.1, count), -6)
    tokens = np.round(20 * params, -7)
    score = rng.random() < 0.3
    power = {g: rng.uniform(0.04, 0.12) for g in names}
    error = {g: np.round((0.8 if score else 3.5) * rng.uniform(0.9, 1.1) * (params / 5e7) ** -power[g], 4) for g in names}  # fmt: skip
    unit = rng.choice(["plain", "B", "word", "header"])
    cells = {
        "plain": params,
        "B": params / 1e9,
        "word": [f"{p / 1e6:g}M" for p in params],
        "header": params / 1e6,
    }[unit]
    name = {"plain": "num_params", "B": "params_B", "word": "N", "header": "Model Size (M)"}[unit]
    data_unit = rng.choice(["num_tokens", "tokens_B"])
    data_cells = tokens if data_unit == "num_tokens" else tokens / 1e9
    measure = "acc" if score else str(rng.choice(["loss", "bpb", "nll"]))
    shown = {g: np.round(1 - v, 4) if score else v for g, v in error.items()}
    slip = rng.choice(["none", "none", "blank", "word", "twice", "size", "direction", "column"])
    base = pd.DataFrame({"model": [f"00{i}" for i in range(count)], name: cells, data_unit: data_cells, "lr": 1e-3, "note": "a;b, c"})  # fmt: skip
    wide = bool(rng.random() < 0.5)
    if wide:
        frame = base.assign(**{f"{measure}_{g}": v for g, v in shown.items()})
    else:
        frame = pd.concat(
            [base.assign(domain=g, **{measure: v}) for g, v in shown.items()], ignore_index=True
        )
    values = [c for c in frame if c.startswith(measure)]
    if slip == "size" and unit in ("B", "header"):
        frame = frame.rename(columns={name: "params"}).assign(
            params=frame[name] / (1 if unit == "B" else 1e3)
        )
    elif slip == "size":
        slip = "none"
    if slip == "direction" and not wide:
        frame = frame.rename(columns={measure: "value"})
    elif slip == "direction":
        frame = frame.rename(columns={c: c.removeprefix(f"{measure}_") for c in values})
    if slip == "direction" and not score:
        slip = "none" if not wide or all(len(g) > 1 for g in names) else slip
    frame = frame.astype(object)
    if slip in ("blank", "word"):
        frame.loc[rng.integers(len(frame)), values[-1]] = "" if slip == "blank" else "NaN"
    if slip == "twice":
        frame = pd.concat([frame, frame.iloc[[0]]], ignore_index=True)
    frame = frame.iloc[rng.permutation(len(frame))][
        list(rng.permutation(frame.columns))
    ].reset_index(drop=True)
    if slip == "column":
        frame = frame.drop(columns="lr").rename(columns={values[0]: "lr"})
    right = pd.DataFrame(
        [(g, int(p), int(t), v) for g in names for p, t, v in zip(params, tokens, 1 - shown[g] if score else shown[g], strict=True)],
        columns=["group", "num_params", "num_tokens", "value"],
    )  # fmt: skip
    return _dressed(rng, folder, frame), right, slip


def _dressed(rng: np.random.Generator, folder: Path, frame: pd.DataFrame) -> Path:
    """The frame in one of many forms of a file."""
    form = rng.choice(["csv", "csv", "tsv", "semicolon", "german", "json", "jsonl"])
    if form in ("json", "jsonl"):
        records = (
            frame.replace("", None)
            .astype(object)
            .where(lambda f: f.notna(), None)
            .to_dict("records")
        )
        text = json.dumps(records) if form == "json" else "\n".join(map(json.dumps, records))
        suffix = f".{form}"
    else:
        shown = frame.copy()
        if form == "german":
            shown = shown.map(
                lambda c: (
                    f"{c:.10f}".rstrip("0").rstrip(".").replace(".", ",")
                    if isinstance(c, float)
                    else c
                )
            )
        mark = {"csv": ",", "tsv": "\t"}.get(form, ";")
        text = shown.to_csv(index=False, sep=mark)
        text += (mark * (len(frame.columns) - 1) + "\n") * int(rng.integers(0, 3))
        text = "# a comment\n" * int(rng.random() < 0.2) + text
        suffix = ".tsv" if form == "tsv" else ".csv"
    data = text.encode(rng.choice(["utf-8", "utf-8-sig", "utf-16"]))
    packed = rng.random() < 0.3
    return write(folder / f"t{suffix}{'.gz' * packed}", gzip.compress(data, 1) if packed else data)


def check_random_table(seed: int, folder: Path) -> str:
    """Read one random table; a slip must be refused in one line, and every other table be read right."""
    rng = np.random.default_rng(seed)
    path, right, slip = random_table(rng, folder)
    try:
        rows = read_points(path).rows
    except UserError as error:
        assert "\n" not in str(error) and path.name in str(error), (seed, error)
        assert slip != "none", (seed, slip, error)
        return "refused"
    assert slip in ("none", "column"), (seed, slip, "passed")
    if (
        slip == "column"
    ):  # a group's column under another name is not a group; the rest must be right
        right = right[right["group"].isin(rows["group"])]
    key = ["group", "num_params"]
    rows, right = (f.sort_values(key).reset_index(drop=True) for f in (rows, right))
    assert (
        rows[key + ["num_tokens"]].astype({"group": str}).values.tolist()
        == right[key + ["num_tokens"]].values.tolist()
    ), seed
    np.testing.assert_allclose(rows["value"], right["value"], rtol=1e-9, err_msg=str(seed))
    np.testing.assert_allclose(
        rows["train_flops"], 6.0 * right["num_params"] * right["num_tokens"], rtol=1e-12
    )
    return "read"


def check_random_fit(seed: int, folder: Path) -> str:
    """The laws of one random table by `rs.fit`: those of numpy on the right rows, or a refusal where a slip was put in."""
    rng = np.random.default_rng(seed)
    path, right, slip = random_table(rng, folder)
    wide = right.pivot(index="num_params", columns="group", values="value")
    flops = 6.0 * right.groupby("num_params")[["num_tokens"]].first()["num_tokens"] * wide.index
    base = rng.choice(wide.columns)
    try:
        study = fit(path, baseline=base, n_bootstrap=100)
    except UserError as error:
        assert "\n" not in str(error), (seed, error)
        assert slip != "none", (seed, slip, error)
        return "refused"
    assert slip in ("none", "blank", "column"), (seed, slip, "passed")
    found = study.summary()["delta_beta"]
    assert slip == "column" or set(found.index) == set(wide.columns) - {base}, (seed, slip)
    if slip == "blank":  # the model with an empty cell takes no part, and that is said
        assert any("left out, since a ratio" in w for w in study.warnings), seed
        kept = study.rows.groupby("group")["num_params"].apply(set).iloc[0]
        assert len(kept) == len(wide) - 1
        wide, flops = wide.loc[sorted(kept)], flops.loc[sorted(kept)]
    for group in found.index:
        slope = np.polyfit(np.log(flops), np.log(wide[group] / wide[base]), 1)[0]
        assert abs(found[group] - slope) < 1e-9, (seed, slip, group, found[group], slope)
    return "fitted"


def test_random_fits(tmp_path):
    ends = [check_random_fit(seed, tmp_path / str(seed)) for seed in range(24)]
    assert min(ends.count("fitted"), ends.count("refused")) > 4


def test_random_tables(tmp_path):
    """A right table or a true line, never a wrong one; and neither side is empty."""
    ends = [check_random_table(seed, tmp_path / str(seed)) for seed in range(120)]
    print({e: ends.count(e) for e in set(ends)})
    assert min(ends.count("read"), ends.count("refused")) > 25


@pytest.mark.long
def test_many_random_tables(tmp_path):
    for seed in range(1000, 3000):
        check_random_table(seed, tmp_path / str(seed))


def test_a_column_that_is_all_heading_is_no_column(tmp_path):
    """Joined tables bring columns such as `seed` and `train_flops` that nothing filled; a seed may also be missing in one row."""
    flops = [1e18, 1e19, 1e20, 1e21]
    rows = [
        {"seed": None, "train_flops": None, "flops": f, "group": g, "value": 3 * (f / 1e18) ** -b}
        for f in flops
        for g, b in (("usa", 0.05), ("india", 0.07))
    ]
    path = tmp_path / "t.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    study = fit(path, baseline="usa")
    assert study.summary().loc["india", "delta_beta"] == pytest.approx(-0.02, abs=1e-6)
    frame = pd.DataFrame(rows).drop(columns="train_flops")
    frame["seed"] = [0.0, 0.0, 0.0, 0.0, None, None, 0.0, 0.0]
    frame.to_csv(path, index=False)
    try:
        fit(path, baseline="usa")
    except UserError as error:
        assert "seed" in str(error) and "\n" not in str(error)
