"""Every fit has the same verbs."""

import ast
from pathlib import Path

import pytest

LAWS = Path(__file__).resolve().parent.parent / "relscale/laws"


def named(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> set[str]:
    """Fields and methods of a class, with those of its bases in the module, and the names of all bases."""
    has = {b.target.id for b in node.body if isinstance(b, ast.AnnAssign)}
    has |= {b.name for b in node.body if isinstance(b, ast.FunctionDef)}
    for base in map(ast.unparse, node.bases):
        has |= {base} | (named(classes[base], classes) if base in classes else set())
    return has


def fits() -> list[tuple[str, set[str]]]:
    """Every public result with a summary, and what it has."""
    found = []
    for path in sorted(LAWS.glob("[!_]*.py")):
        body = ast.parse(path.read_text()).body
        classes = {n.name: n for n in body if isinstance(n, ast.ClassDef)}
        every = ((name, named(node, classes)) for name, node in classes.items() if name[0] != "_")
        results = ((n, has) for n, has in every if has & {"Result", "ComputedResult"})
        found += [(f"laws.{path.stem}.{n}", has) for n, has in results if "summary" in has]
    return found


FITS = fits()


def test_there_are_fits():
    assert {"laws.relative.RelativeFit", "laws.curves.PowerLawFit"} <= {name for name, _ in FITS}


@pytest.mark.parametrize(("name", "has"), FITS, ids=[name for name, _ in FITS])
def test_a_fit_has_a_table_behind_its_summary(name, has):
    assert has & {"table", "ComputedResult"}, name
    assert "plot" in has, name
