"""Every fit has the same verbs."""

import ast
from pathlib import Path

import pytest

LAWS = Path(__file__).resolve().parent.parent / "relscale/laws"
FITS = [
    (path.stem, node)
    for path in sorted(LAWS.glob("[!_]*.py"))
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.ClassDef)
    and {ast.unparse(b) for b in node.bases} & {"Result", "ComputedResult"}
    and any(getattr(b, "name", None) == "summary" for b in node.body)
]


@pytest.mark.parametrize(("module", "node"), FITS, ids=[n.name for _, n in FITS])
def test_a_fit_has_a_table_behind_its_summary(module, node):
    has = {"table"} if "ComputedResult" in {ast.unparse(b) for b in node.bases} else set()
    has |= {b.target.id for b in node.body if isinstance(b, ast.AnnAssign)}
    has |= {b.name for b in node.body if isinstance(b, ast.FunctionDef)}
    assert "table" in has, f"laws.{module}.{node.name}"
    assert "plot" in has, f"laws.{module}.{node.name}"
