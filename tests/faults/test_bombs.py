"""Some of the files that are made to do harm, each read in a process of its own: refused in one line, within memory and time.

`benchmarks/hostile_files.py` holds them all, `data/faults/hostile.csv` what reading each cost.
"""

import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relscale.core import UserError, check_unpacked, plain_text
from relscale.tables import read_table, validate_rows, write_table

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
hostile_files = pytest.importorskip("hostile_files", reason="pip install 'relscale[train]'")
good, measure = hostile_files.good, hostile_files.measure

ALL = {case.what: case for case in hostile_files.cases()}
SOME = [
    "one line, 300 MB.csv.gz", "many lines, 300 MB.txt.zst", "30,000 rows of one cell in column XFD.xlsx",
    "entities in entities.xlsx", "10^9 rows declared, 77 there, as table.parquet", "20 million rows of one number, as sheet.parquet",
]  # fmt: skip


@pytest.mark.parametrize("what", SOME)
def test_a_bomb_ends_early(tmp_path, what):
    row = measure(ALL[what], tmp_path)
    assert good(row) and row["ended"] == "refused", row


def test_a_large_file_that_is_no_bomb_is_read():
    check_unpacked("a", 10**9, 10**11)
    check_unpacked("a", 10, 10**7)
    with pytest.raises(UserError, match="a: 10 kB that unpack to more than 67.1 MB"):
        check_unpacked("a", 10**4, 10**8)


@given(st.lists(st.text(st.sampled_from("'=+-@\t1a,\"\n"), max_size=6), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_text_in_csv_is_no_formula_and_comes_back(tmp_path_factory, texts):
    """Seen to fail without the apostrophe, and with one that is taken from texts that had their own."""
    path = tmp_path_factory.getbasetemp() / "formulas.csv"
    frame = pd.DataFrame({"note": [t or None for t in texts], "loss": range(len(texts))})
    write_table(frame, path)
    raw = pd.read_csv(path, dtype=str, keep_default_na=False)["note"]
    number = r"[+-]?(\d+\.?\d*|\.\d+)"
    assert not (raw.str.match(r"[=+\-@\t\r]") & ~raw.str.fullmatch(number)).any()
    back = read_table(path)["note"]
    numbers = pd.api.types.is_numeric_dtype(back)  # a column of nothing else comes as such
    assert numbers or back.fillna("").tolist() == texts


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "a\0b", "a\u202eb", "x" * 201])
def test_names_that_a_terminal_obeys_are_refused(name):
    rows = pd.DataFrame({"group": ["a", name], "train_flops": [1e18, 1e18], "value": [1.0, 1.0]})
    with pytest.raises(UserError, match="rows.group, row 1 .from 0.: .*: rename it") as caught:
        validate_rows(rows)
    assert plain_text(str(caught.value)) == str(caught.value)
    assert len(validate_rows(rows.assign(group=["a", "日本語 naïve (β)"]))) == 2
