"""The pages of the reference: one a module, made of the modules' own text by mkdocstrings; nothing is imported."""

import ast
import re
from pathlib import Path

from cells import join, read_shown
from pages import fenced, printed

CHAPTER = re.compile(r"^# %% (?:\.\./)+nbs/(\S+)\.ipynb", re.MULTILINE)
EXAMPLE_LINES = 16
PRIVATE = re.compile(r"(?<![\w.])_[a-z]\w+")
CHECK = re.compile(r"\s*(assert|test_\w+\()")
HEAD = """---
search:
  boost: 2
---

"""
INDEX = """# Reference

`import relscale as rs` costs nothing: each of these names is imported when it is first used. All else is reached by its
module, as in `rs.laws.intervals.t_critical`, and has its page in the list of modules below.

## The front door

| call | does |
|---|---|
{door}

## Modules

| module | is about |
|---|---|
{modules}
"""


def module_name(path: Path, root: Path) -> str:
    """`relscale/laws/relative.py` as `laws.relative`."""
    return ".".join(path.relative_to(root / "relscale").with_suffix("").parts)


def first_paragraph(node: ast.AST) -> str:
    """The first paragraph of a docstring, in one line that a table holds."""
    line = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return line.replace("<", "&lt;").replace("|", "\\|")


def public(tree: ast.Module) -> list[ast.AST]:
    """Public functions and classes of a module."""
    kinds = ast.FunctionDef | ast.ClassDef
    return [n for n in tree.body if isinstance(n, kinds) and not n.name.startswith("_")]


def read_modules(root: Path) -> dict[str, tuple[str, ast.Module]]:
    """Chapter and text of each module that has public names."""
    found = {}
    for path in sorted((root / "relscale").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        chapter, tree = CHAPTER.search(text), ast.parse(text)
        if chapter and public(tree):
            found[module_name(path, root)] = (f"{chapter[1]}.ipynb", tree)
    return found


def door(root: Path) -> dict[str, str]:
    """Module of each name of the front door, read and not imported."""
    tree = ast.parse((root / "relscale/__init__.py").read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If)]
    return {a.name: n.module.removeprefix("relscale.") for n in block.body for a in n.names}


def example(notebook: Path) -> str:
    """The first short example of a chapter that prints something, with what it prints; empty where none does."""
    for cell in read_shown(notebook, keep_exports=False).cells:
        outputs = cell.get("outputs", [])
        printing = [o for o in outputs if "text" in o or set(o.get("data", {})) == {"text/plain"}]
        if cell.cell_type != "code" or len(printing) != len(outputs) or not printing:
            continue
        if PRIVATE.search(cell.source) or CHECK.match(cell.source) or not cell.source:
            continue
        if cell.source.count("\n") < EXAMPLE_LINES:
            shown = "\n".join(
                join(o["text"] if "text" in o else o["data"]["text/plain"]) for o in printing
            )
            return f"{fenced(cell.source, 'python')}\n\n{printed(shown)}"
    return ""


def module_page(name: str, chapter: str, tree: ast.Module, nbs: Path, at_door: set[str]) -> str:
    """The page of one module: its line, the chapter, an example, and every public name, those of the door first."""
    title = re.search(r"# +(.+)", join(read_shown(nbs / chapter).cells[0].source))[1]
    own = any("Examples\n" in (ast.get_docstring(node) or "") for node in public(tree))
    shown = "" if own else example(nbs / chapter)
    names = sorted((node.name for node in public(tree)), key=lambda each: each not in at_door)
    parts = [
        f"{HEAD}# relscale.{name}",
        first_paragraph(tree) + ".",
        f"The chapter [{title}](../{chapter.removesuffix('.ipynb')}.md) explains it, with its source.",
        f"From the chapter:\n\n{shown}" if shown else "",
        *(f"::: relscale.{name}.{each}" for each in names),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def index_page(root: Path, modules: dict[str, tuple[str, ast.Module]]) -> str:
    """The page that leads to all others: names of the door, then modules."""
    lines = []
    for name, home in door(root).items():
        (node,) = [
            n
            for n in modules.get(home, ("", ast.parse("")))[1].body
            if getattr(n, "name", "") == name
        ] or [None]
        said = first_paragraph(node) if node else "A suite or setting of the package."
        place = f"{home}.md#relscale.{home}.{name}" if node else f"{home}.md"
        lines.append(f"| [`rs.{name}`]({place}) | {said} |")
    rows = [
        f"| [`relscale.{name}`]({name}.md) | {first_paragraph(tree)} |"
        for name, (_, tree) in modules.items()
    ]
    return INDEX.format(door="\n".join(lines), modules="\n".join(rows))


def write_reference(root: Path, target: Path, order: list[str]) -> dict[str, str]:
    """Write all pages below `target`; the page of each module, in the order of the chapters."""
    place = {chapter: k for k, chapter in enumerate(order)}
    modules = dict(
        sorted(read_modules(root).items(), key=lambda each: place.get(each[1][0], len(order)))
    )
    at_door = set(door(root))
    target.mkdir(parents=True)
    (target / "index.md").write_text(index_page(root, modules), encoding="utf-8")
    for name, (chapter, tree) in modules.items():
        page = module_page(name, chapter, tree, root / "nbs", at_door)
        (target / f"{name}.md").write_text(page, encoding="utf-8")
    return {name: f"reference/{name}.md" for name in modules}
