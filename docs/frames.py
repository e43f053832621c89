"""Tables of notebooks as readers should see them: pipe tables for README.md, shaped HTML for the site."""

import html
import itertools
import re
from html.parser import HTMLParser

STYLE = re.compile(r"\s*<style scoped[^>]*>.*?</style>", re.DOTALL)  # of pandas
STYLED = re.compile(r"<style>.*</table>", re.DOTALL)
FRAME = re.compile(r"<table\b.*?</table>", re.DOTALL)
ROW = re.compile(r"<tr\b.*?</tr>", re.DOTALL)
HEAD_CELL = re.compile(r"<th\b[^>]*>(.*?)</th>", re.DOTALL)
HEAD_WORD = re.compile(r"(<th\b[^>]*)>([^<]*_[^<]*)(?=</th>)")
SHORT_NAME = re.compile(r"<th>(?=[^<\s-]*-[^<\s]*</th>)(?=[^<]{1,14}<)")
SENTENCE_CELL = re.compile(r"<td>((?=[^<]* )[^<]{40,})</td>")
BODY_CELL = re.compile(r'<td(?: class="sentence")?>')
PLAIN_CELL = re.compile(r"<(td|th)>\s*([^<]*?)\s*</\1>")
NOTEBOOK = re.compile(r'(href="(?![a-z]+:|#|/)[^"#]*)\.ipynb(?=["#])')
POWER = re.compile(r"(-?)(\d(?:\.\d+)?)e([+-]?)0*(\d+)")
WHOLE = re.compile(r"(-?)(\d{7,})(?:\.0+)?")
MANY_COLUMNS = 12  # of a table that few read whole: it stands behind a click
PREFIXES = ((10**12, "T"), (10**9, "G"), (10**6, "M"))


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


def table_markdown(text: str) -> str | None:
    """A pipe table from an HTML table, or None when it holds none that can be shown so."""
    table = TableReader()
    table.feed(text)
    rows = table.head + table.body
    if (
        not table.body
        or len({len(row) for row in rows}) != 1
        or "<table" in text.split("<table", 1)[1]
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


def human_number(text: str) -> str | None:
    """A number of many digits as people write it, or None for anything else: 1e+18 is 10<sup>18</sup>."""
    if found := POWER.fullmatch(text):
        sign, mantissa, below, exponent = found.groups()
        power = f"10<sup>{'−' if below == '-' else ''}{exponent}</sup>"
        plain = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{sign}{power}" if plain == "1" else f"{sign}{plain}·{power}"
    if found := WHOLE.fullmatch(text):
        value = int(found[2])
        size, prefix = next(each for each in PREFIXES if value >= each[0])
        return f"{found[1]}{value / size:.3g} {prefix}" if value < 1000 * size else None
    return None


def human_cells(body: str) -> str:
    """Numbers of a table's body as people write them; the digits stay in the cell's title."""

    def one(match):
        tag, digits = match[1], match[2]
        # The name of a row may be a count that people know by its digits, but never one such as 1e18.
        shown = human_number(digits) if tag == "td" or POWER.fullmatch(digits) else None
        return f'<{tag} title="{digits}">{shown}</{tag}>' if shown else match[0]

    return PLAIN_CELL.sub(one, body)


def head_words(head: str) -> str:
    """Names of columns in words; the name itself stays in the cell's title."""
    return HEAD_WORD.sub(
        lambda m: f'{m[1]} title="{m[2].strip()}">{m[2].replace("_", " ").strip()}', head
    )


def one_head(head: str) -> str:
    """The name of the rows, which pandas puts in a line of its own, moved into the corner of the line of columns."""
    rows = ROW.findall(head)
    if len(rows) != 2:
        return head
    columns, names = (HEAD_CELL.findall(row) for row in rows)
    named = sum(1 for name in names if name.strip())
    corner = columns[:named]
    if not named or any(names[named:]) or any(name.strip() for name in corner):
        return head
    cells = iter(names[:named])
    first = re.sub(r"<th>\s*</th>", lambda _: f"<th>{next(cells)}</th>", rows[0], count=named)
    return head.replace(rows[1], "").replace(rows[0], first)


def shape_frame(match: re.Match) -> str:
    """Name columns in words, write numbers for people, stand text to the left, and mark tables of claims."""
    head, end, body = SENTENCE_CELL.sub(r'<td class="sentence">\1</td>', match[0]).partition(
        "</thead>"
    )
    head = one_head(head)
    names = [html.unescape(name) for name in HEAD_CELL.findall(head)]
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

    body = human_cells(ROW.sub(row, body))
    if claims:
        head = re.sub(r'class="dataframe[^"]*"', 'class="dataframe claims"', head, count=1)
        body = re.sub(r"(?<=\d) (?=%)", "\u00a0", body)
    return SHORT_NAME.sub('<th class="short">', head_words(head) + end + body)


def behind_click(match: re.Match) -> str:
    """A table with very many columns behind a click, where the words about it stay in sight."""
    head = match[0].partition("</thead>")[0]
    columns = max((len(HEAD_CELL.findall(row)) for row in ROW.findall(head)), default=0)
    if columns <= MANY_COLUMNS or re.search(r"<details|<button", match[0]):
        return match[0]
    return f'<details class="more"><summary>Table of {columns - 1} columns</summary>{match[0]}</details>'


def shape_tables(text: str) -> str:
    """An HTML output for the site: its own styles go, its tables are shaped, and no blank line ends the block."""
    text = FRAME.sub(shape_frame, STYLE.sub("", text))
    if re.search(r"<p>|<ul>", text.partition("<table")[0]):
        text = FRAME.sub(behind_click, text)
    # Tables with a style of their own do not take that of the site.
    text = STYLED.sub(lambda m: m[0].replace("<table>", '<table class="own">'), text)
    text = NOTEBOOK.sub(r"\1.html", text)
    return re.sub(r"\n\s*\n+", "\n", text).strip()
