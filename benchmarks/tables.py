"""Tables as people keep them, at random: which law `rs.fit` finds in them, and what it refuses.

    python benchmarks/tables.py data/tables/outcomes.csv --count 2000

Each seed makes one table whose law is known: models of some sizes, groups with a power law each, written in one of many
dresses (long, wide or on its side; names, units, encodings, separators, workbooks, JSON, frames), with one trouble of
the list `TROUBLES` in it or none. It must end in that law, or in one line that names what the trouble was; a law that
is another one raises. Finished seeds are skipped, so that a run which was cut off resumes. `tests/test_tables.py` runs
some seeds of every trouble.
"""

import argparse
import contextlib
import csv
import gzip
import json
import lzma
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

from relscale.core import UserError
from relscale.table_fit import fit

NAMES = (
    "usa", "india", "kenya", "en-GB", "NA", "français", "中文", "code", "wiki", "low resource", "high school",
    "C4", "m2d2", "US English", "St. Lucia", "loss aversion", "news/2024", "null", "train", "error analysis", "year",
)  # fmt: skip
MEASURES = {
    "loss": "error", "bpb": "error", "nll": "error", "val_loss": "error", "eval loss": "error", "ppl": "ppl",
    "acc": "score", "accuracy": "score", "acc (%)": "percent", "error rate": "error", "EM": "score",
}  # fmt: skip
SIZES = {  # header to how a count of parameters is written below it
    "num_params": lambda n: str(n), "params": lambda n: f"{n:.6e}", "params_B": lambda n: f"{n / 1e9:.10g}",
    "Model Size (B)": lambda n: f"{n / 1e9:.10g}", "Params (M)": lambda n: f"{n / 1e6:.10g}", "N": lambda n: f"{n:,}".replace(",", " "),
    "size": lambda n: f"{n / 1e6:.10g}M", "#Params": lambda n: f"{n / 1e9:.10g}B", "model_size_m": lambda n: f"{n / 1e6:.10g}",
    "parameters": lambda n: f"{n / 1e6:.10g} million", "Parameters\n(millions)": lambda n: f"{n / 1e6:.10g}",
    "log10_params": None, "non_embedding_params": lambda n: str(n), "n_params": lambda n: f"{float(n)}",
}  # fmt: skip
TOKENS = {
    "num_tokens": lambda n: str(n), "tokens_B": lambda n: f"{n / 1e9:.10g}", "training tokens": lambda n: f"{n / 1e9:.10g}B",
    "D": lambda n: f"{n:.6e}", "Tokens (billions)": lambda n: f"{n / 1e9:.10g}",
}  # fmt: skip
COMPUTE = {
    "train_flops": 1, "FLOPs": 1, "flops (1e18)": 1e18, "compute_pflops": 1e15, "training FLOPs (ZFLOPs)": 1e21, "C": 1,
}  # fmt: skip
GROUPS = ("group", "domain", "language", "Dialect", "subset", "country ", "Benchmark")


@dataclass
class Draft:
    """A table in the making, and what is right about it."""

    rng: np.random.Generator
    layout: str = "wide"
    groups: list[str] = field(default_factory=list)
    params: np.ndarray = None
    tokens: np.ndarray = None
    error: dict[str, np.ndarray] = field(default_factory=dict)  # as a reader must have them
    shown: dict[str, np.ndarray] = field(default_factory=dict)  # as they are written
    measure: str = "loss"
    scales: tuple[str, ...] = ("params",)
    value_names: dict[str, str] = field(default_factory=dict)  # group to column, of a wide table
    group_name: str = "group"
    frame: pd.DataFrame = None
    dress: str = "csv"
    options: dict = field(default_factory=dict)
    expect: tuple[str, ...] = ()  # one of these words in a refusal, where one is right
    may_fit: bool = True
    must_say: tuple[str, ...] = ()  # of a fit: one of these in its notes or warnings
    keep: np.ndarray = None  # models that take part

    def pick(self, of):
        """One of several."""
        of = list(of)
        return of[int(self.rng.integers(len(of)))]

    def value_columns(self) -> list[str]:
        """The columns that hold errors or scores."""
        return list(self.value_names.values()) if self.layout == "wide" else [self.measure]


def draft(seed: int) -> Draft:
    """Facts: models, groups and errors under a power law each, rounded as they are written."""
    rng = np.random.default_rng([seed, 7])
    made = Draft(rng)
    count, num_groups = int(rng.integers(4, 12)), int(rng.integers(2, 7))
    made.layout = made.pick(["wide", "wide", "long", "long", "side"])
    made.groups = [str(g) for g in rng.permutation(NAMES)[:num_groups]]
    made.params = np.unique(np.round(np.geomspace(5e7, 5e10, count) * rng.uniform(0.8, 1.2, count), -6).astype(int))  # fmt: skip
    made.tokens = np.round(made.params * rng.uniform(10, 40) * rng.uniform(0.9, 1.1, len(made.params)), -7).astype(int)  # fmt: skip
    made.measure = made.pick(MEASURES)
    kind, digits = MEASURES[made.measure], int(rng.integers(3, 7))
    start = 0.8 if kind in ("score", "percent") or made.measure == "error rate" else 3.5
    for g in made.groups:
        law = start * rng.uniform(0.85, 1.1) * (made.params / 5e7) ** -rng.uniform(0.03, 0.12)
        law = law * np.exp(rng.normal(0, 0.003, len(law)))
        shown = {"ppl": np.exp(law), "score": 1 - law, "percent": 100 * (1 - law)}.get(kind, law)
        shown = np.round(shown, digits)
        made.shown[g] = shown
        made.error[g] = {"ppl": np.log(shown), "score": 1 - shown, "percent": 1 - shown / 100}.get(kind, shown)  # fmt: skip
    if kind == "ppl":
        made.options["units"] = {"value": "ppl"}
    made.scales = made.pick([("params",), ("params", "tokens"), ("flops",), ("params", "tokens", "flops")])  # fmt: skip
    made.group_name = made.pick(GROUPS)
    made.keep = np.ones(len(made.params), bool)
    made.dress = made.pick(DRESSES)
    return made


def base_columns(made: Draft) -> pd.DataFrame:
    """The columns of models: names, scales as text, and settings that no law is in."""
    columns: dict[str, object] = {}
    if "params" in made.scales:
        name = made.pick(SIZES)
        write = SIZES[name]
        if write is None:
            cells = np.round(np.log10(made.params), 12)
            made.params_shown = 10.0**cells
            columns[name] = [f"{c:.12g}" for c in cells]
        else:
            columns[name] = [write(int(n)) for n in made.params]
    if "tokens" in made.scales:
        name = made.pick(TOKENS)
        columns[name] = [TOKENS[name](int(n)) for n in made.tokens]
    if "flops" in made.scales:
        name = made.pick(COMPUTE)
        cells = [f"{6.0 * n * d / COMPUTE[name]:.8e}" for n, d in zip(made.params.astype(float), made.tokens.astype(float), strict=True)]  # fmt: skip
        made.flops_shown = np.array([float(c) for c in cells]) * COMPUTE[name]
        columns[name] = cells
    count = len(made.params)
    extra = {
        "model": [f"m-{i:02d}" for i in range(count)], "lr": ["0.001"] * count, "seq_len": ["2048"] * count, "notes": ["a; b, c"] * count,
        "date": [f"2025-03-{i + 1:02d}" for i in range(count)], "gpu hours": [f"{i * 1.5 + 2:g}" for i in range(count)],
        "warmup": ["0.1"] * count, "step": ["10000"] * count, "throughput": [f"{9000 - 7 * i}" for i in range(count)],
        "batch_size": ["512"] * count, "tokens_per_second": [f"{1e5 - i:g}" for i in range(count)], "run_id": [f"3f{i:03x}" for i in range(count)],
        "d_model": [f"{128 * (i + 1)}" for i in range(count)], "n_layers": [f"{4 + i}" for i in range(count)],
    }  # fmt: skip
    for name in made.rng.permutation(list(extra))[: int(made.rng.integers(0, 5))]:
        columns[str(name)] = extra[str(name)]
    return pd.DataFrame(columns, dtype=object)


def wide_names(made: Draft) -> dict[str, str]:
    """A column for each group, as trainers and people name them."""
    m = made.measure.replace(" (%)", "")
    patterns = (
        f"{m}_{{}}", f"{{}}_{m}", f"{m} ({{}})", f"{{}} {m}", f"{m}/{{}}", f"eval/{{}}/{m}", f"{m.title()} - {{}}", f"{m}[{{}}]",
        f"{{}}: {m}", f"eval.{{}}.{m}", f"{m}_{{}}_v2",
    )  # fmt: skip
    pattern = made.pick(patterns)
    unit = " (%)" if made.measure.endswith("(%)") else ""
    return {g: pattern.format(g) + unit for g in made.groups}


def laid_out(made: Draft) -> None:
    """The frame of text cells, in its layout."""
    base = base_columns(made)
    if made.layout == "side":  # a row a group, a column a model, called by its size
        made.scales = ("params",)
        heads = {f"{int(n) / 1e6:.10g}M": i for i, n in enumerate(made.params)}
        made.frame = pd.DataFrame({made.group_name: made.groups, **{h: [f"{made.shown[g][i]:.10g}" for g in made.groups] for h, i in heads.items()}}, dtype=object)  # fmt: skip
        if MEASURES[made.measure] in ("score", "percent"):
            made.options["higher_is_better"] = True
        if made.measure.endswith("(%)"):
            pass
    elif made.layout == "wide":
        made.value_names = wide_names(made)
        made.frame = base.assign(**{made.value_names[g]: [f"{v:.10g}" for v in made.shown[g]] for g in made.groups})  # fmt: skip
    else:
        parts = [base.assign(**{made.group_name: g, made.measure: [f"{v:.10g}" for v in made.shown[g]]}) for g in made.groups]  # fmt: skip
        made.frame = pd.concat(parts, ignore_index=True)


# ---- troubles: each changes a draft that is laid out, and says what a refusal must name or a fit must say


TROUBLES: dict[str, Callable[[Draft], bool | None]] = {}


def trouble(of: Callable) -> Callable:
    TROUBLES[of.__name__.replace("_", " ")] = of
    return of


@trouble
def none(made):
    return True


@trouble
def rows_shuffled(made):
    made.frame = made.frame.iloc[made.rng.permutation(len(made.frame))].reset_index(drop=True)


@trouble
def columns_shuffled(made):
    made.frame = made.frame[list(made.rng.permutation(made.frame.columns))]


def _cell(made):
    """A random cell of a value: its row and column."""
    return int(made.rng.integers(len(made.frame))), made.pick(made.value_columns())


@trouble
def blank_value(made):
    """The model of the blank cell takes no part, and that is said."""
    if made.layout == "side" or len(made.params) < 5:
        return False
    row, column = _cell(made)
    made.frame.loc[row, column] = made.pick(["", "NaN", "-", "n/a", "None", "—", "#N/A"])
    made.keep[row % len(made.params)] = False
    made.must_say, made.expect = ("left out",), ("empty", column)


@trouble
def word_for_a_value(made):
    if made.layout == "side":
        return False
    row, column = _cell(made)
    word = made.pick(["diverged", "OOM", "TBD", "?", "#DIV/0!", "see note", "inf", "2.31 ± 0.02", "2.31*", "**2.31**", "~2.3"])  # fmt: skip
    made.frame.loc[row, column] = word
    made.expect, made.may_fit = (column, word), False


@trouble
def zero_for_missing(made):
    if made.layout == "side" or MEASURES[made.measure] in ("score", "percent"):
        return False
    row, column = _cell(made)
    made.frame.loc[row, column] = made.pick(["0", "-1", "0.0"])
    made.expect, made.may_fit = ("positive", "above 1"), False


@trouble
def scale_blank(made):
    if made.layout == "side":
        return False
    made.frame.iloc[int(made.rng.integers(len(made.frame))), 0] = ""
    made.expect, made.may_fit = ("empty", str(made.frame.columns[0])), False


@trouble
def merged_cells(made):
    """A spreadsheet's merged cells: a model's columns stand in its first row only."""
    if made.layout != "long":
        return False
    shared = [c for c in made.frame if c not in (made.group_name, made.measure)]
    made.frame["_m"] = np.tile(np.arange(len(made.params)), len(made.groups))
    made.frame = made.frame.sort_values("_m", kind="stable", ignore_index=True)
    again = made.frame["_m"].duplicated()
    made.frame.loc[again, shared] = ""
    made.frame = made.frame.drop(columns="_m")
    made.expect, made.may_fit = ("empty", "'' is not a number"), False


@trouble
def row_twice(made):
    if made.layout == "side":
        return False
    made.frame = pd.concat([made.frame, made.frame.iloc[[0]]], ignore_index=True)
    made.expect, made.may_fit = ("twice", "once more"), False


@trouble
def row_absent(made):
    if made.layout != "long":
        return False
    made.frame = made.frame.drop(index=int(made.rng.integers(len(made.frame)))).reset_index(drop=True)  # fmt: skip
    made.expect, made.may_fit = ("has no row at",), False


@trouble
def row_of_means(made):
    """The last row of a spreadsheet holds means, or a total."""
    if made.layout != "wide":
        return False
    row = dict.fromkeys(made.frame.columns, "")
    row |= {made.value_names[g]: f"{made.shown[g].mean():.6g}" for g in made.groups}
    row[made.frame.columns[0] if "model" not in made.frame else "model"] = made.pick(["mean", "Average", "total", ""])  # fmt: skip
    made.frame = pd.concat([made.frame, pd.DataFrame([row])], ignore_index=True)
    made.expect, made.may_fit = ("empty", "not a number", "whole number", str(made.frame.columns[0])), False  # fmt: skip


@trouble
def row_of_units(made):
    """Units stand in a row of their own below the header."""
    if made.layout == "side":
        return False
    row = dict.fromkeys(made.frame.columns, "") | dict.fromkeys(made.value_columns(), "nats")
    made.frame = pd.concat([pd.DataFrame([row]), made.frame], ignore_index=True)
    made.expect, made.may_fit = ("not a number", "nats", "empty", "no column tells", "no number"), False  # fmt: skip


@trouble
def header_again(made):
    """Two files were put together, header and all."""
    again = pd.DataFrame([dict(zip(made.frame, made.frame, strict=True))])
    at = int(made.rng.integers(1, len(made.frame)))
    made.frame = pd.concat([made.frame[:at], again, made.frame[at:]], ignore_index=True)
    made.expect, made.may_fit = (
        ("not a number", "header", "no column", "no number", "stands"),
        False,
    )


@trouble
def column_of_means(made):
    """The mean over groups stands beside them: it is no group of texts, and that must be said."""
    if made.layout != "wide":
        return False
    name = made.value_names[made.groups[0]].replace(made.groups[0], made.pick(["avg", "mean", "average", "Macro avg", "overall"]))  # fmt: skip
    mean = np.mean([made.shown[g] for g in made.groups], axis=0)
    made.frame[name] = [f"{v:.10g}" for v in mean]
    made.must_say = ("mean", "avg", "average", "overall")


@trouble
def bare_measure(made):
    """The overall loss stands beside those of groups."""
    if made.layout != "wide" or made.measure.endswith("(%)"):
        return False
    mean = np.mean([made.shown[g] for g in made.groups], axis=0)
    made.frame[made.measure] = [f"{v:.10g}" for v in mean]
    made.must_say = (made.measure,)


@trouble
def column_of_counts(made):
    """How many texts an error rests on, beside it."""
    if made.layout == "side" or made.dress == "nested json":
        return False
    end = made.pick(["_n", "_count", " n", "_num_samples", "_stderr", "_std", "_se"])
    for c in made.value_columns():
        made.frame[f"{c}{end}"] = "1000" if end.strip("_ ") in ("n", "count", "num_samples") else "0.01"  # fmt: skip


@trouble
def several_measures(made):
    """Two measures of every group: one must be chosen."""
    if made.layout != "wide":
        return False
    other = "acc" if MEASURES[made.measure] in ("error", "ppl") else "loss"
    for i, g in enumerate(made.groups):
        name = made.value_names[g]
        made.frame[name.replace(made.measure.replace(" (%)", ""), other).replace(made.measure.title(), other) if other not in name else f"{name}2"] = [f"{0.3 + 0.01 * k + 0.001 * i:.6g}" for k in range(len(made.params))]  # fmt: skip
    made.expect = ("several measures", "stands twice in the header")
    made.may_fit = False


@trouble
def several_tasks(made):
    if made.layout != "long":
        return False
    name = made.pick(
        [
            "task",
            "metric",
            "corpus",
            "split",
            "optimizer",
            "Prompt",
            "recipe",
            "num_shots",
            "lab",
            "eval set",
        ]
    )
    other = made.frame.copy()
    other[made.measure] = made.frame[made.measure].to_numpy()[::-1]
    a, b = ("0", "5") if "shot" in name else ("first", "second")
    made.frame = pd.concat([made.frame.assign(**{name: a}), other.assign(**{name: b})], ignore_index=True)  # fmt: skip
    if made.rng.random() < 0.5:
        made.options["only"] = {name: a}
        made.must_say = ("of another",)
    else:
        made.expect, made.may_fit = (name, "twice"), False


@trouble
def seeds(made):
    """Replicates: their column is named, and every law is that of all."""
    if made.layout == "side":
        return False
    name = made.pick(["seed", "random_seed", "init seed", "rng_seed"])
    made.frame = pd.concat([made.frame.assign(**{name: str(s)}) for s in range(3)], ignore_index=True)  # fmt: skip
    if made.rng.random() < 0.6:
        made.options["seed"] = name
    else:
        made.expect = ("seed", "twice")
        made.may_fit = True


@trouble
def replicates_unnamed(made):
    if made.layout == "side":
        return False
    name = made.pick(["replicate", "trial", "rep", "fold"])
    made.frame = pd.concat([made.frame.assign(**{name: str(s)}) for s in range(2)], ignore_index=True)  # fmt: skip
    made.expect, made.may_fit = (name, "twice", "once more"), False


@trouble
def unfinished(made):
    """Runs that crashed stand beside those that finished, with worse errors."""
    if made.layout == "side":
        return False
    good, bad = made.pick([("finished", "crashed"), ("done", "failed"), ("COMPLETED", "running"), ("success", "killed")])  # fmt: skip
    name = made.pick(["state", "status", "State"])
    worse = made.frame.copy()
    for c in made.value_columns():
        worse[c] = made.frame[c].to_numpy()[::-1]
    made.frame = pd.concat([made.frame.assign(**{name: good}), worse[: len(made.params)].assign(**{name: bad})], ignore_index=True)  # fmt: skip
    made.must_say = ("left out",)


@trouble
def checkpoints(made):
    """Earlier steps of the same runs, whose tokens do not tell them apart."""
    if made.layout == "side" or "step" in made.frame or {"tokens", "flops"} & set(made.scales):
        return False
    made.frame = made.frame.drop(columns=[c for c in ("model", "run_id") if c in made.frame])
    ids = [f"r{i % len(made.params)}" for i in range(len(made.frame))]
    early = made.frame.copy()
    for c in made.value_columns():
        early[c] = made.frame[c].to_numpy()[::-1]
    made.frame = pd.concat([early.assign(run=ids, step="500"), made.frame.assign(run=ids, step="1000")], ignore_index=True)  # fmt: skip
    made.must_say = ("step",)


@trouble
def numbered_groups(made):
    """Groups are numbers: classes, years, levels."""
    if made.layout != "long":
        return False
    start = made.pick([0, 1, 2019])
    new = {g: str(start + i) for i, g in enumerate(made.groups)}
    made.frame[made.group_name] = made.frame[made.group_name].map(new)
    _rename(made, new)
    made.frame["lab"] = ["x", "y"] * (len(made.frame) // 2) + ["x"] * (len(made.frame) % 2)


def _rename(made, new):
    made.groups = list(new.values())
    made.error = {new[g]: v for g, v in made.error.items()}
    made.shown = {new[g]: v for g, v in made.shown.items()}


@trouble
def n_counts_items(made):
    """`N` is how many texts were scored, and not how many parameters a model has."""
    if made.layout == "side" or "params" not in made.scales or "N" in made.frame:
        return False
    made.frame["N"] = "2376" if made.rng.random() < 0.5 else [str(1000 + 7 * i) for i in range(len(made.frame))]  # fmt: skip
    made.expect = ("may both be num_params", "'N'", "N:")


@trouble
def two_sizes(made):
    """All parameters and active ones, or with embeddings and without: which is meant must be asked or said."""
    if made.layout == "side" or "params" not in made.scales:
        return False
    name = made.pick(["active_params", "params_no_embedding", "total params", "embedding params"])
    count = np.tile(made.params, len(made.frame) // len(made.params))
    made.frame[name] = [f"{int(n) // 3}" for n in count]
    made.expect, made.must_say = ("may both be num_params",), ("num_params = ",)


@trouble
def mixed_percent(made):
    """Some cells are in percent, and some are fractions."""
    if made.layout == "side" or MEASURES[made.measure] != "score":
        return False
    column = made.value_columns()[0]
    at = made.rng.permutation(len(made.frame))[: max(1, len(made.frame) // 3)]
    made.frame.loc[at, column] = [f"{100 * float(c):.10g}" for c in made.frame.loc[at, column]]
    made.expect, made.may_fit = ("percent", "unit", "%"), False


@trouble
def mixed_sizes(made):
    """One size lacks its unit: 12 among 70M and 1.4B."""
    if made.layout == "side" or not {"size", "#Params"} & set(made.frame):
        return False
    name = "size" if "size" in made.frame else "#Params"
    first = made.frame[name] == made.frame[name].iloc[0]
    made.frame.loc[first, name] = made.frame[name].iloc[0].rstrip("MB")
    made.expect, made.may_fit = (name,), False


@trouble
def unit_not_told(made):
    """Billions under a name that tells no unit."""
    if made.layout == "side" or made.scales != ("params",):
        return False
    name = made.frame.columns[0]
    count = np.tile(made.params, len(made.frame) // len(made.params))
    made.frame[name] = [f"{n / 1e9:.10g}" for n in count]
    made.frame = made.frame.rename(columns={name: "params"})
    made.expect, made.may_fit = ("params",), False


@trouble
def unit_told(made):
    """The same, and the unit is told."""
    if unit_not_told(made) is False:
        return False
    made.options["units"] = made.options.get("units", {}) | {"params": made.pick(["billions", "1e9", 1e9])}  # fmt: skip
    made.expect, made.may_fit = (), True


@trouble
def flops_of_another_unit(made):
    """FLOPs a thousand times too small beside parameters and tokens."""
    if made.layout == "side" or made.scales != ("params", "tokens", "flops"):
        return False
    name = next(c for c in made.frame if c in COMPUTE)
    made.frame[name] = [f"{float(c) / 1000:.8e}" for c in made.frame[name]]
    made.expect, made.may_fit = ("6ND",), False


@trouble
def direction_unsaid(made):
    """Scores under names that say nothing: asked, or told by the caller."""
    if made.layout == "side" or MEASURES[made.measure] not in ("score", "percent"):
        return False
    if made.layout == "wide":
        made.frame = made.frame.rename(columns={c: g for g, c in made.value_names.items()})
        made.value_names = {g: g for g in made.groups}
    else:
        made.frame, made.measure = made.frame.rename(columns={made.measure: "value"}), "value"
    if made.rng.random() < 0.5:
        made.options["higher_is_better"] = True
        if made.layout == "wide":
            made.options["groups"] = list(made.groups)
    else:
        made.expect, made.may_fit = ("give higher_is_better", "no column tells", "several measures"), False  # fmt: skip


@trouble
def directions_beside(made):
    """A column says for each row whether more is better."""
    if made.layout != "long":
        return False
    told = MEASURES[made.measure] in ("score", "percent")
    if made.measure.endswith("(%)") or MEASURES[made.measure] == "ppl":
        return False
    made.frame, made.measure = made.frame.rename(columns={made.measure: "value"}), "value"
    made.frame["higher_is_better"] = made.pick([("True", "False"), ("1", "0"), ("yes", "no")])[int(not told)]  # fmt: skip


@trouble
def log_likelihoods(made):
    if made.layout == "side" or MEASURES[made.measure] != "error":
        return False
    for c in made.value_columns():
        made.frame[c] = [f"-{v}" for v in made.frame[c]]
    made.expect, made.may_fit = ("positive", "negative"), False


@trouble
def names_padded(made):
    """Blanks around a group's name make no second group."""
    if made.layout != "long":
        return False
    ends = ["", " ", "  ", "\u00a0"]
    made.frame[made.group_name] = [f"{g}{ends[i % 4]}" for i, g in enumerate(made.frame[made.group_name])]  # fmt: skip


@trouble
def names_in_two_cases(made):
    """USA and usa: two groups with holes, or one; never a law of half the points."""
    if made.layout != "long":
        return False
    at = made.frame[made.group_name] == made.groups[0]
    some = at & (np.arange(len(made.frame)) % 2 == 0)
    if made.groups[0].upper() == made.groups[0]:
        return False
    made.frame.loc[some, made.group_name] = made.groups[0].upper()
    made.expect, made.may_fit = ("has no row at", made.groups[0], "no baseline"), False


@trouble
def a_comma_for_the_point(made):
    """Decimal commas in a file that is parted by commas, and therefore quoted; or by semicolons."""
    numbers = [c for c in made.frame if made.frame[c].map(lambda v: bool(re.fullmatch(r"-?\d*\.\d+", str(v)))).any()]  # fmt: skip
    for c in numbers:
        made.frame[c] = made.frame[c].map(lambda v: str(v).replace(".", ","))
    made.dress = made.pick(["csv", "semicolon", "tsv"])
    made.expect = ("two ways",)


@trouble
def thousands_with_commas(made):
    if made.layout == "side" or "params" not in made.scales:
        return False
    name = made.pick(["params", "num_params", "Parameters"])
    count = np.tile(made.params, len(made.frame) // len(made.params))
    old = next(c for c in made.frame if c in SIZES)
    made.frame = made.frame.rename(columns={old: name}).assign(**{name: [f"{int(n):,}" for n in count]})  # fmt: skip
    made.params_shown = made.params.astype(float)
    made.dress = made.pick(["csv", "tsv", "xlsx"])


@trouble
def title_above(made):
    """A title and a blank line stand above the header."""
    made.dress = made.pick(["titled", "titled xlsx"])
    made.expect = ("most columns have no name", "not csv", "no column", "header", "above")


@trouble
def footnote_below(made):
    row = dict.fromkeys(made.frame.columns, "") | {made.frame.columns[0]: "* trained twice"}
    made.frame = pd.concat([made.frame, pd.DataFrame([row])], ignore_index=True)
    made.expect = ("not a number", "empty", "trained twice", "no column", "has no row")
    made.must_say = ("left out",)


@trouble
def budgets_within_percents(made):
    """FLOPs as they were spent, a little off a few budgets, beside parameters: a doubt."""
    made.layout = "wide"
    made.scales = ("flops",)
    made.params = np.repeat(np.array([10**8, 10**9, 10**10]), 3)
    made.tokens = np.round(20 * made.params * np.tile([0.97, 1.0, 1.03], 3), -5).astype(int)
    made.keep = np.ones(9, bool)
    law = {g: 3.0 * made.params.astype(float) ** -made.rng.uniform(0.02, 0.06) for g in made.groups}
    made.shown = made.error = {g: np.round(v * np.exp(made.rng.normal(0, 0.003, 9)), 5) for g, v in law.items()}  # fmt: skip
    made.measure, made.options = "loss", {}
    laid_out(made)
    made.must_say = ("within some percent",)


@trouble
def latin_letters(made):
    """An old encoding cannot be told from another: refused."""
    made.frame["ort"] = "Köln"
    made.dress, made.expect, made.may_fit = "latin-1", ("save it as UTF-8",), False


@trouble
def cut_short(made):
    made.dress, made.may_fit = made.pick(["cut gz", "cut json"]), False
    made.expect = ("cut short",)


@trouble
def a_frame_of_types(made):
    """In memory: numbers of several types, categories, a multi-index from `pivot`, column names that are no text."""
    made.dress = made.pick(["typed frame", "float32", "nullable", "category", "pivot", "decimal"])
    if made.dress in ("category", "pivot") and made.layout != "long":
        made.dress = "typed frame"


# ---- dresses: how a frame of text cells is written


def _text(frame, sep=",", quoting=csv.QUOTE_MINIMAL, end="\n"):
    return frame.to_csv(index=False, sep=sep, quoting=quoting, lineterminator=end)


def _numbers(frame):
    """The frame with columns of numbers as numbers."""
    return frame.apply(lambda c: pd.to_numeric(c) if pd.to_numeric(c, errors="coerce").notna().all() else c)  # fmt: skip


def _workbook(frame, folder, title=False):
    path = folder / "t.xlsx"
    with pd.ExcelWriter(path) as book:
        _numbers(frame).to_excel(book, index=False, startrow=2 * title)
        if title:
            book.sheets["Sheet1"]["A1"] = "Sweep of May"
    return path


def _nulls(frame):
    return frame.replace("", None).astype(object).where(lambda f: f.notna(), None)


def _written(folder, name, data):
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def _markdown(frame):
    rows = ["| " + " | ".join(map(str, r)) + " |" for r in [list(frame), ["---"] * frame.shape[1], *frame.values.tolist()]]  # fmt: skip
    return "\n".join(rows) + "\n"


def _nested(frame, names):
    """Records whose errors are records of their own, as scripts dump them."""
    cut = [{k: v for k, v in r.items() if k not in names} | {"results": {k: r[k] for k in names}} for r in _nulls(_numbers(frame)).to_dict("records")]  # fmt: skip
    return json.dumps(cut)


DRESSES: dict[str, Callable] = {
    "csv": lambda f, d, m: _written(d, "t.csv", _text(f)),
    "crlf": lambda f, d, m: _written(d, "t.csv", _text(f, end="\r\n")),
    "quoted": lambda f, d, m: _written(d, "t.csv", _text(f, quoting=csv.QUOTE_ALL)),
    "semicolon": lambda f, d, m: _written(d, "t.csv", _text(f, ";")),
    "tsv": lambda f, d, m: _written(d, "t.tsv", _text(f, "\t")),
    "tab.txt": lambda f, d, m: _written(d, "t.txt", _text(f, "\t")),
    "pipe": lambda f, d, m: _written(d, "t.csv", _text(f, "|")),
    "bom": lambda f, d, m: _written(d, "t.csv", _text(f).encode("utf-8-sig")),
    "utf-16": lambda f, d, m: _written(d, "t.csv", _text(f, "\t").encode("utf-16")),
    "gz": lambda f, d, m: _written(d, "t.csv.gz", gzip.compress(_text(f).encode(), 1)),
    "xz": lambda f, d, m: _written(d, "t.tsv.xz", lzma.compress(_text(f, "\t").encode(), preset=0)),
    "with index": lambda f, d, m: _written(d, "t.csv", f.to_csv()),
    "commented": lambda f, d, m: _written(d, "t.csv", "# of May\n" + _text(f) + "," * (f.shape[1] - 1) + "\n"),
    "json": lambda f, d, m: _written(d, "t.json", json.dumps(_nulls(_numbers(f)).to_dict("records"))),
    "json text": lambda f, d, m: _written(d, "t.json", json.dumps(_nulls(f).to_dict("records"))),
    "pandas json": lambda f, d, m: _written(d, "t.json", _numbers(f).to_json()),
    "split json": lambda f, d, m: _written(d, "t.json", _numbers(f).to_json(orient="split")),
    "jsonl": lambda f, d, m: _written(d, "t.jsonl", "\n".join(map(json.dumps, _nulls(_numbers(f)).to_dict("records")))),
    "nested json": lambda f, d, m: _written(d, "t.json", _nested(f, m.value_columns()) if m.layout == "wide" else _text(f) and json.dumps(_nulls(f).to_dict("records"))),
    "parquet": lambda f, d, m: _parquet(_numbers(f), d),
    "xlsx": lambda f, d, m: _workbook(f, d),
    "frame": lambda f, d, m: f,
    "typed frame": lambda f, d, m: _numbers(f),
}  # fmt: skip
RARE: dict[str, Callable] = {
    "markdown": lambda f, d, m: _written(d, "t.txt", _markdown(f)),
    "titled": lambda f, d, m: _written(d, "t.csv", "Sweep of May" + "," * (f.shape[1] - 1) + "\n\n" + _text(f)),
    "titled xlsx": lambda f, d, m: _workbook(f, d, title=True),
    "latin-1": lambda f, d, m: _written(d, "t.csv", _text(f).encode("latin-1", "replace")),
    "cut gz": lambda f, d, m: _written(d, "t.csv.gz", gzip.compress(_text(f).encode())[:-12]),
    "cut json": lambda f, d, m: _written(d, "t.json", json.dumps(f.to_dict("records"))[:-9]),
    "float32": lambda f, d, m: _numbers(f).astype({c: "float32" for c in m.value_columns() if c in f and _numbers(f)[c].dtype == float}),
    "nullable": lambda f, d, m: _numbers(f).convert_dtypes(),
    "category": lambda f, d, m: _numbers(f).astype({m.group_name: "category"}),
    "decimal": lambda f, d, m: f.assign(**{c: [__import__("decimal").Decimal(v) if re.fullmatch(r"[\d.]+", v) else v for v in f[c]] for c in m.value_columns() if c in f}),
    "pivot": lambda f, d, m: _numbers(f).pivot_table(index=[c for c in f if c not in (m.group_name, m.measure)], columns=m.group_name, values=[m.measure], sort=False).reset_index(),
}  # fmt: skip


def _parquet(frame, folder):
    frame.to_parquet(folder / "t.parquet")
    return folder / "t.parquet"


# ---- the check


class Wrong(AssertionError):
    """A fit that is not the planted law, or a refusal that names another thing."""


def plain(name: object) -> str:
    """A name's letters and digits, small."""
    return "".join(c for c in str(name).casefold() if c.isalnum())


def planted(made: Draft, shown: str) -> str:
    """The planted group that a fit's group is."""
    for name in (shown, *sorted(made.groups, key=len, reverse=True)):
        if name in made.groups and plain(name) in plain(shown):
            return name
    raise Wrong(f"group {shown!r} is none of {made.groups}")


def make(seed: int, folder: Path, kind: str | None = None) -> tuple[object, Draft, str]:
    """A table of a seed: its file or frame, the draft, and the trouble in it."""
    made = draft(seed)
    laid_out(made)
    names = list(TROUBLES)
    kind = kind or ("none" if made.rng.random() < 0.2 else made.pick(names))
    if TROUBLES[kind](made) is False:
        kind = "none"
    folder.mkdir(parents=True, exist_ok=True)
    write = (DRESSES | RARE)[made.dress]
    table = write(made.frame.reset_index(drop=True), folder, made)
    return table, made, kind


def scale_values(made: Draft, scale: str) -> np.ndarray:
    """The planted scale of each model, as it was written."""
    params = getattr(made, "params_shown", made.params.astype(float))
    if scale == "num_params":
        return params
    if scale == "num_tokens":
        return made.tokens.astype(float)
    if scale == "train_flops":
        shown = getattr(made, "flops_shown", None)
        return 6.0 * params * made.tokens if shown is None else shown
    raise Wrong(f"the laws are in {scale}")


@contextlib.contextmanager
def laws_alone():
    """The laws without their diagnosis, which asks nothing of a table and takes the longest."""
    with contextlib.ExitStack() as parts:
        for name in ("diagnose", "drift_tolerance"):
            parts.enter_context(patch(f"relscale.analysis.{name}", lambda relative: None))
        parts.enter_context(patch("relscale.laws.relative.RelativeFit.influence", lambda self: None))  # fmt: skip
        yield


def check(seed: int, folder: Path, kind: str | None = None) -> dict[str, str]:
    """Fit a table of a seed: what trouble it had, how it was dressed, and how it ended. Raises `Wrong`."""
    table, made, kind = make(seed, folder, kind)
    told = {"seed": seed, "trouble": kind, "layout": made.layout, "dress": made.dress}
    base = made.value_names.get(made.groups[0], made.groups[0])
    base = f"results.{base}" if made.dress == "nested json" and made.value_names else base
    options = {"baseline": base, "n_bootstrap": 100, **made.options}
    try:
        with warnings.catch_warnings(), laws_alone():
            warnings.simplefilter("error", RuntimeWarning)
            study = fit(table, **options)
    except UserError as error:
        if "\n" in str(error) or len(str(error)) > 700:
            raise Wrong(f"{seed} {kind}: not one line: {error}") from None
        if not made.expect and made.may_fit:
            raise Wrong(f"{seed} {kind} {made.layout} {made.dress}: a right table is refused: {error}") from None  # fmt: skip
        if not any(" ".join(w.casefold().split()) in str(error).casefold() for w in made.expect):
            raise Wrong(f"{seed} {kind}: the refusal names another thing than {made.expect}: {error}") from None  # fmt: skip
        return told | {"outcome": "refused"}
    if not made.may_fit:
        raise Wrong(f"{seed} {kind} {made.layout} {made.dress}: was fitted: {study.notes} {study.warnings}")  # fmt: skip
    compare(made, study, f"{seed} {kind} {made.layout} {made.dress} {study.notes}")
    said = " ".join([*study.notes, *study.warnings]).casefold()
    if made.must_say and not any(w.casefold() in said for w in made.must_say):
        raise Wrong(f"{seed} {kind}: nothing is said of {made.must_say}: {study.notes} {study.warnings}")  # fmt: skip
    doubted = any("rests on" not in w for w in study.doubts)
    return told | {"outcome": "law, with a doubt" if doubted else "law"}


def compare(made: Draft, study, where: str) -> None:
    """The slopes of a fit beside those of the planted points; a group that was not planted is the mean of all, or wrong."""
    scale = scale_values(made, study.scale)[made.keep]
    base = planted(made, study.baseline)
    found, seen = study.summary()["delta_beta"], {base}
    aside = {"avg", "mean", "average", "macroavg", "overall", plain(made.measure), "eval" + plain(made.measure), "all"}  # fmt: skip
    for name in found.index:
        try:
            group = planted(made, name)
        except Wrong:
            if made.must_say and plain(name) in aside | {plain(made.measure) + a for a in aside} | {a + plain(made.measure) for a in aside}:  # fmt: skip
                continue
            raise Wrong(f"{where}: {name!r} is no planted group of {made.groups}") from None
        ratio = np.log(made.error[group][made.keep] / made.error[base][made.keep])
        slope = np.polyfit(np.log(scale), ratio, 1)[0]
        tolerance = 1e-5 if made.dress == "float32" else 1e-8
        if not abs(found[name] - slope) < tolerance + 1e-6 * abs(slope):
            raise Wrong(f"{where}: {name}: {found[name]:.8f} is not {slope:.8f}")
        if group in seen:
            raise Wrong(f"{where}: {group} stands twice in {list(found.index)}")
        seen.add(group)
    if seen != set(made.groups):
        raise Wrong(f"{where}: {set(made.groups) - seen} lost")


def main() -> int:
    """Run seeds that are not in the file yet, and write each as it ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    done = set()
    if asked.out.exists():
        done = set(pd.read_csv(asked.out)["seed"])
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    wrong, start = 0, time.process_time()
    with tempfile.TemporaryDirectory() as folder, asked.out.open("a", newline="") as file:
        writer = csv.DictWriter(file, ["seed", "trouble", "layout", "dress", "outcome"], lineterminator="\n")  # fmt: skip
        if not done:
            writer.writeheader()
        for seed in range(asked.first, asked.first + asked.count):
            if seed in done:
                continue
            try:
                row = check(seed, Path(folder) / str(seed))
            except Exception as error:
                wrong += 1
                print(f"{type(error).__name__}: {error}"[:900], flush=True)
                continue
            writer.writerow(row)
            file.flush()
    print(f"{wrong} wrong; {time.process_time() - start:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
