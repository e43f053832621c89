"""mkdocs hook: what mkdocs-jupyter leaves to do on a page, once it is HTML."""

import base64
import html
import itertools
import json
import re
from pathlib import Path

from markdown.extensions.toc import nest_toc_tokens, slugify
from mkdocs.structure.toc import get_toc

STYLE = re.compile(r"\s*<style[^>]*>(.*?)</style>", re.DOTALL)
# nbconvert asks the network for MathJax 2, and for Mermaid when a page has a diagram.
REMOTE = re.compile(
    r"<!-- Load mathjax -->.*?<!-- End of mathjax configuration -->"
    r'|<script type="module">(?:(?!</script>).)*?mermaid.*?<!-- End of mermaid configuration -->',
    re.DOTALL,
)
HEADING = re.compile(
    r'<h([1-6])\b[^>]*>((?:(?!</h\1>).)*?)<a class="anchor-link" href="#[^"]*">[^<]*</a></h\1>',
    re.DOTALL,
)
NO_ALT = re.compile('alt="No description has been provided for this image"')
NOTEBOOK = re.compile(r'(href="(?![a-z]+:|#|/)[^"#]*)\.ipynb(?=["#])')
TEXT_OUTPUT = re.compile(r'(data-mime-type="text/plain"[^>]*>\s*<pre>)(.*?)(</pre>)', re.DOTALL)
# Sentences among printed lines: from the margin on, without the gaps of a table, and no value that goes on below.
SENTENCE = re.compile(r"^(?=\S)(?!\||(?:\w+\(|[\[{(]).*,$|.*(?:  |<))(.{40,})$", re.MULTILINE)
PICTURE = re.compile(r'<img(?= [^>]*src="data:image/png;base64,([A-Za-z0-9+/]{32}))')
WIDE = 880  # pixels; beside each other, panels would be too small to read on a phone
SENTENCE_CELL = re.compile(r"<td>((?=[^<]* )[^<]{40,})</td>")
FRAME = re.compile(r'<table [^>]*class="dataframe[^>]*>.*?</table>', re.DOTALL)
ROW = re.compile(r"<tr\b.*?</tr>", re.DOTALL)
HEAD_CELL = re.compile(r"<th\b[^>]*>(.*?)</th>")
SHORT_NAME = re.compile(r"<th>(?=[^<\s-]*-[^<\s]*</th>)(?=[^<]{1,14}<)")
TABLE_NAME = re.compile(r"<(code|a)\b[^>]*>[^<]*(?=</\1>[^<]*(?:<(?!/?t[dr]\b)[^<]*)*</td>)")
BODY_CELL = re.compile(r'<td(?: class="sentence")?>')
LOADED = re.compile(
    r'<(?:script|img|iframe)\b[^>]*\bsrc="(?:https?:)?//[^"]*"'
    r'|<link\b[^>]*\brel="stylesheet"[^>]*\bhref="(?:https?:)?//[^"]*"'
    r'|\bimport\("(?:https?:)?//[^"]*"'
)

TOC_DEPTH = 3
shared: dict[str, None] = {}


def on_pre_build(config):
    shared.clear()


def on_page_content(content, page, config, files):
    """Styles go to one shared file, headings get the ids of the table of contents, links meet pages."""
    if not page.file.src_path.endswith(".ipynb"):
        page.edit_url = page.edit_url.removesuffix(".md") + ".qmd"
        content = TABLE_NAME.sub(lambda m: breakable(m[0]), content)
        return NOTEBOOK.sub(r"\1.html", content)
    shared.update(dict.fromkeys(STYLE.findall(content)))
    content = REMOTE.sub("", STYLE.sub("", content))
    tokens, taken = [], set()

    def anchored(match):
        level, inner = int(match[1]), match[2]
        name = html.unescape(re.sub(r"<[^>]+>", "", inner)).strip()
        anchor = base = slugify(name, "-") or "section"
        while anchor in taken:
            anchor = f"{base}_{len(taken)}"
        taken.add(anchor)
        if level <= TOC_DEPTH:
            tokens.append({"level": level, "id": anchor, "name": html.escape(name)})
        link = f'<a class="headerlink" href="#{anchor}" title="Permanent link">\u00b6</a>'
        return f'<h{level} id="{anchor}">{inner}{link}</h{level}>'

    content = NOTEBOOK.sub(r"\1.html", HEADING.sub(anchored, content))
    # nbconvert leaves out what a picture shows, which docs/cells.py has written beside it.
    alts = iter(
        output["metadata"]["alt"]
        for cell in json.loads(Path(page.file.abs_src_path).read_text(encoding="utf-8"))["cells"]
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {}) or "image/jpeg" in output.get("data", {})
    )
    content = NO_ALT.sub(lambda _: f'alt="{html.escape(next(alts, "Figure"))}"', content)
    # mkdocs-jupyter's own table of contents leaves out code in headings.
    page.toc = get_toc(nest_toc_tokens(tokens))
    return PICTURE.sub(mark_wide, FRAME.sub(shape_frame, fold_sentences(content)))


def mark_wide(match: re.Match) -> str:
    """Name a picture wide by its own header."""
    width = int.from_bytes(base64.b64decode(match[1])[16:20], "big")
    return f"{match[0]} data-wide" if width > WIDE else match[0]


def fold_sentences(content: str) -> str:
    """Let sentences in outputs wrap; printed tables and code beside them keep their lines, and scroll."""

    def folded(match):
        return match[1] + SENTENCE.sub(r'<span class="sentence">\1</span>', match[2]) + match[3]

    return TEXT_OUTPUT.sub(folded, SENTENCE_CELL.sub(r'<td class="sentence">\1</td>', content))


def shape_frame(match: re.Match) -> str:
    """Let names of columns break at underscores, stand text to the left, and mark tables of claims."""
    head, end, body = match[0].partition("</thead>")
    names = HEAD_CELL.findall(head)
    claims = {"claim", "agrees"} <= set(names)
    text = {
        k
        for row in ROW.findall(body)
        for k, cell in enumerate(BODY_CELL.findall(row))
        if "sentence" in cell
    }

    def row(found):
        first, places = len(names) - len(BODY_CELL.findall(found[0])), itertools.count()

        def cell(tag):
            k = next(places)
            if claims:
                return f'<td data-column="{names[first + k]}">'
            return '<td class="text">' if k in text and "sentence" not in tag[0] else tag[0]

        return BODY_CELL.sub(cell, found[0])

    body = ROW.sub(row, body)
    if claims:
        head = re.sub(r'class="dataframe[^"]*"', 'class="dataframe claims"', head, count=1)
        body = re.sub(r"(?<=\d) (?=%)", "\u00a0", body)
    head = re.sub(r"_(?=[^<>]*</th>)", "_<wbr>", head)
    return SHORT_NAME.sub('<th class="short">', head + end + body)


def breakable(tag: str) -> str:
    """A name in a narrow table may break after a point, an underscore, a bracket."""
    opening, text = tag.split(">", 1)
    return f"{opening}>" + re.sub(r"(?<=\w[._(=])(?=\w)", "<wbr>", text)


def on_post_page(output, page, config):
    """The link to a page's source opens it as the repository shows it, not as raw JSON."""
    raw = page.edit_url.replace("/blob/", "/raw/")
    return output.replace(f'href="{raw}"', f'href="{page.edit_url}"')


def on_post_build(config):
    """Write the styles, and refuse a page that would load anything from elsewhere."""
    site = Path(config.site_dir)
    (site / "assets/jupyter.css").write_text("\n".join(shared), encoding="utf-8")
    for page in sorted(site.rglob("*.html")):
        if found := LOADED.search(page.read_text(encoding="utf-8")):
            raise SystemExit(f"{page.relative_to(site)} would load from the network: {found[0]}")
