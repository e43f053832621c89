"""The house: wings that import downwards only, and chapters that import only what was read before them."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
# What a wing may import besides itself and the ground floor. Ground and top are the modules of `relscale` itself.
BELOW = {
    "ground": set(),
    "plan": set(),
    "text": set(),
    "model": {"plan", "text"},
    "eval": {"plan", "text", "model"},
    "laws": set(),
    "sweep": {"plan", "text", "model", "eval"},
    "top": {"plan", "text", "model", "eval", "laws", "sweep"},
}


CELL_LINES, CHAPTER_LINES = 60, 450
# Chapters that are still over; one that is mended is taken off, and none comes on.
OVER = {
    "13_wandb_exports.ipynb", "18_analysis.ipynb", "19_report.ipynb",
    "plan/04_chips.ipynb", "eval/03_likelihoods.ipynb", "eval/14_checkpoints.ipynb",
}  # fmt: skip


def chapters() -> list[str]:
    """Notebooks that export, in the order in which they are read."""
    contents = yaml.safe_load((ROOT / "_quarto.yml").read_text())["website"]["sidebar"]["contents"]
    listed = [name for section in contents for name in section.get("contents", ())]
    return [name for name in listed if module_of(name)]


def cells(name: str) -> list[str]:
    found = json.loads((ROOT / "nbs" / name).read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in found if c["cell_type"] == "code"]


def exporting(name: str) -> list[list[str]]:
    """Lines of the cells that go into the module, without the directive."""
    return [c.splitlines()[1:] for c in cells(name) if re.match(r"# ?\| ?export", c)]


def module_of(name: str) -> str | None:
    """`laws.relative` of the notebook that exports it."""
    found = re.search(r"^# \| default_exp (\S+)", "\n".join(cells(name)), re.MULTILINE)
    return found and found[1]


def imported(source: str) -> set[str]:
    """Modules of this package that a piece of code imports, wherever it does so."""
    tree = ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "relscale":
            found |= {f"{node.module}.{a.name}" for a in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "relscale"}
    return {name.removeprefix("relscale").removeprefix(".") for name in found} - {""}


def wing_of(module: str) -> str:
    wing, _, leaf = module.rpartition(".")
    # Ground chapters have numbers below ten, and stand before the wings.
    return wing or ("ground" if MODULES[leaf] < MODULES["plan.spec"] else "top")


def too_long(name: str) -> list[str]:
    """Exporting cells with more lines than one sees at once, and a chapter longer than a sitting; blank lines of it aside."""
    found = exporting(name)
    said = [
        f"{name}: the cell that begins {rows[0][:50]!r} has {len(rows) + 1} lines: split it, {CELL_LINES} at most"
        for rows in found
        if len(rows) + 1 > CELL_LINES
    ]
    count = sum(bool(row.strip()) for rows in found for row in rows)
    if count > CHAPTER_LINES:
        said.append(f"{name}: {count} exported lines: split it by concept, {CHAPTER_LINES} at most")
    return said


CHAPTERS = chapters()
MODULES = {module_of(name): place for place, name in enumerate(CHAPTERS)}


def test_one_notebook_one_module():
    there = {
        ".".join(p.relative_to(ROOT / "relscale").with_suffix("").parts)
        for p in (ROOT / "relscale").rglob("[!_]*.py")
    }
    assert len(MODULES) == len(CHAPTERS) and set(MODULES) == there
    assert all(
        (ROOT / "nbs" / n).parent.name in (m.rpartition(".")[0], "nbs")
        for m, n in zip(MODULES, CHAPTERS, strict=True)
    )


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_cell_is_seen_at_once_and_a_chapter_read_in_a_sitting(name):
    said = too_long(name)
    if name in OVER:
        assert said, f"{name} is short enough now: take it off OVER"
    else:
        assert not said, "\n".join(said)


def test_chapters_that_are_over_are_there():
    assert not OVER - set(CHAPTERS)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_imports_only_what_was_read_before(name):
    place = CHAPTERS.index(name)
    taken = {m for source in cells(name) for m in imported(source) if m in MODULES}
    assert not {m for m in taken if MODULES[m] > place}


@pytest.mark.parametrize("module", MODULES)
def test_a_wing_imports_only_wings_below(module):
    source = (ROOT / "relscale" / Path(*module.split("."))).with_suffix(".py").read_text()
    package = ["relscale", *module.split(".")[:-1]]
    for node in ast.walk(tree := ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            node.module, node.level = ".".join([*base, *([node.module] if node.module else [])]), 0
    taken = {m for m in imported(ast.unparse(tree)) if m in MODULES}
    wing = wing_of(module)
    assert not {m for m in taken if wing_of(m) not in {wing, "ground", *BELOW[wing]}}
    if wing != "top":  # reading order is import order
        assert not {m for m in taken if MODULES[m] >= MODULES[module]}


@pytest.mark.parametrize("module", MODULES)
def test_only_public_names_cross_modules(module):
    tree = ast.parse((ROOT / "relscale" / Path(*module.split("."))).with_suffix(".py").read_text())
    taken = {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
    assert not {name for name in taken if name.startswith("_") and not name.startswith("__")}
