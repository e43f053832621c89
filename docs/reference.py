"""The page of every public name, nbs/reference.qmd, from the modules' own text: nothing is imported.

`python docs/reference.py` writes it, `python docs/reference.py --check` says whether it is stale.
"""

import argparse
import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CELL = re.compile(r"^# %% \.\./nbs/(\S+)\.ipynb", re.MULTILINE)
HEAD = """---
title: Reference
---

Every public name, by module, with the chapter that makes it. Each chapter shows the code with its full docstring,
and `help(name)` shows the same in Python.
"""


def short(text: str) -> str:
    """The first sentence of a docstring, safe in a table."""
    line = " ".join((text or "").split("\n\n")[0].split())
    return line.replace("|", "\\|").replace("<", "&lt;")


def signature(node: ast.AST) -> str:
    """`name(arguments)`, defaults and types left out."""
    if isinstance(node, ast.ClassDef):
        return node.name
    given = node.args
    names = [a.arg for a in (*given.posonlyargs, *given.args)]
    names += [f"*{given.vararg.arg}"] if given.vararg else ["*"] if given.kwonlyargs else []
    names += [a.arg for a in given.kwonlyargs] + ([f"**{given.kwarg.arg}"] if given.kwarg else [])
    return f"{node.name}({', '.join(names)})"


def module_rows(path: Path) -> tuple[str, list[tuple[str, str, str, str]]]:
    """The module's line, and (chapter, kind, name, line) of each public function and class."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    places = [(text.count("\n", 0, found.start()) + 1, found[1]) for found in CELL.finditer(text)]
    rows = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            chapter = [name for line, name in places if line <= node.lineno][-1]
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            rows.append((chapter, kind, signature(node), short(ast.get_docstring(node))))
    return short(ast.get_docstring(tree)), rows


def make_reference(root: Path) -> str:
    """The page's text."""
    modules = {}
    for path in root.glob("relscale/*.py"):
        if not path.name.startswith("_") and (rows := module_rows(path))[1]:
            modules[path.stem] = rows
    parts = [HEAD]
    for name, (line, rows) in sorted(modules.items(), key=lambda item: item[1][1][0][0]):
        parts.append(
            f"## relscale.{name}\n\n{line}\n\n| name | what it is | chapter |\n|---|---|---|"
        )
        parts += [f"| `{said}` | {what} | [{at}]({at}.ipynb) |" for at, _, said, what in rows]
        parts[-1] += "\n"
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
