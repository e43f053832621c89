"""Each case study ends in a table of claims, and the page of claims holds every row of them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "nbs/case_studies"
PAGE = FOLDER / "00_claims.ipynb"
STUDIES = sorted(p for p in FOLDER.glob("*.ipynb") if p != PAGE and p.name[0] not in "._")
COLUMNS = ["section", "claim", "paper", "here", "agrees", "why"]
if not FOLDER.is_dir():
    pytest.skip("no notebooks here", allow_module_level=True)


class Tables(HTMLParser):
    """Every table of a page: rows of the texts of its cells, and the links in them."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.links, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self.inside = True
        elif tag == "a":
            self.links.append(dict(attrs).get("href"))

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.tables[-1][-1][-1] += data


def shown(path):
    """The HTML that a notebook stores, in order."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    data = [out.get("data", {}) for cell in cells for out in cell.get("outputs", [])]
    return "\n".join("".join(d["text/html"]) for d in data if "text/html" in d)


def claims_of(path):
    """Rows of the last table that a study shows, as dictionaries."""
    head, *rows = Tables(shown(path)).tables[-1]
    assert head == ["", *COLUMNS], f"{path.name} ends in a table of {head}"
    return [dict(zip(COLUMNS, row[1:], strict=True)) for row in rows]


def title_of(path):
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    return re.match("# (.*)", "".join(first["source"]))[1]


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_a_study_ends_in_a_full_table_of_claims(path):
    rows = claims_of(path)
    assert [int(row[0]) for row in Tables(shown(path)).tables[-1][1:]] == list(range(len(rows)))
    assert len({row["claim"] for row in rows}) == len(rows) > 0
    for row in rows:
        assert row["section"] and row["claim"] and row["paper"], row
        assert row["agrees"] in ("yes", "no", "cannot tell"), row
        if row["agrees"] == "cannot tell":
            assert row["why"].strip(" -"), f"{row['claim']}: what is missing?"
        else:
            assert row["here"].strip(" -"), f"{row['claim']}: {row['agrees']}, by what?"
        for column, text in row.items():
            # pandas cuts a long cell, and a number that was not found prints as nan
            assert not text.endswith("..."), f"{row['claim']}: {column} is cut"
            assert not re.search(r"\b(nan|NaN|None|inf)\b", text), f"{row['claim']}: {text}"


def test_the_page_holds_every_claim_and_no_other():
    """So that it cannot go stale: run the page again after any study."""
    head = ["claim", "paper", "here", "agrees", "why", "study"]
    held = [tuple(r) for t in Tables(shown(PAGE)).tables if t[0] == head for r in t[1:]]
    there = [
        (*(row[c] for c in head[:-1]), title_of(path))
        for path in STUDIES
        for row in claims_of(path)
    ]
    assert sorted(held) == sorted(there), "nbs/case_studies/00_claims.ipynb is stale: run it again"


def test_the_page_counts_what_it_holds_and_links_to_each_study():
    tables = Tables(shown(PAGE))
    counts = next(t for t in tables.tables if t[0] == ["study", "data", "yes", "no", "cannot tell"])
    for title, _, *numbers in counts[1:]:
        path = next(p for p in STUDIES if title_of(p) == title)
        agrees = [row["agrees"] for row in claims_of(path)]
        assert [int(n) for n in numbers] == [agrees.count(v) for v in counts[0][2:]], title
    assert set(tables.links) == {path.name for path in STUDIES}
