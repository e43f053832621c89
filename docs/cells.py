"""Notebooks as readers should see them: nbdev's directives obeyed, nothing executed."""

import base64
import re
from collections.abc import Callable
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
    if cell["directives_"].keys() & {"export", "exporti"}:
        if not keep_exports:
            return False
        cell["metadata"]["exported"] = True
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
