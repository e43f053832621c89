"""Tables in files: what comes back is what was written, whatever reads it, and damage is never another number."""

import csv
import json

import numpy as np
import pandas as pd
import pytest

from relscale.core import UserError
from relscale.table_files import read_as_is, told_by_file, write_frame

TEXTS = [
    "=1+1",
    "+cmd",
    "-2.5",
    "@x",
    "'=kept",
    "NA",
    "",
    "two\nlines",
    'a "quote", and more',
    "Zürich",
]


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({
        "group": [t or None for t in TEXTS],
        "value": [*rng.normal(size=len(TEXTS) - 1), np.nan],
        "n": rng.integers(-(2**62), 2**62, len(TEXTS)),
    })  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_what_was_written_comes_back(tmp_path, suffix):
    write_frame(frame(), tmp_path / f"t{suffix}")
    pd.testing.assert_frame_equal(read_as_is(tmp_path / f"t{suffix}"), frame())


def test_other_readers_find_the_same_cells(tmp_path):
    write_frame(frame(), tmp_path / "t.csv")
    write_frame(frame(), tmp_path / "t.json")
    with open(tmp_path / "t.csv", newline="", encoding="utf-8") as file:
        cells = [row["group"] for row in csv.DictReader(file)]
    formulas = {"=1+1", "+cmd", "@x", "'=kept"}  # what a spreadsheet would run has an apostrophe
    assert cells == [f"'{t}" if t in formulas else t for t in TEXTS]
    found = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert [row["n"] for row in found] == frame()["n"].tolist()
    assert found[-1]["value"] is None


def test_a_flipped_bit_is_refused_or_changes_no_cell(tmp_path):
    path = tmp_path / "t.parquet"
    write_frame(frame(), path)
    whole, refused = path.read_bytes(), 0
    for bit in np.random.default_rng(1).choice(8 * len(whole), 150, replace=False):
        hurt = bytearray(whole)
        hurt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(hurt)
        try:
            found = read_as_is(path)
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            pd.testing.assert_frame_equal(found, frame())
    assert refused > 50  # the rest lies in what no reader uses, such as statistics and who wrote it


def test_only_what_readers_raise_is_told(tmp_path):
    with pytest.raises(KeyError), told_by_file(tmp_path / "t.csv"):
        raise KeyError("a defect")
    with pytest.raises(UserError, match="not csv"), told_by_file(tmp_path / "t.csv"):
        raise ValueError("cut\nshort")
