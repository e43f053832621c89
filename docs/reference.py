"""The page of every public name, nbs/reference.qmd, from the modules' own text: nothing is imported.

`python docs/reference.py` writes it, `python docs/reference.py --check` says whether it is stale.
"""

import argparse
import ast
import html
import re
import sys
from pathlib import Path

from build import nav_files, nav_of, sidebar

ROOT = Path(__file__).resolve().parent.parent
CELL = re.compile(r"^# %% (?:\.\./)+nbs/(\S+)\.ipynb", re.MULTILINE)
HEAD = """---
title: Reference
---

Every public name, by module: each leads to the chapter that makes it, where its code stands. What folds out is the rest
of its docstring; `help(name)` shows the same in Python.
"""


def short(text: str) -> str:
    """The first paragraph of a docstring, safe in Markdown."""
    line = " ".join((text or "").split("\n\n")[0].split())
    return line.replace("<", "&lt;")


def signature(node: ast.AST) -> str:
    """`(arguments)`, defaults and types left out; nothing for a class."""
    if isinstance(node, ast.ClassDef):
        return ""
    given = node.args
    names = [a.arg for a in (*given.posonlyargs, *given.args)]
    names += [f"*{given.vararg.arg}"] if given.vararg else ["*"] if given.kwonlyargs else []
    names += [a.arg for a in given.kwonlyargs] + ([f"**{given.kwarg.arg}"] if given.kwarg else [])
    return f"({', '.join(name for name in names if name not in ('self', 'cls'))})"


def members(node: ast.ClassDef) -> list[str]:
    """Fields of a class with their types, defaults and lines, then its methods with their first lines."""
    fields, methods = [], []
    for each, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(each, ast.AnnAssign) and not each.target.id.startswith("_"):
            fields.append(ast.unparse(each))
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                fields.append(f"    {short(after.value.value)}")
        elif isinstance(each, ast.FunctionDef) and not each.name.startswith("_"):
            calls = (
                ""
                if any("property" in ast.unparse(d) for d in each.decorator_list)
                else signature(each)
            )
            methods += [f".{each.name}{calls}", f"    {short(ast.get_docstring(each))}"]
    named = (("Fields", fields), ("Methods", methods))
    return [
        line for title, lines in named if lines for line in (title, "-" * len(title), *lines, "")
    ]


def more(node: ast.AST) -> str:
    """Types and defaults of what a name takes, and its docstring after the first paragraph."""
    rest = (ast.get_docstring(node) or "").partition("\n\n")[2]
    if isinstance(node, ast.ClassDef):
        lines = [rest, "", *members(node)]
    else:
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        lines = [f"{node.name}({ast.unparse(node.args)}){returns}", "", rest]
    return "\n".join(lines).strip()


def module_entries(path: Path) -> tuple[str, list[tuple[str, ast.AST]]]:
    """The module's line, and (chapter, definition) of each public function and class."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    places = [(text.count("\n", 0, found.start()) + 1, found[1]) for found in CELL.finditer(text)]
    entries = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            entries.append(([name for line, name in places if line <= node.lineno][-1], node))
    return short(ast.get_docstring(tree)), entries


def entry(chapter: str, node: ast.AST) -> str:
    """A name as a paragraph, and what folds out below it."""
    taken = f"`{signature(node)}`" if signature(node) else ""
    said = f"[`{node.name}`]({chapter}.ipynb){taken}<br>\n{short(ast.get_docstring(node))}\n"
    if not (text := more(node)):
        return said
    text = html.escape(text, quote=False).replace("\n", "&#10;")  # one line: no Markdown within
    label = "fields and methods" if isinstance(node, ast.ClassDef) else "types and returns"
    return f"{said}\n<details><summary>{label}</summary><pre>{text}</pre></details>\n"


def reading_order(root: Path) -> list[str]:
    """Notebooks in the order of the site."""
    return nav_files(nav_of(sidebar(root / "_quarto.yml")))


def make_reference(root: Path) -> str:
    """The page's text."""
    modules = {}
    for path in root.glob("relscale/**/*.py"):
        if not path.name.startswith("_") and (entries := module_entries(path))[1]:
            modules[".".join(path.relative_to(root).with_suffix("").parts)] = entries
    order = {name: place for place, name in enumerate(reading_order(root))}
    parts = [HEAD]
    for name, (line, entries) in sorted(
        modules.items(), key=lambda item: order[f"{item[1][1][0][0]}.ipynb"]
    ):
        parts += [f"## {name}\n\n{line}\n", *(entry(*each) for each in entries)]
    return "\n".join(parts).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    page, text = ROOT / "nbs/reference.qmd", make_reference(ROOT)
    if not parser.parse_args().check:
        page.write_text(text, encoding="utf-8")
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        sys.exit("nbs/reference.qmd: stale: run `make readme`, and commit it")


if __name__ == "__main__":
    main()
