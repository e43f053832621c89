"""Notebooks as plain Markdown, which any builder of sites reads: prose and pictures in sight, code folded.

`python docs/pages.py NOTEBOOK` prints the page.
"""

import ast
import html
import posixpath
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cells import NO_INPUT, image_bytes, in_prose, join, read_shown, relink
from frames import shape_tables, table_markdown

EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/svg+xml": "svg",
    "image/gif": "gif",
}
DUNDER = re.compile(r"(?<![\w\\])__(\w+)__(?!\w)")
UNIT = re.compile(r"(?<=\d) (?=%)")  # 5 % stays on one line
FOLD = re.compile(r"<!-- (?:fold: (.+?)|/fold) -->")
CARDS = "<!-- cards -->"
HEADING = re.compile(r"(#+) ")
PICTURE = re.compile(r"!\[.*?\]\((.*?)\)(\{.*?\})?", re.DOTALL)
LIST_ITEM = re.compile(r"( *)([-*+]|\d+\.) +")
MANY = 12  # fields; a record of more names them in the reference
LONG = 26  # lines; a longer example is folded, and its output shown
# Pixels, and width over height; beside each other, panels would be too small to read on a phone.
WIDE, PANELS = 880, (640, 1.9)


@dataclass
class Page:
    """A page of Markdown and the pictures that it shows.

    Attributes
    ----------
    title, blurb
        First heading and the quotation below it, without markup.
    text
        Markdown, without the title.
    files
        Pictures by path, as seen from the page.
    """

    title: str
    blurb: str
    text: str
    files: dict[str, bytes] = field(default_factory=dict)


def fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any within."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`{3,}", text)), default=2))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def folded(summary: str, body: str, kind: str) -> str:
    """What a click opens; search passes over it."""
    return (
        f'<details class="{kind}" data-search-exclude markdown>\n'
        f"<summary>{summary}</summary>\n\n{body}\n\n</details>"
    )


def in_folds(parts: list[str]) -> list[str]:
    """Parts of a page with those behind a click that stand between `<!-- fold: WORDS -->` and `<!-- /fold -->`.

    A fold also ends at the next heading of the level that it began in.
    """
    out: list[str] = []
    level, opened = 0, None
    for part in parts:
        heading = HEADING.match(part)
        if heading:
            level = len(heading[1])
        if opened is not None and heading and level <= opened:
            out.append("</details>")
            opened = None
        at = 0
        for mark in FOLD.finditer(part):
            out.append(part[at : mark.start()].strip())
            at = mark.end()
            if opened is not None:
                out.append("</details>")
                opened = None
            if mark[1]:
                out.append(
                    f'<details class="more" markdown>\n<summary>{html.escape(mark[1])}</summary>'
                )
                opened = level
        out.append(part[at:].strip())
    return [*filter(None, out), *(["</details>"] if opened is not None else [])]


def in_cards(parts: list[str]) -> list[str]:
    """Parts after `<!-- cards -->` as a grid: each heading of the third level a card of picture, words and folded code."""
    at = next((k for k, part in enumerate(parts) if CARDS in part), len(parts))
    if at == len(parts):
        return parts
    out, card = [*parts[:at], parts[at].replace(CARDS, "").strip()], None
    grid: list[list[str]] = []

    def close():
        if grid:
            cards = "\n\n".join(card_of(card) for card in grid)
            out.append(f'<div class="cards" markdown>\n\n{cards}\n\n</div>')
            grid.clear()

    for part in parts[at + 1 :]:
        heading = HEADING.match(part)
        if heading and len(heading[1]) == 3:
            card = [part]
            grid.append(card)
        elif heading or card is None:
            close()
            card = None
            out.append(part)
        else:
            card.append(part)
    close()
    return out


def card_of(parts: list[str]) -> str:
    """A card: its heading, its pictures, which a click shows in full, its words, and its code behind a click."""
    head, _, said = parts[0].partition("\n")
    rest = [*filter(None, [said.strip()]), *parts[1:]]
    pictures = [PICTURE.sub(r"[\g<0>](\1)", p) for p in rest if PICTURE.fullmatch(p)]
    code = [p for p in rest if p.startswith(("```", "<details"))]
    words = [p for p in rest if not PICTURE.fullmatch(p) and p not in code]
    lines = sum(p.count("\n") - 1 for p in code if p.startswith("```"))
    if lines:
        bare = "\n\n".join(p for p in code if p.startswith("```"))
        code = [folded(f"Code ({lines} line{'s' * (lines > 1)})", bare, "check"), *(p for p in code if p.startswith("<"))]  # fmt: skip
    inside = "\n\n".join([head, *pictures, *words, *code])
    return f'<div class="card" markdown>\n\n{inside}\n\n</div>'


def spaced(text: str) -> str:
    """Markdown of notebooks for Python-Markdown: a list needs a blank line before, and its parts four spaces."""
    lines, inside, fence, formula = [], False, False, False
    for line in text.split("\n"):
        if re.match(r" {0,3}(```|~~~)", line):
            fence = not fence
        # A line of a formula that begins with a plus is no list.
        item = None if fence or formula else LIST_ITEM.match(line)
        formula ^= not fence and line.count("$$") % 2 == 1
        if item:
            depth = (len(item[1]) + 1) // 2
            if not inside and lines and lines[-1].strip():
                lines.append("")
            inside, line = True, "    " * depth + line[len(item[1]) :]
        elif inside and not fence and line.startswith("  ") and line.strip():
            depth = max(1, (len(line) - len(line.lstrip()) + 1) // 2)
            line = "    " * depth + line.lstrip()
        elif line.strip() and (not lines or not lines[-1].strip()):
            inside = False
        lines.append(line)
    return "\n".join(lines)


def first_paragraphs(text: str) -> str:
    """The prose of a docstring: what stands before its first section of parameters."""
    prose = re.split(r"\n\w[\w ]*\n-{3,}\n", f"\n{text}\n")[0]
    return prose.strip()


def arguments(node: ast.FunctionDef) -> str:
    """`name(arguments) -> type` as a call reads: no types, defaults where they are short; broken where it is long."""
    given = node.args
    pairs = [(a.arg, None) for a in (*given.posonlyargs, *given.args)]
    pairs[len(pairs) - len(given.defaults) :] = [
        (name, d)
        for (name, _), d in zip(
            pairs[len(pairs) - len(given.defaults) :], given.defaults, strict=True
        )
    ]
    if given.vararg:
        pairs.append((f"*{given.vararg.arg}", None))
    elif given.kwonlyargs:
        pairs.append(("*", None))
    pairs += [(a.arg, d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        pairs.append((f"**{given.kwarg.arg}", None))
    shown = [
        name if default is None else f"{name}={ast.unparse(default)}"
        for name, default in pairs
        if name not in ("self", "cls")
    ]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{node.name}({', '.join(shown)}){returns}"
    if len(line) <= 90:
        return line
    return f"{node.name}(\n    " + ",\n    ".join(shown) + f",\n){returns}"


def fields(node: ast.ClassDef) -> str:
    """A class with its public fields, a line each."""
    lines = [
        ast.unparse(each)
        for each in node.body
        if isinstance(each, ast.AnnAssign) and not each.target.id.startswith("_")
    ]
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    head = f"class {node.name}" + (f"({bases})" if bases else "")
    if len(lines) > MANY:
        return f"{head}  # {len(lines)} fields"
    return "\n    ".join([f"{head}:" if lines else head, *lines])


def card(node: ast.AST, reference: str | None) -> str:
    """Signature and first paragraphs of a public name, with a link to all that it takes."""
    shown = fields(node) if isinstance(node, ast.ClassDef) else arguments(node)
    said = first_paragraphs(ast.get_docstring(node) or "")
    more = f"\n\n[Parameters and types]({reference}.{node.name})" if reference else ""
    return (
        f'<div class="api" data-search-exclude markdown>\n\n{fenced(shown, "python")}\n\n'
        f"{spaced(said)}{more}\n\n</div>"
    )


def shown_source(source: str, reference: str | None) -> str:
    """An exporting cell: its public names as cards, its code behind a click."""
    tree = ast.parse(source)
    made = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    cards = [card(node, reference) for node in made if not node.name.startswith("_")]
    lines = source.count("\n") + 1
    if made:
        names = ", ".join(f"<code>{node.name}</code>" for node in made)
    elif is_imports(source):
        names = "imports"
    else:
        targets = [
            ast.unparse(target)
            for n in tree.body
            if isinstance(n, ast.Assign | ast.AnnAssign)
            for target in (n.targets if isinstance(n, ast.Assign) else [n.target])
        ]
        names = ", ".join(f"<code>{html.escape(name)}</code>" for name in targets) or "code"
    summary = f"Source: {names} ({lines} line{'s' * (lines > 1)})"
    return "\n\n".join([*cards, folded(summary, fenced(source, "python"), "source")])


def shown_example(source: str, has_output: bool, long: int = LONG) -> str:
    """A cell that exports nothing: an example in sight, and checks or long code behind a click."""
    lines = source.count("\n") + 1
    checks = re.search(r"^\s*(assert|test_\w+\(|with expect|with pytest)", source, re.MULTILINE)
    if checks and not has_output:
        return folded(f"Check ({lines} line{'s' * (lines > 1)})", fenced(source, "python"), "check")
    if not has_output and is_imports(source):
        return folded(
            f"Imports ({lines} line{'s' * (lines > 1)})", fenced(source, "python"), "check"
        )
    if lines > long:
        return folded(f"Code ({lines} lines)", fenced(source, "python"), "check")
    return fenced(source, "python")


def is_imports(source: str) -> bool:
    """Whether a cell does nothing but import."""
    try:
        made = ast.parse(source).body
    except SyntaxError:  # a magic of IPython
        return False
    return bool(made) and all(isinstance(each, ast.Import | ast.ImportFrom) for each in made)


def is_table(text: str) -> bool:
    """Whether printed lines stand in columns, which must not be folded."""
    rows = [line for line in text.splitlines() if re.search(r"\S(  +|\t)\S|[|│]", line)]
    return len(rows) > 1 or re.search(r"^\s{2,}\S", text, re.MULTILINE) is not None


def printed(text: str) -> str:
    """A printed output: sentences wrap, columns keep their lines, also where one follows the other."""
    runs: list[tuple[bool, list[str]]] = []
    for part in re.split(r"\n[ \t]*\n", text.rstrip("\n")):
        if runs and runs[-1][0] == is_table(part):
            runs[-1][1].append(part)
        else:
            runs.append((is_table(part), [part]))
    return "\n\n".join(
        fenced("\n\n".join(parts), "{ .text .output }" if table else "{ .text .said }")
        for table, parts in runs
    )


def shown_output(output, take_image: Callable[[str, bytes, str], str], pipes: bool) -> str:
    """One output of a cell as Markdown; `pipes` for tables that GitHub shows."""
    if output["output_type"] == "stream":
        return fenced(output["text"], "text") if pipes else printed(join(output["text"]))
    if output["output_type"] == "error":
        return printed("\n".join(output["traceback"]))
    data = output["data"]
    for mime in EXTENSIONS:
        if mime in data:
            return take_image(mime, image_bytes(mime, data[mime]), output["metadata"]["alt"])
    page = join(data.get("text/html", ""))
    if pipes and "<table" in page and (table := table_markdown(page)):
        return table
    if page and not pipes:
        return f'<div class="output" markdown="0">{shape_tables(page)}</div>'
    if markdown := join(data.get("text/markdown", "")) or join(data.get("text/latex", "")):
        return markdown
    plain = join(data.get("text/plain", ""))
    return fenced(plain, "text") if pipes else printed(plain)


def is_wide(png: bytes) -> bool:
    """Whether a picture would be unreadable at the width of a phone."""
    width, height = (int.from_bytes(png[k : k + 4], "big") for k in (16, 20))
    return width > WIDE or (width > PANELS[0] and width > PANELS[1] * height)


def spelt(text: str) -> str:
    """Prose as Markdown shows it: __call__ is a name, and not a bold word."""
    return UNIT.sub("\u00a0", DUNDER.sub(r"\\_\\_\1\\_\\_", text))


def taken_title(text: str) -> tuple[str, str, str]:
    """The first heading, the quotation below it, and the text without both."""
    found = re.match(r"\s*# +(.+?)\s*(?:\n+|$)((?:> ?.*(?:\n|$))*)", text)
    if not found:
        return "", "", text
    blurb = " ".join(line.lstrip("> ").strip() for line in found[2].splitlines())
    return found[1], blurb, text[found.end() :].strip()


def arranged(parts: list[str], for_site: bool) -> list[str]:
    """Parts of a page with what they say about their own order obeyed; for README.md such remarks are left out."""
    parts = [part.strip("\n") for part in parts if part.strip()]
    if not for_site:
        return [FOLD.sub("", part).replace(CARDS, "").strip("\n") for part in parts]
    return in_cards(in_folds(parts))


def make_page(
    notebook: Path,
    link: Callable[[str], str] = lambda target: target,
    reference: str | None = None,
    images: str | None = None,
    for_site: bool = True,
    long: int = LONG,
) -> Page:
    """A notebook as Markdown, from its stored outputs: nothing runs.

    Parameters
    ----------
    notebook
        The notebook.
    link
        Where a local link leads, as seen from the page.
    reference
        Start of the addresses of the module's public names: `../reference/relscale.core.md#relscale.core`.
    images
        Folder of the pictures, as seen from the page; by default one beside it.
    for_site
        Source folded and tables in HTML; or, for README.md, no source and pipe tables.
    long
        Lines of an example from which on it is folded, too.
    """
    shown = read_shown(notebook, keep_exports=for_site)
    page = Page("", "", "")
    folder = f"{notebook.stem}_files" if images is None else images

    def take_image(mime: str, content: bytes, alt: str) -> str:
        place = len(page.files) + 1
        name = f"{place}.{EXTENSIONS[mime]}" if for_site else f"{notebook.stem}_{place}.png"
        path = posixpath.join(folder, name)
        page.files[path] = content
        mark = "{ .figure .wide }" if mime == "image/png" and is_wide(content) else "{ .figure }"
        return f"![{alt}]({path})" + mark * for_site

    parts = []
    for cell in shown.cells:
        source = cell.source.strip("\n")
        if cell.cell_type == "markdown":
            text = relink(source, link)
            for name, bundle in cell.get("attachments", {}).items():
                mime, content = next(iter(bundle.items()))
                path = take_image(mime, image_bytes(mime, content), name)
                text = text.replace(f"attachment:{name}", re.search(r"\]\((.*?)\)", path)[1])
            if for_site:
                text = spaced(in_prose(text, spelt, math=True))
                if not page.title:
                    page.title, page.blurb, text = taken_title(text)
            parts.append(text)
            continue
        outputs = [shown_output(each, take_image, not for_site) for each in cell.outputs]
        if source and NO_INPUT not in cell.metadata.get("tags", []):
            if not for_site:
                parts.append(fenced(source, "python"))
            elif cell.metadata.get("exported"):
                parts.append(shown_source(source, reference))
            else:
                parts.append(shown_example(source, bool(outputs), long))
        parts += outputs
    page.text = "\n\n".join(arranged(parts, for_site))
    return page


if __name__ == "__main__":
    found = make_page(Path(sys.argv[1]))
    print(f"# {found.title}\n\n{found.blurb}\n\n{found.text}")
