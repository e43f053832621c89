"""Notebooks as readers should see them: nbdev's directives obeyed, nothing executed."""

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import nbformat
from execnb.nbio import nb2str, read_nb
from nbdev.process import NBProcessor
from nbdev.processors import filter_stream_, hide_, hide_line, rm_header_dash

NO_INPUT = "no-input"  # tag that tells nbconvert to leave the code box out
DIRECTIVE = re.compile(r"\s*#\s*\|")
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,}).*?^ {0,3}\1[`~]*[ \t]*$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
MATH = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$(?!\s)[^$\n]+?(?<!\s)\$", re.DOTALL)
LINK = re.compile(r"(\]\(\s*)([^)\s]+)|(\b(?:src|href)=[\"'])([^\"']+)")
HEADING = re.compile(r"^#{1,6} +(.*?)#*$", re.MULTILINE)
ANSI = re.compile(r"\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])")


def join(text: str | list[str]) -> str:
    """Notebook files keep a text as a string or as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def in_prose(text: str, change: Callable[[str], str], math: bool = False) -> str:
    """Apply `change` to Markdown outside code (and formulas, when `math`)."""
    kept = []

    def keep(match: re.Match) -> str:
        kept.append(match[0])
        return f"\x00{len(kept) - 1}\x00"

    for pattern in (FENCE, CODE_SPAN, *([MATH] if math else [])):
        text = pattern.sub(keep, text)
    text = change(text)
    while "\x00" in text:
        text = re.sub(r"\x00(\d+)\x00", lambda m: kept[int(m[1])], text)
    return text


def is_local(target: str) -> bool:
    """Whether a link's target is a path beside the notebook."""
    return not re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|[#/]|//|\{", target)


def relink(text: str, change: Callable[[str], str], code: bool = False) -> str:
    """Change the target of every local link and image of a Markdown text."""

    def one(match: re.Match) -> str:
        head, target = (match[1], match[2]) if match[1] else (match[3], match[4])
        return head + (change(target) if is_local(target) else target)

    return in_prose(text, lambda prose: LINK.sub(one, prose)) if not code else LINK.sub(one, text)


def show_cell(cell, keep_exports: bool, heading: str) -> bool:
    """Obey the directives of a cell below a heading, in place; say whether it stays."""
    if cell["cell_type"] == "raw":  # front matter for other tools
        return False
    if cell["cell_type"] != "code":
        return bool(cell["source"].strip())
    # nbdev keeps quarto's own directives (`name: value`) in the source, for quarto to obey.
    options = {
        name.rstrip(":"): " ".join(values)
        for name, values in cell["directives_"].items()
        if name.endswith(":")
    }
    if options.get("include") == "false":
        return False
    if not keep_exports and cell["directives_"].keys() & {"export", "exporti"}:
        return False
    lines = cell["source"].split("\n")
    while lines and DIRECTIVE.match(lines[0]):
        lines.pop(0)
    cell["source"] = "\n".join(lines).strip("\n")
    if options.get("echo") == "false":
        cell["source"], cell["metadata"]["tags"] = "", [NO_INPUT]
    if options.get("output") == "false":
        cell["outputs"] = []
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            output["text"] = ANSI.sub("", join(output["text"]))
        elif output["output_type"] == "error":
            output["traceback"] = [ANSI.sub("", line) for line in output["traceback"]]
    cell["outputs"] = [o for o in cell["outputs"] if o.get("text", "kept").strip()]
    alt = options.get("fig-alt") or options.get("fig-cap")
    for output in cell["outputs"]:
        if any(mime.startswith("image/") for mime in output.get("data", {})):
            output["metadata"]["alt"] = alt.strip("\"'") if alt else f"Figure: {heading}"
    return bool(cell["source"] or cell["outputs"])


def read_shown(path: Path, keep_exports: bool = True) -> nbformat.NotebookNode:
    """Read a notebook and leave what a reader should see of it, with its stored outputs."""
    notebook = read_nb(path)
    for output in (o for cell in notebook.cells for o in cell.get("outputs", [])):
        if output["output_type"] == "stream":  # nbdev filters streams by line
            output["text"] = join(output["text"]).splitlines(keepends=True)
    processor = NBProcessor(nb=notebook, procs=[hide_line, filter_stream_, rm_header_dash, hide_])
    processor.process()
    kept, heading = [], path.stem
    for cell in notebook.cells:
        if cell["cell_type"] == "markdown" and (found := HEADING.findall(cell["source"])):
            heading = found[-1].strip()
        if show_cell(cell, keep_exports, heading):
            kept.append(cell)
    notebook.cells = kept
    notebook.metadata["language_info"] = {"name": "python"}
    return nbformat.reads(nb2str(notebook), as_version=4)


def image_bytes(mime: str, content: str | list[str]) -> bytes:
    """The file that an image output holds."""
    text = join(content)
    return text.encode() if mime == "image/svg+xml" else base64.b64decode(text)


class TableReader(HTMLParser):
    """Rows of the first table of an HTML text, with row and column spans filled in."""

    def __init__(self):
        super().__init__()
        self.head, self.body, self.notes = [], [], []
        self.row, self.cell, self.note = None, None, None
        self.spans: dict[int, tuple[int, str]] = {}
        self.in_head = self.hidden = False

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "thead":
            self.in_head = True
        elif tag == "tr":
            self.row = []
        elif tag in ("td", "th") and self.row is not None:
            self.cell, self.width = "", int(attrs.get("colspan") or 1)
            self.height = int(attrs.get("rowspan") or 1)
        elif tag in ("caption", "p"):
            self.note = ""
        elif tag == "style":
            self.hidden = True
        elif tag == "br":
            self.handle_data(" ")

    def fill(self):
        """Repeat the cells that reach down from rows above."""
        while len(self.row) in self.spans:
            left, text = self.spans.pop(len(self.row))
            if left > 1:
                self.spans[-len(self.row) - 1] = (left - 1, text)
            self.row.append(text)

    def handle_endtag(self, tag):
        if tag == "thead":
            self.in_head = False
        elif tag in ("td", "th") and self.cell is not None:
            self.fill()
            text = " ".join(self.cell.split())
            for _ in range(self.width):
                if self.height > 1:
                    self.spans[-len(self.row) - 1] = (self.height - 1, text)
                self.row.append(text)
            self.cell = None
        elif tag == "tr" and self.row is not None:
            self.fill()
            (self.head if self.in_head else self.body).append(self.row)
            self.row = None
            # Negative keys wait for the next row, so that a cell never repeats in its own.
            self.spans = {-k - 1 if k < 0 else k: v for k, v in self.spans.items()}
        elif tag in ("caption", "p") and self.note is not None:
            self.notes.append(" ".join(self.note.split()))
            self.note = None
        elif tag == "style":
            self.hidden = False

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data
        elif self.note is not None and not self.hidden:
            self.note += data


def table_markdown(html: str) -> str | None:
    """A pipe table from an HTML table, or None when it holds none that can be shown so."""
    table = TableReader()
    table.feed(html)
    rows = table.head + table.body
    if (
        not table.body
        or len({len(row) for row in rows}) != 1
        or "<table" in html.split("<table", 1)[1]
    ):
        return None
    # Several header rows (names of levels and of the index) become one.
    head = [" ".join(dict.fromkeys(filter(None, names))) for names in zip(*table.head, strict=True)]
    head = head or [""] * len(rows[0])
    number = re.compile(r"[-+−]?[\d.,]+(e[-+]?\d+)?%?|nan|inf|…|\.\.\.|", re.IGNORECASE)
    marks = [
        "---:" if all(number.fullmatch(v) for v in column) else "---"
        for column in zip(*table.body, strict=True)
    ]
    lines = [
        "| " + " | ".join(re.sub(r"[|*<]", r"\\\g<0>", v) for v in row) + " |"
        for row in (head, *table.body)
    ]
    lines.insert(1, "|" + "|".join(marks) + "|")
    return "\n\n".join(["\n".join(lines), *filter(None, table.notes)])
