"""Tables as strangers keep them: each kind of slip that random tables brought to light, and one table of every trouble.

`benchmarks/tables.py` makes such tables at random, thousands of them; `data/tables/outcomes.csv` holds how each ended.
"""

import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.files import frame_sheet, read_sheet
from relscale.guesses import guess_columns
from relscale.importers import read_points
from relscale.names import is_score, measure_words, role_of, shared_measure
from relscale.table_fit import fit
from relscale.table_rows import set_upright

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import tables

SIZE = np.array([1e8, 3e8, 1e9, 3e9, 1e10])
LOSS = {"usa": 3 * (SIZE / 1e8) ** -0.05, "india": 3.3 * (SIZE / 1e8) ** -0.07}


def wide(**more) -> pd.DataFrame:
    """A row a model: sizes, and the losses of two countries; its law is -0.02."""
    losses = {f"loss_{g}": v for g, v in LOSS.items()}
    return pd.DataFrame({"params": SIZE.astype(int)} | losses | more)


def long(**more) -> pd.DataFrame:
    """A row a model and country."""
    parts = [pd.DataFrame({"params": SIZE.astype(int), "group": g, "loss": v}) for g, v in LOSS.items()]  # fmt: skip
    return pd.concat(parts, ignore_index=True).assign(**more)


def groups(frame: pd.DataFrame) -> set[str]:
    guess = guess_columns(frame)
    return set(guess.groups)


# --- one table of every trouble, through the whole way


@pytest.mark.parametrize("trouble", tables.TROUBLES)
def test_a_table_with_trouble_ends_in_its_law_or_in_a_true_line(tmp_path, trouble):
    """The first seed whose table can have the trouble; a law beside the planted one raises."""
    for seed in range(3000, 3100):
        made = tables.draft(seed)
        tables.laid_out(made)
        if tables.TROUBLES[trouble](made) is not False:
            assert tables.check(seed, tmp_path, trouble)["trouble"] == trouble
            return
    raise AssertionError(f"no seed has {trouble}")


def test_the_check_sees_a_wrong_law(tmp_path, monkeypatch):
    """A reader that scales one group's errors by its size ends in `Wrong`, not in silence."""
    right = tables.fit

    def tilted(table, **options):
        study = right(table, **options)
        rows = study.rows.assign(value=study.rows["value"] * np.where(study.rows["group"] == study.baseline, study.rows[study.scale] ** 0.01, 1))  # fmt: skip
        from relscale.analysis import analyse_points

        return analyse_points(rows, baseline=study.baseline, scale=study.scale, n_bootstrap=100)

    monkeypatch.setattr(tables, "fit", tilted)
    with pytest.raises(tables.Wrong, match="is not"):
        tables.check(0, tmp_path, "none")


# --- which columns are groups


@pytest.mark.parametrize(
    "word", ["brier", "wer", "cer", "mse", "rmse", "xent", "surprisal", "bpc", "ppl", "nll"]
)
def test_words_of_errors(word):
    assert is_score(f"{word}_usa") is False and groups(wide().rename(columns=lambda c: c.replace("loss", word))) == {"usa", "india"}  # fmt: skip


@pytest.mark.parametrize("end", ["_n", " count", "_low", "_stderr", " (n)", "_num_samples"])
def test_a_statistic_beside_an_error_is_no_group(end):
    frame = wide(**{f"loss_{g}{end}": 5.0 for g in LOSS})
    assert groups(frame) == {"usa", "india"}


def test_a_group_may_be_called_as_a_statistic_or_a_measure():
    """Without a loss beside it, `loss_low` is the loss of a group; and `error analysis` is one whose name is a measure's."""
    frame = wide(**{"loss_high school": 2.0 + LOSS["usa"], "loss_low": LOSS["usa"], "loss_error analysis": LOSS["usa"]})  # fmt: skip
    assert groups(frame) == {"usa", "india", "high school", "low", "error analysis"}
    scores = pd.DataFrame({"params": SIZE.astype(int)} | {f"acc_{g}": 1 - v / 9 for g, v in {**LOSS, "loss aversion": LOSS["usa"]}.items()})  # fmt: skip
    rows = read_points(scores).rows
    assert set(rows["group"]) == {"usa", "india", "loss aversion"}
    aversion = rows.loc[rows["group"] == "loss aversion", "value"]
    np.testing.assert_allclose(aversion, LOSS["usa"] / 9, rtol=1e-12)


def test_two_measures_of_a_group_are_asked_about():
    for other in ("acc_usa", "loss_usa_bits", "bpb_usa"):
        with pytest.raises(UserError, match="are of several measures"):
            guess_columns(wide(**{other: 0.5, other.replace("usa", "india"): 0.4}))
    scores = pd.DataFrame({"params": SIZE} | {f"{m}_{g}": 0.5 for m in ("acc", "acc_norm") for g in LOSS})  # fmt: skip
    with pytest.raises(UserError, match="are of several measures"):
        guess_columns(scores)
    assert shared_measure(["acc_pass", "acc_error", "acc_usa"]) == {"acc"}
    assert measure_words("norm_usa") == frozenset()


@pytest.mark.parametrize("name", ["loss_avg", "loss", "loss_macro avg"])
def test_a_mean_over_groups_is_a_doubt(name):
    guess = guess_columns(wide(**{name: LOSS["usa"]}))
    assert {"usa", "india"} < set(guess.groups) and f"{name} may be a mean" in guess.doubts[0]


def test_a_constant_column_of_words_is_no_group():
    assert groups(wide(data="fineweb", language="en")) == {"usa", "india"}
    guess = guess_columns(long(dataset="fineweb", source="lab").rename(columns={"group": "topic"}))
    assert guess.columns["group"] == "topic"


def test_groups_may_be_numbers(tmp_path):
    frame = long(lab=["x", "y"] * 5).assign(group=np.repeat([2019, 2020], 5))
    rows = read_points(frame).rows
    assert set(rows["group"]) == {"2019", "2020"}
    assert set(read_points(frame.assign(group=frame["group"].astype(float))).rows["group"]) == {"2019", "2020"}  # fmt: skip


def test_a_column_without_a_name_is_no_group(tmp_path):
    frame = pd.DataFrame({"params": SIZE.astype(int), "usa": LOSS["usa"], "india": LOSS["india"]})
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "t.csv")
    assert set(read_points(tmp_path / "t.csv").rows["group"]) == {"usa", "india"}


# --- which columns are scales


@pytest.mark.parametrize(
    "name, role",
    [
        ("model_size_m", "num_params"), ("tokenizer", None), ("parametrization", None), ("param_norm", None), ("token_acc", None),
        ("Mrd. paramètres", "num_params"), ("tokens_seen", "num_tokens"), ("max_tokens", None), ("loss per token", None),
        ("compute budget", "budget_flops"), ("n_params", "num_params"), ("tokens/s", None),
    ],
)  # fmt: skip
def test_a_name_tells_a_scale(name, role):
    assert role_of(name) == role


def test_a_letter_beside_a_size_counts_something_else():
    assert guess_columns(wide(N=2376)).columns["num_params"] == "params"


def test_the_rate_of_a_chip_is_no_compute():
    """150 TFLOPs a second would be the scale of every law."""
    with pytest.raises(UserError, match="tokens per parameter: give the units of .* or name another column"):  # fmt: skip
        read_points(wide(tflops=[150.0, 160, 165, 170, 171]))
    assert "look whether its unit is right" in read_points(wide(flops=1e6 * SIZE)).doubts[0]
    flops = 6 * SIZE * 20 * SIZE
    assert read_points(wide(flops=flops)).rows["train_flops"].max() == flops.max()
    assert read_points(wide(flops=flops).drop(columns="params").assign(tokens=20 * SIZE.astype(int)))  # fmt: skip


def test_the_smallest_size_is_questioned_too():
    """12 among 70M and 1.4B lacks its unit."""
    frame = wide().assign(params=["12", "70M", "410M", "1.4B", "7B"])
    with pytest.raises(UserError, match="12 is no number of parameters of a language model"):
        read_points(frame)


def test_a_computed_size_is_a_whole_number():
    rows = read_points(wide().assign(params=SIZE * 1.0000000123)).rows
    assert rows["num_params"].tolist()[0] == 100_000_001
    with pytest.raises(UserError, match="is not a whole number"):
        read_points(wide().assign(params=SIZE / 1e9))


@pytest.mark.parametrize(
    "name, size",
    [
        ("pythia-1.4b", 1.4e9), ("OLMo-1B-3T", 1e9), ("toy-1B-100B", None), ("mixtral-8x7B", None), ("opt125m", 1.25e8),
        ("Qwen2.5-7B", 7e9), ("llama-2-7b-chat", 7e9), ("m1", None),
    ],
)  # fmt: skip
def test_the_size_in_a_models_name(name, size):
    frame = pd.DataFrame({"model": [name, "a-2B", "a-3B", "a-5B"], "loss_usa": [3.0, 2.5, 2.4, 2.2], "loss_india": [3.1, 2.7, 2.5, 2.4]})  # fmt: skip
    if size is None:
        with pytest.raises(UserError, match="no column tells a scale"):
            fit(frame, baseline="usa")
    else:
        assert size in fit(frame, baseline="usa", n_bootstrap=100).rows["num_params"].tolist()


# --- cells and directions


def test_a_column_partly_in_percent_is_refused():
    scores = {f"acc_{g}": 1 - v / 9 for g, v in LOSS.items()}
    mixed = {k: np.where(np.arange(5) == 2, 100 * v, v) for k, v in scores.items()}
    with pytest.raises(UserError, match="in percent or in part a fraction"):
        read_points(pd.DataFrame({"params": SIZE.astype(int)} | mixed))
    told = {"params": SIZE.astype(int)} | {f"{k} (%)": 100 * v / 90 for k, v in scores.items()}
    assert read_points(pd.DataFrame(told)).rows["value"].max() < 1  # the unit is in the name


def test_a_group_of_no_direction_beside_scores_is_asked_about():
    """An accuracy that falls, under a name that says nothing, would pass as the only error."""
    falls = 0.5 - 0.03 * np.log(SIZE / 1e8)
    frame = pd.DataFrame({"params": SIZE.astype(int), "acc_usa": 1 - LOSS["usa"] / 9, "TruthfulQA": falls})  # fmt: skip
    asked = {"groups": ["acc_usa", "TruthfulQA"]}
    with pytest.raises(UserError, match="no name tells whether TruthfulQA is: give higher_is_better"):  # fmt: skip
        read_points(frame, **asked)
    rows = read_points(frame, **asked, higher_is_better={"TruthfulQA": True}).rows
    np.testing.assert_allclose(rows.loc[rows["group"] == "TruthfulQA", "value"], 1 - falls)


@pytest.mark.parametrize("yes, no", [(True, False), ("yes", "no"), ("1", "0")])
def test_directions_in_a_column_of_their_own(yes, no):
    """They are read in any words, and stand in no row of errors: of these they are untrue."""
    frame = long().rename(columns={"loss": "value"})
    right = read_points(frame).rows["value"]
    scores = frame.assign(value=1 - frame["value"] / 9, **{"Higher is better": yes})
    rows = read_points(scores).rows
    np.testing.assert_allclose(rows["value"], right / 9)
    assert "Higher is better" not in rows
    np.testing.assert_array_equal(read_points(frame.assign(higher_is_better=no)).rows["value"], right)  # fmt: skip


def test_numbers_of_any_type_are_read():
    """Objects of numpy, decimals and nullable numbers give what their text gives."""
    right = read_points(wide()).rows["value"]
    for kind in (np.float64, lambda v: Decimal(repr(float(v))), str):
        frame = wide().astype(object)
        for c in ("loss_usa", "loss_india"):
            frame[c] = pd.Series([kind(v) for v in frame[c]], dtype=object)
        np.testing.assert_allclose(read_points(frame).rows["value"], right, rtol=1e-15)
    frame = wide(zflops=(6 * SIZE * 20 * SIZE / 1e21).astype(object)).convert_dtypes()
    assert read_points(frame).rows["train_flops"].max() == pytest.approx(120 * SIZE.max() ** 2)


def test_the_columns_of_a_pivot():
    frame = long().pivot_table(index="params", columns="group", values=["loss"]).reset_index()
    assert groups(frame) == {"usa", "india"}


def test_a_header_that_is_wrapped_in_its_cell(tmp_path):
    path = tmp_path / "t.csv"
    wide().assign(params=SIZE / 1e6).rename(columns={"params": "Parameters\n(millions)"}).to_csv(path, index=False)  # fmt: skip
    assert read_sheet(path).columns[0] == "Parameters (millions)"
    for told in (None, {"num_params": "Parameters\n(millions)"}):
        assert read_points(path, columns=told).rows["num_params"].max() == 10**10


def test_a_header_may_begin_with_a_sharp(tmp_path):
    """Commas inside of quotes part no cells: the header is as long as its rows, and no comment."""
    (tmp_path / "t.csv").write_text('#Params,notes,loss_a,loss_b\n1e8,"a, b",3,4\n1e9,"a, b",2,3\n')
    assert list(read_sheet(tmp_path / "t.csv").frame) == ["#Params", "notes", "loss_a", "loss_b"]


def test_an_empty_cell_of_a_record_beside_an_empty_error(tmp_path):
    """A null is no text, wherever it stands; the row is left out."""
    records = [*long().to_dict("records"), {"params": None, "group": "* twice", "loss": None}]
    pd.Series(records).to_json(tmp_path / "t.json", orient="records")
    study = fit(tmp_path / "t.json", baseline="usa", n_bootstrap=100)
    assert len(study.rows) == 10 and "1 row left out" in " ".join(study.warnings)


def test_what_stands_above_the_header_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("Sweep of May\n\nN,loss_a,loss_b\n1e8,3,4\n1e9,2,3\n")
    with pytest.raises(UserError, match="delete what stands above"):
        read_sheet(tmp_path / "t.csv")


def test_a_baseline_by_its_column_though_its_unit_is_told():
    frame = wide().rename(columns=lambda c: c.replace("loss", "ppl"))
    frame[["ppl_usa", "ppl_india"]] = np.exp(frame[["ppl_usa", "ppl_india"]])
    study = fit(frame, baseline="ppl_usa", units={"value": "ppl"}, n_bootstrap=100)
    assert study.baseline == "usa" and abs(study.summary()["delta_beta"].item() + 0.02) < 1e-9


def test_on_its_side_only_sizes_are_models():
    frame = pd.DataFrame([["usa", 3.0, 2.8, 2.6], ["india", 3.2, 2.9, 2.7]], columns=["group", "70M", "410M", "1.4B"])  # fmt: skip
    commas = frame.map(
        lambda c: str(c).replace(".", ",")
    )  # numbers as a spreadsheet may write them
    assert len(set_upright(frame_sheet(commas)).frame) == 6
    footnote = pd.concat([frame, pd.DataFrame({"group": ["* trained twice"]})], ignore_index=True)
    upright = set_upright(frame_sheet(footnote))
    assert set(upright.frame["group"]) == {"usa", "india"}
    assert "row 2 (from 0) left out: no value in it" in upright.notes
    hollow = long().assign(
        loss=[np.nan if i % 5 == i // 5 or i < 5 and i > 0 else 2.0 for i in range(10)]
    )
    with pytest.raises(UserError, match="loss, rows .*: empty"):
        fit(hollow, baseline="usa")
    assert set(set_upright(frame_sheet(frame)).frame["num_params"]) == {"70000000", "410000000", "1400000000"}  # fmt: skip
