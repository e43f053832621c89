"""The table of every slope: what ships is what the suites give, found a second way; and a page that stands alone."""

import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from relscale.cli import main
from relscale.core import UserError
from relscale.suite_slopes import (
    STEM_MEAN,
    fit_reading,
    fit_slopes,
    read_slopes,
    readings,
    slopes_html,
    subjects_apart,
)
from relscale.suites import load_scores, load_suite

NUMBERS = ["ratio_start", "ratio_end", "delta_beta", "low", "high", "p_adjusted"]


@pytest.fixture(scope="module")
def table():
    return read_slopes()


def test_every_reading_has_its_rows(table):
    keys = ["suite", "models", "measure", "kind", "baseline"]
    there = set(map(tuple, table[keys].to_numpy()))
    assert there == {tuple(getattr(r, k) for k in keys) for r in readings()}
    assert not table.duplicated([*keys, "group"]).any()
    subjects = table[table["kind"] == "subjects"].groupby("suite")["group"].nunique()
    assert subjects.to_dict() == {"gemstones": 57, "leaderboard": 57}
    assert set(table["suite"]) >= {"held2025", "olmo_ladder", "gemstones", "leaderboard", "gadre2024", "pythia"}  # fmt: skip


@pytest.mark.parametrize("suite", ["held2025", "pythia"])
def test_what_ships_is_what_the_suites_give(table, suite):
    anew, shipped = fit_slopes([suite]), table[table["suite"] == suite].reset_index(drop=True)
    assert anew["group"].tolist() == shipped["group"].tolist()
    for column in NUMBERS:  # six digits are kept
        np.testing.assert_allclose(
            anew[column], shipped[column], rtol=2e-5, atol=1e-9, err_msg=column
        )
    assert anew["verdict_rate"].tolist() == shipped["verdict_rate"].tolist()
    assert anew["carried_by"].tolist() == shipped["carried_by"].tolist()


def test_subjects_by_a_textbook_regression(table):
    """57 slopes on 22 models, each against the geometric mean of STEM's losses."""
    scores = load_scores("gemstones").query("task == 'mmlu' and metric == 'loss'")
    runs = load_suite("gemstones").query("status == 'finished'").set_index("run_id")
    logs = np.log(scores.pivot(index="run_id", columns="member", values="value").loc[runs.index])
    stem = scores.drop_duplicates("member").query("group == 'stem'")["member"]
    x, base = np.log(runs["train_flops"].to_numpy()), logs[stem].mean(axis=1).to_numpy()
    own = table.query("suite == 'gemstones' and kind == 'subjects'").set_index("group")
    for subject in logs:
        fit = stats.linregress(x, logs[subject].to_numpy() - base)
        half = stats.t.ppf(0.975, len(x) - 2) * fit.stderr
        row = own.loc[subject]
        assert row["delta_beta"] == pytest.approx(fit.slope, rel=1e-4, abs=1e-7)
        assert (row["low"], row["high"]) == pytest.approx((fit.slope - half, fit.slope + half), rel=1e-4, abs=1e-6)  # fmt: skip


def test_members_like_these_by_the_scatter_of_subjects(table):
    """A domain's interval for subjects like these is at least that of its subjects' slopes and STEM's."""
    own = table.query("suite == 'gemstones' and kind == 'subjects'").set_index("group")[
        "delta_beta"
    ]
    of = load_scores("gemstones").query("task == 'mmlu'").drop_duplicates("member").set_index("member")["group"]  # fmt: skip
    slopes = own.groupby(of.reindex(own.index).to_numpy()).agg(["mean", "sem"])
    rows = table.query("suite == 'gemstones' and kind == 'domains'")
    rows = rows[rows["models"].str.startswith("22")].set_index("group")
    for name, row in rows.iterrows():
        assert row["delta_beta"] == pytest.approx(slopes.loc[name, "mean"] - slopes.loc["stem", "mean"], abs=2e-6)  # fmt: skip
        spread = np.hypot(slopes.loc[name, "sem"], slopes.loc["stem", "sem"])
        assert row["member_high"] - row["member_low"] > 2 * 1.96 * spread
        assert row["member_high"] - row["member_low"] > row["high"] - row["low"]


def test_the_baseline_of_subjects_is_no_subject():
    reading = next(r for r in readings(["gemstones"]) if r.kind == "subjects")
    rows = reading.rows()
    assert rows["group"].nunique() == 58 and STEM_MEAN in set(rows["group"])
    with pytest.raises(UserError, match="no readings of suite 'pile'"):
        readings(["pile"])
    planted = rows.assign(value=rows["value"] * np.where(rows["group"] == "virology", rows["train_flops"] ** 0.01, 1))  # fmt: skip
    plain, moved = (fit_reading(type(reading)(**vars(reading) | {"rows": lambda d=d: d})).set_index("group")["delta_beta"] for d in (rows, planted))  # fmt: skip
    np.testing.assert_allclose((moved - plain)["virology"], 0.01, atol=1e-9)
    assert (moved - plain).drop("virology").abs().max() < 1e-12
    assert subjects_apart(load_like(rows)).groupby("group").size().nunique() == 1


def load_like(rows):
    """Rows with a domain and a subject, as scores give them."""
    scores = load_scores("gemstones").query("task == 'mmlu'").drop_duplicates("member")
    domain = scores.set_index("member")["group"]
    rows = rows[rows["group"] != STEM_MEAN]
    return rows.assign(member=rows["group"], group=rows["group"].map(domain))


class Page(HTMLParser):
    """Tags, and the texts of the cells of the first table's body."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.loaded, self.cell = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.loaded += [v for k, v in attrs if k in ("src", "href")]
        if tag == "tr" and ("data-row", None) in attrs:
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.cell = None

    def handle_data(self, data):
        if self.cell and self.rows:
            self.rows[-1][-1] += data


def test_the_page_holds_every_row_and_loads_nothing(table):
    text = slopes_html(table)
    page = Page(text)
    assert len(page.rows) == len(table) and not page.loaded
    assert len(text.encode()) < 300_000
    assert not re.search(r"\bnan\b|None|\{\{|import\(|fetch\(", text)
    for row, cells in zip(table.to_dict("records"), page.rows, strict=True):
        assert row["suite"] == cells[0] and row["group"] in cells[2]
        percent = 100 * np.expm1(row["delta_beta"] * np.log(10))
        assert float(cells[5].replace("−", "-")) == pytest.approx(percent, abs=0.051)


def test_the_command_writes_page_and_table(tmp_path, capsys):
    assert main(["slopes", "--out", str(tmp_path / "s"), "--suites", "held2025", "pythia"]) == 0
    assert "laws of 2 suites" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s/slopes.csv").read_text())))
    assert {r["suite"] for r in rows} == {"held2025", "pythia"}
    assert (tmp_path / "s/slopes.html").read_text().count("<tr data-row") == len(rows)
    assert main(["slopes", "--out", str(tmp_path / "t"), "--suites", "pile"]) == 2
    assert "no readings of suite" in capsys.readouterr().err


def test_names_are_escaped(table):
    odd = table.head(1).assign(group="<script>alert(1)</script>", carried_by='"><img src=x>')
    text = slopes_html(odd)
    assert "<script>alert" not in text and "<img" not in text
    assert pd.notna(odd["delta_beta"]).all()
